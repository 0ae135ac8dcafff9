"""Tokens per second of forward_backward + optim_step through the service, beside plain PyTorch.

Both run in this order in one process tree on the same machine: the ratio is what counts.
The service's number includes everything a client sees: HTTP, protobuf, journal, results.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tinker
import torch
from peft import LoraConfig, get_peft_model
from tinker import types
from transformers import AutoModelForCausalLM

from tests.e2e.service import running
from tuft.demo_model import demo_model
from tuft.supervisor.tree import prepare

ROWS, LENGTH, RANK = 8, 128, 8
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def rows() -> list[list[int]]:
    """Random token rows, the same for both."""
    generator = random.Random(0)
    return [[generator.randrange(1000, 40000) for _ in range(LENGTH + 1)] for _ in range(ROWS)]


def service_rate(steps: int) -> float:
    """Tokens per second through a real service, by the real SDK."""
    data = [
        types.Datum(
            model_input=types.ModelInput.from_ints(row[:-1]),
            loss_fn_inputs={"target_tokens": types.TensorData.from_numpy(np.array(row[1:]))},
        )
        for row in rows()
    ]
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), None) as service:
        client = tinker.ServiceClient(base_url=service.url, api_key="tml-local-dev-key")
        model = demo_model().model_name
        training = client.create_lora_training_client(
            base_model=model, rank=RANK, train_unembed=False
        ).result(120)

        def step() -> None:
            forward_backward = training.forward_backward(data, "cross_entropy")
            training.optim_step(types.AdamParams()).result(timeout=600)
            forward_backward.result(timeout=600)

        return _rate(step, steps)


def torch_rate(steps: int) -> float:
    """Tokens per second of the same step in plain PyTorch and PEFT."""
    base = AutoModelForCausalLM.from_pretrained(prepare(demo_model()), dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=32, target_modules=TARGETS))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    tokens = torch.tensor(rows())

    def step() -> None:
        logits = model(tokens[:, :-1]).logits.flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        optimizer.zero_grad()

    return _rate(step, steps)


def _rate(step: Callable[[], None], steps: int) -> float:

    step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return ROWS * LENGTH * steps / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    steps = parser.parse_args().steps
    plain = torch_rate(steps)
    service = service_rate(steps)
    print(f"plain PyTorch + PEFT  {plain:8.1f} tokens/s")
    print(f"TuFT service          {service:8.1f} tokens/s")
    print(f"ratio                 {service / plain:8.2f}")


if __name__ == "__main__":
    main()
