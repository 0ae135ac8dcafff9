"""Every bad input of training requests gets a clear 400 and harms nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tinker.proto.tinker_public_pb2 as pb

from tests.service.api.harness import (
    CONTEXT,
    INFO,
    Api,
    Trainer,
    batch,
    create_model_body,
    ok,
    refused,
    tensor,
)
from tuft.contracts.operations import Operation

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def run_id(api: Api) -> str:
    return api.run()


def sparse(shape: list[int], columns: list[int], crow: list[int]) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        entry = message.data[0].loss_fn_inputs["target_tokens"]
        entry.Clear()
        entry.sparse_csr.values = np.ones(len(columns), "<i8").tobytes()
        entry.sparse_csr.crow_indices = np.asarray(crow, "<i8").tobytes()
        entry.sparse_csr.col_indices = np.asarray(columns, "<i8").tobytes()
        entry.dtype = pb.DTYPE_INT64
        entry.shape.extend(shape)

    return change


def replace(name: str, values: list[Any], dtype: str = "<f4") -> Callable[[Any], None]:
    def change(message: Any) -> None:
        message.data[0].loss_fn_inputs[name].Clear()
        tensor(message.data[0], name, values, dtype)

    return change


def image(message: Any) -> None:
    message.data[0].model_input.add().image.data = b"png"


def drop_targets(message: Any) -> None:
    del message.data[0].loss_fn_inputs["target_tokens"]


def wrong_shape(message: Any) -> None:
    message.data[0].loss_fn_inputs["target_tokens"].shape[:] = [5]


RL: dict[str, Any] = {"loss_fn": "ppo", "logprobs": [0.0] * 4, "advantages": [1.0] * 4}

BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "empty data": ({"rows": 0}, ["data is empty"]),
    "empty input": ({"tokens": [], "targets": []}, ["data[0].model_input", "empty"]),
    "token outside": ({"tokens": [1, 512], "targets": [1, 2]}, ["data[0].model_input[1]", "511"]),
    "negative token": ({"tokens": [-1], "targets": [1]}, ["data[0].model_input[0] is -1"]),
    "target outside": (
        {"targets": [1, 2, 3, 512]},
        ["data[0].loss_fn_inputs['target_tokens'][3] is 512"],
    ),
    "second datum": (
        {"rows": 2, "change": lambda m: tensor(m.data[1], "weights", [1.0] * 3, "<f4")},
        ["data[1].loss_fn_inputs['weights']", "[3]", "[4]"],
    ),
    "too long": ({"tokens": [1] * (CONTEXT + 1)}, [f"{CONTEXT + 1} tokens", f"{CONTEXT}"]),
    "short targets": ({"targets": [1, 2, 3]}, ["3 positions", "model_input has 4"]),
    "short weights": ({"weights": [1.0]}, ["['weights']", "[1]", "[4]"]),
    "nan weight": ({"weights": [1.0, NAN, 1.0, 1.0]}, ["['weights'][1] is nan", "finite"]),
    "infinite advantage": (
        {**RL, "advantages": [0.0, 0.0, -INF, 0.0]},
        ["['advantages'][2] is -inf"],
    ),
    "integer weights": (
        {"change": replace("weights", [1, 1, 1, 1], "<i8")},
        ["['weights'] is int64", "float32"],
    ),
    "float targets": (
        {"change": replace("target_tokens", [1.0, 1.0, 1.0, 1.0])},
        ["['target_tokens'] is float32", "int64"],
    ),
    "no targets": ({"change": drop_targets}, ["lacks 'target_tokens'"]),
    "no advantages": ({"loss_fn": "ppo", "logprobs": [0.0] * 4}, ["lacks 'advantages'", "ppo"]),
    "unknown tensor": ({"mask": [1.0] * 4}, ["'mask'", "cross_entropy", "weights"]),
    "unknown loss": ({"loss_fn": "stable_reinforce"}, ["'stable_reinforce'", "cispo", "ppo"]),
    "no K for ppo": (
        {**RL, "change": replace("target_tokens", [[1, 2]] * 4, "<i8")},
        ["['target_tokens']", "[4, 2]", "[N]"],
    ),
    "unknown config": (
        {**RL, "change": lambda m: m.loss_fn_config.update({"epsilon": 0.2})},
        ["'epsilon'", "clip_high_threshold"],
    ),
    "nan config": (
        {**RL, "change": lambda m: m.loss_fn_config.update({"clip_low_threshold": NAN})},
        ["clip_low_threshold", "nan", "finite"],
    ),
    "crossed clips": (
        {**RL, "change": lambda m: m.loss_fn_config.update({"clip_low_threshold": 1.5})},
        ["1.5", "above", "1.2"],
    ),
    "image": ({"change": image}, ["'image'", "'encoded_text'"]),
    "shape does not fit": ({"change": wrong_shape}, ["4 values", "[5]"]),
    "sparse columns": ({"change": sparse([4, 2], [5], [0, 1, 1, 1, 1])}, ["CSR", "[4, 2]"]),
    "sparse bomb": (
        {"change": sparse([4, 2**40], [0], [0, 1, 1, 1, 1])},
        ["sparse", "elements"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_batch_is_refused(api: Api, run_id: str, name: str) -> None:
    arguments, expected = BAD[name]
    seq_id = 100 + list(BAD).index(name)
    message = refused(api.forward_backward(batch(run_id, seq_id, **arguments)))
    for part in expected:
        assert part in message


def test_what_is_good_beside_it_is_accepted(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    ok(api.forward_backward(batch(run_id, 1, weights=[0.0, -1.5, 2.0, 1e30])))
    ok(api.forward_backward(batch(run_id, 2, **RL)))
    two = replace("target_tokens", [[1, 2]] * 4, "<i8")
    ok(api.forward_backward(batch(run_id, 3, change=two)))
    ok(api.forward_backward(batch(run_id, 4, change=sparse([4, 2], [0, 1], [0, 1, 2, 2, 2]))))
    ok(api.forward_backward(batch(run_id, 5, tokens=[511] * CONTEXT)))
    assert all(isinstance(entry, Operation) for entry in trainer.pending(run_id))
    assert len(trainer.pending(run_id)) == 6


def test_malformed_protobuf(api: Api) -> None:
    assert "ForwardBackwardRequest" in refused(api.forward_backward(b"\xff\xff not protobuf"))


def test_a_missing_seq_id(api: Api, run_id: str) -> None:
    assert "seq_id" in refused(api.forward_backward(batch(run_id, 0)))
    assert "seq_id" in refused(api.post("optim_step", {"model_id": run_id}))


def test_too_many_datums(api: Api, run_id: str) -> None:
    limit = api.services.config.limits.max_datums
    data = batch(run_id, 90, rows=limit + 1, tokens=[1], targets=[1])
    assert str(limit) in refused(api.forward_backward(data))


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": INF}, "learning_rate"),
        ({"learning_rate": NAN}, "learning_rate"),
        ({"beta1": 1.0}, "beta1"),
        ({"beta2": -0.1}, "beta2"),
        ({"eps": 0.0}, "eps"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"grad_clip_norm": NAN}, "grad_clip_norm"),
        ({"momentum": 0.9}, "momentum"),
        ({"learning_rate": "fast"}, "learning_rate"),
    ],
)
def test_bad_adam_params(api: Api, params: dict[str, Any], field: str) -> None:
    # json.dumps writes NaN and Infinity, as a raw client may; httpx would refuse to.
    content = json.dumps({"model_id": api.run(), "seq_id": 1, "adam_params": params})
    response = api.http.post("/api/v1/optim_step", content=content)
    assert f"adam_params.{field}" in refused(response)


def test_another_optimizer(api: Api) -> None:
    run_id = api.run()
    body = {"model_id": run_id, "seq_id": 1, "optimizer_params": {"type": "dimuon"}}
    assert "'adamw'" in refused(api.post("optim_step", body))
    body = create_model_body(api.session()) | {"optimizer_config": {"type": "dimuon"}}
    assert "'adamw'" in refused(api.post("create_model", body))


@pytest.mark.parametrize("rank", [0, -1, 65])
def test_a_rank_out_of_range(api: Api, rank: int) -> None:
    message = refused(api.post("create_model", create_model_body(api.session(), rank=rank)))
    assert str(rank) in message
    assert "1 to 64" in message


def test_an_unknown_model_names_those_served(api: Api) -> None:
    body = create_model_body(api.session()) | {"base_model": "Qwen/Qwen3-8B"}
    message = refused(api.post("create_model", body))
    assert "'Qwen/Qwen3-8B'" in message
    assert "'tiny/model'" in message


def test_nothing_to_train(api: Api) -> None:
    off = {"train_attn": False, "train_mlp": False, "train_unembed": False}
    assert "train_attn" in refused(
        api.post("create_model", create_model_body(api.session(), **off))
    )


def test_a_flag_that_reaches_no_module(fresh_api: Api) -> None:
    fresh_api.store.workers.set_model_info(INFO.model_copy(update={"unembed_modules": 0}))
    message = refused(fresh_api.post("create_model", create_model_body(fresh_api.session())))
    assert "train_unembed" in message
    ok(fresh_api.post("create_model", create_model_body(fresh_api.session(), train_unembed=False)))


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "a b", "x" * 201, "../../etc"])
def test_a_bad_checkpoint_name(api: Api, name: str) -> None:
    run_id = api.run()
    body = {"model_id": run_id, "seq_id": 1, "path": name}
    assert "checkpoint name" in refused(api.post("save_weights", body))
    assert "checkpoint name" in refused(api.post("save_weights_for_sampler", body | {"seq_id": 2}))


@pytest.mark.parametrize("ttl", [3599, 10 * 365 * 86400 + 1, -1])
def test_a_ttl_out_of_bounds(api: Api, ttl: int) -> None:
    body = {"model_id": api.run(), "seq_id": 1, "path": "a", "ttl_seconds": ttl}
    assert "ttl_seconds" in refused(api.post("save_weights", body))


def test_inflight_is_not_served(api: Api) -> None:
    body = {"model_id": api.run(), "seq_id": 1, "sampling_session_seq_id": 0, "kind": "inflight"}
    assert "'snapshot'" in refused(api.post("save_weights_for_sampler", body))


def test_a_sampler_save_has_a_name_or_a_session(api: Api) -> None:
    run_id = api.run()
    refused(api.post("save_weights_for_sampler", {"model_id": run_id, "seq_id": 1}))
    body = {"model_id": run_id, "seq_id": 2, "path": "a", "sampling_session_seq_id": 1}
    refused(api.post("save_weights_for_sampler", body))


def test_a_checkpoint_that_does_not_exist(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    body = {"path": f"tinker://{run_id}/weights/none", "optimizer": False}
    place = {"model_id": run_id, "seq_id": 1}
    assert "there is no checkpoint" in refused(api.post("load_weights", body | place), 404)
    # It was the owner's request and refused for good: its seq_id is burnt.
    assert len(trainer.pending(run_id)) == 2
    new = {"session_id": api.session(), "model_seq_id": 0}
    refused(api.post("load_weights", body | new), 404)


@pytest.mark.parametrize(
    "path", ["demo", "tinker://run", "tinker://r/odd/x", "tinker://r/weights/../x", "http://r/w/x"]
)
def test_a_path_that_is_none(api: Api, path: str) -> None:
    body = {"session_id": api.session(), "model_seq_id": 0, "path": path, "optimizer": False}
    assert "tinker://" in refused(api.post("load_weights", body))


def test_an_operation_that_is_not_served_burns_its_seq_id(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    body = {"model_id": run_id, "seq_id": 1, "path": "a", "type": "save_weights_external"}
    assert "save_weights_external" in refused(api.post("save_weights_external", body))
    assert len(trainer.pending(run_id)) == 2


def test_unknown_fields_are_named(api: Api) -> None:
    body = create_model_body(api.session(), dropout=0.1)
    assert "lora_config.dropout: unknown field" in refused(api.post("create_model", body))
