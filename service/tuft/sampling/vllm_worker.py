"""What runs inside vLLM's worker processes on CPU, as its `worker_extension_cls`."""

from __future__ import annotations

from typing import Any

import torch


class CleanCache:
    """Sequences with NaN leave none in the cache of keys and values (blocks are its first dimension).

    vLLM's attention on CPU multiplies what stands behind a sequence's end in its last block by
    0, and NaN times 0 is NaN: who gets the blocks of a diverged policy next would read it.
    """

    model_runner: Any

    def keep_cache_clean(self) -> None:
        """From now on; called once, when the model is loaded."""
        runner = self.model_runner
        sample = runner._sample

        def watched(logits: torch.Tensor | None, *rest: Any) -> Any:
            if logits is not None:
                self._clean(logits)
            return sample(logits, *rest)

        runner._sample = watched

    def _clean(self, logits: torch.Tensor) -> None:
        """`logits` [rows, vocab], one row a running sequence."""
        bad = (~logits.amax(-1).isfinite()).nonzero()[:, 0].tolist()
        for row in bad:
            for table in self.model_runner.input_batch.block_table.block_tables:
                blocks = table.get_numpy_array()[row, : table.num_blocks_per_row[row]].tolist()
                for cache in self.model_runner.kv_caches:
                    cache[blocks] = cache[blocks].nan_to_num(0.0, 0.0, 0.0)
