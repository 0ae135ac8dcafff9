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


@dataclass(frozen=True)
class Create(Command):
    """Make a fresh adapter, without an engine yet. Result: None."""

    run_id: str
    spec: LoraSpec


@dataclass(frozen=True)
class Restore(Command):
    """Make an adapter from files, without an engine yet. Result: None."""

    run_id: str
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Start(Command):
    """Give a created or restored adapter its engine, in place of the run's earlier one.

    Optimizer state comes from `optimizer`, None for a fresh one. Result: None.
    """

    collective = True
    run_id: str
    optimizer: bytes | None


@dataclass(frozen=True)
class Compute(Command):
    """Forward, loss and (where asked) backward; one micro-batch a rank, or None.

    Result of a rank: a RowResult a row, in order.
    """

    micro_batches: Sequence[MicroBatch | None]


@dataclass(frozen=True)
class Step(Command):
    """Reduce gradients over the ranks and step the optimizer. Result: StepReport."""

    collective = True
    run_id: str
    hyperparameters: OptimStep


@dataclass(frozen=True)
class ClearGradients(Command):
    """Forget what was accumulated. Result: None."""

    run_id: str


@dataclass(frozen=True)
class Export(Command):
    """Files of the adapter, and `optimizer.safetensors` where asked.

    Result: files on rank 0, None on others (every rank has the same weights).
    """

    run_id: str
    optimizer: bool


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
