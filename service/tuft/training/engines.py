"""The adapters in training on one rank, and those that were put away to its disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tuft.contracts.records import LoraSpec
from tuft.deepspeed_config import DeepSpeedPlan
from tuft.modeling.lora import Adapter, Layout
from tuft.training.engine import AdapterEngine
from tuft.training.spill import Extent, SpillFile
from tuft.training.state import AdapterState

_SPARES = 2
# Weights, gradient and two moments: a run's place on disk is large enough for all of them.
_MOST_TENSORS = 4


@dataclass(frozen=True)
class _Spilled:
    spec: LoraSpec
    layout: Layout
    steps: int
    device: torch.device
    extent: Extent


class Engines:
    """An engine a run. Engines that are not needed any more are used again for adapters of the
    same shape: to make one costs more time than to bring an adapter back.

    All ranks do the same in the same order, so that making one is a step of all or of none.
    """

    def __init__(self, plan: DeepSpeedPlan) -> None:
        self._plan = plan
        self._engines: dict[str, AdapterEngine] = {}
        self._spares: list[AdapterEngine] = []
        self._spilled: dict[str, _Spilled] = {}
        self._file = SpillFile()
        # Runs of one shape share its description.
        self._layouts: dict[Layout, Layout] = {}

    def __getitem__(self, run_id: str) -> AdapterEngine:
        """Raises: KeyError."""
        return self._engines[run_id]

    def start(self, run_id: str, adapter: Adapter, optimizer: bytes | None) -> None:
        """Train this adapter, in place of the run's earlier one.

        Raises:
            DamagedCheckpoint: the optimizer's state is not one of this adapter; nothing changed.
        """
        engine = self._engine(adapter)
        if optimizer is not None:
            try:
                engine.load_optimizer(optimizer)
            except BaseException:
                # Whatever it was, the engine goes back to the pool.
                self._release(engine)
                raise
        self.close(run_id)
        self._engines[run_id] = engine

    def resume(
        self, run_id: str, state: AdapterState, device: torch.device, *, gradient: bool
    ) -> None:
        """Train what a snapshot has, in place of the run's earlier adapter.

        `gradient`: this rank takes what was accumulated; the others begin with none.
        """
        engine = self._spare(state.layout)
        if engine is None:
            flat = state.tensors["flat"].to(device)
            engine = AdapterEngine(_adapter(state.spec, state.layout, flat), self._plan)
        engine.resume(state, gradient=gradient)
        self.close(run_id)
        self._engines[run_id] = engine

    def spill(self, run_id: str) -> int:
        """Put the run's adapter away, with all that training left in it; bytes on disk.

        Raises:
            StorageFull: the disk has no room; the adapter stays.
        """
        engine = self._engines[run_id]
        adapter = engine.adapter
        tensors = engine.tensors()
        room = _MOST_TENSORS * max(tensor.nbytes for tensor in tensors.values())
        extent = self._file.write(tensors, room)
        layout = self._layouts.setdefault(adapter.layout, adapter.layout)
        self._spilled[run_id] = _Spilled(
            adapter.spec, layout, engine.steps, adapter.flat.device, extent
        )
        self._release(self._engines.pop(run_id))
        return room

    def unspill(self, run_id: str) -> None:
        """Bring back what `spill` put away, bit for bit. Raises: OSError."""
        spilled = self._spilled[run_id]
        tensors = self._file.read(spilled.extent)
        engine = self._spare(spilled.layout)
        if engine is None:
            flat = tensors["flat"].to(spilled.device)
            engine = AdapterEngine(_adapter(spilled.spec, spilled.layout, flat), self._plan)
        engine.take_over(spilled.spec, tensors, spilled.steps)
        self._engines[run_id] = engine
        self._forget(run_id)

    def close(self, run_id: str) -> None:
        """Drop the run's adapter, wherever it is; nothing happens where there is none."""
        if run_id in self._engines:
            self._release(self._engines.pop(run_id))
        self._forget(run_id)

    def _forget(self, run_id: str) -> None:
        spilled = self._spilled.pop(run_id, None)
        if spilled is not None:
            self._file.free(spilled.extent)

    def _engine(self, adapter: Adapter) -> AdapterEngine:
        engine = self._spare(adapter.layout)
        if engine is None:
            return AdapterEngine(adapter, self._plan)
        engine.take_over(adapter.spec, {"flat": adapter.flat.detach()}, steps=0)
        return engine

    def _spare(self, layout: Layout) -> AdapterEngine | None:
        for index, engine in enumerate(self._spares):
            if engine.adapter.layout == layout:
                return self._spares.pop(index)
        return None

    def _release(self, engine: AdapterEngine) -> None:
        engine.reset()
        self._spares.append(engine)
        del self._spares[:-_SPARES]


def _adapter(spec: LoraSpec, layout: Sequence[tuple[str, torch.Size]], flat: Tensor) -> Adapter:
    pieces = torch.split(flat, [shape.numel() for _, shape in layout])
    views = {name: piece.view(shape) for (name, shape), piece in zip(layout, pieces, strict=True)}
    modules = [name.removesuffix("/lora_A") for name in views if name.endswith("/lora_A")]
    return Adapter(
        spec,
        {
            module.replace("/", "."): (views[f"{module}/lora_A"], views[f"{module}/lora_B"])
            for module in modules
        },
    )
