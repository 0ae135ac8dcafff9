"""SFT, then RL: a training run learns from examples first, and then from rewards."""

from __future__ import annotations

from tuft_pipelines import segments
from tuft_pipelines.frame import EVALUATION, begin_run, end
from tuft_pipelines.parameters import gathered
from tuft_pipelines.ready import Builder, ReadyPipeline

_STEPS = ("start_run", "train_loop", "evaluate", "sft", "report", "preflight")
_OF_SFT = (
    *("eval_uri", "eval_rows", "eval_every", "epochs", "batch_size", "max_steps", "max_rows"),
    *("max_length", "too_long", "bad_rows", "turns", "append_eos", "template_args", "reduction"),
    *("learning_rate", "schedule", "warmup_steps"),
)
_RENAMED = {**EVALUATION, **{("sft", name): f"sft_{name}" for name in _OF_SFT}}


def compose(build: Builder, choices: segments.SegmentChoices) -> None:
    start = begin_run(build)
    tuned = build.task("sft", "fine-tune", run_id=start.outputs["run_id"])
    segments.train(build, choices.segments, start.outputs["run_id"], tuned.outputs["policy"])
    end(build)


SFT_THEN_RL = ReadyPipeline(
    name="sft_then_rl",
    summary="Supervised fine-tuning on examples, and reinforcement learning after it.",
    parameters=gathered(segments.SegmentedRun, _STEPS, _RENAMED),
    compose=compose,
    choices=segments.SegmentChoices,
    renamed=_RENAMED,
)
SFT_THEN_RL_MINIMAL = SFT_THEN_RL.minimal(
    *segments.MINIMAL, "dataset_uri", "sft_epochs", "sft_learning_rate"
)
