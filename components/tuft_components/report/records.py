"""From the records that steps leave below a work_uri to the history of the pipeline run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tuft_components.report.history import Evaluation, History, Iteration
from tuft_components.work import Record

_OF_A_LOOP = ("rollout", "feedback", "update")


@dataclass(frozen=True)
class StepTimes:
    """Wall time of all executions of a step."""

    step: str
    executions: int
    seconds: float


def history_of(title: str, records: Sequence[Record]) -> History:
    """Iterations have a feedback's record; what the update measured is with them if it is done."""
    by_step: dict[str, dict[int, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        by_step[record.step][record.iteration].append(record)
    iterations = [
        _iteration(number, judged[0], by_step["rollout"][number], by_step["update"][number])
        for number, judged in sorted(by_step["feedback"].items())
    ]
    evaluations = [
        Evaluation(record.iteration, record.metrics["mean_reward"], _episodes(record))
        for record in records
        if record.step == "evaluate"
    ]
    return History(title, iterations, evaluations, _facts(records))


def _iteration(
    number: int, judged: Record, rollouts: list[Record], updates: list[Record]
) -> Iteration:
    metrics = {**judged.metrics, **(updates[0].metrics if updates else {})}
    # Shards of a rollout play at the same time.
    seconds = max((record.seconds for record in rollouts), default=0.0)
    seconds += sum(record.seconds for record in [judged, *updates])
    return Iteration(
        number=number + 1,
        reward=judged.metrics["mean_reward"],
        episodes=_episodes(judged),
        seconds=seconds,
        metrics={name: metrics[name] for name in sorted(metrics)},
    )


def _episodes(record: Record) -> int:
    return int(record.metrics.get("episodes", 0))


def _facts(records: Iterable[Record]) -> dict[str, str]:
    """What a reader asks first; of several records of a step, the last one tells."""
    last = {record.step: record for record in records}
    wanted = {
        "start_run": (["name", "base_model", "lora_rank"], ["run_id"]),
        "rollout": (["env", "env_args", "groups", "group_size", "max_tokens", "temperature"], []),
        "feedback": (["reward", "reward_args", "advantage"], []),
        "update": (["run_id", "loss_fn", "learning_rate"], ["policy", "checkpoint"]),
        "sft": (["dataset_uri"], ["policy", "checkpoint"]),
        "promote": (["metric", "threshold"], ["promoted", "uri"]),
    }
    facts: dict[str, str] = {}
    for step, (params, values) in wanted.items():
        if record := last.get(step):
            found = {name: record.params.get(name) for name in params}
            found |= {name: record.values.get(name) for name in values}
            facts |= {
                f"{step} {name}" if step == "promote" else name.replace("_", " "): str(value)
                for name, value in found.items()
                if value not in (None, "", {})
            }
    return facts


def times_of(records: Iterable[Record]) -> list[StepTimes]:
    """By step, the longest first."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for record in records:
        seconds[record.step].append(record.seconds)
    times = [StepTimes(step, len(each), sum(each)) for step, each in seconds.items()]
    return sorted(times, key=lambda one: (-one.seconds, one.step))
