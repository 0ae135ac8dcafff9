"""The output projection, the losses, and their gradient with respect to the last hidden state.

Logits are made for some positions at a time, and used up at once: every loss is a sum of terms
of one position each, so a chunk's loss and gradient need no other chunk. There is never a
[tokens, vocabulary] tensor of the whole batch, and nothing is computed twice. Positions whose
loss has no gradient (weight or advantage 0, forward only) get logprobs and no backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from tuft.modeling.loading import PreTrainedModel
from tuft.modeling.lora import Segment, use_adapters
from tuft.training.losses import token_losses
from tuft.training.packed import Floats, Ints, PackedBatch, PackedGroup

# Bytes of a chunk's float32 logits: what bounds memory, some 340 positions of 49,152 words on CPU.
_CHUNK_BYTES = 64 << 20
_CHUNK_BYTES_GPU = 512 << 20


@dataclass(frozen=True)
class HeadResult:
    """`logprobs` float32 [T, K], `losses` float32 [T] (a row's loss is the sum of its own),
    `grad` of the hidden state [T, hidden] or None where nothing trains.
    """

    logprobs: Floats
    losses: Floats
    grad: Tensor | None


class Head:
    """Runs the model's output projection."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        vocabulary = int(model.get_output_embeddings().weight.shape[0])
        chunk_bytes = _CHUNK_BYTES if model.device.type == "cpu" else _CHUNK_BYTES_GPU
        self._chunk = max(16, chunk_bytes // (4 * vocabulary))

    def run(self, hidden: Tensor, batch: PackedBatch, segments: Sequence[Segment]) -> HeadResult:
        """Losses and logprobs at all positions; gradients of adapters of the head are added.

        Args:
            hidden: [T, hidden], the last hidden state; its graph is left alone.
            batch: of T positions.
            segments: one a group, in order.
        """
        hidden = hidden.detach()
        width = max(group.width for group in batch.groups)
        logprobs = np.zeros((batch.size, width), dtype=np.float32)
        losses = np.zeros(batch.size, dtype=np.float32)
        trains = np.concatenate([group.trains() for group in batch.groups])
        grad = torch.zeros_like(hidden) if trains.any() else None
        for positions in _chunks(np.flatnonzero(~trains), self._chunk):
            chunk = _Chunk(batch, positions, segments)
            with torch.no_grad():
                logits = self._logits(hidden[_index(positions, hidden)], chunk)
            logprobs[positions], losses[positions] = chunk.evaluate(logits, width)
        for positions in _chunks(np.flatnonzero(trains), self._chunk):
            assert grad is not None
            chunk = _Chunk(batch, positions, segments)
            index = _index(positions, hidden)
            leaf = hidden[index].requires_grad_()
            with torch.enable_grad():
                logits = self._logits(leaf, chunk)
            backward = partial(torch.autograd.backward, logits)
            results = chunk.evaluate(logits.detach(), width, backward)
            logprobs[positions], losses[positions] = results
            assert leaf.grad is not None
            grad[index] = leaf.grad
        return HeadResult(logprobs, losses, grad)

    def _logits(self, hidden: Tensor, chunk: _Chunk) -> Tensor:
        with use_adapters(self._model, chunk.segments):
            return cast("Tensor", self._model.get_output_embeddings()(hidden))


class _Chunk:
    """Some ascending positions of a batch."""

    def __init__(self, batch: PackedBatch, positions: Ints, segments: Sequence[Segment]) -> None:
        sizes = batch.group_sizes(positions)
        self._parts: list[tuple[PackedGroup, slice, Ints]] = []
        start = 0
        for group, size in zip(batch.groups, sizes, strict=True):
            if size:
                here = slice(start, start + size)
                self._parts.append((group, here, positions[here] - group.start))
            start += size
        # Parts share the group's Segment in all but size: what trains is settled by now.
        self.segments = [
            replace(segment, rows=size) for segment, size in zip(segments, sizes, strict=True)
        ]

    def evaluate(
        self, logits: Tensor, width: int, backward: Callable[[Tensor], object] | None = None
    ) -> tuple[Floats, Floats]:
        """Logprobs [n, width] and losses [n]; calls `backward` with the gradient of the logits.

        `logits` [n, vocabulary] are used up.
        """
        dtype, wide = logits.dtype, logits.float()
        targets = torch.zeros((len(wide), width), dtype=torch.int64)
        for group, here, inside in self._parts:
            targets[here, : group.width] = torch.from_numpy(group.targets[inside])
        targets = targets.to(wide.device)
        total = wide.logsumexp(1, keepdim=True)
        lp = wide.gather(1, targets) - total
        losses, slopes = self._losses(lp, backward is not None)
        if backward is not None:
            # d lp_k / d logits = onehot(target_k) - softmax
            softmax = wide.sub_(total).exp_()
            gradient = softmax.mul_(slopes.sum(1, keepdim=True).neg_())
            gradient.scatter_add_(1, targets, slopes)
            backward(gradient.to(dtype))
        return lp.cpu().numpy(), losses

    def _losses(self, lp: Tensor, differentiate: bool) -> tuple[Floats, Tensor]:
        """Losses [n] and their derivatives by `lp` [n, K] (zeros where they aren't asked for)."""
        losses = np.zeros(len(lp), dtype=np.float32)
        slopes = torch.zeros_like(lp)
        for group, here, inside in self._parts:
            mine = lp[here, : group.width].detach().requires_grad_(differentiate)
            inputs = {
                name: torch.from_numpy(array[inside]).to(lp.device)
                for name, array in group.inputs.items()
            }
            with torch.set_grad_enabled(differentiate):
                terms = token_losses(group.group.loss_fn, mine, inputs, group.group.loss_config)
                if group.missing is not None:
                    missing = torch.from_numpy(group.missing[inside]).to(lp.device)
                    terms = terms.masked_fill(missing, 0.0)
                if differentiate:
                    (slopes[here, : group.width],) = torch.autograd.grad(terms.sum(), mine)
            losses[here] = terms.detach().sum(1).cpu().numpy()
        return losses, slopes


def _chunks(positions: Ints, size: int) -> Iterator[Ints]:
    for start in range(0, len(positions), size):
        yield positions[start : start + size]


def _index(positions: Ints, like: Tensor) -> Tensor:
    return torch.from_numpy(positions).to(like.device)
