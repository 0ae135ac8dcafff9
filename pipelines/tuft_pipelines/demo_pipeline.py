"""The demo pipeline: start_run → evaluate → N x (rollout → feedback → update) → evaluate.

KFP has no loops over a changing policy, so that the iterations are unrolled when the pipeline
is built: fine for N of 20 or fewer. KFP reads types at run time: no postponed annotations here.
"""

from typing import Any

from kfp import dsl

from tuft_pipelines.errors import WrongArgument
from tuft_pipelines.faces import Faces

ITERATIONS = 8
CHECKPOINT_NAME = "final"
MAX_ITERATIONS = 50


class TaskNames:
    """Display names of the tasks; results are found by them."""

    START = "start run"
    BEFORE = "evaluate before"
    AFTER = "evaluate after"

    @staticmethod
    def rollout(number: int) -> str:
        return f"rollout {number}"

    @staticmethod
    def feedback(number: int) -> str:
        return f"feedback {number}"

    @staticmethod
    def update(number: int) -> str:
        return f"update {number}"


def build_demo(faces: Faces, iterations: int = ITERATIONS) -> Any:
    """The pipeline, with that many iterations (1 to 50), numbered from 1.

    Raises:
        WrongArgument: `iterations` is out of range.
    """
    if not 1 <= iterations <= MAX_ITERATIONS:
        raise WrongArgument(
            f"iterations is {iterations}; it must be 1 to {MAX_ITERATIONS}, since each is three "
            "tasks of the compiled pipeline"
        )

    @dsl.pipeline(
        name="tuft-demo",
        description="Train a LoRA adapter by reinforcement learning on a TuFT service",
    )
    def demo(
        base_model: str = "",
        env: str = "second_word",
        env_args: str = "{}",
        reward: str = "env",
        lora_rank: int = 8,
        learning_rate: float = 3e-4,
        groups: int = 8,
        group_size: int = 8,
        max_tokens: int = 2,
        seed: int = 0,
        eval_episodes: int = 96,
    ) -> None:
        # Sampled at temperature 1, in training as in evaluation.
        task = {"env": env, "env_args": env_args, "seed": seed, "max_tokens": max_tokens}
        rollouts = {**task, "groups": groups, "group_size": group_size}
        evaluation = {**task, "reward": reward, "episodes": eval_episodes}
        build = _Builder(faces)
        start = build.task(
            TaskNames.START,
            "start_run",
            base_model=base_model,
            lora_rank=lora_rank,
            seed=seed,
            step_key=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        )
        policy = start.outputs["policy"]
        build.task(TaskNames.BEFORE, "evaluate", policy=policy, **evaluation)
        for number in range(1, iterations + 1):
            batch = build.batch(number, policy, reward, rollouts)
            updated = build.task(
                TaskNames.update(number),
                "update",
                run_id=start.outputs["run_id"],
                batch=batch,
                learning_rate=learning_rate,
                iteration=number - 1,
                checkpoint_name=CHECKPOINT_NAME if number == iterations else "",
            )
            policy = updated.outputs["policy"]
        build.task(TaskNames.AFTER, "evaluate", policy=policy, **evaluation)

    return demo


class _Builder:
    """Adds tasks to the pipeline that is being built, each after the one before it.

    The order is that of the data anyway, but for the first evaluation: it comes before any
    training, so that the demo shows where it starts.
    """

    def __init__(self, faces: Faces) -> None:
        self._faces = faces
        self._before: Any = None

    def task(self, name: str, step: str, **arguments: Any) -> Any:
        task = self._faces.component(step)(**arguments)
        self._faces.configure(step, task)
        if self._before is not None:
            task.after(self._before)
        self._before = task
        return task.set_display_name(name)

    def batch(self, number: int, policy: Any, reward: Any, rollouts: dict[str, Any]) -> Any:
        """Rollout and feedback of an iteration: the batch that its update trains on."""
        rolled = self.task(
            TaskNames.rollout(number),
            "rollout",
            policy=policy,
            iteration=number - 1,
            **rollouts,
        )
        judged = self.task(
            TaskNames.feedback(number),
            "feedback",
            trajectories=rolled.outputs["trajectories"],
            reward=reward,
        )
        return judged.outputs["batch"]
