"""The real, unmodified SDK against a real service: what users do with it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tinker
import torch
from tinker import types

from tests.e2e.service import Service

ADAM = types.AdamParams(learning_rate=1e-2)
TIMEOUT = 60


def datum(tokens: list[int], targets: list[int], **inputs: list[float]) -> types.Datum:
    """One row with target tokens and float inputs."""
    tensors = {
        name: types.TensorData(data=values, dtype="float32", shape=[len(values)])
        for name, values in inputs.items()
    }
    tensors["target_tokens"] = types.TensorData(data=targets, dtype="int64", shape=[len(targets)])
    return types.Datum(model_input=types.ModelInput.from_ints(tokens), loss_fn_inputs=tensors)


ROW = datum([5, 6, 7, 8], [6, 7, 8, 9])


def rest_client(service: Service, api_key: str = "tml-local-dev-key") -> tinker.RestClient:
    return tinker.RestClient(base_url=service.url, api_key=api_key)


def new_run(client: tinker.ServiceClient, rank: int = 4, **more: Any) -> tinker.TrainingClient:
    return client.create_lora_training_client(base_model="tiny", rank=rank, **more).result(TIMEOUT)


def loss_of(training: tinker.TrainingClient, rows: list[types.Datum] | None = None) -> float:
    output = training.forward(rows or [ROW], "cross_entropy").result(timeout=TIMEOUT)
    return output.metrics["loss:sum"]


def train(training: tinker.TrainingClient, steps: int = 3) -> None:
    for _ in range(steps):
        forward_backward = training.forward_backward([ROW], "cross_entropy")
        training.optim_step(ADAM).result(timeout=TIMEOUT)
        forward_backward.result(timeout=TIMEOUT)


def test_training_lowers_the_loss_and_reports_the_gradient_norm(
    client: tinker.ServiceClient,
) -> None:
    training = new_run(client)
    first = training.forward_backward([ROW], "cross_entropy").result(timeout=TIMEOUT)
    step = training.optim_step(ADAM).result(timeout=TIMEOUT)
    assert step.metrics is not None
    assert step.metrics["grad_norm"] > 0
    train(training)
    assert loss_of(training) < first.metrics["loss:sum"]
    logprobs = first.loss_fn_outputs[0]["logprobs"]
    assert -sum(logprobs.data) == pytest.approx(first.metrics["loss:sum"], rel=1e-5)


def test_submissions_may_be_pipelined(client: tinker.ServiceClient) -> None:
    one, two = new_run(client, seed=1), new_run(client, seed=1)
    futures: list[tinker.APIFuture[Any]] = []
    for _ in range(4):
        futures.append(one.forward_backward([ROW], "cross_entropy"))
        futures.append(one.optim_step(ADAM))
    for future in futures:
        future.result(timeout=TIMEOUT)
    train(two, steps=4)
    assert loss_of(one) == pytest.approx(loss_of(two), abs=1e-6)


def test_forward_adds_no_gradient(client: tinker.ServiceClient) -> None:
    training = new_run(client)
    before = loss_of(training)
    training.optim_step(ADAM).result(timeout=TIMEOUT)
    assert loss_of(training) == before


def test_state_with_optimizer_continues_exactly(client: tinker.ServiceClient) -> None:
    training = new_run(client)
    train(training)
    saved = training.save_state("half-way").result(timeout=TIMEOUT)
    resumed = client.create_training_client_from_state_with_optimizer(saved.path).result(TIMEOUT)
    fresh = client.create_training_client_from_state(saved.path).result(TIMEOUT)
    for run in (training, resumed, fresh):
        train(run, steps=2)
    expected = loss_of(training)
    assert loss_of(resumed) == pytest.approx(expected, abs=1e-6)
    # Without its moments AdamW takes other steps.
    assert abs(loss_of(fresh) - expected) > 1e-4


def test_duplicate_checkpoint_names_are_refused_without_overwrite(
    client: tinker.ServiceClient,
) -> None:
    training = new_run(client)
    training.save_state("twice").result(timeout=TIMEOUT)
    with pytest.raises(tinker.BadRequestError, match="overwrite"):
        training.save_state("twice").result(timeout=TIMEOUT)
    # The refused seq_id is burnt by the client; the run goes on.
    train(training, steps=1)
    training.save_state("twice", overwrite=True).result(timeout=TIMEOUT)


def test_ephemeral_sampler_keeps_its_weights(client: tinker.ServiceClient) -> None:
    training = new_run(client)
    train(training)
    sampler = training.save_weights_and_get_sampling_client().result(TIMEOUT)
    prompt = types.ModelInput.from_ints([5, 6, 7, 8, 9])
    before = sampler.compute_logprobs(prompt).result(timeout=TIMEOUT)
    train(training)
    assert sampler.compute_logprobs(prompt).result(timeout=TIMEOUT) == before
    # The trainer's and the sampler's numbers are the same function of the same weights.
    newer = training.save_weights_and_get_sampling_client().result(TIMEOUT)
    logprobs = newer.compute_logprobs(prompt).result(timeout=TIMEOUT)
    assert logprobs[0] is None
    output = training.forward([ROW], "cross_entropy").result(timeout=TIMEOUT)
    assert logprobs[1:] == pytest.approx(list(output.loss_fn_outputs[0]["logprobs"].data), abs=1e-4)


def test_sampling_fields(client: tinker.ServiceClient) -> None:
    sampler = client.create_sampling_client(base_model="tiny").result(TIMEOUT)
    prompt = types.ModelInput.from_ints([5, 6, 7])
    params = types.SamplingParams(max_tokens=6, seed=7, temperature=1.0, stop=[])

    def sample(**more: Any) -> types.SampleResponse:
        return sampler.sample(prompt, 3, params, **more).result(timeout=TIMEOUT)

    first = sample(include_prompt_logprobs=True, topk_prompt_logprobs=2, topk_sample_logprobs=2)
    assert [len(sequence.tokens) for sequence in first.sequences] == [6, 6, 6]
    assert len({sequence.sequence_id for sequence in first.sequences}) == 3
    assert [s.tokens for s in sample().sequences] == [s.tokens for s in first.sequences]
    assert first.prompt_logprobs is not None
    assert first.prompt_logprobs[0] is None
    for sequence in first.sequences:
        assert sequence.logprobs is not None
        assert all(math.isfinite(value) for value in sequence.logprobs)
        full = types.ModelInput.from_ints([5, 6, 7, *sequence.tokens])
        again = sampler.compute_logprobs(full).result(timeout=TIMEOUT)
        assert again[3:] == pytest.approx(list(sequence.logprobs), abs=1e-4)


def test_a_prompt_as_long_as_the_context_can_be_scored(client: tinker.ServiceClient) -> None:
    sampler = client.create_sampling_client(base_model="tiny").result(TIMEOUT)
    whole = types.ModelInput.from_ints([5 + i % 50 for i in range(256)])
    logprobs = sampler.compute_logprobs(whole).result(timeout=TIMEOUT)
    assert len(logprobs) == 256
    with pytest.raises(tinker.BadRequestError, match="256"):
        sampler.sample(whole, 1, types.SamplingParams(max_tokens=1)).result(timeout=TIMEOUT)


def test_stop_tokens(client: tinker.ServiceClient) -> None:
    sampler = client.create_sampling_client(base_model="tiny").result(TIMEOUT)
    prompt = types.ModelInput.from_ints([5, 6, 7])
    greedy = types.SamplingParams(max_tokens=8, temperature=0.0, stop=[])
    free = sampler.sample(prompt, 1, greedy).result(timeout=TIMEOUT).sequences[0]
    assert free.stop_reason == "length"
    stop = free.tokens[2]
    cut = types.SamplingParams(max_tokens=8, temperature=0.0, stop=[stop])
    stopped = sampler.sample(prompt, 1, cut).result(timeout=TIMEOUT).sequences[0]
    assert stopped.stop_reason == "stop"
    assert stopped.tokens == free.tokens[: free.tokens.index(stop) + 1]


def test_custom_loss_on_the_client(client: tinker.ServiceClient) -> None:
    """forward_backward_custom with the cross entropy written by hand is cross_entropy."""
    custom, plain = new_run(client, seed=3), new_run(client, seed=3)

    def loss(data: list[types.Datum], logprobs: list[torch.Tensor]) -> tuple[Any, dict[str, float]]:
        return -torch.stack([values.sum() for values in logprobs]).sum(), {}

    for _ in range(2):
        custom.forward_backward_custom([ROW, ROW], loss).result(timeout=TIMEOUT)
        custom.optim_step(ADAM).result(timeout=TIMEOUT)
        plain.forward_backward([ROW, ROW], "cross_entropy").result(timeout=TIMEOUT)
        plain.optim_step(ADAM).result(timeout=TIMEOUT)
    assert loss_of(custom) == pytest.approx(loss_of(plain), abs=1e-5)


def test_two_dimensional_targets(client: tinker.ServiceClient) -> None:
    training = new_run(client)
    targets = torch.tensor([[6, 10], [7, 11], [8, 12], [9, 13]])
    weights = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    row = types.Datum(
        model_input=types.ModelInput.from_ints([5, 6, 7, 8]),
        loss_fn_inputs={
            "target_tokens": types.TensorData.from_torch(targets),
            "weights": types.TensorData.from_torch(weights),
        },
    )
    output = training.forward_backward([row], "cross_entropy").result(timeout=TIMEOUT)
    logprobs = output.loss_fn_outputs[0]["logprobs"].to_torch()
    assert logprobs.shape == (4, 2)
    expected = -(logprobs * weights).sum().item()
    assert output.metrics["loss:sum"] == pytest.approx(expected, rel=1e-5)


def test_checkpoints_through_the_rest_client(
    client: tinker.ServiceClient, service: Service
) -> None:
    training = new_run(client, user_metadata={"renderer_name": "role_colon"})
    saved = training.save_state("listed", ttl_seconds=7200).result(timeout=TIMEOUT)
    training.save_weights_for_sampler("listed").result(timeout=TIMEOUT)
    rest = rest_client(service)
    run = rest.get_training_run(training.model_id).result(timeout=TIMEOUT)
    assert (run.base_model, run.lora_rank) == ("tiny", 4)
    assert run.user_metadata == {"renderer_name": "role_colon"}
    listed = rest.list_checkpoints(training.model_id).result(timeout=TIMEOUT).checkpoints
    assert {c.checkpoint_id for c in listed} == {"weights/listed", "sampler_weights/listed"}
    [weights] = [c for c in listed if c.checkpoint_type == "training"]
    assert weights.tinker_path == saved.path
    assert weights.size_bytes
    assert weights.expires_at
    rest.publish_checkpoint_from_tinker_path(saved.path).result(timeout=TIMEOUT)
    rest.set_checkpoint_ttl_from_tinker_path(saved.path, None).result(timeout=TIMEOUT)
    listed = rest.list_checkpoints(training.model_id).result(timeout=TIMEOUT).checkpoints
    [weights] = [c for c in listed if c.checkpoint_type == "training"]
    assert weights.public
    assert weights.expires_at is None
    info = rest.get_weights_info_by_tinker_path(saved.path).result(timeout=TIMEOUT)
    assert (info.base_model, info.lora_rank) == ("tiny", 4)
    rest.delete_checkpoint_from_tinker_path(saved.path).result(timeout=TIMEOUT)
    listed = rest.list_checkpoints(training.model_id).result(timeout=TIMEOUT).checkpoints
    assert [c.checkpoint_id for c in listed] == ["sampler_weights/listed"]
    with pytest.raises(tinker.APIStatusError, match="listed"):
        client.create_training_client_from_state(saved.path).result(TIMEOUT)


def test_a_checkpoint_that_is_deleted_under_a_sampling_client(
    client: tinker.ServiceClient, service: Service
) -> None:
    training = new_run(client)
    path = training.save_weights_for_sampler("short").result(timeout=TIMEOUT).path
    sampling = client.create_sampling_client(model_path=path).result(TIMEOUT)
    rest_client(service).delete_checkpoint_from_tinker_path(path).result(timeout=TIMEOUT)
    # The sampler reads the files only now.
    sampled = sampling.sample(
        types.ModelInput.from_ints([5, 6]),
        num_samples=1,
        sampling_params=types.SamplingParams(max_tokens=2, seed=1),
    ).result(timeout=TIMEOUT)
    assert len(sampled.sequences) == 1
    with pytest.raises(tinker.APIStatusError, match="there is no checkpoint"):
        client.create_sampling_client(model_path=path).result(TIMEOUT)
    with pytest.raises(tinker.APIStatusError, match="still used by session"):
        training.save_weights_for_sampler("short").result(timeout=TIMEOUT)
    training.save_weights_for_sampler("other").result(timeout=TIMEOUT)


def test_a_published_checkpoint_can_be_loaded_by_others(
    client: tinker.ServiceClient, bob: tinker.ServiceClient, service: Service
) -> None:
    training = new_run(client)
    saved = training.save_state("shared").result(timeout=TIMEOUT)
    with pytest.raises(tinker.APIStatusError):
        bob.create_training_client_from_state(saved.path).result(TIMEOUT)
    rest_client(service).publish_checkpoint_from_tinker_path(saved.path).result(TIMEOUT)
    bob.create_training_client_from_state(saved.path).result(TIMEOUT)


def test_other_tenants_ids_do_not_exist(
    client: tinker.ServiceClient, bob: tinker.ServiceClient, service: Service
) -> None:
    training = new_run(client)
    rest = rest_client(service, "tml-bobs-key")
    with pytest.raises(tinker.NotFoundError):
        rest.get_training_run(training.model_id).result(timeout=TIMEOUT)
    with pytest.raises(tinker.NotFoundError):
        rest.get_session(client.holder.get_session_id()).result(timeout=TIMEOUT)
    path = training.save_weights_for_sampler("mine").result(timeout=TIMEOUT).path
    with pytest.raises(tinker.NotFoundError):
        bob.create_sampling_client(model_path=path).result(TIMEOUT)


def test_wrong_key_is_told_at_once(service: Service) -> None:
    with pytest.raises(tinker.AuthenticationError):
        rest_client(service, "tml-unknown").get_server_capabilities().result(timeout=TIMEOUT)


def test_bad_input_leaves_the_run_usable(client: tinker.ServiceClient) -> None:
    training = new_run(client)
    with pytest.raises(tinker.BadRequestError, match="token ids"):
        training.forward_backward([datum([5, 10**6], [6, 7])], "cross_entropy").result(
            timeout=TIMEOUT
        )
    # What was refused might have been part of the gradient: the next step must say so.
    with pytest.raises(tinker.RequestFailedError, match="was not applied"):
        training.optim_step(ADAM).result(timeout=TIMEOUT)
    before = loss_of(training)
    train(training)
    assert loss_of(training) < before


def test_too_high_rank_is_refused(client: tinker.ServiceClient) -> None:
    with pytest.raises(tinker.BadRequestError, match="16"):
        new_run(client, rank=17)


def test_unknown_model_names_those_served(client: tinker.ServiceClient) -> None:
    with pytest.raises(tinker.APIStatusError, match="tiny"):
        client.create_lora_training_client(base_model="huge", rank=4).result(TIMEOUT)
