"""What rank 0 knows of a training run whose adapter is in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from tuft.contracts.operations import (
    ClearGradients,
    CreateFromCheckpoint,
    CreateModel,
    ForwardBackward,
    LoadWeights,
    Operation,
    OptimStep,
    Tombstone,
)
from tuft.contracts.records import RunRecord, SnapshotRecord


@dataclass
class RunState:
    """The run's standing after the operation `cursor`, beside its adapter on the ranks.

    All of it follows from a snapshot and the journal after it.
    """

    record: RunRecord
    cursor: int = -1
    step: int = 0
    """Optimizer steps applied."""
    accumulated: bool = False
    """Gradients wait for an optim_step."""
    poison: str | None = None
    """Why what is accumulated must not be applied."""
    broken: str | None = None
    """Why there is no adapter; every operation fails with it."""
    snapshot: SnapshotRecord | None = None
    tokens: int = 0
    """Tokens trained since the snapshot: what its replay would cost."""
    being_saved: bool = False
    """A snapshot of it is being written."""
    deaths: dict[int, int] = field(default_factory=dict)
    """How often the trainer died at operations of this run, by seq_id."""

    @property
    def run_id(self) -> str:
        return self.record.run_id

    @property
    def at_rest(self) -> bool:
        """Whether weights and optimizer are all there is to save."""
        return not self.accumulated and self.poison is None and self.broken is None

    def poison_with(self, reason: str) -> None:
        """The next optim_step must fail; the first reason is the one to tell."""
        self.poison = self.poison or reason


def changes_state(op: Operation) -> bool:
    """Whether a replay must do this operation again."""
    body = op.body
    if isinstance(body, ForwardBackward):
        return not body.forward_only
    return isinstance(
        body, CreateModel | CreateFromCheckpoint | OptimStep | LoadWeights | ClearGradients
    )


def note_failure(state: RunState, op: Operation, reason: str) -> bool:
    """What the failure of an operation means for those after it.

    Returns:
        Whether the accumulated gradients must be cleared now.
    """
    body = op.body
    if isinstance(body, ForwardBackward) and not body.forward_only:
        state.poison_with(f"the forward_backward with seq_id {op.seq_id} failed: {reason}")
    elif isinstance(body, CreateModel | CreateFromCheckpoint):
        state.broken = f"the training run could not be created: {reason}"
    elif isinstance(body, OptimStep):
        clear = state.accumulated
        state.accumulated, state.poison = False, None
        return clear
    return False


def note_tombstone(state: RunState, tombstone: Tombstone) -> None:
    """What a seq_id under which nothing will run means for the operations after it."""
    if tombstone.poisons:
        state.poison_with(
            f"the operation with seq_id {tombstone.seq_id} was not done: {tombstone.reason}"
        )
    state.cursor = tombstone.seq_id
