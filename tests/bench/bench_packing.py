"""Eight tenants at once beside one after another: operations per CPU second.

Twice: in the engine alone (one micro-batch with rows of eight adapters, or eight with one each),
and through the whole service by the real SDK. The ceiling is what plain PyTorch gains when it
computes the same rows in batches of eight, whosever they are and sorted by length, instead of
one batch a tenant. One thread everywhere, so that CPU time is work and not waiting in OpenMP's
spin loops.

"gain" is operations per CPU second of packed over those of alone; "beside bare packed" compares
operations per CPU second themselves.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from tinker import types

from tests.bench.bare import RANK, BareModel, Rows, random_rows
from tests.bench.measure import Cost, Turn, here, in_turn, report
from tests.bench.stage import TIMEOUT_S, Model, Stage, datums, models, stage
from tuft.contracts.records import LoraSpec
from tuft.contracts.wire import Row
from tuft.modeling.loading import load_base
from tuft.modeling.lora import inject_lora
from tuft.training import commands
from tuft.training.group import join_group
from tuft.training.replica import Replica

TENANTS = 8


def cases(vocab: int) -> dict[str, list[list[list[int]]]]:
    """Rows of each tenant, by case."""
    generator = random.Random(1)
    ragged = [[generator.randint(16, 128) for _ in range(8)] for _ in range(TENANTS)]
    return {
        "1x16": [random_rows([16], vocab, seed) for seed in range(TENANTS)],
        "8x ragged 16-128": [random_rows(r, vocab, seed) for seed, r in enumerate(ragged)],
    }


class Engine:
    """A trainer's replica with an adapter of each tenant, without scheduler and service."""

    def __init__(self, model: Model) -> None:
        base = load_base(model.folder, "float32", "cpu")
        inject_lora(base)
        self._replica = Replica(base, model.name, rank=0)
        spec = LoraSpec(rank=RANK, alpha=32, seed=0, train_unembed=False)
        for tenant in range(TENANTS):
            self._replica.do(commands.Create(str(tenant), spec))
            self._replica.do(commands.Start(str(tenant), None))

    def compute(self, groups: Sequence[commands.RowGroup]) -> None:
        self._replica.do(commands.Compute([groups]))

    def clear(self) -> None:
        for tenant in range(TENANTS):
            self._replica.do(commands.ClearGradients(str(tenant)))


Tagged = tuple[int, Sequence[int]]
"""A tenant and a row of its own."""


def packed_batches(tenants: Sequence[Rows]) -> list[list[Tagged]]:
    """Batches of eight rows across tenants, of similar lengths, so that little is padded."""
    tagged = [(tenant, row) for tenant, rows in enumerate(tenants) for row in rows]
    tagged.sort(key=lambda item: -len(item[1]))
    return [tagged[start : start + TENANTS] for start in range(0, len(tagged), TENANTS)]


def row_groups(batch: Sequence[Tagged]) -> list[commands.RowGroup]:
    """A micro-batch; rows of a tenant are neighbours."""
    by_tenant: dict[int, list[Row]] = {}
    for tenant, row in batch:
        by_tenant.setdefault(tenant, []).append(wire_row(row))
    return [
        commands.RowGroup(str(tenant), rows, "cross_entropy", {}, True)
        for tenant, rows in by_tenant.items()
    ]


def wire_row(row: Sequence[int]) -> Row:
    tokens = torch.tensor(row)
    return Row(tokens[:-1].int().numpy(), {"target_tokens": tokens[1:].numpy()})


def bare_turns(bare: BareModel, tenants: Sequence[Rows]) -> dict[str, Turn]:
    batches = [[row for _, row in batch] for batch in packed_batches(tenants)]

    def packed() -> None:
        for rows in batches:
            bare.forward_backward(rows)

    def alone() -> None:
        for rows in tenants:
            bare.forward_backward(rows)

    return {"bare packed": here(packed), "bare alone": here(alone)}


def engine_turns(engine: Engine, tenants: Sequence[Rows]) -> dict[str, Turn]:
    batches = [row_groups(batch) for batch in packed_batches(tenants)]
    single = [row_groups([(tenant, row) for row in rows]) for tenant, rows in enumerate(tenants)]

    def packed() -> None:
        for batch in batches:
            engine.compute(batch)
        engine.clear()

    def alone() -> None:
        for batch in single:
            engine.compute(batch)
        engine.clear()

    return {"engine packed": here(packed), "engine alone": here(alone)}


def service_turns(on: Stage, tenants: Sequence[Rows]) -> dict[str, Turn]:
    clients = on.training_clients()
    data = [datums(rows) for rows in tenants]

    def packed() -> None:
        sent = [
            client.forward_backward(rows, "cross_entropy")
            for client, rows in zip(clients, data, strict=True)
        ]
        for future in sent:
            future.result(TIMEOUT_S)

    def alone() -> None:
        for client, rows in zip(clients, data, strict=True):
            client.forward_backward(rows, "cross_entropy").result(TIMEOUT_S)

    def step() -> None:
        for client in clients:
            client.optim_step(types.AdamParams(learning_rate=1e-6)).result(TIMEOUT_S)

    step()
    return {"service packed": Turn(packed, on.clock), "service alone": Turn(alone, on.clock)}


def gain(costs: dict[str, Cost], who: str, process: str | None = None) -> float:
    """How many times as many operations a CPU second does when tenants are packed."""
    alone, packed = costs[f"{who} alone"], costs[f"{who} packed"]
    if process is None:
        return alone.cpu / packed.cpu
    return alone.by_process[process] / packed.by_process[process]


def show(costs: dict[str, Cost]) -> None:
    for who in ("bare", "engine", "service"):
        packed, alone = costs[f"{who} packed"], costs[f"{who} alone"]
        print(
            f"  {who:<8} packed {TENANTS / packed.cpu:8.2f} ops/CPU s, "
            f"alone {TENANTS / alone.cpu:8.2f}, gain {gain(costs, who):5.2f} "
            f"(wall {alone.wall / packed.wall:5.2f})"
        )
    for process in costs["service packed"].by_process:
        packed_ms, alone_ms = (
            1000 * costs[f"service {how}"].by_process[process] / TENANTS
            for how in ("packed", "alone")
        )
        print(f"    {process:<10} packed {packed_ms:8.1f} ms/op, alone {alone_ms:8.1f}")


def report_all(costs: dict[str, Cost], what: str) -> None:
    ceiling = gain(costs, "bare")
    report(f"{what}: engine gain / ceiling", ">=", 0.85, gain(costs, "engine") / ceiling)
    of_trainer = gain(costs, "service", "trainer") / ceiling
    report(f"{what}: trainer gain / ceiling", ">=", 0.85, of_trainer)
    report(f"{what}: service gain / ceiling", ">=", 0.85, gain(costs, "service") / ceiling)
    for who in ("engine", "service"):
        beside = costs["bare packed"].cpu / costs[f"{who} packed"].cpu
        report(f"{what}: {who} beside bare packed", ">=", 0.85, beside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["tiny", "SmolLM2"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    join_group()
    with tempfile.TemporaryDirectory() as folder:
        for model in models(Path(folder), options.models):
            bare, engine = BareModel(model.folder), Engine(model)
            with stage(model, tenants=TENANTS, trainer={"threads": 1}) as on:
                for case, tenants in cases(model.vocab).items():
                    quick = model.name == "tiny" or len(tenants[0]) == 1
                    rounds = options.rounds if quick else 1
                    times = 10 if model.name == "tiny" and len(tenants[0]) == 1 else 1
                    turns = bare_turns(bare, tenants) | engine_turns(engine, tenants)
                    turns |= service_turns(on, tenants)
                    # What takes minutes is not done twice; the case before it warmed all up.
                    costs = in_turn(turns, rounds, times=times, warm=quick)
                    print(
                        f"{model.name}, {TENANTS} tenants x {case} tokens, {rounds}x{times} times"
                    )
                    show(costs)
                    report_all(costs, f"packing {case}, {model.name}")


if __name__ == "__main__":
    main()
