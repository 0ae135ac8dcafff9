"""Sampling sessions and asample: what reaches the sampler, and what is refused before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.service.api.checkpoints import write_checkpoint
from tests.service.api.harness import (
    CONTEXT,
    MODEL,
    Api,
    base_sampler,
    claim_sample,
    config_of,
    ok,
    refused,
    sample_body,
    serving,
)
from tuft.contracts.operations import SampleOperation
from tuft.contracts.policies import policy_name


@pytest.fixture(scope="module")
def sampler_id(api: Api) -> str:
    return base_sampler(api)


def accepted(api: Api, body: dict[str, Any]) -> SampleOperation:
    """What the sampler gets."""
    return claim_sample(api.store, ok(api.post("asample", body))["request_id"]).op


def test_every_field_reaches_the_sampler(api: Api, sampler_id: str) -> None:
    op = accepted(
        api,
        sample_body(
            sampler_id,
            1,
            num_samples=2,
            params={
                "max_tokens": 7,
                "seed": 11,
                "stop": ["\n", "END"],
                "temperature": 0.5,
                "top_k": 9,
                "top_p": 0.75,
            },
            prompt_logprobs=True,
            topk_prompt_logprobs=2,
            topk_sample_logprobs=3,
        ),
    )
    assert op.params.model_dump() == {
        "max_tokens": 7,
        "seed": 11,
        "stop_strings": ["\n", "END"],
        "stop_tokens": [],
        "temperature": 0.5,
        "top_k": 9,
        "top_p": 0.75,
    }
    assert (op.num_samples, op.prompt_logprobs) == (2, True)
    assert (op.topk_prompt_logprobs, op.topk_sample_logprobs) == (2, 3)
    assert (op.prompt, op.base_model, op.policy) == ([1, 2, 3], MODEL, None)


@pytest.mark.parametrize(
    ("stop", "strings", "tokens"),
    [
        (None, [], [0]),
        ([], [], []),
        ("x", ["x"], []),
        (["a", "b"], ["a", "b"], []),
        ([3, 4], [], [3, 4]),
    ],
)
def test_what_stops(
    api: Api, sampler_id: str, stop: Any, strings: list[str], tokens: list[int]
) -> None:
    params = {} if stop is None else {"stop": stop}
    op = accepted(api, sample_body(sampler_id, 10 + len(repr(stop)), params=params))
    assert (op.params.stop_strings, op.params.stop_tokens) == (strings, tokens)


def test_without_max_tokens_up_to_the_context(api: Api, sampler_id: str) -> None:
    op = accepted(api, sample_body(sampler_id, 30, params={"max_tokens": None}))
    assert op.params.max_tokens == CONTEXT - 3


def test_chunks_of_a_prompt_are_joined(api: Api, sampler_id: str) -> None:
    chunks = [{"tokens": [1, 2], "type": "encoded_text"}, {"tokens": [3], "type": "encoded_text"}]
    op = accepted(api, sample_body(sampler_id, 31) | {"prompt": {"chunks": chunks}})
    assert op.prompt == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": [1, 512]}, "prompt.chunks[0].tokens[1] is 512"),
        ({"prompt": [-1]}, "is -1"),
        ({"prompt": [2**70]}, "0 to 511"),
        ({"prompt": [1.5]}, "list of integers"),
        ({"prompt": [True]}, "list of integers"),
        ({"prompt": [1] * CONTEXT}, f"{CONTEXT} tokens"),
        ({"params": {"max_tokens": CONTEXT}}, "max_model_len"),
        ({"params": {"max_tokens": 0}}, "max_tokens"),
        ({"params": {"temperature": -1}}, "temperature"),
        ({"params": {"temperature": "hot"}}, "temperature"),
        ({"params": {"top_p": 0}}, "top_p"),
        ({"params": {"top_p": 1.1}}, "top_p"),
        ({"params": {"top_k": -2}}, "top_k"),
        ({"params": {"stop": [""]}}, "stop string"),
        ({"params": {"stop": [512]}}, "512"),
        ({"params": {"stop": ["a"] * 65}}, "64"),
        ({"params": {"frequency_penalty": 1}}, "frequency_penalty: unknown field"),
        ({"num_samples": 0}, "num_samples"),
        ({"num_samples": 257}, "at most 256"),
        ({"topk_prompt_logprobs": -1}, "topk_prompt_logprobs"),
        ({"topk_sample_logprobs": 257}, "topk_sample_logprobs"),
        ({"prompt_alt_tokens_k": 1}, "prompt_alt_tokens_k is not served"),
        ({"target_prompt_logprobs": {"data": []}}, "target_prompt_logprobs is not served"),
        ({"record_stability_info": True}, "record_stability_info is not served"),
        ({"prompt_logprobs_last_n": 1}, "prompt_logprobs_last_n is not served"),
        ({"base_model": MODEL}, "base_model is not served"),
        ({"seq_id": None}, "seq_id"),
        ({"sampling_session_id": None}, "sampling_session_id"),
    ],
)
def test_a_bad_request_is_refused(
    api: Api, sampler_id: str, changes: dict[str, Any], expected: str
) -> None:
    body = sample_body(sampler_id, 99, **{k: v for k, v in changes.items() if k != "seq_id"})
    if "seq_id" in changes:
        del body["seq_id"]
    assert expected in refused(api.post("asample", body))


def test_an_image_is_refused(api: Api, sampler_id: str) -> None:
    body = sample_body(sampler_id, 99) | {
        "prompt": {"chunks": [{"type": "image", "data": "", "format": "png"}]}
    }
    message = refused(api.post("asample", body))
    assert "'image'" in message
    assert "'encoded_text'" in message


def test_the_client_defaults_are_no_obstacle(api: Api, sampler_id: str) -> None:
    """What the SDK sends although it asks for nothing special."""
    body = sample_body(sampler_id, 40) | {
        "prompt_logprobs": False,
        "topk_prompt_logprobs": 0,
        "prompt_alt_tokens_k": 0,
        "record_stability_info": False,
    }
    assert not accepted(api, body).prompt_logprobs


def test_a_seq_id_used_with_another_content(api: Api, sampler_id: str) -> None:
    ok(api.post("asample", sample_body(sampler_id, 50)))
    assert "another content" in refused(
        api.post("asample", sample_body(sampler_id, 50, prompt=[4]))
    )


def test_seq_ids_of_cloned_clients(api: Api, sampler_id: str) -> None:
    ok(api.post("asample", sample_body(sampler_id, 634724936 * 10**9 + 5)))
    assert "seq_id" in refused(api.post("asample", sample_body(sampler_id, 2**63)))


def test_a_full_queue_is_a_429(valkey_url: str, tmp_path: Path) -> None:
    with serving(config_of(tmp_path, max_pending_samples=1), valkey_url) as api:
        sampler_id = base_sampler(api)
        ok(api.post("asample", sample_body(sampler_id, 0)))
        refused(api.post("asample", sample_body(sampler_id, 1)), 429)
        ok(api.post("asample", sample_body(sampler_id, 0)))


def test_a_tenants_share_of_the_queue_is_a_429(valkey_url: str, tmp_path: Path) -> None:
    with serving(config_of(tmp_path, max_tenant_samples=1), valkey_url) as api:
        sampler_id = base_sampler(api)
        ok(api.post("asample", sample_body(sampler_id, 0)))
        told = refused(api.post("asample", sample_body(sampler_id, 1)), 429)
        assert "limits.max_tenant_samples" in told


@pytest.mark.parametrize("kind", ["weights", "sampler_weights"])
def test_a_session_of_a_checkpoint(api: Api, kind: Any) -> None:
    record = write_checkpoint(api, api.run(), kind, "mine")
    body = {
        "session_id": api.session(),
        "sampling_session_seq_id": 4,
        "model_path": record.manifest.path,
    }
    sampler_id = ok(api.post("create_sampling_session", body))["sampling_session_id"]
    assert ok(api.get(f"samplers/{sampler_id}")) == {
        "sampler_id": sampler_id,
        "base_model": MODEL,
        "model_path": record.manifest.path,
    }
    policy = accepted(api, sample_body(sampler_id)).policy
    prefix = f"runs/{record.manifest.run.run_id}/{kind}/mine"
    assert policy == policy_name(prefix, record.manifest)


def test_a_checkpoint_that_was_overwritten_is_another_policy(api: Api) -> None:
    """A sampler that has the old content loaded must not serve it for the new one."""
    run_id = api.run()
    policies = []
    for number, content in enumerate((b"old", b"new", b"new")):
        record = write_checkpoint(api, run_id, "weights", "mine", content=content)
        body = {
            "session_id": api.session(),
            "sampling_session_seq_id": number,
            "model_path": record.manifest.path,
        }
        sampler_id = ok(api.post("create_sampling_session", body))["sampling_session_id"]
        policies.append(api.store.samplers.get(sampler_id).policy)
    assert policies[0] != policies[1] == policies[2]


def test_a_repeated_session_is_the_same_also_without_its_checkpoint(api: Api) -> None:
    record = write_checkpoint(api, api.run(), "weights", "mine")
    body = {
        "session_id": api.session(),
        "sampling_session_seq_id": 0,
        "model_path": record.manifest.path,
    }
    first = ok(api.post("create_sampling_session", body))
    api.services.catalog.delete(record)
    assert ok(api.post("create_sampling_session", body)) == first
    other = body | {"model_path": None, "base_model": MODEL}
    refused(api.post("create_sampling_session", other))
    refused(api.post("create_sampling_session", body | {"sampling_session_seq_id": 1}), 404)


def test_a_session_needs_something_to_sample(api: Api) -> None:
    body = {"session_id": api.session(), "sampling_session_seq_id": 0}
    assert "base_model or model_path" in refused(api.post("create_sampling_session", body))
    wrong = body | {"base_model": "gpt"}
    assert "'gpt' is not served" in refused(api.post("create_sampling_session", wrong))
