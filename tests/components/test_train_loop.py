"""What a train_loop decides without a service: when there is nothing to do, or nothing can be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.components.samples import row
from tuft_components.errors import BadConfiguration, BadData
from tuft_components.rollout.step import RolloutParams
from tuft_components.steps import load_step
from tuft_components.train_loop.history import HISTORY, Iteration, read_history, write_history
from tuft_components.train_loop.loop import Plan
from tuft_components.train_loop.step import TrainLoopOutputs, TrainLoopParams
from tuft_components.update.assembly import mean_reward
from tuft_components.update.step import UpdateOutputs, UpdateParams
from tuft_components.work import Work

STEP = load_step("train_loop")
REQUIRED = {"run_id": "s:train:0", "policy_before": "tinker://s:train:0/sampler_weights/policy-4"}


@pytest.fixture(autouse=True)
def no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINKER_BASE_URL", raising=False)


def _execute(folder: Path, **params: Any) -> TrainLoopOutputs:
    places = {"history": str(folder / "history.parquet")}
    outputs = STEP.execute({**REQUIRED, **params}, {}, places)
    assert isinstance(outputs, TrainLoopOutputs)
    return outputs


def test_a_reward_that_is_reached_passes_everything_on(tmp_path: Path) -> None:
    outputs = _execute(
        tmp_path,
        stop_at_reward=0.9,
        reward_before=0.9,
        first_iteration=4,
        checkpoint_before="tinker://s:train:0/weights/final-000004",
        work_uri=str(tmp_path / "work"),
    )
    assert outputs.policy == REQUIRED["policy_before"]
    assert outputs.checkpoint == "tinker://s:train:0/weights/final-000004"
    assert (outputs.iterations_done, outputs.last_reward) == (4, 0.9)
    assert outputs.history.metadata["rows"] == 0
    assert outputs.metrics == {"iterations": 0.0}
    assert read_history(outputs.history.uri) == []
    # The records of the loops of one pipeline are told apart.
    assert [record.iteration for record in Work(str(tmp_path / "work")).records()] == [4]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"env": "no_such"}, "no environment 'no_such'"),
        ({"reward": "no_such"}, "no reward 'no_such'"),
        ({"advantage": "no_such"}, "no advantage 'no_such'"),
        ({"iterations": 0}, "iterations"),
        ({"max_staleness": -1}, "max_staleness"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"reward_before": 0.8, "stop_at_reward": 0.9}, "TINKER_BASE_URL is not set"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_done(
    params: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match=says) as caught:
        _execute(tmp_path, **params)
    assert isinstance(caught.value, BadConfiguration) or "TINKER_BASE_URL" in says


def test_parameters_are_those_of_the_steps() -> None:
    """A default or limit that a step changes is the loop's as well."""
    for step in (RolloutParams, UpdateParams):
        shared = step.model_fields.keys() & TrainLoopParams.model_fields.keys()
        for name in shared - {"run_id", "timeout_s", "checkpoint_name"}:
            theirs, ours = step.model_fields[name], TrainLoopParams.model_fields[name]
            assert (ours.default, ours.metadata) == (theirs.default, theirs.metadata), name
    assert "policy_version" not in TrainLoopParams.model_fields


@pytest.mark.parametrize(
    ("max_staleness", "versions"), [(0, [3, 4, 5, 6]), (1, [3, 3, 4, 5]), (9, [3, 3, 3, 3])]
)
def test_which_policy_a_rollout_samples_from(max_staleness: int, versions: list[int]) -> None:
    plan = Plan("r", "p", 3, 7, max_staleness, 1.0, "", {}, {}, {})
    assert [plan.version_for(iteration) for iteration in range(3, 7)] == versions


def test_the_reward_of_a_batch_is_that_of_its_episodes() -> None:
    """An episode of many turns counts once."""
    rows = [row(reward=1.0), row(reward=1.0, turn=1), row(reward=1.0, turn=2)]
    assert mean_reward([*rows, row(sample=1, reward=0.0)]) == 0.5


def test_a_history_comes_back(tmp_path: Path) -> None:
    metrics = {"mean_reward": 0.5, "staleness": 1.0}
    updated = UpdateOutputs(policy="tinker://p", checkpoint="", metrics=metrics)
    rows = [Iteration.of(1, updated, 2.5), Iteration.of(0, updated)]
    assert [(each.resumed, each.seconds, each.staleness) for each in rows] == [
        (False, 2.5, 1),
        (True, None, 1),
    ]
    written = write_history(str(tmp_path / "h.parquet"), rows, {"run_id": "r"})
    assert written.metadata == {"schema": HISTORY.name, "rows": 2, "run_id": "r"}
    assert read_history(written.uri) == [rows[1], rows[0]]


def test_an_update_of_an_older_version_has_no_reward() -> None:
    with pytest.raises(BadData, match=r"update/7 .* first_iteration"):
        Iteration.of(7, UpdateOutputs(policy="p", checkpoint="", metrics={"staleness": 0.0}))
