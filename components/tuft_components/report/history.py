"""What happened in a training pipeline, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Iteration:
    """One rollout, feedback and update.

    `reward` is the mean over the sampled episodes (temperature as in training), `seconds`
    the wall time of the three steps, `metrics` whatever else the steps reported.
    """

    number: int
    reward: float
    episodes: int
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Mean reward over `episodes` held-out episodes, after `iteration` updates (0: before)."""

    iteration: int
    reward: float
    episodes: int


@dataclass(frozen=True)
class History:
    """A pipeline run so far. `facts` are shown as they are: model, run, checkpoint and so on."""

    title: str
    iterations: list[Iteration]
    evaluations: list[Evaluation]
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def before(self) -> Evaluation:
        """The first evaluation (of the untrained policy)."""
        return self.evaluations[0]

    @property
    def after(self) -> Evaluation:
        """The last evaluation."""
        return self.evaluations[-1]
