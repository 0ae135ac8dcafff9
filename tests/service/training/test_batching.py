from __future__ import annotations

import random

from tuft.training.batching import plan_micro_batches


def test_every_row_is_in_one_batch_and_budgets_hold() -> None:
    rng = random.Random(1)
    for _ in range(50):
        lengths = [rng.randint(1, 60) for _ in range(rng.randint(1, 40))]
        plan = plan_micro_batches(lengths, 100)
        assert sorted(row for batch in plan for row in batch) == list(range(len(lengths)))
        for batch in plan:
            assert len(batch) * max(lengths[row] for row in batch) <= 100


def test_a_row_over_the_budget_goes_alone() -> None:
    assert plan_micro_batches([5, 50, 5], 20) == [[1], [0, 2]]


def test_rows_of_a_length_share_a_batch() -> None:
    assert plan_micro_batches([2, 9, 2, 9], 18) == [[1, 3], [0, 2]]


def test_one_batch_is_filled_before_the_next() -> None:
    assert plan_micro_batches([4] * 5, 8) == [[0, 1], [2, 3], [4]]
