"""What runs inside vLLM's worker processes on CPU, as its `worker_extension_cls`.

Both are faults of vLLM 0.32's CPU build which end the engine, or let requests harm each other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class CpuRepairs:
    """Mixed into vLLM's worker class."""

    model_runner: Any

    def repair_cpu_runner(self) -> None:
        """From now on; called once, when the model is loaded."""
        runner = self.model_runner
        sample = runner._sample

        def repaired(logits: Tensor | None, *rest: Any) -> Any:
            if logits is not None:
                _clean_cache(runner, logits)
            _make_rewindable(runner)
            return sample(logits, *rest)

        runner._sample = repaired


class Rewindable(torch.Generator):
    """A generator that can take back its last draw.

    vLLM takes back the number that a sequence draws while its prompt is still being read, by
    offset, which generators have on GPUs only: on CPU the engine dies.
    """

    before: Tensor
    """Its state before that draw."""

    def get_offset(self) -> int:
        return 0

    def set_offset(self, offset: int) -> torch.Generator:  # noqa: ARG002 (one draw less, on GPUs)
        return self.set_state(self.before)


def _make_rewindable(runner: Any) -> None:
    """Before a draw: remember the state of every sequence's generator."""
    batch = runner.input_batch
    for row, generator in batch.generators.items():
        state = generator.get_state()
        if not isinstance(generator, Rewindable):
            rewindable = Rewindable()
            rewindable.set_state(state)
            batch.generators[row] = rewindable
            # From there it is taken again where the sequence was put off.
            runner.requests[batch.req_ids[row]].generator = rewindable
        batch.generators[row].before = state


def _clean_cache(runner: Any, logits: Tensor) -> None:
    """Where a sequence has come to NaN, leave none in its keys and values.

    vLLM's attention on CPU multiplies what stands behind a sequence's end in its last block by
    0, and NaN times 0 is NaN: who gets the blocks of a diverged policy next would read it.

    `logits` [rows, vocab], one row a running sequence. Caches have blocks as first dimension.
    """
    # The sum sees every NaN and infinity; it is by far the cheapest reduction of bfloat16.
    for row in (~logits.sum(-1, dtype=torch.float32).isfinite()).nonzero()[:, 0].tolist():
        for table in runner.input_batch.block_table.block_tables:
            blocks = table.get_numpy_array()[row, : table.num_blocks_per_row[row]].tolist()
            for cache in runner.kv_caches:
                cache[blocks] = cache[blocks].nan_to_num(0.0, 0.0, 0.0)
