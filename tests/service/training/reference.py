"""The same training in plain PyTorch and PEFT: what the trainer is measured against."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from tests.service.training.harness import Datum
from tuft.modeling.loading import load_base
from tuft.modeling.tensor_files import read_safetensors


class Reference:
    """A PEFT model that starts from an adapter's files, and torch.optim.AdamW."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        from peft import PeftModel

        with tempfile.TemporaryDirectory() as adapter:
            for name, data in files.items():
                (Path(adapter) / name).write_bytes(data)
            base = load_base(folder, "float32", "cpu")
            self.model: Any = PeftModel.from_pretrained(base, adapter, is_trainable=True)
        self.model.eval()
        self.optimizer = torch.optim.AdamW(self.parameters().values())

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """LoRA parameters by their names in a checkpoint."""
        return {
            name.replace(".default", ""): parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }

    def logprobs(self, datum: Datum) -> Tensor:
        """float32 in the shape of the targets; one row at a time, without padding."""
        logits = self.model(input_ids=torch.tensor([datum.tokens])).logits[0]
        targets = torch.from_numpy(datum.targets)
        table = torch.log_softmax(logits, dim=-1)
        if targets.ndim == 1:
            return table.gather(1, targets[:, None])[:, 0]
        return table.gather(1, targets)

    def cross_entropy(self, data: Sequence[Datum]) -> Tensor:
        total = torch.zeros(())
        for datum in data:
            weights = datum.inputs.get("weights")
            lp = self.logprobs(datum)
            total = total - (lp if weights is None else lp * torch.from_numpy(weights)).sum()
        return total

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)

    def step(
        self, lr: float, betas: tuple[float, float], eps: float, decay: float, clip: float
    ) -> float:
        """One AdamW step; returns the norm of the gradient before clipping."""
        parameters = list(self.parameters().values())
        limit = clip if clip > 0 else float("inf")
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        self.optimizer.param_groups[0].update(lr=lr, betas=betas, eps=eps, weight_decay=decay)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm


def weights_in(files: Mapping[str, bytes]) -> dict[str, Tensor]:
    return load(files["adapter_model.safetensors"])


def assert_close(
    got: Mapping[str, Tensor], expected: Mapping[str, Tensor], relative: float = 1e-5
) -> None:
    """Each tensor differs by at most `relative` of its norm."""
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        difference = float((got[name] - tensor).detach().norm())
        assert difference <= relative * float(tensor.detach().norm()) + 1e-12, (name, difference)


def assert_same(got: Mapping[str, bytes], expected: Mapping[str, bytes]) -> None:
    """The same bits, weights and optimizer."""
    assert got.keys() == expected.keys()
    for name, data in expected.items():
        if not name.endswith(".safetensors"):
            assert got[name] == data, name
            continue
        tensors, metadata = read_safetensors(got[name])
        expected_tensors, expected_metadata = read_safetensors(data)
        assert metadata == expected_metadata
        assert tensors.keys() == expected_tensors.keys()
        different = [key for key in tensors if not torch.equal(tensors[key], expected_tensors[key])]
        assert not different, f"{len(different)} of {len(tensors)} in {name}: {different[:3]}"
