"""The real tinker client against the api; the workers answer at once (tests.service.api.workers)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tinker
from tinker import types

from tests.service.api.harness import ALICE, MODEL, Api, config_of, serving
from tests.service.api.workers import working

# The synchronous forms that most programs use are deprecated in this version.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def api(module_store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """With chunks of four datums, and payloads of a few rows as objects."""
    folder: Path = tmp_path_factory.mktemp("api")
    config = config_of(folder, max_datums=4, inline_payload_bytes=400, long_poll_s=2)
    with serving(config, module_store) as running, working(running):
        yield running


@pytest.fixture(scope="module")
def client(api: Api) -> Iterator[tinker.ServiceClient]:
    with tinker.ServiceClient(base_url=api.url, api_key=ALICE) as client:
        yield client


@pytest.fixture(scope="module")
def training(client: tinker.ServiceClient) -> tinker.TrainingClient:
    return client.create_lora_training_client(MODEL, rank=8)


def datum(*tokens: int) -> types.Datum:
    return types.Datum(
        model_input=types.ModelInput.from_ints(list(tokens)),
        loss_fn_inputs={"target_tokens": types.TensorData(data=list(tokens), dtype="int64")},
    )


def test_a_wrong_key_is_an_authentication_error(api: Api) -> None:
    with pytest.raises(tinker.AuthenticationError, match="X-API-Key"):
        tinker.ServiceClient(base_url=api.url, api_key="tml-unknown").create_rest_client()


def test_capabilities(client: tinker.ServiceClient) -> None:
    (model,) = client.get_server_capabilities().supported_models
    assert model.model_name == MODEL


def test_many_chunks_of_a_forward_backward_keep_their_order(
    training: tinker.TrainingClient,
) -> None:
    data = [datum(*range(1, 2 + size)) for size in range(11)]
    output = training.forward_backward(data, "cross_entropy").result(timeout=20)
    assert output.metrics["loss:sum"] == 11
    lengths = [len(row["logprobs"].data) for row in output.loss_fn_outputs]
    assert lengths == list(range(1, 12))


def test_an_optim_step_in_the_pipeline(training: tinker.TrainingClient) -> None:
    forward = training.forward([datum(1, 2)], "cross_entropy")
    forward_backward = training.forward_backward([datum(1, 2)], "cross_entropy")
    step = training.optim_step(types.AdamParams(learning_rate=1e-4))
    assert step.result(timeout=20).metrics == {"grad_norm": 1.0}
    assert forward.result(timeout=20).metrics == forward_backward.result(timeout=20).metrics


def test_a_refused_batch_fails_at_once_and_so_does_its_step(
    client: tinker.ServiceClient,
) -> None:
    training = client.create_lora_training_client(MODEL, rank=4)
    with pytest.raises(tinker.BadRequestError, match=r"data\[1\].*9999"):
        training.forward_backward([datum(1), datum(9999)], "cross_entropy").result(timeout=20)
    with pytest.raises(tinker.RequestFailedError, match="refused"):
        training.optim_step(types.AdamParams()).result(timeout=20)
    training.optim_step(types.AdamParams()).result(timeout=20)


def test_another_rank_than_is_served(client: tinker.ServiceClient) -> None:
    with pytest.raises(tinker.BadRequestError, match="1 to 64"):
        client.create_lora_training_client(MODEL, rank=1000).result()


def test_a_loss_that_is_not_served(training: tinker.TrainingClient) -> None:
    with pytest.raises(tinker.BadRequestError, match="importance_sampling"):
        training.forward_backward([datum(1)], "gspo").result(timeout=20)


def test_saving_listing_and_loading(
    client: tinker.ServiceClient, training: tinker.TrainingClient
) -> None:
    path = training.save_state("state").result(timeout=20).path
    with pytest.raises(tinker.BadRequestError, match="exists already"):
        training.save_state("state").result(timeout=20)
    run_id = training.model_id
    assert path == f"tinker://{run_id}/weights/state"
    loaded = client.create_training_client_from_state_with_optimizer(path)
    assert loaded.model_id != run_id
    rest = client.create_rest_client()
    assert rest.get_training_run(run_id).result(timeout=20).training_run_id == run_id
    listed = rest.list_checkpoints(run_id).result(timeout=20).checkpoints
    assert [checkpoint.tinker_path for checkpoint in listed] == [path]
    rest.publish_checkpoint_from_tinker_path(path).result(timeout=20)
    rest.set_checkpoint_ttl_from_tinker_path(path, 7200).result(timeout=20)
    (listed_now,) = rest.list_user_checkpoints().result(timeout=20).checkpoints
    assert listed_now.public
    assert listed_now.expires_at is not None
    assert rest.get_weights_info_by_tinker_path(path).result(timeout=20).lora_rank == 8
    rest.unpublish_checkpoint_from_tinker_path(path).result(timeout=20)
    rest.delete_checkpoint_from_tinker_path(path).result(timeout=20)
    with pytest.raises(tinker.NotFoundError):
        rest.delete_checkpoint_from_tinker_path(path).result(timeout=20)


def test_a_checkpoint_that_does_not_exist(client: tinker.ServiceClient) -> None:
    with pytest.raises(tinker.NotFoundError, match="there is no checkpoint"):
        client.create_training_client_from_state("tinker://none/weights/a").result()


def test_sampling(client: tinker.ServiceClient, training: tinker.TrainingClient) -> None:
    path = training.save_weights_for_sampler("policy").result(timeout=20).path
    sampling = client.create_sampling_client(model_path=path)
    prompt = types.ModelInput.from_ints([1, 2, 3])
    params = types.SamplingParams(max_tokens=5, temperature=0.5)
    answer = sampling.sample(prompt, num_samples=3, sampling_params=params).result(timeout=20)
    assert [len(sequence.tokens) for sequence in answer.sequences] == [5, 5, 5]
    assert sampling.compute_logprobs(prompt).result(timeout=20) == [None, -1.0, -1.0]
    with pytest.raises(tinker.BadRequestError, match="max_model_len"):
        sampling.sample(
            prompt, num_samples=1, sampling_params=types.SamplingParams(max_tokens=10_000)
        ).result(timeout=20)


def test_a_sampling_client_without_a_name(training: tinker.TrainingClient) -> None:
    sampling = training.save_weights_and_get_sampling_client()
    answer = sampling.sample(
        types.ModelInput.from_ints([1]), 1, types.SamplingParams(max_tokens=2)
    ).result(timeout=20)
    assert len(answer.sequences[0].tokens) == 2


def test_many_samples_at_once(client: tinker.ServiceClient) -> None:
    sampling = client.create_sampling_client(base_model=MODEL)
    prompt = types.ModelInput.from_ints([1, 2])
    params = types.SamplingParams(max_tokens=2)
    answers = [sampling.sample(prompt, 1, params) for _ in range(100)]
    assert all(len(answer.result(timeout=30).sequences) == 1 for answer in answers)


def test_sessions(client: tinker.ServiceClient, training: tinker.TrainingClient) -> None:
    rest = client.create_rest_client()
    session_id = client.holder.get_session_id()
    session = rest.get_session(session_id).result(timeout=20)
    assert training.model_id in session.training_run_ids
    assert session_id in rest.list_sessions().result(timeout=20).sessions
