"""What rank 0 tells every rank to do, itself included. Commands are pickled between ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from tuft.contracts.operations import OptimStep
from tuft.contracts.records import LoraSpec
from tuft.contracts.wire import LossConfig, Row


@dataclass(frozen=True)
class RowGroup:
    """Rows of one run that share a loss; neighbours in a micro-batch."""

    run_id: str
    rows: Sequence[Row]
    loss_fn: str
    loss_config: LossConfig
    backward: bool


MicroBatch = Sequence[RowGroup]


@dataclass(frozen=True)
class RowResult:
    """`logprobs` float32 in the shape of the row's target_tokens."""

    loss: float
    logprobs: npt.NDArray[np.float32]


@dataclass(frozen=True)
class StepReport:
    """`grad_norm` is the global norm before clipping; a step that was not `applied`
    changed nothing, since the norm is not finite.
    """

    grad_norm: float
    applied: bool


class Command:
    """`collective`: ranks talk to each other while they do it, so it fails on all or none."""

    collective: ClassVar[bool] = False

    def on_behalf_of(self) -> Sequence[str]:
        """The runs whose operations this is for; none where it is the trainer's own business."""
        return ()


@dataclass(frozen=True)
class RunCommand(Command):
    """One run's."""

    run_id: str

    def on_behalf_of(self) -> Sequence[str]:
        return (self.run_id,)


@dataclass(frozen=True)
class Create(RunCommand):
    """Make a fresh adapter, without an engine yet. Result: None."""

    spec: LoraSpec


@dataclass(frozen=True)
class Restore(RunCommand):
    """Make an adapter from files, without an engine yet. Result: None."""

    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Start(RunCommand):
    """Give a created or restored adapter its engine, in place of the run's earlier one.

    Optimizer state comes from `optimizer`, None for a fresh one. Result: None.
    """

    collective = True
    optimizer: bytes | None


@dataclass(frozen=True)
class Compute(Command):
    """Forward, loss and (where asked) backward; one micro-batch a rank, or None.

    Result of a rank: a RowResult a row, in order.
    """

    micro_batches: Sequence[MicroBatch | None]

    def on_behalf_of(self) -> Sequence[str]:
        return sorted({group.run_id for batch in self.micro_batches for group in batch or ()})


@dataclass(frozen=True)
class Step(RunCommand):
    """Reduce gradients over the ranks and step the optimizer. Result: StepReport."""

    collective = True
    hyperparameters: OptimStep


@dataclass(frozen=True)
class ClearGradients(Command):
    """Forget what was accumulated. Result: None."""

    run_id: str


@dataclass(frozen=True)
class Export(RunCommand):
    """Files of the adapter, and `optimizer.safetensors` where asked.

    Result: files on rank 0, None on others (every rank has the same weights).
    """

    optimizer: bool


@dataclass(frozen=True)
class Capture(Command):
    """Copy all that training left in an adapter, and with `gradient` what is accumulated.

    Result: AdapterState on rank 0, None on others.
    """

    run_id: str
    gradient: bool


@dataclass(frozen=True)
class Resume(RunCommand):
    """Go on as a captured state (encoded) says, in place of the run's earlier adapter. Result: None."""

    collective = True
    state: bytes


@dataclass(frozen=True)
class Spill(Command):
    """Put an adapter and all that training left in it on the rank's disk. Result: bytes there."""

    run_id: str


@dataclass(frozen=True)
class Unspill(Command):
    """Bring it back, bit for bit. Result: None."""

    collective = True
    run_id: str


@dataclass(frozen=True)
class Close(Command):
    """Drop an adapter and its engine, wherever they are; nothing happens where there is none. Result: None."""

    run_id: str
