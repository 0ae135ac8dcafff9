"""What a sampling engine does, so that engines can stand beside each other.

An engine is driven: the worker submits requests at any time and calls `step` as long as there
is work. Requests join and leave the running batch between steps. An engine talks to no store
and knows no queue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tuft.contracts.operations import SampleOperation
from tuft.contracts.policies import Content
from tuft.contracts.wire import SampleResult
from tuft.errors import TuftError


@dataclass(frozen=True)
class Finished:
    """A request's outcome: a result, or the error that is its answer."""

    request_id: str
    outcome: SampleResult | TuftError


class Engine(Protocol):
    """Samples from one base model and any number of LoRA policies.

    A policy is named by its object prefix. Its weights never change under that name.
    """

    @property
    def capacity(self) -> int:
        """Sequences that may run together."""
        ...

    @property
    def load(self) -> int:
        """Sequences that run or wait inside the engine; 0 when there is nothing to do."""
        ...

    def load_policy(self, policy: str, files: Mapping[str, Content]) -> None:
        """Make a policy ready, from the files of its PEFT folder.

        Raises:
            TuftError: the engine can't serve this adapter; the message names why.
        """
        ...

    def drop_policy(self, policy: str) -> None:
        """Free a policy's memory. Requests that sample from it already go on to their end."""
        ...

    def submit(self, request: SampleOperation) -> None:
        """Queue a request. Its policy must be loaded.

        Raises:
            InvalidRequest: it can't be served by this model.
        """
        ...

    def step(self) -> Sequence[Finished]:
        """Go on for about one decode step; the requests that finished in it.

        A sample's tokens depend on its prompt, policy, parameters and (seed, number) only,
        not on what else is in the batch (up to floating-point noise in the logits).
        """
        ...

    def close(self) -> None:
        """End what the engine runs beside this process; nothing is called after it."""
        ...
