"""From logits to tokens: temperature, top_k, top_p, and what the logprobs mean.

The distribution sampled from is softmax(logits / temperature), cut to the `top_k` most likely
tokens, then to the smallest set of those whose renormalised mass reaches `top_p`, and
renormalised. Logprobs of sampled tokens (and their top-k alternatives) are those of this
distribution. Temperature 0 is greedy: the most likely token, with the logprobs of the plain
temperature-1 distribution (the limit's own would all be 0).

All of it is float32 (softmax) and float64 (cumulative sums); tokens are drawn by inverting the
cumulative distribution at one uniform number a row, so that a row's token depends on its own
logits and its own random stream only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tuft.contracts.operations import SamplingParams

EMPTY_TOKEN = 0
EMPTY_LOGPROB = -99999.0
"""A cell of a top-k table that no token fills, as the Tinker API marks it."""

# Nuclei are small: only rows whose mass is not within the first candidates sort the vocabulary.
_CANDIDATES = 256
_BLOCK = 512
_FLOAT32 = torch.finfo(torch.float32)


@dataclass(frozen=True)
class Draw:
    """`tokens` int64 [n]; `logprobs` float32 [n]; `distribution` float32 [n, vocab] (log)."""

    tokens: Tensor
    logprobs: Tensor
    distribution: Tensor


def random_stream(seed: int, sample: int) -> torch.Generator:
    """The random stream of sample number `sample` of a request: a function of both only."""
    digest = hashlib.sha256(f"tuft sampling {seed} {sample}".encode()).digest()
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator


def uniform(stream: torch.Generator) -> float:
    """The stream's next number, uniform in [0, 1)."""
    return float(torch.rand((), generator=stream, dtype=torch.float64))


def draw(logits: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float]) -> Draw:
    """One token for each row.

    Args:
        logits: [n, vocab], any float dtype, finite (minus infinity is probability 0).
        params: n of them.
        uniforms: n numbers in [0, 1); those of greedy rows are not looked at.
    """
    logprobs = log_distribution(logits, params)
    tokens = _invert(logprobs, uniforms)
    greedy = [row for row, each in enumerate(params) if each.temperature == 0]
    if greedy:
        # On the raw logits: rounding in the softmax must not change which token is largest.
        tokens[greedy] = logits[greedy].argmax(-1)
    chosen = logprobs.gather(1, tokens[:, None])[:, 0]
    return Draw(tokens=tokens, logprobs=chosen, distribution=logprobs)


def log_distribution(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Log-probabilities [n, vocab], float32, of what each row samples from."""
    scores = logits.float()
    temperatures = [each.temperature or 1.0 for each in params]
    if any(value != 1.0 for value in temperatures):
        scores = scores - scores.amax(-1, keepdim=True)
        # A float64 from the request may be 0 or infinite in float32: 0/0 and inf/inf are NaN.
        divisors = torch.tensor(temperatures, dtype=torch.float64, device=scores.device)
        scores = scores / divisors.clamp(_FLOAT32.tiny, _FLOAT32.max).float()[:, None]
    vocab = scores.shape[-1]
    cut = [
        row
        for row, each in enumerate(params)
        if each.temperature > 0 and (0 < each.top_k < vocab or each.top_p < 1.0)
    ]
    if cut:
        scores = scores.clone()
        for row in cut:
            scores[row] = _cut(scores[row], params[row].top_k, params[row].top_p)
    return torch.log_softmax(scores, dim=-1)


def top_of(distribution: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` most likely tokens of each row: ids int64 [n, k] and logprobs float32 [n, k].

    Cells beyond the vocabulary or of probability 0 are (EMPTY_TOKEN, EMPTY_LOGPROB).
    """
    values, ids = distribution.topk(min(k, distribution.shape[-1]), dim=-1)
    empty = torch.isneginf(values)
    ids = ids.masked_fill(empty, EMPTY_TOKEN)
    values = values.masked_fill(empty, EMPTY_LOGPROB)
    missing = k - ids.shape[-1]
    if missing > 0:
        ids = torch.nn.functional.pad(ids, (0, missing), value=EMPTY_TOKEN)
        values = torch.nn.functional.pad(values, (0, missing), value=EMPTY_LOGPROB)
    return ids, values


def _cut(scores: Tensor, top_k: int, top_p: float) -> Tensor:
    """Scores [vocab] with minus infinity outside top_k, then outside the top_p nucleus."""
    vocab = scores.shape[-1]
    count = min(top_k, vocab) if top_k > 0 else vocab
    values, ids = scores.topk(min(count, _CANDIDATES) if top_p < 1.0 else count)
    if top_p < 1.0:
        total = scores.logsumexp(-1) if count == vocab else scores.topk(count)[0].logsumexp(-1)
        mass = (values - total).exp().double().cumsum(-1)
        if len(values) < count and mass[-1] < top_p:
            values, ids = scores.topk(count)
            mass = (values - total).exp().double().cumsum(-1)
        # The nucleus is every token before which the mass was still short of top_p.
        size = 1 + int((mass[:-1] < top_p).sum())
        values, ids = values[:size], ids[:size]
    return torch.full_like(scores, -torch.inf).scatter_(0, ids, values)


def _invert(logprobs: Tensor, uniforms: Sequence[float]) -> Tensor:
    """First token whose cumulative probability is above u * total: int64 [n].

    In two levels (blocks, then inside one), which reads the vocabulary once. Never a token of
    probability 0: its cumulative probability is that of the token before.
    """
    rows, vocab = logprobs.shape
    blocks = -(-vocab // _BLOCK)
    probabilities = logprobs.new_zeros(rows, blocks * _BLOCK)
    torch.exp(logprobs, out=probabilities[:, :vocab])
    grouped = probabilities.view(rows, blocks, _BLOCK)
    sums = grouped.sum(-1).double().cumsum(-1)
    wanted = torch.tensor(uniforms, dtype=torch.float64, device=logprobs.device)
    wanted = wanted * sums[:, -1]
    block = _first_above(sums, wanted)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)[:, None])[:, 0], 0.0)
    inside = grouped[torch.arange(rows, device=logprobs.device), block].double().cumsum(-1)
    return block * _BLOCK + _first_above(inside, wanted - before)


def _first_above(cumulative: Tensor, wanted: Tensor) -> Tensor:
    """Index [n] of the first entry of each row of `cumulative` [n, m] above `wanted` [n].

    Where rounding puts `wanted` at or above the last entry, the first that reaches the end.
    """
    last = cumulative[:, -1:]
    wanted = torch.minimum(wanted[:, None], torch.nextafter(last, torch.zeros_like(last)))
    return torch.searchsorted(cumulative, wanted, right=True)[:, 0]
