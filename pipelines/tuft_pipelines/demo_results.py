"""What the tasks of the demo pipeline reported: as lines while it runs, as a history after it."""

from __future__ import annotations

from collections.abc import Mapping

from tuft_pipelines.demo_pipeline import TaskNames
from tuft_pipelines.local_run import TaskResult
from tuft_pipelines.report import Evaluation, History, Iteration
from tuft_pipelines.report.table import bar

TITLE = "Reward of the TuFT demo pipeline"
# Of all that `update` reports, what tells a reader most.
_SHOWN_METRICS = ("grad_norm", "kl_sample_train")


class Progress:
    """One line for the user whenever something worth one has happened."""

    def __init__(self, iterations: int) -> None:
        self._iterations = iterations
        self._seconds = 0.0
        self._reward = 0.0

    def line(self, task: TaskResult) -> str | None:
        """The line for a task that has just finished; None where more is to come first."""
        self._seconds += task.seconds
        kind, _, which = task.name.rpartition(" ")
        if kind == "rollout":
            return None
        if kind == "feedback":
            self._reward = float(task.parameters["mean_reward"])
            return None
        seconds, self._seconds = self._seconds, 0.0
        if kind == "update":
            place = f"{which}/{self._iterations}"
            return f"iteration {place:<6} reward {self._reward:.3f}  {seconds:5.1f} s  {bar(self._reward)}"
        if kind == "evaluate":
            evaluation = _evaluation(0, task)
            return (
                f"held-out reward {which} training: {evaluation.reward:.3f} "
                f"({evaluation.episodes} episodes, {seconds:.1f} s)"
            )
        return f"training run {task.parameters['run_id']} ({seconds:.1f} s)"


def demo_history(
    results: Mapping[str, TaskResult], iterations: int, facts: Mapping[str, str]
) -> History:
    """The history of a finished demo pipeline, from its tasks' results by display name.

    Args:
        facts: to show beside those that the tasks reported.
    """
    last = results[TaskNames.update(iterations)]
    return History(
        title=TITLE,
        iterations=[_iteration(results, number) for number in range(1, iterations + 1)],
        evaluations=[
            _evaluation(0, results[TaskNames.BEFORE]),
            _evaluation(iterations, results[TaskNames.AFTER]),
        ],
        facts={
            "training run": str(results[TaskNames.START].parameters["run_id"]),
            "checkpoint": str(last.parameters["checkpoint"]),
            "policy": str(last.parameters["policy"]),
            **facts,
        },
    )


def _iteration(results: Mapping[str, TaskResult], number: int) -> Iteration:
    judged, updated = results[TaskNames.feedback(number)], results[TaskNames.update(number)]
    metrics = updated.artifacts["metrics"].metadata
    return Iteration(
        number=number,
        reward=float(judged.parameters["mean_reward"]),
        episodes=int(judged.artifacts["metrics"].metadata["episodes"]),
        seconds=results[TaskNames.rollout(number)].seconds + judged.seconds + updated.seconds,
        metrics={name: float(metrics[name]) for name in _SHOWN_METRICS if name in metrics},
    )


def _evaluation(iteration: int, task: TaskResult) -> Evaluation:
    episodes = int(task.artifacts["metrics"].metadata["episodes"])
    return Evaluation(iteration, float(task.parameters["mean_reward"]), episodes)
