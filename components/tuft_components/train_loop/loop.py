"""The loop itself: iterations over the steps' own functions, with rollouts ahead of updates.

The rollout of iteration i samples from the policy after max(first, i - max_staleness) updates,
whatever is faster on that day: a loop that is killed and run again must sample from the same one.
"""

from __future__ import annotations

import contextvars
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tuft_sdk
from tuft_components.batches import read_batch
from tuft_components.feedback.step import STEP as FEEDBACK
from tuft_components.rollout.step import STEP as ROLLOUT
from tuft_components.rollout.step import RolloutOutputs
from tuft_components.train_loop.history import Iteration
from tuft_components.train_loop.places import Places
from tuft_components.update.assembly import mean_reward
from tuft_components.update.step import STEP as UPDATE
from tuft_components.update.step import UpdateOutputs, UpdateParams
from tuft_components.work import Work, keep_record


@dataclass(frozen=True)
class Plan:
    """Iterations `first` to before `end`; the last three are parameters of the steps."""

    run_id: str
    policy: str
    first: int
    end: int
    max_staleness: int
    stop_at_reward: float
    checkpoint_name: str
    rollout: Mapping[str, Any]
    feedback: Mapping[str, Any]
    update: Mapping[str, Any]

    def version_for(self, iteration: int) -> int:
        """Updates behind the policy that the iteration's rollout samples from."""
        return max(self.first, iteration - self.max_staleness)


class Loop:
    def __init__(self, client: tuft_sdk.TuftClient, plan: Plan, places: Places) -> None:
        self._ledger = tuft_sdk.StepLedger(client.extension, plan.run_id)
        self._plan = plan
        self._places = places
        self._policies = {plan.first: plan.policy}
        self._done: list[Iteration] = []
        self._rollouts: dict[int, Future[RolloutOutputs]] = {}

    def run(self) -> list[Iteration]:
        """The iterations, those that were done before among them.

        Raises:
            As the steps do.
        """
        self._resume()
        with self._one_thread() as rollouts:
            while not self._ended():
                self._begin_rollouts(rollouts)
                self._iterate(self._next())
        return self._done

    def _next(self) -> int:
        return self._plan.first + len(self._done)

    def _ended(self) -> bool:
        reached = bool(self._done) and self._done[-1].mean_reward >= self._plan.stop_at_reward
        return reached or self._next() == self._plan.end

    def _resume(self) -> None:
        """Take what earlier executions finished as it is: nothing of it is played again."""
        while not self._ended():
            number = self._next()
            result = self._ledger.result_of(_step_key(number))
            if result is None:
                break
            self._finish(Iteration.of(number, UpdateOutputs.model_validate_json(result)))
        if self._done:
            self._complete_record(self._done[-1])

    def _complete_record(self, last: Iteration) -> None:
        """A loop that was killed may have finished an update and not have told the report."""
        params = UpdateParams.model_validate({**self._plan.update, "iteration": last.iteration})
        if params.work_uri and not Work(params.work_uri).has(UPDATE.name, last.iteration):
            values = {"policy": last.policy, "checkpoint": last.checkpoint}
            keep_record(UPDATE.name, params, values, last.metrics, {}, seconds=0.0)

    @contextmanager
    def _one_thread(self) -> Iterator[ThreadPoolExecutor]:
        """For rollouts, one after another.

        It ends after the rollout that it is at, also where the loop fails: the episodes are kept.
        """
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rollout")
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _begin_rollouts(self, pool: ThreadPoolExecutor) -> None:
        """All that the policies so far allow and that are not begun."""
        now, plan = self._next(), self._plan
        for number in range(now, min(now + plan.max_staleness + 1, plan.end)):
            if number not in self._rollouts:
                # What is known of this process (see `processes`) holds in the thread as well.
                context = contextvars.copy_context()
                self._rollouts[number] = pool.submit(context.run, self._rollout, number)

    def _rollout(self, number: int) -> RolloutOutputs:
        version = self._plan.version_for(number)
        return ROLLOUT.execute(
            {
                **self._plan.rollout,
                "policy": self._policies[version],
                # As a step of its own says it: either takes the episodes that the other kept.
                "policy_version": -1 if version == number else version,
                "iteration": number,
            },
            {},
            {"trajectories": self._places.trajectories(number)},
        )

    def _iterate(self, number: int) -> None:
        begun, plan = time.monotonic(), self._plan
        rolled = self._rollouts.pop(number).result()
        judged = FEEDBACK.execute(
            {**plan.feedback, "iteration": number},
            {"trajectories": rolled.trajectories.uri},
            {"batch": self._places.batch(number)},
        )
        reward = mean_reward(read_batch(judged.batch.uri))
        last = number + 1 == plan.end or reward >= plan.stop_at_reward
        # A loop that goes on where one ended saves another checkpoint under its name.
        name = f"{plan.checkpoint_name}-{number + 1:06d}" if last and plan.checkpoint_name else ""
        updated = UPDATE.execute(
            {
                **plan.update,
                "iteration": number,
                "checkpoint_name": name,
            },
            {"batch": judged.batch.uri},
            {},
        )
        self._finish(Iteration.of(number, updated, time.monotonic() - begun))

    def _finish(self, done: Iteration) -> None:
        self._done.append(done)
        self._policies[done.iteration + 1] = done.policy
        how = "done before" if done.seconds is None else f"{done.seconds:.1f} s"
        sys.stderr.write(
            f"iteration {done.iteration}: mean reward {done.mean_reward:.4f}, "
            f"staleness {done.staleness}, {how}\n"
        )
        sys.stderr.flush()


def _step_key(number: int) -> str:
    """As `update` calls itself where it is given no step key."""
    return f"update/{number}"
