"""Which rows are computed together."""

from __future__ import annotations

from collections.abc import Sequence


def plan_micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Split rows into micro-batches of at most `budget` tokens, padding included.

    Rows are taken by length, so that little is padded; a row over the budget goes alone. The
    plan depends on lengths and budget only, so a replay computes what the first run did.

    Args:
        lengths: tokens of each row.
        budget: rows times longest row of a micro-batch.

    Returns:
        Row indices of each micro-batch, longest rows first.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        longest = lengths[batches[-1][0]] if batches else 0
        if batches and longest * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
