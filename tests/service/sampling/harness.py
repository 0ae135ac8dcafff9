"""Requests, adapters and reference computations for sampling tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tuft.config import ModelConfig, ServiceConfig
from tuft.contracts.operations import SampleOperation, SamplingParams
from tuft.contracts.records import LoraSpec, ModelInfo
from tuft.contracts.wire import SampledSequence, SampleResult
from tuft.modeling.adapters import adapter_files, adapter_from_files, new_adapter
from tuft.modeling.loading import describe_model
from tuft.modeling.lora import Segment, use_adapters
from tuft.sampling.engine import Engine
from tuft.sampling.transformers_engine import TransformersEngine

MODEL = "tiny"
MakeEngine = Callable[..., TransformersEngine]
MakePolicy = Callable[..., dict[str, bytes]]
LoadPolicy = Callable[[dict[str, bytes]], str]
# The transformers engine alone, on both models.
transformers_only = pytest.mark.parametrize("case", ["qwen3", "tied-llama"], indirect=True)
_numbers = itertools.count()


def info_of(model: Any) -> ModelInfo:
    return describe_model(model, ModelConfig(model_name=MODEL, model_path="unused"))


def ask(
    prompt: Sequence[int],
    *,
    policy: str | None = None,
    tenant: str = "local",
    num_samples: int = 1,
    prompt_logprobs: bool = False,
    topk_prompt: int = 0,
    topk_sample: int = 0,
    **params: Any,
) -> SampleOperation:
    """A request with the next id; keywords are those of SamplingParams."""
    return SampleOperation(
        request_id=f"request-{next(_numbers)}",
        sampler_id="session:sample:0",
        base_model=MODEL,
        policy=policy,
        tenant=tenant,
        digest="",
        prompt=list(prompt),
        num_samples=num_samples,
        params=SamplingParams(**{"max_tokens": 8, **params}),
        prompt_logprobs=prompt_logprobs,
        topk_prompt_logprobs=topk_prompt,
        topk_sample_logprobs=topk_sample,
        accepted_at=0.0,
    )


def run(engine: Engine, *requests: SampleOperation) -> list[SampleResult]:
    """Submit all, step until nothing is left; results in the order of the requests."""
    for request in requests:
        engine.submit(request)
    outcomes = drain(engine)
    return [result_of(outcomes[request.request_id]) for request in requests]


def drain(engine: Engine) -> dict[str, Any]:
    outcomes: dict[str, Any] = {}
    while engine.load:
        for finished in engine.step():
            assert finished.request_id not in outcomes, "finished twice"
            outcomes[finished.request_id] = finished.outcome
    return outcomes


def result_of(outcome: object) -> SampleResult:
    assert isinstance(outcome, SampleResult), outcome
    return outcome


def only(result: SampleResult) -> SampledSequence:
    assert len(result.sequences) == 1
    return result.sequences[0]


def vllm_config(folder: Path, **sampler: Any) -> ServiceConfig:
    """A service whose sampler is vLLM: small, and started fast."""
    settings = {
        "engine": "vllm",
        "max_running_sequences": 16,
        "vllm": {"kv_cache_gb": 0.5, "max_loras": 3, "max_lora_rank": 8, "enforce_eager": True},
        **sampler,
    }
    return ServiceConfig.model_validate(
        {
            "supported_models": [{"model_name": MODEL, "model_path": str(folder)}],
            "sampler": settings,
        }
    )


def policy_files(model: Any, seed: int, rank: int = 4, **modules: bool) -> dict[str, bytes]:
    """An adapter whose B is not zero, so that it changes the logits by much."""
    spec = LoraSpec(rank=rank, alpha=32.0, seed=seed, **modules)
    adapter = new_adapter(model, spec)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in adapter.layers().values():
            layer.b.copy_(torch.randn(layer.b.shape, generator=generator) * 0.05)
    return adapter_files(adapter, MODEL)


def reference_logits(
    model: Any, tokens: Sequence[int], files: dict[str, bytes] | None = None
) -> torch.Tensor:
    """float32 [len(tokens), vocab] by the model's own forward."""
    adapter = adapter_from_files(model, files) if files else None
    with torch.no_grad(), use_adapters(model, [Segment(adapter, 1)]):
        logits: torch.Tensor = model(torch.tensor([list(tokens)]), use_cache=False).logits
    return logits[0].float()


def reference_logprobs(
    model: Any,
    prompt: Sequence[int],
    sampled: Sequence[int],
    files: dict[str, bytes] | None = None,
) -> torch.Tensor:
    """float32 [len(sampled)]: temperature-1 logprobs of the sampled tokens."""
    logits = reference_logits(model, [*prompt, *sampled], files)[len(prompt) - 1 : -1]
    table = torch.log_softmax(logits, dim=-1)
    return table.gather(1, torch.tensor(list(sampled))[:, None])[:, 0]


def count_passes(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Shapes [rows, tokens] of the model's forward passes from now on, as they happen."""
    passes: list[list[int]] = []
    body = engine._runner._body

    def counted(tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        passes.append(list(tokens.shape))
        return body(tokens, *rest)

    monkeypatch.setattr(engine._runner, "_body", counted)
    return passes
