"""The ranks of a trainer group: rank 0 commands, the others follow.

Every rank does every command, also one that has no rows for it. If a rank dies, the others
fail at their next exchange and end; the supervisor starts the group anew.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from tuft.errors import TuftError
from tuft.training.budget import Budget
from tuft.training.commands import Command
from tuft.training.inflight import InFlight
from tuft.training.replica import Replica

log = logging.getLogger(__name__)

# Followers wait for the next command this long. A rank that dies is noticed at once, by its
# closed connection; an idle trainer must not be taken for a dead one.
_PATIENCE = timedelta(days=30)
# In a command, ranks wait for the slowest of them only. (A dead rank's NCCL peers don't notice.)
_SLOWEST_RANK = timedelta(minutes=30)
_CPU = torch.device("cpu")


class RankFailure(Exception):
    """An unforeseen failure on some rank; what the operation changed so far is unknown."""


class GroupBroken(Exception):
    """Another rank of the group has ended: this one must end, too."""


@dataclass(frozen=True)
class Place:
    """Where this process stands in its group."""

    rank: int
    world_size: int
    device: torch.device
    commands: dist.ProcessGroup | None = None
    """How rank 0's commands travel, on CPU; None in a group of one."""


def join_group() -> Place:
    """Join the group of RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.

    Without them it is a group of one, which needs no port. gloo on CPU, NCCL on GPU.
    """
    rank = int(os.environ.get("RANK", "0"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    # DeepSpeed wants the variable to be there.
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))
    device = _CPU
    backend = "gloo"
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if world_size == 1:
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]  # not in __all__
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        commands = None
    else:
        dist.init_process_group(backend, timeout=_SLOWEST_RANK)
        commands = dist.new_group(backend="gloo", timeout=_PATIENCE)
    _init_deepspeed(backend)
    return Place(rank, world_size, device, commands)


def _init_deepspeed(backend: str) -> None:
    import deepspeed
    import deepspeed.ops

    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(max(logging.WARNING, logging.root.level))
    # It tests AdamW for its very class, and would say so for every adapter.
    logger.addFilter(lambda record: "untested optimizer" not in record.getMessage())
    # Which of its C++ operators could be compiled: none, since nothing here uses them. Left
    # alone, DeepSpeed compiles one for shared memory when it meets gloo, for minutes.
    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)


@dataclass(frozen=True)
class _Answer:
    """`result`, or what went wrong: a TuftError as it is, anything else as text."""

    result: object = None
    refusal: TuftError | None = None
    failure: str | None = None


class RankGroup:
    """All ranks, as rank 0 sees them."""

    def __init__(self, replica: Replica, place: Place, inflight: InFlight | None = None) -> None:
        """`inflight`: where rank 0 notes what it is about to do."""
        self._replica = replica
        self._place = place
        self.inflight = inflight or InFlight(None)

    @property
    def size(self) -> int:
        return self._place.world_size

    def automatic_budget(self) -> Budget:
        """Tokens of a micro-batch where the configuration does not say."""
        return Budget.automatic(self._replica.num_parameters, self._place.device.type)

    def call(self, command: Command) -> list[object]:
        """Have every rank do `command`; their results in order of rank. Only on rank 0.

        Raises:
            TuftError: the command's content is wrong; nothing was changed.
            RankFailure: something else went wrong on a rank.
            GroupBroken: a rank is gone.
        """
        self.inflight.mark(command.on_behalf_of())
        if self.size > 1:
            self._broadcast([command])
        answers = self._do(command)
        # Not where that raised: it ends the process.
        self.inflight.clear()
        for rank, answer in enumerate(answers):
            if answer.refusal is not None:
                raise answer.refusal
            if answer.failure is not None:
                raise RankFailure(f"rank {rank}: {answer.failure}")
        return [answer.result for answer in answers]

    def end(self) -> None:
        """Have the other ranks return from `follow`. Only on rank 0. Raises: GroupBroken."""
        if self.size > 1:
            self._broadcast([None])

    def follow(self) -> None:
        """Do rank 0's commands until it says `end`. Only on other ranks. Raises: GroupBroken."""
        while True:
            box: list[Command | None] = [None]
            self._broadcast(box)
            command = box[0]
            if command is None:
                return
            self._do(command)

    def _do(self, command: Command) -> list[_Answer]:
        answer = self._answer(command)
        if self.size == 1:
            return [answer]
        leader = self._place.rank == 0
        gathered: list[_Answer] | None = [answer] * self.size if leader else None
        try:
            dist.gather_object(answer, gathered, dst=0, group=self._place.commands)
        except RuntimeError as error:
            raise GroupBroken(f"rank {self._place.rank} lost another rank: {error}") from error
        return gathered or []

    def _broadcast(self, box: list[Command | None]) -> None:
        try:
            dist.broadcast_object_list(box, src=0, group=self._place.commands, device=_CPU)
        except RuntimeError as error:
            raise GroupBroken(f"rank {self._place.rank} lost another rank: {error}") from error

    def _answer(self, command: Command) -> _Answer:
        try:
            return _Answer(result=self._replica.do(command))
        except TuftError as error:
            return _Answer(refusal=error)
        except torch.AcceleratorError:
            raise  # the device is unusable from here on: the group must start anew
        except Exception as error:
            # The operation fails, and neither the worker nor other tenants with it. But a
            # collective command has left the ranks out of step.
            if self.size > 1 and self._replica.is_collective(command):
                raise
            log.exception("rank %d: %s failed", self._place.rank, type(command).__name__)
            return _Answer(failure=f"{type(error).__name__}: {error}")
