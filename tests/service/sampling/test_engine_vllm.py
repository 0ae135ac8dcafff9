"""What is vLLM's alone: what it can't serve, its slots for policies, its processes."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.service.sampling.harness import (
    LoadPolicy,
    MakePolicy,
    ask,
    only,
    policy_files,
    reference_logprobs,
    run,
    vllm_config,
)
from tests.waiting import wait_until
from tuft.errors import ConfigError, InvalidRequest
from tuft.sampling.engine import Engine
from tuft.sampling.vllm_options import start_vllm

vllm_only = pytest.mark.parametrize("case", ["vllm"], indirect=True)
needs_vllm = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed: `make install-vllm`",
    ),
]


def test_without_the_package_it_says_what_to_install(
    tiny_vllm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = vllm_config(tiny_vllm_folder)
    with pytest.raises(ConfigError, match="vLLM is not installed") as caught:
        start_vllm(config, config.supported_models[0], tiny_vllm_folder)
    assert "make install-vllm" in caught.value.message


class TestWithVllm:
    pytestmark = [*needs_vllm, vllm_only]

    def test_more_policies_than_slots(
        self, engine: Engine, plain: Any, make_policy: MakePolicy, load_policy: LoadPolicy
    ) -> None:
        """Three may sample at a time: others wait. And the base model is nobody's policy."""
        files = [make_policy(seed, rank=8) for seed in range(5)]
        names = [load_policy(each) for each in files]
        of_name: dict[str | None, dict[str, bytes] | None] = {None: None}
        of_name.update(zip(names, files, strict=True))
        requests = [
            ask([number + 1, 7, 9], policy=name, seed=number, num_samples=2, max_tokens=20)
            for number in range(3)
            for name in (*names, None)
        ]
        for request, result in zip(requests, run(engine, *requests), strict=True):
            for sequence in result.sequences:
                expected = reference_logprobs(
                    plain, request.prompt, sequence.tokens.tolist(), of_name[request.policy]
                )
                np.testing.assert_allclose(sequence.logprobs, expected, atol=1e-4)

    def test_a_policy_that_waits_is_not_starved(
        self, engine: Engine, make_policy: MakePolicy, load_policy: LoadPolicy
    ) -> None:
        names = [load_policy(make_policy(seed)) for seed in range(4)]
        busy = names[:3]
        for name in busy:
            engine.submit(ask([1, 2], policy=name, max_tokens=50))
        waiting = ask([1, 2], policy=names[3], max_tokens=2)
        engine.submit(waiting)
        rounds = 0
        while True:
            ended = {each.request_id for each in engine.step()}
            if waiting.request_id in ended:
                break
            # The others always have something to do.
            for name in busy[: len(ended)]:
                engine.submit(ask([1, 2], policy=name, max_tokens=50))
                rounds += 1
            assert rounds < 20, "requests that came later overtake it for ever"

    def test_what_it_is_not_given(
        self, engine: Engine, plain: Any, make_policy: MakePolicy
    ) -> None:
        on_head = policy_files(plain, 1, train_attn=False, train_mlp=False)
        with pytest.raises(InvalidRequest, match="LoRA on lm_head: train with train_unembed=False"):
            engine.load_policy("head", on_head)
        with pytest.raises(InvalidRequest, match=r"rank 9; .* up to 8"):
            engine.load_policy("rank", make_policy(1, rank=9))
        for temperature in (0.009, 2.1):
            with pytest.raises(InvalidRequest, match=r"0 and 0\.01 to 2"):
                engine.submit(ask([1], temperature=temperature))
        assert engine.load == 0
        # None of it is left.
        assert len(only(run(engine, ask([1]))[0]).tokens) == 8

    def test_a_prompt_known_from_before_is_told(self, engine: Engine) -> None:
        prompt = [3] * 200
        first, second = (run(engine, ask(prompt, max_tokens=1))[0] for _ in range(2))
        other = run(engine, ask(prompt, max_tokens=1, tenant="other"))[0]
        assert second.prompt_cache_hit_tokens > 0
        assert (first.prompt_cache_hit_tokens, other.prompt_cache_hit_tokens) == (0, 0)


STARTS_AND_WAITS = """
import json, sys, time
from pathlib import Path
from tuft.config import ServiceConfig
from tuft.sampling.vllm_options import start_vllm
from tests.service.sampling.harness import ask

def main():
    config = ServiceConfig.model_validate(json.loads(sys.argv[1]))
    model = config.supported_models[0]
    engine = start_vllm(config, model, Path(model.model_path))
    engine.submit(ask([1], max_tokens=200, num_samples=16))
    print("started", flush=True)
    while True:
        engine.step()

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("how", ["worker", "core"])
class TestProcesses:
    pytestmark = needs_vllm

    def test_the_sampler_ends_when_a_process_of_vllms_dies(
        self, how: str, tmp_path: Path, tiny_vllm_folder: Path
    ) -> None:
        """So that the supervisor starts it again. Nothing stays behind."""
        config = vllm_config(tiny_vllm_folder).model_dump_json()
        script = tmp_path / "script.py"
        script.write_text(STARTS_AND_WAITS)
        log = tmp_path / "log"
        with log.open("wb") as output:
            sampler = psutil.Popen(
                [sys.executable, str(script), config],
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
            )
        try:
            wait_until(lambda: "started" in log.read_text(), 300, "vLLM started")
            family = sampler.children(recursive=True)
            name = {"worker": "VLLM::Worker", "core": "VLLM::EngineCor"}[how]
            next(each for each in family if each.name().startswith(name)).kill()
            assert sampler.wait(60) == 1
            assert "VllmEnded" in log.read_text()
            _, alive = psutil.wait_procs(family, 30)
            assert not alive
        finally:
            if sampler.is_running():
                for each in (*sampler.children(recursive=True), sampler):
                    each.kill()
