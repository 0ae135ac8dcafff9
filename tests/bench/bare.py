"""Plain PyTorch: the training step that the service is compared with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

RANK = 8
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

Rows = Sequence[Sequence[int]]
"""Token rows; the last token of each is a target only."""


def random_rows(lengths: Sequence[int], vocab: int, seed: int = 0) -> list[list[int]]:
    """Rows that train on the given numbers of tokens."""
    generator = random.Random(seed)
    return [[generator.randrange(2, vocab) for _ in range(length + 1)] for length in lengths]


class BareModel:
    """One base model with one LoRA adapter of PEFT's, in float32, and AdamW."""

    def __init__(self, folder: Path, dtype: str = "float32") -> None:
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        lora = LoraConfig(r=RANK, lora_alpha=32, target_modules=TARGETS)
        self._model = get_peft_model(base, lora)
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        # The fused one: on CPU the default takes several times as long for so many parameters.
        self._optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def forward_backward(self, rows: Rows) -> None:
        """Sum of cross entropy of one batch; shorter rows are padded on the right."""
        longest = max(map(len, rows))
        tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        targets = torch.tensor([[*row[1:], *[-100] * (longest - len(row))] for row in rows])
        logits = self._model(tokens[:, :-1], use_cache=False).logits.flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def training_step(self, rows: Rows) -> None:
        """One batch, and one step of the optimizer."""
        self.forward_backward(rows)
        self.step()

    def step(self) -> None:
        """AdamW, and gradients back to none."""
        self._optimizer.step()
        self._optimizer.zero_grad()
