"""The ready pipelines, by name. Nothing is imported before one is asked for."""

from __future__ import annotations

from importlib import import_module

from tuft_pipelines.errors import WrongArgument
from tuft_pipelines.ready import ReadyPipeline

_MODULES = {
    "grpo": "segments",
    "grpo_judge": "judged",
    "grpo_split": "split_steps",
    "grpo_split_judge": "judged",
    "sft_then_rl": "fine_tuning",
    "evaluate_and_promote": "promotion",
    "rescore_and_update": "rescoring",
}
"""Name → module of this package with the pipelines NAME and NAME_MINIMAL."""

NAMES = tuple(sorted(name + end for name in _MODULES for end in ("", "_minimal")))


def ready_pipeline(name: str) -> ReadyPipeline:
    """The pipeline of that name.

    Raises:
        WrongArgument: there is none.
    """
    module = _MODULES.get(name.removesuffix("_minimal"))
    if module is None:
        raise WrongArgument(f"no pipeline {name!r}; there are: {', '.join(NAMES)}")
    pipeline: ReadyPipeline = getattr(import_module(f"tuft_pipelines.{module}"), name.upper())
    return pipeline
