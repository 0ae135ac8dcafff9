"""Clients of the campaign: the unmodified SDK in loops, each a thread, until they are told to end."""

from __future__ import annotations

import random
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import tinker
from tinker import types

import tuft_sdk
from tests.faults.moves import (
    ADAM,
    RANK,
    TIMEOUT_S,
    ForwardBackward,
    Journal,
    LoadState,
    OptimStep,
    Progress,
    SaveState,
    rollouts,
    rows,
)
from tuft_sdk import plans

_FIRST = ("sft", "rl", "checkpoint", "sft_large")
_MOVES = ("sft", "sft_large", "rl", "checkpoint", "refused", "load", "named", "forward")
_WEIGHTS = (5, 3, 5, 2, 1, 1, 1, 1)


class Client(ABC):
    """A loop in a thread."""

    def __init__(self, url: str, key: str, seed: int) -> None:
        self.url = url
        self.key = key
        self.rng = random.Random(seed)
        self.failure: str | None = None
        self.iterations = 0
        self.progress = Progress()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    @abstractmethod
    def iterate(self) -> None:
        """One turn of the loop."""

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Have it end after the turn that it is at."""
        self._stop.set()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.failure = self.failure or f"{self._thread.name} does not end: a future hangs"

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.iterate()
                self.iterations += 1
        except Exception:  # noqa: BLE001 (whatever it is, the campaign looks for it)
            self.failure = f"{self._thread.name}: {traceback.format_exc()}"


class Trainee(Client):
    """Trains one run, supervised and by reinforcement, saves, loads and is refused now and then.

    What it does next follows from its seed alone.
    """

    def __init__(self, url: str, key: str, seed: int) -> None:
        super().__init__(url, key, seed)
        self.seed = seed
        self.client = tinker.ServiceClient(base_url=url, api_key=key)
        self.journal: Journal | None = None
        self._saved = False
        self._names = 0

    def open(self) -> None:
        """Create the run."""
        training = self.progress.wait(
            lambda: self.client.create_lora_training_client("tiny", rank=RANK, seed=self.seed)
        )
        self.journal = Journal(training, progress=self.progress)

    def iterate(self) -> None:
        if self.journal is None:
            self.open()
        assert self.journal is not None
        move = self.rng.choices(_MOVES, _WEIGHTS)[0]
        if self.iterations < len(_FIRST):
            move = _FIRST[self.iterations]
        getattr(self, f"_{move}")(self.journal)
        # Kills are what a round is for: what is done between them is repeated at its end.
        self._stop.wait(0.05)

    def _sft(self, journal: Journal) -> None:
        batches = [rows(self.rng, self.rng.randrange(1, 5), 16) for _ in range(2)]
        asked = [ForwardBackward(batch, "cross_entropy") for batch in batches]
        if self.rng.random() < 0.5:
            journal.do(*asked, OptimStep())
        else:
            # A gradient that waits for its step.
            journal.do(*asked)
            journal.do(OptimStep())

    def _sft_large(self, journal: Journal) -> None:
        journal.do(ForwardBackward(rows(self.rng, 24, 48), "cross_entropy"), OptimStep())

    def _rl(self, journal: Journal) -> None:
        sampler = journal.wait(journal.training.save_weights_and_get_sampling_client)
        data, sampled = rollouts(self.progress, sampler, self.rng)
        done, _ = journal.do(ForwardBackward(data, "importance_sampling"), OptimStep())
        for told, mine in zip(done.logprobs, sampled, strict=True):
            # The policy that was sampled is the one that is trained.
            np.testing.assert_allclose(told[-len(mine) :], mine, atol=1e-3)

    def _checkpoint(self, journal: Journal) -> None:
        journal.do(SaveState("state"))
        self._saved = True

    def _refused(self, journal: Journal) -> None:
        if self._saved:
            journal.refused(lambda: journal.training.save_state("state"), "overwrite")

    def _load(self, journal: Journal) -> None:
        if self._saved:
            journal.do(LoadState("state"))

    def _named(self, journal: Journal) -> None:
        self._names += 1
        name = f"policy-{self._names}"
        path = journal.wait(lambda: journal.training.save_weights_for_sampler(name)).path
        sampler = self.progress.wait(lambda: self.client.create_sampling_client(model_path=path))
        # So many that the result is an object.
        rollouts(self.progress, sampler, self.rng, num_samples=32)

    def _forward(self, journal: Journal) -> None:
        journal.do(ForwardBackward(rows(self.rng, 2, 12), "cross_entropy", forward_only=True))


class Newcomer(Client):
    """Comes, trains a step in a run of its own, and goes; again and again."""

    def iterate(self) -> None:
        wait = self.progress.wait
        with tinker.ServiceClient(base_url=self.url, api_key=self.key) as client:
            training = wait(lambda: client.create_lora_training_client("tiny", rank=2))
            journal = Journal(training, progress=self.progress)
            asked = ForwardBackward(rows(self.rng, 1, 8), "cross_entropy")
            _, step = journal.do(asked, OptimStep())
            if step.step != 1.0:
                raise AssertionError(f"the first step of {training.model_id} was {step.step}")
            base = wait(lambda: client.create_sampling_client(base_model="tiny"))
            wait(lambda: base.compute_logprobs(types.ModelInput.from_ints([5, 6, 7])))
        # Runs stay; thousands of them are what another test is for.
        self._stop.wait(1.0)


class Stepper(Client):
    """Executes steps of one run under step keys, as a pipeline's update does."""

    def __init__(self, url: str, key: str, seed: int) -> None:
        super().__init__(url, key, seed)
        self.run_id = ""

    def iterate(self) -> None:
        self.progress.asked += 1
        with tuft_sdk.connect(self.url, self.key) as tuft:
            if not self.run_id:
                made = tuft.service.create_lora_training_client("tiny", rank=2).result(TIMEOUT_S)
                self.run_id = made.model_id
            data = rows(self.rng, 2, 12)
            told = self._step(tuft, f"step-{self.iterations}", lambda: _plan(data))
        if told != str(self.iterations + 1):
            raise AssertionError(f"step {self.iterations + 1} of {self.run_id} said {told}")
        self.progress.answered += 1
        self._stop.wait(0.5)

    def _step(self, tuft: tuft_sdk.TuftClient, name: str, build: Callable[[], plans.Plan]) -> str:
        """What a scheduler does: run it again where it says that this may help."""
        while True:
            run = tuft.attach(self.run_id)
            try:
                return run.execute_once(name, build, _conclude, timeout_s=TIMEOUT_S)
            except tuft_sdk.Transient:
                continue
            finally:
                run.close()


def _plan(data: list[types.Datum]) -> plans.Plan:
    return plans.Plan([plans.ForwardBackward(data, "cross_entropy"), plans.OptimStep(ADAM)])


def _conclude(_plan: plans.Plan, results: list[Any]) -> str:
    return str(round(results[-1].metrics["step"]))
