"""What a client of the campaign does: operations that are recorded, so that they can be repeated."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import tinker
from tinker import types

TIMEOUT_S = 240
"""A future that is not resolved within this time after its service came back counts as lost."""
# Adam makes a whole step of a gradient that is nothing but rounding, unless it is below `eps`, and
# large steps make much of a little: sums in another order would be another training run. With these
# two, 600 undisturbed steps packed with other tenants end 1.6e-6 of a tensor's norm beside the same
# steps alone, as 230 do; one step lost, or one gradient counted twice, makes 3e-2 and more.
ADAM = types.AdamParams(learning_rate=1e-4, eps=1e-2)
RANK = 4
T = TypeVar("T")
_PROMPTS = [[5, 6, 7, 8], [11, 42, 37, 99, 7], [300, 301, 302], [17, 4, 4, 90, 2, 65]]


@dataclass(frozen=True)
class ForwardBackward:
    data: list[types.Datum]
    loss_fn: Literal["cross_entropy", "importance_sampling"]
    forward_only: bool = False


@dataclass(frozen=True)
class OptimStep:
    pass


@dataclass(frozen=True)
class SaveState:
    name: str


@dataclass(frozen=True)
class LoadState:
    name: str


Operation = ForwardBackward | OptimStep | SaveState | LoadState


@dataclass
class Record:
    """One operation, and what the client was told about it."""

    operation: Operation
    seq_id: int
    loss: float | None = None
    logprobs: list[Any] = field(default_factory=list)
    step: float | None = None


def submit(training: tinker.TrainingClient, operation: Operation) -> tinker.APIFuture[Any]:
    """Ask for an operation."""
    match operation:
        case ForwardBackward(data, loss_fn, True):
            return training.forward(data, loss_fn)
        case ForwardBackward(data, loss_fn):
            return training.forward_backward(data, loss_fn)
        case OptimStep():
            return training.optim_step(ADAM)
        case SaveState(name):
            return training.save_state(name, overwrite=True)
        case LoadState(name):
            return training.load_state_with_optimizer(
                f"tinker://{training.model_id}/weights/{name}"
            )


def note(record: Record, result: Any) -> None:
    """Take over what the service said."""
    if isinstance(record.operation, ForwardBackward):
        record.loss = result.metrics["loss:sum"]
        record.logprobs = [
            np.asarray(output["logprobs"].data, dtype=np.float32)
            for output in result.loss_fn_outputs
        ]
    elif isinstance(record.operation, OptimStep):
        record.step = (result.metrics or {})["step"]


def rows(rng: random.Random, count: int, longest: int) -> list[types.Datum]:
    """Rows for supervised training."""
    found = []
    for _ in range(count):
        tokens = [rng.randrange(2, 512) for _ in range(rng.randrange(4, longest) + 1)]
        found.append(
            types.Datum(
                model_input=types.ModelInput.from_ints(tokens[:-1]),
                loss_fn_inputs={
                    "target_tokens": types.TensorData(tokens[1:], "int64", [len(tokens) - 1]),
                    "weights": types.TensorData(
                        [rng.choice([0.0, 0.5, 1.0]) for _ in tokens[1:]],
                        "float32",
                        [len(tokens) - 1],
                    ),
                },
            )
        )
    return found


def _transition(prompt: list[int], tokens: list[int], logprobs: list[float]) -> types.Datum:
    before = len(prompt) - 1
    whole = [*prompt, *tokens]
    values: dict[str, list[float]] = {
        "logprobs": [0.0] * before + logprobs,
        # More even tokens than odd ones: whatever, as long as it is a gradient.
        "advantages": [0.0] * before + [1.0 if token % 2 == 0 else -1.0 for token in tokens],
    }
    size = len(whole) - 1
    inputs = {name: types.TensorData(value, "float32", [size]) for name, value in values.items()}
    inputs["target_tokens"] = types.TensorData(whole[1:], "int64", [size])
    return types.Datum(model_input=types.ModelInput.from_ints(whole[:-1]), loss_fn_inputs=inputs)


@dataclass
class Progress:
    """Requests that a client made, and those of them that were answered."""

    asked: int = 0
    answered: int = 0

    def wait(self, ask: Callable[[], Future[T] | tinker.APIFuture[T]]) -> T:
        """Make a request, and wait for its result."""
        self.asked += 1
        result = ask().result(TIMEOUT_S)
        self.answered += 1
        return result


@dataclass
class Journal:
    """A training run as its client sees it: all that was asked, in order, and all that was told."""

    training: tinker.TrainingClient
    records: list[Record] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)
    seq_id: int = 0
    """Of the last operation."""

    def do(self, *operations: Operation) -> list[Record]:
        """Ask for operations without waiting in between, and wait for all their results."""
        pending = []
        for operation in operations:
            self.seq_id += 1
            self.progress.asked += 1
            record = Record(operation, self.seq_id)
            pending.append((record, submit(self.training, operation)))
        for record, future in pending:
            note(record, future.result(timeout=TIMEOUT_S))
            self.progress.answered += 1
            self.records.append(record)
        return [record for record, _ in pending]

    def wait(self, ask: Callable[[], Future[T] | tinker.APIFuture[T]]) -> T:
        """An operation that is not recorded, since no weights depend on it."""
        self.seq_id += 1
        return self.progress.wait(ask)

    def refused(self, ask: Callable[[], tinker.APIFuture[Any]], words: str) -> None:
        """A request that the service must refuse for good."""
        # It takes a number, too.
        self.seq_id += 1
        self.progress.asked += 1
        try:
            ask().result(timeout=TIMEOUT_S)
        except tinker.BadRequestError as error:
            self.progress.answered += 1
            if words not in str(error):
                raise
        else:
            raise AssertionError(f"not refused, though it should say {words!r}")


def rollouts(
    progress: Progress, sampler: tinker.SamplingClient, rng: random.Random, num_samples: int = 2
) -> tuple[list[types.Datum], list[list[float]]]:
    """Rows for reinforcement learning, sampled now, and the logprobs of the sampled tokens."""
    data, sampled = [], []
    asked = []
    for _ in range(2):
        prompt = rng.choice(_PROMPTS)
        params = types.SamplingParams(max_tokens=8, temperature=1.0, seed=rng.randrange(1 << 30))
        future = sampler.sample(types.ModelInput.from_ints(prompt), num_samples, params)
        asked.append((prompt, future))
    progress.asked += len(asked)
    for prompt, future in asked:
        response = future.result(TIMEOUT_S)
        progress.answered += 1
        for sequence in response.sequences:
            logprobs = list(sequence.logprobs or [])
            data.append(_transition(prompt, sequence.tokens, logprobs))
            sampled.append(logprobs)
    return data, sampled
