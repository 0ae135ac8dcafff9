"""Forward, loss and backward of one micro-batch."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from tuft.contracts.wire import Row
from tuft.errors import ConfigError
from tuft.modeling.loading import PreTrainedModel
from tuft.modeling.lora import Adapter, Segment, use_adapters
from tuft.training.commands import MicroBatch, RowGroup, RowResult
from tuft.training.losses import row_loss


def compute(
    model: PreTrainedModel, adapters: Mapping[str, Adapter], micro_batch: MicroBatch
) -> list[RowResult]:
    """Losses and target logprobs of all rows; gradients are added to the adapters'.

    Rows with a loss that is not finite add no gradient, and nor do the other rows of their
    group: the caller fails their operation.

    Args:
        model: with LoRA layers (`inject_lora`).
        adapters: by run id.
        micro_batch: groups of rows; padded on the right to the longest of them.
    """
    backward = any(group.backward for group in micro_batch)
    with torch.set_grad_enabled(backward):
        logprobs = _target_logprobs(model, adapters, micro_batch)
        losses = [
            row_loss(group.loss_fn, lp, _loss_inputs(row, lp.device), group.loss_config)
            for (group, row), lp in zip(_rows(micro_batch), logprobs, strict=True)
        ]
        values = torch.stack([loss.detach() for loss in losses]).cpu().numpy()
        total = _total(micro_batch, losses, values)
    if total is not None:
        torch.autograd.backward(total)
    return [
        RowResult(loss=float(value), logprobs=lp.detach().cpu().numpy())
        for value, lp in zip(values, logprobs, strict=True)
    ]


def check_head(model: PreTrainedModel) -> None:
    """See that logits are the output projection of the last hidden state and nothing more.

    Raises:
        ConfigError: the model does something else (soft-capping, scaling), which is not served.
    """
    ids = torch.arange(4, device=model.device).unsqueeze(0)
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits
        head = model.get_output_embeddings()
        parts = head(_backbone(model)(input_ids=ids, use_cache=False).last_hidden_state)
    if not torch.allclose(whole.float(), parts.float(), rtol=1e-3, atol=1e-3):
        raise ConfigError(
            f"{type(model).__name__} changes its logits after the output projection; "
            "models like Llama, Qwen2, Qwen3 and Mistral are served"
        )


def _backbone(model: PreTrainedModel) -> PreTrainedModel:
    return model.get_decoder()


def _rows(micro_batch: MicroBatch) -> list[tuple[RowGroup, Row]]:
    return list(chain.from_iterable(((group, row) for row in group.rows) for group in micro_batch))


def _target_logprobs(
    model: PreTrainedModel, adapters: Mapping[str, Adapter], micro_batch: MicroBatch
) -> list[Tensor]:
    """Per row float32 in the shape of its targets; the head sees no padding.

    Padding is on the right, where causal attention never looks at it, so there is no mask in
    which a value of one row could reach another.
    """
    rows = [row for _, row in _rows(micro_batch)]
    device = model.device
    lengths = [len(row.tokens) for row in rows]
    ids = np.zeros((len(rows), max(lengths)), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : lengths[index]] = row.tokens
    segments = [Segment(adapters[group.run_id], len(group.rows)) for group in micro_batch]
    with use_adapters(model, segments):
        batch = torch.from_numpy(ids).to(device)
        hidden = _backbone(model)(input_ids=batch, use_cache=False).last_hidden_state
    real = np.arange(ids.shape[1])[None, :] < np.array(lengths)[:, None]
    hidden = hidden[torch.from_numpy(real).to(device)]
    positions = [
        Segment(adapters[group.run_id], sum(len(row.tokens) for row in group.rows))
        for group in micro_batch
    ]
    with use_adapters(model, positions):
        logits = model.get_output_embeddings()(hidden).float()
    picked = logits.gather(1, _targets(rows).to(device)) - logits.logsumexp(1, keepdim=True)
    shapes = [row.inputs["target_tokens"].shape for row in rows]
    return [
        piece[:, : shape[1]] if len(shape) == 2 else piece[:, 0]
        for piece, shape in zip(torch.split(picked, lengths), shapes, strict=True)
    ]


def _targets(rows: list[Row]) -> Tensor:
    """int64 [positions, K], K the largest of all rows; what a row lacks is token 0."""
    columns = [row.inputs["target_tokens"].reshape(len(row.tokens), -1) for row in rows]
    widest = max(column.shape[1] for column in columns)
    padded = [np.pad(column, ((0, 0), (0, widest - column.shape[1]))) for column in columns]
    return torch.from_numpy(np.concatenate(padded).astype(np.int64))


def _loss_inputs(row: Row, device: torch.device) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(np.array(array, dtype=np.float32)).to(device)
        for name, array in row.inputs.items()
        if name != "target_tokens"
    }


def _total(
    micro_batch: MicroBatch,
    losses: list[Tensor],
    values: np.ndarray[tuple[int], np.dtype[np.float32]],
) -> Tensor | None:
    parts: list[Tensor] = []
    start = 0
    for group in micro_batch:
        end = start + len(group.rows)
        if group.backward and bool(np.isfinite(values[start:end]).all()):
            parts += losses[start:end]
        start = end
    return torch.stack(parts).sum() if parts else None
