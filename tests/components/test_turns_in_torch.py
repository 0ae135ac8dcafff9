"""Turns that share a datum give the loss and the gradients that each alone would give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.components.samples import row
from tests.helpers.tiny_model import build_tiny_model
from tuft_components.batches import BatchRow
from tuft_components.rl.datums import assemble


def turns() -> list[BatchRow]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 200, (30,), generator=generator).tolist()
    spans = [(5, 9), (12, 13), (20, 30)]
    return [
        row(
            turn=number,
            prompt_tokens=tokens[:begin],
            completion_tokens=tokens[begin:end],
            logprobs=[-2.0 - 0.1 * index for index in range(end - begin)],
            advantages=[0.5 - number] * (end - begin),
            mask=[float(index % 3 != 1) for index in range(end - begin)],
        )
        for number, (begin, end) in enumerate(spans)
    ]


def loss_and_gradients(
    model: PreTrainedModel, data: Sequence[Sequence[BatchRow]]
) -> tuple[float, dict[str, torch.Tensor]]:
    """Importance sampling, summed over tokens, as the service defines it."""
    model.zero_grad()
    total = torch.zeros(())
    for rows in data:
        arrays = assemble(rows)
        logits = model(torch.tensor(arrays.input_tokens, dtype=torch.long)[None]).logits[0]
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(arrays.target_tokens)[:, None])[:, 0]
        ratio = torch.exp(chosen - torch.tensor(arrays.logprobs))
        total = total - (ratio * torch.tensor(arrays.advantages)).sum()
    total.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return total.item(), {name: gradient.clone() for name, gradient in gradients.items()}


def test_one_datum_or_one_for_each_turn(tmp_path: Path) -> None:
    rows = turns()
    model = AutoModelForCausalLM.from_pretrained(build_tiny_model(tmp_path), dtype=torch.float32)
    loss, gradients = loss_and_gradients(model, [rows])
    expected, apart = loss_and_gradients(model, [[one] for one in rows])
    assert loss == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == apart.keys()
    for name, gradient in gradients.items():
        assert (gradient - apart[name]).norm() <= 1e-5 * apart[name].norm(), name
