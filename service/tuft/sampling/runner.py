"""Forward passes of the base model with adapters: reading prompts, and decoding one token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tuft.errors import ConfigError
from tuft.modeling.loading import PreTrainedModel
from tuft.modeling.lora import Adapter, Segment, inject_lora, use_adapters
from tuft.sampling.attention import (
    ATTENTION,
    DecodeStep,
    PrefillStep,
    SlabStep,
    attention,
    current_step,
)
from tuft.sampling.cache import CacheRow, Prefix, Slab

_LAYER_TYPES = {"full_attention", "sliding_attention"}
_CHECK_TOKENS = 24
_CHECK_PROMPT = 16

ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attention)


@dataclass(frozen=True)
class Chunk:
    """The next `tokens` of a prompt, to be read into `prefix`."""

    tokens: Sequence[int]
    prefix: Prefix
    adapter: Adapter | None


@dataclass(frozen=True)
class DecodeRow:
    """A running sequence: its newest token is not in the cache yet."""

    token: int
    cache: CacheRow
    adapter: Adapter | None


class Reading:
    """The prompts of one prefill pass after the model's body; logits are made on demand."""

    def __init__(self, runner: Runner, hidden: Tensor, chunks: Sequence[Chunk]) -> None:
        self._runner = runner
        self._hidden = hidden
        self._chunks = chunks

    def last(self) -> Tensor:
        """Logits after the last token of every chunk: float32 [rows, vocab]."""
        ends = [len(chunk.tokens) - 1 for chunk in self._chunks]
        rows = torch.arange(len(ends), device=self._hidden.device)
        picked = self._hidden[rows, torch.tensor(ends, device=self._hidden.device)]
        return self._head(picked)

    def span(self, start: int, stop: int) -> Tensor:
        """Logits of positions start..stop of every chunk, padding included:
        float32 [rows, stop - start, vocab].
        """
        return self._head(self._hidden[:, start:stop])

    @property
    def width(self) -> int:
        """Positions of the widest chunk."""
        return self._hidden.shape[1]

    def _head(self, hidden: Tensor) -> Tensor:
        adapters = [chunk.adapter for chunk in self._chunks]
        with use_adapters(self._runner.model, segments_of(adapters)):
            return self._runner.head(hidden)


class Runner:
    """Owns the model's forward. The model must not be used by anyone else meanwhile.

    Raises:
        ConfigError: the architecture can't be served with our cache: found out by comparing
            with the model's own attention when the runner is made.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.config = model.config.get_text_config()
        self.layers = int(self.config.num_hidden_layers)
        self.device: torch.device = model.device
        unknown = set(getattr(self.config, "layer_types", None) or ()) - _LAYER_TYPES
        if unknown:
            raise ConfigError(
                f"the transformers sampler can't serve {type(model).__name__}: it has layers of "
                f"type {', '.join(sorted(unknown))}; served: {', '.join(sorted(_LAYER_TYPES))}"
            )
        inject_lora(model)
        with torch.inference_mode():
            expected = self._expected()
            model.set_attn_implementation(ATTENTION)
            self._check(expected)

    def read(self, chunks: Sequence[Chunk]) -> Reading:
        """One prefill pass. Rows of one adapter must be neighbours."""
        counts = [len(chunk.tokens) for chunk in chunks]
        width = max(counts)
        padded = [[*chunk.tokens, *[0] * (width - len(chunk.tokens))] for chunk in chunks]
        starts = torch.tensor([[chunk.prefix.filled] for chunk in chunks], device=self.device)
        positions = starts + torch.arange(width, device=self.device)
        prefixes = [chunk.prefix for chunk in chunks]
        adapters = [chunk.adapter for chunk in chunks]
        with current_step(PrefillStep(prefixes, counts)):
            hidden = self._body(torch.tensor(padded, device=self.device), positions, adapters)
        for prefix, count in zip(prefixes, counts, strict=True):
            prefix.filled += count
        return Reading(self, hidden, chunks)

    def decode(self, rows: Sequence[DecodeRow]) -> Tensor:
        """Logits after each row's token, float32 [rows, vocab]; the token is in the cache then.

        Rows of one adapter must be neighbours; every row of the slabs they are in must be there.
        """
        slabs = list(dict.fromkeys(row.cache.slab for row in rows))
        order = {id(row.cache): index for index, row in enumerate(rows)}
        parts = [self._part(slab, order, len(rows)) for slab in slabs]
        tokens = torch.tensor([[row.token] for row in rows], device=self.device)
        positions = torch.tensor([[row.cache.length] for row in rows], device=self.device)
        adapters = [row.adapter for row in rows]
        with current_step(DecodeStep(parts)):
            hidden = self._body(tokens, positions, adapters)
        for row in rows:
            row.cache.length += 1
        with use_adapters(self.model, segments_of(adapters)):
            return self.head(hidden[:, 0])

    def head(self, hidden: Tensor) -> Tensor:
        """float32 logits [..., vocab] of hidden states [..., hidden], as the model makes them."""
        logits = cast("Tensor", self.model.get_output_embeddings()(hidden)).float()
        # Gemma's, Granite's and Cohere's last steps; others are found by the check at the start.
        softcap = getattr(self.config, "final_logit_softcapping", None)
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        divisor = getattr(self.config, "logits_scaling", None)
        if divisor is not None:
            logits = logits / divisor
        factor = getattr(self.config, "logit_scale", None)
        return logits if factor is None else logits * factor

    def _part(self, slab: Slab, order: dict[int, int], batch: int) -> SlabStep:
        return SlabStep.of(slab, [order[id(row)] for row in slab.rows], batch, self.device)

    def _body(
        self, tokens: Tensor, positions: Tensor, adapters: Sequence[Adapter | None]
    ) -> Tensor:
        with use_adapters(self.model, segments_of(adapters)):
            out = self.model.get_decoder()(
                input_ids=tokens, position_ids=positions, use_cache=False
            )
        return cast("Tensor", out.last_hidden_state)

    def _check_tokens(self) -> list[int]:
        vocab = int(self.config.vocab_size)
        return [(7 + 13 * index) % vocab for index in range(_CHECK_TOKENS)]

    def _expected(self) -> Tensor:
        tokens = torch.tensor([self._check_tokens()], device=self.device)
        logits = self.model(input_ids=tokens, use_cache=False).logits
        return cast("Tensor", logits)[0].float()

    def _check(self, expected: Tensor) -> None:
        tokens = self._check_tokens()
        prefix = Prefix(_CHECK_PROMPT, self.layers)
        half = _CHECK_PROMPT // 2
        got = []
        for start in (0, half):
            reading = self.read([Chunk(tokens[start : start + half], prefix, None)])
            got.append(reading.span(0, half)[0])
        slab = Slab(_CHECK_TOKENS)
        row = CacheRow(length=_CHECK_PROMPT)
        slab.add(row, prefix, self.layers)
        got += [self.decode([DecodeRow(token, row, None)]) for token in tokens[_CHECK_PROMPT:]]
        error = float((torch.cat(got) - expected).norm() / expected.norm())
        allowed = 1e-3 if self.model.dtype == torch.float32 else 0.1
        if not error <= allowed:
            raise ConfigError(
                f"the transformers sampler can't serve {type(self.model).__name__}: its own "
                f"attention and the sampler's differ by {error:.2g} of the logits' norm "
                f"(allowed: {allowed:.0e})"
            )


def segments_of(adapters: Sequence[Adapter | None]) -> list[Segment]:
    """Runs of equal adapters, in order."""
    runs = groupby(adapters, key=id)
    return [
        Segment(adapter=members[0], rows=len(members)) for members in (list(run) for _, run in runs)
    ]
