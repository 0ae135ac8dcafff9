"""The vLLM engine through our API, beside vLLM's own OpenAI server under the same load.

Both serve the demo model with the same settings of the engine and as many concurrent clients,
each waiting for its answer before it asks again. Turn about, a server that is not asked uses no
CPU time. Needs vLLM (`make install-vllm`); without it there is nothing to measure.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx
import psutil
import tinker
from tinker import types

from tests.bench.measure import Turn, cpu_seconds, in_turn, report
from tests.bench.stage import TIMEOUT_S, Model, Stage, models, stage
from tuft.supervisor.tree import free_port

REQUESTS, NEW_TOKENS, PROMPT_TOKENS = 16, 64, 32
_READY_S = 600
_SAMPLER = {
    "engine": "vllm",
    "max_running_sequences": 64,
    "vllm": {"kv_cache_gb": 1, "max_loras": 1, "max_lora_rank": 8},
}


def prompts(seed: int) -> list[list[int]]:
    """New ones each time: both servers remember prompts."""
    generator = random.Random(seed)
    return [
        [generator.randrange(1000, 40000) for _ in range(PROMPT_TOKENS)] for _ in range(REQUESTS)
    ]


def by_service(client: tinker.SamplingClient, batch: list[list[int]]) -> None:
    params = types.SamplingParams(max_tokens=NEW_TOKENS, temperature=1.0, stop=[])
    sent = [client.sample(types.ModelInput.from_ints(prompt), 1, params) for prompt in batch]
    for future in sent:
        assert len(future.result(TIMEOUT_S).sequences[0].tokens) == NEW_TOKENS


def by_vllm(http: httpx.Client, pool: ThreadPoolExecutor, batch: list[list[int]]) -> None:
    def ask(prompt: list[int]) -> None:
        body = {
            "model": "bench",
            "prompt": prompt,
            "max_tokens": NEW_TOKENS,
            "temperature": 1.0,
            "ignore_eos": True,
            # Sampled tokens have logprobs in our API.
            "logprobs": 0,
        }
        reply = http.post("/v1/completions", json=body)
        assert reply.json()["usage"]["completion_tokens"] == NEW_TOKENS, reply.text

    list(pool.map(ask, batch))


@contextmanager
def vllm_server(model: Model, log: Path, dtype: str) -> Iterator[tuple[str, psutil.Process]]:
    """vLLM's own server with LoRA, as our sampler has it: its URL and its process."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model.folder), "--served-model-name", "bench", "--port", str(port)),
        *("--host", "127.0.0.1", "--dtype", dtype, "--max-num-seqs", "64"),
        *("--enable-lora", "--max-loras", "2", "--max-lora-rank", "8"),
        *("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"),
        *("--kv-cache-memory-bytes", str(1 << 30)),
    ]
    env = {**os.environ, "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as output:
        child = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(url, child, log)
        yield url, child
    finally:
        family = [*child.children(recursive=True), child]
        child.terminate()
        _, alive = psutil.wait_procs(family, 20)
        for process in alive:
            process.kill()


def _wait_until_ready(url: str, child: psutil.Popen, log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise SystemExit(f"vLLM's server ended:\n{log.read_text()[-2000:]}")
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"vLLM's server was not ready after {_READY_S} s")


def clock_of(process: psutil.Process) -> Callable[[], dict[str, float]]:
    """CPU time of a process and its children, as they are now, by their names."""
    family = [(each, _name(each)) for each in (process, *process.children(recursive=True))]

    def clock() -> dict[str, float]:
        seconds: dict[str, float] = {}
        for each, name in family:
            seconds[name] = seconds.get(name, 0.0) + cpu_seconds(each)
        return seconds

    return clock


def _name(process: psutil.Process) -> str:
    command = process.cmdline()
    return command[command.index("-m") + 1] if "-m" in command else command[0].rsplit("/")[-1]


def compare(on: Stage, url: str, process: psutil.Process, rounds: int) -> None:
    client = on.clients[0].create_sampling_client(base_model=on.model.name).result(TIMEOUT_S)
    seeds = count()
    with (
        httpx.Client(base_url=url, timeout=TIMEOUT_S) as http,
        ThreadPoolExecutor(REQUESTS) as pool,
    ):
        turns = {
            "ours": Turn(
                lambda: by_service(client, prompts(next(seeds))),
                clock_of(psutil.Process(on.service.process.pid)),
            ),
            "vLLM's": Turn(lambda: by_vllm(http, pool, prompts(next(seeds))), clock_of(process)),
        }
        costs = in_turn(turns, rounds)
    print(f"{REQUESTS} concurrent requests, {NEW_TOKENS} new tokens each")
    for name, cost in costs.items():
        tokens = REQUESTS * NEW_TOKENS
        print(f"  {name:<8}{tokens / cost.wall:8.1f} tokens/s, {tokens / cost.cpu:8.1f} /CPU s")
        for process_name, seconds in cost.by_process.items():
            print(f"    {process_name:<40}{seconds * 1000 / tokens:8.2f} CPU ms a token")
    ours, theirs = costs["ours"], costs["vLLM's"]
    what = "16 requests, vLLM engine through our API / vLLM's own server"
    report(f"{what}, wall", ">=", 0.95, theirs.wall / ours.wall)
    report(f"{what}, CPU", ">=", 0.95, theirs.cpu / ours.cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if importlib.util.find_spec("vllm") is None:
        print("skipped: vLLM is not installed (`make install-vllm`)")
        return
    with tempfile.TemporaryDirectory() as folder:
        [model] = models(Path(folder), ["SmolLM2"])
        with (
            stage(model, dtype=options.dtype, sampler=_SAMPLER) as on,
            vllm_server(model, Path(folder) / "vllm.log", options.dtype) as (url, process),
        ):
            compare(on, url, process, options.rounds)


if __name__ == "__main__":
    main()
