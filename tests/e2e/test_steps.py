"""Steps against a real service: attach, exactly once, and the whole loop through `tuft-step`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinker
from tinker import types

import tuft_sdk
from tests.components.test_cli import tuft_step
from tests.e2e.service import Service
from tuft_components.errors import BadConfiguration, exit_code_of
from tuft_components.start_run.step import STEP as START_RUN
from tuft_components.steps import load_step
from tuft_components.trajectories import read_trajectories
from tuft_sdk.plans import Forward, ForwardBackward, OptimStep, Plan, SaveForSampler
from tuft_sdk.runs import AttachedRun, run_stage

KEY = "tml-local-dev-key"
ADAM = types.AdamParams(learning_rate=1e-2)
TOKENS = [11, 42, 37, 99, 7]


@pytest.fixture
def tuft(service: Service) -> Iterator[tuft_sdk.TuftClient]:
    with tuft_sdk.connect(service.url, KEY) as client:
        yield client


@pytest.fixture
def run_id(client: tinker.ServiceClient) -> str:
    return _new_run(client)


def _new_run(client: tinker.ServiceClient) -> str:
    return client.create_lora_training_client("tiny", rank=4, seed=1).result().model_id


def _datum(shift: int = 0) -> types.Datum:
    tokens = [token + shift for token in TOKENS]
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": types.TensorData(tokens[1:], "int64", [len(tokens) - 1]),
            "logprobs": types.TensorData([0.0, -2.0, -3.0, -2.0], "float32", [4]),
            "advantages": types.TensorData([0.0, 1.0, 1.0, -0.5], "float32", [4]),
        },
    )


def _plan(name: str = "policy-1") -> Plan:
    return Plan(
        [
            ForwardBackward([_datum()], "importance_sampling"),
            ForwardBackward([_datum(1)], "importance_sampling"),
            OptimStep(ADAM),
            SaveForSampler(name),
        ]
    )


def _conclude(plan: Plan, results: list[Any]) -> str:
    losses = [r and round(r.metrics["loss:sum"], 6) for r in results[:2]]
    return json.dumps([losses, getattr(results[3], "path", None)])


def _must_not_build() -> Plan:
    raise AssertionError("the plan was built a second time")


def _logprobs(client: tinker.ServiceClient, path: str) -> np.ndarray[Any, Any]:
    sampler = client.create_sampling_client(model_path=path).result()
    values = sampler.compute_logprobs(types.ModelInput.from_ints(TOKENS)).result()
    return np.asarray(values[1:], dtype=np.float32)


@pytest.fixture(scope="module")
def applied_once(service: Service) -> np.ndarray[Any, Any]:
    """Logprobs of the policy that `_plan` makes of a new run, without any mishap."""
    with (
        tinker.ServiceClient(base_url=service.url, api_key=KEY) as client,
        tuft_sdk.connect(service.url, KEY) as tuft,
    ):
        run = tuft.attach(_new_run(client))
        result = run.execute_once("s", _plan, _conclude)
        run.close()
        return _logprobs(client, json.loads(result)[1])


def test_another_process_goes_on_where_the_first_stopped(
    client: tinker.ServiceClient, tuft: tuft_sdk.TuftClient
) -> None:
    first = client.create_lora_training_client("tiny", rank=4).result()
    first.forward_backward([_datum()], "importance_sampling").result()
    run = tuft.attach(first.model_id)
    assert (run.base_model, run.lora_rank, run.next_seq_id) == ("tiny", 4, 2)
    forward = run.training.forward_backward([_datum()], "importance_sampling")
    optim = run.training.optim_step(ADAM)
    assert "loss:sum" in forward.result().metrics
    assert (optim.result().metrics or {})["grad_norm"] > 0
    assert run.training.save_weights_for_sampler("x").result().path.endswith("/x")
    again = tuft.attach(first.model_id)
    assert again.next_seq_id == 5
    assert again.writer_epoch == run.writer_epoch + 1
    run.close()
    again.close()


def test_an_older_writer_has_lost_the_run(
    client: tinker.ServiceClient, tuft: tuft_sdk.TuftClient
) -> None:
    first = client.create_lora_training_client("tiny", rank=4).result()
    older = tuft.attach(first.model_id)
    assert older.training.model_id == first.model_id
    newer = tuft.attach(first.model_id)
    with pytest.raises(tuft_sdk.LeaseLost), tuft_sdk.translated():
        first.optim_step(ADAM).result()
    with pytest.raises(tuft_sdk.LeaseLost), tuft_sdk.translated():
        older.training.optim_step(ADAM).result()
    with pytest.raises(tuft_sdk.LeaseLost):
        older.ledger.begin_step("s")
    with pytest.raises(tuft_sdk.LeaseLost):
        older.execute_once("s", _must_not_build, _conclude)
    assert newer.execute_once("s", _plan, _conclude)
    for run in (older, newer):
        run.close()


def test_a_step_is_executed_once(
    run_id: str,
    client: tinker.ServiceClient,
    tuft: tuft_sdk.TuftClient,
    applied_once: np.ndarray[Any, Any],
) -> None:
    first = tuft.attach(run_id)
    result = first.execute_once("s", _plan, _conclude)
    second = tuft.attach(run_id)
    assert second.execute_once("s", _must_not_build, _conclude) == result
    assert second.next_seq_id == first.next_seq_id == 6
    np.testing.assert_array_equal(_logprobs(client, json.loads(result)[1]), applied_once)
    for run in (first, second):
        run.close()


def test_one_attachment_executes_step_after_step(
    run_id: str,
    client: tinker.ServiceClient,
    tuft: tuft_sdk.TuftClient,
    applied_once: np.ndarray[Any, Any],
) -> None:
    """Also one that only measures, which changes nothing."""
    run = tuft.attach(run_id)
    measure = Plan([Forward([_datum()], "importance_sampling")])
    losses = [
        run.execute_once(key, lambda: measure, lambda _, done: str(done[0].metrics["loss:sum"]))
        for key in ("before", "again")
    ]
    result = json.loads(run.execute_once("s", _plan, _conclude))
    losses.append(
        run.execute_once("after", lambda: measure, lambda _, done: str(done[0].metrics["loss:sum"]))
    )
    assert run.next_seq_id == 12
    run.close()
    assert losses[0] == losses[1] != losses[2]
    np.testing.assert_array_equal(_logprobs(client, result[1]), applied_once)


def _record(run: AttachedRun) -> Plan:
    plan = _plan()
    run.ledger.begin_step("s", first_seq_id=run.next_seq_id)
    run.ledger.record_plan("s", plan.encode(), first_seq_id=run.next_seq_id)
    return plan


@pytest.mark.parametrize("submitted", [None, 0, 1, 2, 3, 4])
def test_a_step_that_died_is_completed_from_its_plan(
    submitted: int | None,
    run_id: str,
    client: tinker.ServiceClient,
    tuft: tuft_sdk.TuftClient,
    applied_once: np.ndarray[Any, Any],
) -> None:
    """The first execution dies after `submitted` operations of its plan (None: before its first
    request); nothing is lost or applied twice."""
    died = tuft.attach(run_id)
    plan = _record(died)
    if submitted is not None:
        training = died.begin_plan(died.next_seq_id, "s#1")
        for operation in plan.operations[:submitted]:
            run_stage(training, [operation], None)
    died.close()

    run = tuft.attach(run_id)
    assert run.next_seq_id == (1 if submitted is None else 2 + submitted)
    result = json.loads(run.execute_once("s", _must_not_build, _conclude))
    assert all(loss is not None for loss in result[0])
    np.testing.assert_array_equal(_logprobs(client, result[1]), applied_once)
    run.close()
    third = tuft.attach(run_id)
    assert third.next_seq_id == 6
    assert json.loads(third.execute_once("s", _must_not_build, _conclude)) == result
    third.close()


@pytest.mark.parametrize("refused", [False, True])
def test_what_a_dead_step_left_is_no_part_of_the_next(
    refused: bool,
    run_id: str,
    client: tinker.ServiceClient,
    tuft: tuft_sdk.TuftClient,
    applied_once: np.ndarray[Any, Any],
) -> None:
    """It accumulated gradients (or the service refused some) and nobody retries it."""
    dead = tuft.attach(run_id)
    if refused:
        with pytest.raises(tuft_sdk.Rejected), tuft_sdk.translated():
            dead.training.forward_backward([_datum()], "no_such_loss").result()  # type: ignore[arg-type]
    else:
        dead.training.forward_backward([_datum()], "importance_sampling").result()
    dead.close()
    run = tuft.attach(run_id)
    result = json.loads(run.execute_once("another", _plan, _conclude))
    np.testing.assert_array_equal(_logprobs(client, result[1]), applied_once)
    run.close()


def test_an_operation_refused_for_good_is_named(run_id: str, tuft: tuft_sdk.TuftClient) -> None:
    run = tuft.attach(run_id)
    plan = Plan([SaveForSampler("a/b")])
    with pytest.raises(tuft_sdk.Rejected, match="name"):
        run.execute_once("s", lambda: plan, _conclude)
    run.close()


def test_what_is_not_there_is_said(tuft: tuft_sdk.TuftClient, service: Service) -> None:
    with pytest.raises(tuft_sdk.NotThere):
        tuft.attach("nobody:train:0")
    assert not tuft.run_exists("nobody:train:0")
    with pytest.raises(tuft_sdk.SdkError):
        tuft.sampling_client("tinker://nobody:train:0/sampler_weights/x")
    with (
        tuft_sdk.connect(service.url, "tml-not-a-key") as stranger,
        pytest.raises(tuft_sdk.ConfigurationError),
    ):
        stranger.models()


def test_another_tenants_run_does_not_exist(
    run_id: str, tuft: tuft_sdk.TuftClient, service: Service
) -> None:
    assert tuft.run_exists(run_id)
    with tuft_sdk.connect(service.url, "tml-bobs-key") as bob:
        assert not bob.run_exists(run_id)
        with pytest.raises(tuft_sdk.NotThere):
            bob.attach(run_id)


def test_the_tokenizer_comes_from_the_service(
    tuft: tuft_sdk.TuftClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tuft.models() == ["tiny"]
    tokenizer = tuft.tokenizer("tiny")
    assert tokenizer.decode(tokenizer.encode("the lazy dog")) == "the lazy dog"
    folders = [p for p in (tmp_path / "tuft" / "tokenizers").iterdir() if p.is_dir()]
    assert len(folders) == 1
    assert tuft.tokenizer("tiny").encode("dog") == tokenizer.encode("dog")
    with pytest.raises(tuft_sdk.Rejected, match="huge"):
        tuft.tokenizer("huge")


@pytest.fixture
def environment(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", service.url)
    monkeypatch.setenv("TINKER_API_KEY", KEY)


def test_start_run_is_idempotent_under_its_step_key(environment: None) -> None:
    params = {"step_key": "job-1", "lora_rank": 4, "seed": 3}
    first = START_RUN.execute(params, {}, {})
    assert first.policy == f"tinker://{first.run_id}/sampler_weights/policy-000000"
    assert START_RUN.execute(params, {}, {}) == first
    other = START_RUN.execute({**params, "step_key": "job-2"}, {}, {})
    assert other.run_id != first.run_id


def test_a_run_is_found_by_its_name(environment: None) -> None:
    """By another pipeline job too; but not where it is another kind of run."""
    params = {"name": "my-agent", "step_key": "job-3", "lora_rank": 4}
    first = START_RUN.execute(params, {}, {})
    assert START_RUN.execute({**params, "step_key": "job-4"}, {}, {}) == first
    assert START_RUN.execute({**params, "name": "yours"}, {}, {}).run_id != first.run_id
    with pytest.raises(BadConfiguration, match=r"'my-agent' is .* lora_rank 4, .* to have 8"):
        START_RUN.execute({**params, "lora_rank": 8}, {}, {})


@pytest.mark.parametrize("created", [True, False])
def test_start_run_goes_on_with_the_run_that_it_was_making(
    created: bool, environment: None, client: tinker.ServiceClient, tuft: tuft_sdk.TuftClient
) -> None:
    """The first execution died before its run had a policy, or before there was a run."""
    planned = _new_run(client) if created else f"{client.holder.get_session_id()}:train:0"
    key = f"job-died-{created}"
    tuft.ledger.begin_step(key)
    tuft.ledger.record_plan(key, json.dumps(planned).encode(), first_seq_id=0)
    outputs = START_RUN.execute({"step_key": key, "lora_rank": 4}, {}, {})
    assert outputs.run_id == planned
    assert START_RUN.execute({"step_key": key, "lora_rank": 4}, {}, {}) == outputs


@pytest.fixture
def step(service: Service) -> Callable[..., dict[str, Any]]:
    """`tuft-step` as a process; its outputs, or an assertion with what it said."""

    def call(*arguments: str, code: int = 0, key: str = KEY) -> dict[str, Any]:
        env = {"TINKER_BASE_URL": service.url, "TINKER_API_KEY": key}
        done = tuft_step(*arguments, env=env)
        assert done.returncode == code, done.stderr
        outputs: dict[str, Any] = json.loads(done.stdout) if code == 0 else {"err": done.stderr}
        return outputs

    return call


def _params(**params: object) -> list[str]:
    return [text for name, value in params.items() for text in ("--param", f"{name}={value}")]


def test_the_whole_loop_through_the_command_line(
    step: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    started = step("start_run", *_params(lora_rank=4, step_key="loop"))
    run_id, policy = started["run_id"], started["policy"]
    trajectories, batch = tmp_path / "t.parquet", tmp_path / "b.parquet"
    rollout = [
        "rollout",
        *_params(policy=policy, groups=3, group_size=4, max_tokens=3, seed=1),
        *("--output", f"trajectories={trajectories}"),
    ]
    assert step(*rollout)["trajectories"]["metadata"]["rows"] == 12
    played = read_trajectories(str(trajectories))
    assert {t.transitions[0].policy for t in played} == {policy}
    assert all(1 <= len(t.transitions[0].completion_tokens) <= 3 for t in played)
    prompts = [t.transitions[0].prompt_text for t in played]
    assert len(set(prompts)) == 3
    # Samples of one prompt are independent: a random model does not say the same four times.
    assert len({t.transitions[0].completion_text for t in played[:4]}) > 1
    judged = step(
        "feedback",
        *_params(reward="tests.e2e.rewards:even_first_token"),
        *("--input", f"trajectories={trajectories}", "--output", f"batch={batch}"),
    )
    assert 0 < judged["mean_reward"] < 1
    update = ["update", *_params(run_id=run_id, learning_rate=1e-2, checkpoint_name="c")]
    update += ["--input", f"batch={batch}"]
    updated = step(*update)
    assert updated["policy"] == f"tinker://{run_id}/sampler_weights/policy-000001"
    assert updated["checkpoint"] == f"tinker://{run_id}/weights/c"
    metrics = updated["metrics"]
    assert metrics["grad_norm"] > 0
    assert metrics["optimizer_steps"] == 1
    assert metrics["staleness"] == 0
    # The policy that was sampled from is the one that was trained.
    assert abs(metrics["kl_sample_train"]) < 1e-4
    assert step(*update) == updated
    evaluated = step("evaluate", *_params(policy=updated["policy"], episodes=3, max_tokens=2))
    assert 0 <= evaluated["mean_reward"] <= 1
    assert evaluated["metrics"]["episodes"] == 3


def test_without_signal_there_is_a_policy_but_no_step(environment: None, tmp_path: Path) -> None:
    started = START_RUN.execute({"lora_rank": 4}, {}, {})
    trajectories, batch = str(tmp_path / "t.parquet"), str(tmp_path / "b.parquet")
    load_step("rollout").execute(
        {"policy": started.policy, "groups": 1, "group_size": 2, "max_tokens": 2},
        {},
        {"trajectories": trajectories},
    )
    load_step("feedback").execute(
        {"reward": "tests.e2e.rewards:never"}, {"trajectories": trajectories}, {"batch": batch}
    )
    updated = load_step("update").execute({"run_id": started.run_id}, {"batch": batch}, {})
    assert updated.policy.endswith("policy-000001")
    assert updated.metrics["optimizer_steps"] == 0
    assert updated.metrics["groups_dropped"] == 1
    evaluated = load_step("evaluate").execute(
        {"policy": updated.policy, "episodes": 1, "max_tokens": 2}, {}, {}
    )
    assert evaluated.metrics["episodes"] == 1


@pytest.mark.parametrize(
    ("step", "params", "code", "says"),
    [
        ("rollout", {"policy": "tinker://a:train:0/sampler_weights/x"}, 65, "a:train:0"),
        ("rollout", {"policy": "huge"}, 65, "huge"),
        ("start_run", {"lora_rank": 999}, 65, "rank"),
        ("start_run", {"base_model": "huge"}, 65, "huge"),
    ],
)
def test_exit_codes_of_a_real_service(
    step: str, params: dict[str, Any], code: int, says: str, environment: None, tmp_path: Path
) -> None:
    places = {"trajectories": str(tmp_path / "t")} if step == "rollout" else {}
    with pytest.raises(tuft_sdk.SdkError, match=says) as caught:
        load_step(step).execute(params, {}, places)
    assert exit_code_of(caught.value) == code
    assert not (tmp_path / "t").exists()


def test_a_wrong_key_is_bad_configuration(step: Callable[..., dict[str, Any]]) -> None:
    assert "tml-not-a-key" not in step("start_run", key="tml-not-a-key", code=78)["err"]
