"""Forward, loss and backward of one micro-batch of rows of any number of runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tuft.contracts.wire import Row
from tuft.errors import ConfigError
from tuft.modeling.loading import PreTrainedModel
from tuft.modeling.lora import Adapter, LoraLinear, Segment, use_adapters
from tuft.training.attention import ATTENTION, Layout, use_layout
from tuft.training.commands import MicroBatch, RowGroup, RowResult
from tuft.training.head import Head, HeadResult
from tuft.training.packed import PackedBatch, tokens_of
from tuft.training.partitioned import PartitionedBase

Adapters = Mapping[str, Adapter]

# So few forward-only tokens go through others' backward pass rather than a pass of their own (an
# estimate: a pass costs about as much as some 34 tokens of SmolLM2 on CPU).
_FEW_TOKENS = 32
# What a rank computes that has no rows, where all must make the same calls.
_IDLE = RowGroup(
    run_id="",
    rows=[Row(tokens=np.zeros(1, np.int64), inputs={"target_tokens": np.zeros(1, np.int64)})],
    loss_fn="cross_entropy",
    loss_config={},
    backward=False,
)
_CHECK_LENGTHS = (5, 16, 11, 16)


class Forward:
    """Computes micro-batches on one rank's base model. Nobody else may use the model."""

    def __init__(
        self,
        model: PreTrainedModel,
        activation_bytes: int | None = None,
        base: PartitionedBase | None = None,
    ) -> None:
        """
        Args:
            model: with LoRA layers (`inject_lora`), in eval mode.
            activation_bytes: what the activations of one micro-batch may take before they are
                computed again in the backward pass (activation checkpointing); None: any amount.
            base: where the ranks have a part of the model each. Then this is collective, and
                nothing is computed again: where that begins hangs on a rank's own LoRA layers,
                and ranks would gather weights in different orders.

        Raises:
            ConfigError: this architecture is not served.
        """
        self.model = model
        self._base = base
        if model.config.get_text_config()._attn_implementation == ATTENTION:
            model.set_attn_implementation("sdpa")
        with self._output():
            expected = self._own_logits()
            model.set_attn_implementation(ATTENTION)
            self._head = Head(model)
            self._check(expected)
        self._activation_bytes = activation_bytes if base is None else None
        self._bytes_per_token = self._measure_activations()

    def compute(
        self,
        adapters: Adapters,
        micro_batch: MicroBatch,
        everyone: Sequence[MicroBatch | None] = (),
    ) -> list[RowResult]:
        """Losses and target logprobs of all rows, in order; gradients are added to the adapters'.

        Rows with a loss that is not finite add no gradient, and nor do the other rows of their
        group: the caller fails their operation. No row's values reach another row's.

        Args:
            adapters: by run id.
            micro_batch: groups of rows.
            everyone: what each rank computes at the same time, this one included. Needed where
                the base model is partitioned: then this is collective, and there may be no rows.
        """
        results: dict[int, list[RowResult]] = {}
        for each in _passes(micro_batch) if self._base is None else _joint(micro_batch, everyone):
            groups = [micro_batch[index] for index in each.chosen] or [_IDLE]
            results |= zip(each.chosen, self._pass(adapters, groups, each), strict=False)
        return [row for index in range(len(micro_batch)) for row in results[index]]

    def _pass(
        self, adapters: Adapters, groups: Sequence[RowGroup], which: _Pass
    ) -> list[list[RowResult]]:
        """Results of each group's rows."""
        batch = PackedBatch(groups)
        segments = [
            Segment(
                # Never the base where an adapter is missing: that would be silently wrong.
                None if group is _IDLE else adapters[group.run_id],
                tokens_of([group]),
                group.backward,
            )
            for group in groups
        ]
        for segment in segments:
            if segment.trains:
                assert segment.adapter is not None
                segment.adapter.begin_gradient()
        if self._base is not None:
            self._base.begin()
        with torch.set_grad_enabled(which.backward), self._layers(batch, segments):
            hidden = self._hidden(batch)
            kept = {index: _head_gradient(self.model, each) for index, each in enumerate(segments)}
            with self._output():
                head = self._head.run(hidden, batch, segments)
            results = _results(batch, head)
            for index, rows in enumerate(results):
                if not all(math.isfinite(row.loss) for row in rows):
                    _leave_out(segments[index], kept[index])
            grad = head.grad
            if grad is None and self._base is not None:
                grad = torch.zeros_like(hidden)  # other ranks go back through the layers, too
            if hidden.requires_grad and grad is not None:
                torch.autograd.backward(hidden, grad)
        return results

    def _output(self) -> AbstractContextManager[None]:
        """The output projection can be used, also where it is partitioned."""
        return nullcontext() if self._base is None else self._base.whole_output()

    def _hidden(self, batch: PackedBatch) -> Tensor:
        """The last hidden state, [T, hidden]."""
        device = self.model.device
        out = self.model.get_decoder()(
            input_ids=torch.from_numpy(batch.tokens).unsqueeze(0).to(device),
            position_ids=torch.from_numpy(batch.positions).unsqueeze(0).to(device),
            use_cache=False,
        )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    @contextmanager
    def _layers(self, batch: PackedBatch, segments: Sequence[Segment]) -> Iterator[None]:
        """How layers are to treat this batch, in its forward and its backward pass."""
        layout = Layout(batch.lengths, self.model.device)
        again = False
        if self._activation_bytes is not None and torch.is_grad_enabled():
            again = batch.size * self._bytes_per_token > self._activation_bytes
        with use_adapters(self.model, segments), use_layout(layout):
            for layer in self.model.get_decoder().layers if again else ():
                # The layer's own switch; its parts stay in eval mode.
                layer.gradient_checkpointing, layer.training = True, True
                layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
            try:
                yield
            finally:
                for layer in self.model.get_decoder().layers if again else ():
                    layer.gradient_checkpointing, layer.training = False, False

    def _own_logits(self) -> list[Tensor]:
        """What the model itself says of a few rows, float32 [length, vocabulary] each."""
        with torch.no_grad():
            rows = [torch.arange(length, device=self.model.device) for length in _CHECK_LENGTHS]
            return [
                self.model(input_ids=row.unsqueeze(0), use_cache=False).logits[0].float()
                for row in rows
            ]

    def _check(self, expected: Sequence[Tensor]) -> None:
        """See that packed rows and the output projection alone give the same.

        Models that do more after the projection (soft-capping, scaling), or in their attention,
        differ here.
        """
        ids = torch.cat([torch.arange(len(row), device=self.model.device) for row in expected])
        layout = Layout([len(row) for row in expected], self.model.device)
        with torch.no_grad(), use_layout(layout):
            hidden = self.model.get_decoder()(
                input_ids=ids.unsqueeze(0), position_ids=ids.unsqueeze(0), use_cache=False
            ).last_hidden_state
            got = self.model.get_output_embeddings()(hidden)[0].float()
        whole = torch.cat(list(expected))
        error = float((got - whole).norm() / whole.norm())
        allowed = 1e-4 if self.model.dtype == torch.float32 else 0.1
        if not error <= allowed:
            raise ConfigError(
                f"{type(self.model).__name__} can't be trained here: packed rows differ from its "
                f"own logits by {error:.2g} of their norm (allowed: {allowed:.0e}). Models that "
                "change their logits after the output projection, or attend in their own way, are "
                "not served; models like Llama, Qwen2, Qwen3 and Mistral are"
            )

    def _measure_activations(self) -> float:
        """Bytes that a token leaves behind for the backward pass."""
        saved: dict[int, int] = {}
        length = max(_CHECK_LENGTHS)
        ids = torch.arange(length, device=self.model.device).unsqueeze(0)
        embedded = self.model.get_input_embeddings()(ids).detach().requires_grad_()

        def note(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, torch.nn.Parameter):
                saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
        weights = {each.untyped_storage().data_ptr() for each in self.model.parameters()}
        with torch.enable_grad(), use_layout(Layout([length], self.model.device)), hooks:
            out = self.model.get_decoder()(
                inputs_embeds=embedded, position_ids=ids, use_cache=False
            ).last_hidden_state
            size = sum(nbytes for where, nbytes in saved.items() if where not in weights)
        del out
        return size / length


@dataclass(frozen=True)
class _Pass:
    """Groups (by index) that run together."""

    chosen: Sequence[int]
    backward: bool


def _passes(micro_batch: MicroBatch) -> list[_Pass]:
    """Which groups run together: a forward-only one needs no part in a backward pass."""
    trained = [index for index, group in enumerate(micro_batch) if group.backward]
    looked_at = [index for index, group in enumerate(micro_batch) if not group.backward]
    tokens = tokens_of([micro_batch[index] for index in looked_at])
    if trained and tokens <= _FEW_TOKENS:
        return [_Pass(range(len(micro_batch)), backward=True)]
    passes = [_Pass(trained, backward=True), _Pass(looked_at, backward=False)]
    return [each for each in passes if each.chosen]


def _joint(micro_batch: MicroBatch, everyone: Sequence[MicroBatch | None]) -> list[_Pass]:
    """Every pass that any rank needs: all ranks call the same modules, in the same order."""
    passes = []
    for backward in (True, False):
        chosen = [index for index, group in enumerate(micro_batch) if group.backward == backward]
        if any(group.backward == backward for each in everyone for group in each or ()):
            passes.append(_Pass(chosen, backward))
    return passes


def _results(batch: PackedBatch, head: HeadResult) -> list[list[RowResult]]:
    results = []
    for group in batch.groups:
        logprobs = group.rows_of(head.logprobs[group.start : group.stop])
        losses = group.row_sums(head.losses[group.start : group.stop])
        results.append([RowResult(loss, row) for loss, row in zip(losses, logprobs, strict=True)])
    return results


def _leave_out(segment: Segment, kept: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Keep a segment from adding any gradient."""
    segment.trains = False
    for gradient, before in kept:
        gradient.copy_(before)


def _head_gradient(model: PreTrainedModel, segment: Segment) -> list[tuple[Tensor, Tensor]]:
    """The gradients that the head will add to, each with a copy from before."""
    output = model.get_output_embeddings()
    if not segment.trains or not isinstance(output, LoraLinear) or segment.adapter is None:
        return []
    layer = segment.adapter.layers().get(output.name)
    if layer is None or layer.grad_a is None or layer.grad_b is None:
        return []
    return [(gradient, gradient.clone()) for gradient in (layer.grad_a, layer.grad_b)]
