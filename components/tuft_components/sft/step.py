"""sft: supervised fine-tuning of a training run on a dataset, each optimizer step exactly once.

The loss is that of the tokens which the model shall learn to sample, and of no other. A run that
is killed and executed again goes on where it was, and ends with the same weights.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

import tuft_sdk
from tuft_components.errors import BadConfiguration, BadData
from tuft_components.service import connect
from tuft_components.sft.data import Count, OnRow, Rules, load
from tuft_components.sft.encoding import Encoder
from tuft_components.sft.examples import Batches, Examples, held_out
from tuft_components.sft.schedule import Schedule, learning_rate
from tuft_components.sft.training import (
    Reduction,
    StepDone,
    Writer,
    batch_reader,
    begin,
    measure,
    train_step,
)
from tuft_components.steps import (
    Contract,
    JsonObject,
    Locations,
    Metrics,
    NoInputs,
    Step,
    TimeoutS,
    WorkUri,
)

if TYPE_CHECKING:
    from tinker import types

_MAX_STEPS = 8000
"""The service's ledger keeps 10,000 steps of a run, and forgets the oldest."""

CheckpointName = r"^([A-Za-z0-9._:=+@,-]{1,200})?$"


class SftParams(Contract):
    run_id: str = Field(min_length=1, description="The training run.")
    dataset_uri: str = Field(min_length=1, description="JSON lines or Parquet to train on.")
    eval_uri: str = Field(default="", description="Dataset to measure the loss on. Empty: none.")
    eval_rows: int = Field(
        default=0, ge=0, description="Or: so many rows of the dataset, not trained on."
    )
    eval_every: int = Field(
        default=0, ge=0, description="Measure every so many steps; 0: before and after."
    )
    epochs: int = Field(default=1, ge=1, description="How often each row is trained on.")
    batch_size: int = Field(default=16, ge=1, description="Rows of an optimizer step.")
    max_steps: int = Field(default=0, ge=0, description="Optimizer steps at most; 0: all epochs.")
    max_rows: int = Field(default=0, ge=0, description="Read so many rows only; 0: all.")
    max_length: int = Field(
        default=0, ge=0, description="Tokens of a row at most; 0: the model's context."
    )
    too_long: OnRow = Field(default="refuse", description="Longer rows: refuse or drop.")
    bad_rows: OnRow = Field(default="refuse", description="Rows that are no example: likewise.")
    turns: Literal["all", "last"] = Field(
        default="all", description="Which answers of a conversation are trained on: all or last."
    )
    append_eos: bool = Field(
        default=True, description="End completions and texts with the end-of-text token."
    )
    template_args: JsonObject = Field(
        default={}, description="JSON object: variables of the chat template."
    )
    reduction: Reduction = Field(
        default="mean", description="Loss of a batch: mean over its trained tokens, or their sum."
    )
    learning_rate: float = Field(default=1e-4, ge=0, description="Of Adam, at its peak.")
    schedule: Schedule = Field(default="linear", description="linear, constant or cosine.")
    warmup_steps: int = Field(default=0, ge=0, description="Steps until the peak.")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="Of Adam.")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="Of Adam.")
    eps: float = Field(default=1e-12, gt=0, description="Of Adam.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled, as in AdamW.")
    grad_clip_norm: float = Field(default=0.0, ge=0, description="Global norm; 0: no clipping.")
    seed: int = Field(default=0, ge=0, description="Of the order, and of which rows are held out.")
    policy_name: str = Field(
        default="", pattern=CheckpointName, description="Of the policy. Empty: the step_key."
    )
    policy_ttl_seconds: int = Field(
        default=0, ge=0, description="Lifetime of the policy; 0: for ever."
    )
    checkpoint_name: str = Field(
        default="", pattern=CheckpointName, description="Of the checkpoint. Empty: the step_key."
    )
    step_key: str = Field(
        default="sft",
        pattern=r"^[A-Za-z0-9._:=+@,/-]{1,100}$",
        description="What makes a retry the same fine-tuning; another one of the run needs its "
        "own.",
    )
    work_uri: WorkUri = ""
    timeout_s: TimeoutS = 3600.0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.eval_uri and self.eval_rows:
            raise ValueError("eval_uri and eval_rows are two ways to say what to measure on")
        if self.eval_every and not (self.eval_uri or self.eval_rows):
            raise ValueError("eval_every needs eval_uri or eval_rows")
        return self

    @property
    def names(self) -> tuple[str, str]:
        """Of the policy and of the checkpoint."""
        own = self.step_key.replace("/", "-")
        return self.policy_name or own, self.checkpoint_name or own


class SftOutputs(Contract):
    policy: str = Field(description="tinker:// path of the policy after the last step.")
    checkpoint: str = Field(description="tinker:// path of the checkpoint: weights and optimizer.")
    metrics: Metrics = Field(description="Losses per token, and what was trained on.")


@dataclass(frozen=True)
class _Data:
    """`measured` has the rows `eval_rows` to measure on; what is trained on is in `batches`."""

    examples: Examples
    count: Count
    batches: Batches
    measured: Examples
    eval_rows: Sequence[int]
    steps: int


def run(params: SftParams, inputs: NoInputs, locations: Locations) -> SftOutputs:
    del inputs, locations  # it reads none, and its outputs are values
    with (
        connect(params.timeout_s, tokenizers=True) as client,
        tempfile.TemporaryDirectory(prefix="tuft-sft-") as folder,
        ExitStack() as stack,
    ):
        base_model = client.base_model_of(params.run_id)
        data = _read(client, params, base_model, Path(folder), stack)
        with Writer(client, params.run_id, params.timeout_s) as writer:
            what = _what(params, data)
            begin(writer, params.step_key, what, check=lambda: _check_names(client, params))
            steps, losses = _train(writer, params, data)
        return _save(client, params, data, steps, losses)


def _read(
    client: tuft_sdk.TuftClient, params: SftParams, base_model: str, folder: Path, stack: ExitStack
) -> _Data:
    context = client.context_length(base_model)
    if params.max_length > context:
        raise BadConfiguration(
            f"max_length is {params.max_length}; {base_model} is served with {context} tokens"
        )
    encoder = Encoder(
        client.tokenizer(base_model),
        turns=params.turns,
        append_eos=params.append_eos,
        template_args=params.template_args,
    )
    rules = Rules(params.max_length or context, params.bad_rows, params.too_long, params.max_rows)
    examples, count = load(params.dataset_uri, encoder, rules, folder / "train")
    stack.enter_context(examples)
    if params.eval_rows >= len(examples):
        raise BadData(
            f"{params.dataset_uri} has {len(examples)} rows to train on: eval_rows "
            f"{params.eval_rows} leaves none"
        )
    trained, eval_rows = held_out(len(examples), params.eval_rows, params.seed)
    measured = examples
    if params.eval_uri:
        measured, _ = load(params.eval_uri, encoder, rules, folder / "eval")
        stack.enter_context(measured)
        eval_rows = range(len(measured))
    batches = Batches(trained, params.batch_size, params.seed)
    steps = params.epochs * batches.per_epoch
    steps = min(steps, params.max_steps) if params.max_steps else steps
    if steps > _MAX_STEPS:
        raise BadConfiguration(
            f"{len(trained)} rows in batches of {params.batch_size} are {steps} steps; at most "
            f"{_MAX_STEPS} can be told apart in a run. Raise batch_size, or set max_steps"
        )
    return _Data(examples, count, batches, measured, eval_rows, steps)


def _what(params: SftParams, data: _Data) -> dict[str, Any]:
    """All that the weights depend on, and what results are called."""
    given = params.model_dump(
        include={
            *("batch_size", "reduction", "learning_rate", "schedule", "warmup_steps", "seed"),
            *("beta1", "beta2", "eps", "weight_decay", "grad_clip_norm", "eval_rows"),
            *("eval_every",),
        }
    )
    policy, checkpoint = params.names
    return {
        **given,
        "dataset": data.examples.digest,
        "eval_dataset": data.measured.digest if params.eval_uri else "",
        "steps": data.steps,
        "policy_name": policy,
        "checkpoint_name": checkpoint,
    }


def _check_names(client: tuft_sdk.TuftClient, params: SftParams) -> None:
    """Before the training, not after it. Raises BadConfiguration: a name is taken."""
    policy, checkpoint = params.names
    for path in (
        tuft_sdk.sampler_path(params.run_id, policy),
        tuft_sdk.checkpoint_path(params.run_id, checkpoint),
    ):
        try:
            client.checkpoint(path)
        except tuft_sdk.NotThere:
            continue
        raise BadConfiguration(
            f"{path} exists already: give policy_name and checkpoint_name, or another step_key"
        )


def _train(
    writer: Writer, params: SftParams, data: _Data
) -> tuple[list[StepDone], dict[int, float | None]]:
    """All steps, and the measured losses by the number of steps before."""
    done: list[StepDone] = []
    losses: dict[int, float | None] = {}
    for step in range(data.steps + 1):
        last = step == data.steps
        due = step == 0 or last or (params.eval_every and step % params.eval_every == 0)
        if due and len(data.eval_rows):
            key = f"{params.step_key}/eval/{step}"
            losses[step] = measure(writer, key, data.measured, data.eval_rows)
        if not last:
            rows = batch_reader(data.examples, data.batches, step)
            adam = _adam(params, step, data.steps)
            key = f"{params.step_key}/{step}"
            done.append(train_step(writer, key, rows, adam, params.reduction))
    return done, losses


def _adam(params: SftParams, step: int, steps: int) -> types.AdamParams:
    from tinker import types

    return types.AdamParams(
        learning_rate=learning_rate(
            step,
            peak=params.learning_rate,
            total=steps,
            warmup=params.warmup_steps,
            schedule=params.schedule,
        ),
        beta1=params.beta1,
        beta2=params.beta2,
        eps=params.eps,
        weight_decay=params.weight_decay,
        grad_clip_norm=params.grad_clip_norm,
    )


def _save(
    client: tuft_sdk.TuftClient,
    params: SftParams,
    data: _Data,
    steps: list[StepDone],
    losses: dict[int, float | None],
) -> SftOutputs:
    from tuft_sdk.plans import Plan, SaveForSampler, SaveState

    policy, checkpoint = params.names
    saves = Plan([SaveState(checkpoint), SaveForSampler(policy, params.policy_ttl_seconds or None)])
    # An attachment of its own, whose checkpoints carry this step's key.
    client.execute_once(
        params.run_id,
        f"{params.step_key}/final",
        build=lambda _attached: saves,
        conclude=lambda _plan, _results: json.dumps({"policy": policy, "checkpoint": checkpoint}),
        timeout_s=params.timeout_s,
    )
    return SftOutputs(
        policy=tuft_sdk.sampler_path(params.run_id, policy),
        checkpoint=tuft_sdk.checkpoint_path(params.run_id, checkpoint),
        metrics=_metrics(data, steps, losses),
    )


def _metrics(data: _Data, steps: list[StepDone], losses: dict[int, float | None]) -> Metrics:
    count = data.count
    metrics: Metrics = {
        "steps": float(len(steps)),
        "rows": float(count.rows),
        "rows_bad": float(count.bad),
        "rows_too_long": float(count.too_long),
        "rows_held_out": float(len(data.eval_rows)) if data.measured is data.examples else 0.0,
        "dataset_tokens": float(count.tokens),
        "tokens_trained": float(sum(step.tokens for step in steps)),
    }
    known = [step.loss for step in steps if step.loss is not None]
    if known:
        metrics |= {
            "first_loss": known[0],
            "loss": known[-1],
            "mean_loss_last_tenth": float(np.mean(known[-max(1, len(known) // 10) :])),
        }
    measured = {number: loss for number, loss in losses.items() if loss is not None}
    metrics |= {f"eval_loss_{number}": loss for number, loss in measured.items()}
    if data.steps in measured:
        metrics["eval_loss"] = measured[data.steps]
    return metrics


STEP = Step(
    name="sft",
    summary="Supervised fine-tuning of a training run on a dataset, each step exactly once.",
    params=SftParams,
    inputs=NoInputs,
    outputs=SftOutputs,
    run=run,
)
