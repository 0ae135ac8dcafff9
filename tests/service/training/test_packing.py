"""What may be relied on of the packing of rows, whatever operations come when."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tuft.training.packing import PATIENCE, Pool

Taken = list[list[tuple[str, list[int]]]]
lengths_of = st.lists(st.integers(1, 200), min_size=1, max_size=12)
operations = st.lists(st.tuples(st.sampled_from("ABC"), lengths_of), min_size=1, max_size=8)


def take(pool: Pool, budget: int, ranks: int = 1) -> Taken:
    micro_batches = pool.take(budget, ranks)
    return [[(portion.run_id, portion.rows) for portion in rank] for rank in micro_batches]


def take_all(pool: Pool, budget: int, ranks: int = 1) -> list[Taken]:
    taken = []
    while len(pool):
        taken.append(take(pool, budget, ranks))
        assert any(taken[-1])
    return taken


@given(operations, st.integers(1, 300), st.integers(1, 4))
def test_every_row_is_taken_once_and_no_rank_gets_more_than_its_budget(
    ops: list[tuple[str, list[int]]], budget: int, ranks: int
) -> None:
    pool = Pool()
    for number, (tenant, lengths) in enumerate(ops):
        pool.add(str(number), tenant, lengths)
    seen: Counter[tuple[str, int]] = Counter()
    for micro_batches in take_all(pool, budget, ranks):
        loads = []
        for rank in micro_batches:
            rows = [(run, row) for run, indices in rank for row in indices]
            assert len({run for run, _ in rank}) == len(rank), "a run's rows are neighbours"
            sizes = [ops[int(run)][1][row] for run, row in rows]
            assert sum(sizes) <= budget or len(sizes) == 1
            loads.append(sum(sizes))
            seen.update(rows)
        longest = max(length for _, lengths in ops for length in lengths)
        assert max(loads) - min(loads) <= longest
    assert seen == Counter((str(n), row) for n, op in enumerate(ops) for row in range(len(op[1])))


@given(operations, st.integers(1, 300))
def test_the_budget_is_filled_while_any_row_fits(
    ops: list[tuple[str, list[int]]], budget: int
) -> None:
    pool = Pool()
    left = {str(n): dict(enumerate(lengths)) for n, (_, lengths) in enumerate(ops)}
    for number, (tenant, lengths) in enumerate(ops):
        pool.add(str(number), tenant, lengths)
    while len(pool):
        (rank,) = take(pool, budget)
        load = sum(left[run].pop(row) for run, rows in rank for row in rows)
        waiting = [length for rows in left.values() for length in rows.values()]
        assert all(load + length > budget for length in waiting)


@given(lengths_of, lengths_of, st.integers(1, 300), st.integers(1, 4))
def test_alone_it_is_a_function_of_lengths_budget_and_ranks(
    before: list[int], lengths: list[int], budget: int, ranks: int
) -> None:
    used, new = Pool(), Pool()
    used.add("a", "A", before)
    used.add("b", "B", before)
    take_all(used, budget + 1, ranks)
    for pool in (used, new):
        pool.add("a", "A", lengths)
    assert take_all(used, budget, ranks) == take_all(new, budget, ranks)


@given(st.lists(st.integers(5, 100), min_size=2, max_size=4), st.integers(100, 300))
def test_tenants_with_endless_work_get_the_same_share(sizes: list[int], budget: int) -> None:
    """Tenant 0 has four runs at a time, the others one or two; a tenant's rows are of one size."""
    pool, names = Pool(), itertools.count()
    served, left = [0] * len(sizes), [0] * len(sizes)
    for _ in range(60):
        for tenant, size in enumerate(sizes):
            while left[tenant] < 2 * budget:
                for _ in range(4 if tenant == 0 else 1):
                    count = budget // size + 1
                    pool.add(f"{tenant}-{next(names)}", str(tenant), [size] * count)
                    left[tenant] += size * count
        for run, rows in take(pool, budget)[0]:
            tenant = int(run.partition("-")[0])
            served[tenant] += sizes[tenant] * len(rows)
            left[tenant] -= sizes[tenant] * len(rows)
    for tenant, size in enumerate(sizes):
        # Others may get more, of room that it could not use: not at the cost of what it would
        # have if whole micro-batches were dealt out in turn.
        in_turn = 60 / len(sizes) * (budget // size * size)
        assert served[tenant] >= min(max(served), in_turn) - 2 * budget


def test_a_light_tenant_is_in_the_next_micro_batch() -> None:
    pool = Pool()
    for run in "abc":
        pool.add(run, "heavy", [128] * 32)
    for number in range(10):
        take(pool, 128)
        pool.add("light", "light", [16])
        assert take(pool, 128) == [[("light", [0])]], number


def test_a_new_operation_goes_before_those_that_are_as_far_behind() -> None:
    pool = Pool()
    for tenant in "ABCD":
        pool.add(tenant, tenant, [10] * 5)
    take(pool, 10)
    pool.add("new", "N", [10])
    assert take(pool, 10) == [[("new", [0])]]


def test_what_a_tenant_got_is_not_forgotten_while_others_wait() -> None:
    """Two tenants: one has endless work, the other one operation after another."""
    pool = Pool()
    pool.add("endless", "E", [10] * 1000)
    served = Counter[str]()
    for number in range(100):
        if len(pool) == 1:
            pool.add(f"busy{number}", "B", [10] * 3)
        for run, rows in take(pool, 10)[0]:
            served[run[0]] += len(rows)
    assert abs(served["e"] - served["b"]) <= 3


def test_a_light_tenant_that_is_away_for_a_moment_keeps_its_claim() -> None:
    """Its operations are there again whenever the next micro-batch is packed."""
    pool = Pool(claim=128)
    pool.add("heavy", "heavy", [128] * 1000)
    order = ""
    for number in range(90):
        pool.add(f"light{number}", "light", [16])
        assert pool.goes_first("light") is False, "it is there"
        order += "".join(run[0] for run, _ in take(pool, 128)[0])
        pool.remove(f"light{number}")
        if number > 10:
            assert pool.goes_first("light") or order.endswith("lll")
    # A pass costs 32, so 48 stand against 160: ten passes of one to three of the other.
    assert 17 <= order[12:].count("h") <= 20
    assert "hh" not in order


@given(st.integers(1, 30), st.integers(60, 100))
def test_a_long_row_is_not_passed_over_for_ever(short: int, long: int) -> None:
    """Short rows of its own tenant and of another one would always fit before it."""
    pool = Pool()
    pool.add("long", "A", [long])
    names = itertools.count()
    for _ in range(3 * PATIENCE):
        runs = pool.run_ids()
        if not any(run.startswith("a") for run in runs):
            pool.add(f"a{next(names)}", "A", [short] * 3)
        if not any(run.startswith("b") for run in runs):
            pool.add(f"b{next(names)}", "B", [short])
        if "long" in [run for run, _ in take(pool, 100)[0]]:
            return
    raise AssertionError("it still waits")


def test_longest_rows_go_first_and_short_ones_fill_up() -> None:
    pool = Pool()
    pool.add("a", "A", [3, 9, 500, 9, 1, 4])
    assert take_all(pool, 10) == [
        [[("a", [2])]],
        [[("a", [1, 4])]],
        [[("a", [3])]],
        [[("a", [5, 0])]],
    ]


def test_who_wants_to_be_alone_is() -> None:
    pool = Pool()
    pool.add("a", "A", [2, 2, 2], alone=True)
    pool.add("b", "B", [1] * 6)
    for micro_batches in take_all(pool, 4, 2):
        assert len({run for rank in micro_batches for run, _ in rank}) == 1


def test_rows_that_are_put_back_are_computed_alone() -> None:
    pool = Pool()
    pool.add("a", "A", [5, 4, 3])
    pool.add("b", "B", [1])
    assert take(pool, 8) == [[("b", [0]), ("a", [0])]]
    pool.put_back("a", "A", {0: 5})
    pool.add("b", "B", [1])
    taken = take_all(pool, 9)
    assert [[("a", [0, 1])]] in taken
    assert [[("a", [2])]] in taken
    assert [[("b", [0])]] in taken


def test_a_run_that_is_removed_leaves_nothing_behind() -> None:
    pool = Pool()
    pool.add("a", "A", [5, 4])
    pool.remove("a")
    pool.remove("a")
    assert (len(pool), pool.tokens, take(pool, 9)) == (0, 0, [[]])
    pool.add("a", "A", [1])
    assert take(pool, 9) == [[("a", [0])]]
