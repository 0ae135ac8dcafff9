"""update: one optimizer step of a training run on a batch, exactly once.

The step is known by its step key within the run. Its first execution records what it submits.
Another execution returns the result if there is one, and does not touch the run; else it becomes
the run's writer, and submits what was recorded again under the same seq_ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

import tuft_sdk
from tuft_components.batches import BatchRow, read_batch
from tuft_components.policy_names import policy_name
from tuft_components.rl.datums import assemble
from tuft_components.service import connect
from tuft_components.steps import (
    Contract,
    Dataset,
    JsonObject,
    Locations,
    Metrics,
    Step,
    TimeoutS,
    WorkUri,
)
from tuft_components.update.assembly import (
    datum_of,
    episode_rewards,
    episodes_of,
    mean_reward,
    rows_with_signal,
)

if TYPE_CHECKING:
    from tuft_sdk.plans import Operation, Plan


class UpdateParams(Contract):
    run_id: str = Field(min_length=1, description="The training run.")
    learning_rate: float = Field(default=1e-4, ge=0, description="Of Adam.")
    loss_fn: Literal["importance_sampling", "ppo", "cispo", "dro"] = Field(
        default="importance_sampling", description="importance_sampling, ppo, cispo or dro."
    )
    loss_config: JsonObject = Field(default={}, description="JSON object: the loss's settings.")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="Of Adam.")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="Of Adam.")
    eps: float = Field(default=1e-12, gt=0, description="Of Adam.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled, as in AdamW.")
    grad_clip_norm: float = Field(default=0.0, ge=0, description="Global norm; 0: no clipping.")
    iteration: int = Field(default=0, ge=0, description="Number of updates so far.")
    policy_name: str = Field(
        default="", description="Name of the new policy. Empty: policy-NNNNNN, iteration + 1."
    )
    policy_ttl_seconds: int = Field(
        default=0, ge=0, description="Lifetime of the new policy; 0: for ever."
    )
    checkpoint_name: str = Field(
        default="", description="Also save weights and optimizer under this name. Empty: no."
    )
    step_key: str = Field(
        default="", description="What makes a retry the same step. Empty: update/ITERATION."
    )
    work_uri: WorkUri = ""
    timeout_s: TimeoutS = 3600.0


class UpdateInputs(Contract):
    batch: Dataset = Field(description="Parquet of schema tuft.batch/1.")


class UpdateOutputs(Contract):
    policy: str = Field(description="tinker:// path of the policy after the update.")
    checkpoint: str = Field(description="tinker:// path of the checkpoint, where one was asked.")
    metrics: Metrics = Field(description="Loss, gradient norm and what was trained on.")


def run(params: UpdateParams, inputs: UpdateInputs, locations: Locations) -> UpdateOutputs:
    del locations  # its outputs are values
    rows = read_batch(inputs.batch.uri)
    with connect(params.timeout_s) as client:
        result = client.execute_once(
            params.run_id,
            params.step_key or f"update/{params.iteration}",
            build=lambda attached: _plan(params, rows, attached),
            conclude=lambda plan, results: _outputs(params, plan, results).model_dump_json(),
            timeout_s=params.timeout_s,
        )
    return UpdateOutputs.model_validate_json(result)


def _plan(params: UpdateParams, rows: list[BatchRow], attached: tuft_sdk.AttachedRun) -> Plan:
    from tinker import types

    from tuft_sdk.plans import ForwardBackward, OptimStep, Plan, SaveForSampler, SaveState

    kept, dropped = rows_with_signal(rows)
    data = [assemble(turns) for turns in episodes_of(kept)]
    operations: list[Operation] = []
    if kept:
        operations += [
            ForwardBackward(chunk, params.loss_fn, params.loss_config)
            for chunk in attached.chunks([datum_of(arrays) for arrays in data])
        ]
        operations.append(
            OptimStep(
                types.AdamParams(
                    learning_rate=params.learning_rate,
                    beta1=params.beta1,
                    beta2=params.beta2,
                    eps=params.eps,
                    weight_decay=params.weight_decay,
                    grad_clip_norm=params.grad_clip_norm,
                )
            )
        )
    name = params.policy_name or policy_name(params.iteration + 1)
    operations.append(SaveForSampler(name, params.policy_ttl_seconds or None))
    if params.checkpoint_name:
        operations.append(SaveState(params.checkpoint_name))
    notes = {
        "policy": name,
        "sampled": [arrays.sampled for arrays in data],
        "metrics": {
            "episodes": float(len(episode_rewards(rows))),
            "mean_reward": mean_reward(rows),
            "rows": float(len(data)),
            "tokens": float(sum(len(arrays.target_tokens) + 1 for arrays in data)),
            "groups_dropped": float(dropped),
            "optimizer_steps": 1.0 if kept else 0.0,
            "staleness": float(params.iteration - min(row.policy_version for row in rows)),
        },
    }
    return Plan(operations, notes)


def _outputs(params: UpdateParams, plan: Plan, results: list[Any]) -> UpdateOutputs:
    from tuft_sdk.plans import ForwardBackward, OptimStep, SaveState

    metrics: Metrics = dict(plan.notes["metrics"])
    old: list[float] = []
    new: list[float] = []
    sampled = iter(plan.notes["sampled"])
    for operation, result in zip(plan.operations, results, strict=True):
        if result is None:  # executed, but its result has expired: no metrics of this step
            continue
        if isinstance(operation, ForwardBackward):
            for name, value in result.metrics.items():
                if name.endswith(":sum"):
                    metrics[name] = metrics.get(name, 0.0) + float(value)
            for datum, output in zip(operation.data, result.loss_fn_outputs, strict=True):
                for begin, end in next(sampled):
                    old += datum.loss_fn_inputs["logprobs"].data[begin:end]
                    new += output["logprobs"].data[begin:end]
        elif isinstance(operation, OptimStep):
            metrics |= {name: float(value) for name, value in (result.metrics or {}).items()}
    if old:
        # How far the policy that was sampled from is from the one that was trained, by the
        # estimator k1 of http://joschu.net/blog/kl-approx.html; near 0 when on-policy.
        metrics["kl_sample_train"] = float(np.mean(np.asarray(old) - np.asarray(new)))
    # What was recorded is what was saved, even if a retry has other parameters.
    saved = [each.name for each in plan.operations if isinstance(each, SaveState)]
    return UpdateOutputs(
        policy=tuft_sdk.sampler_path(params.run_id, plan.notes["policy"]),
        checkpoint=tuft_sdk.checkpoint_path(params.run_id, saved[0]) if saved else "",
        metrics=metrics,
    )


STEP = Step(
    name="update",
    summary="One optimizer step of a training run on a batch, exactly once.",
    params=UpdateParams,
    inputs=UpdateInputs,
    outputs=UpdateOutputs,
    run=run,
)
