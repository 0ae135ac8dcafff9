"""start_run: a new training run, and its policy before any update.

Under a step key it is idempotent: the ledger keeps which run an execution was about to make, so
that a retry goes on with that run instead of making a second one.
"""

from __future__ import annotations

import json
from typing import Self

from pydantic import Field, model_validator

import tuft_sdk
from tuft_components.errors import BadConfiguration
from tuft_components.policy_names import policy_name
from tuft_components.service import connect
from tuft_components.steps import Contract, Locations, NoInputs, Step, TimeoutS


class StartRunParams(Contract):
    base_model: str = Field(default="", description="Empty: the first model that is served.")
    lora_rank: int = Field(default=8, ge=1, description="Rank of the adapter.")
    seed: int = Field(default=0, ge=0, description="Of the adapter's initial weights.")
    train_attn: bool = Field(default=True, description="Train the attention layers.")
    train_mlp: bool = Field(default=True, description="Train the MLP layers.")
    train_unembed: bool = Field(default=True, description="Train the output layer.")
    step_key: str = Field(
        default="",
        description="What makes a retry the same step: the pipeline job's id, say. "
        "Empty: every execution makes a new run.",
    )
    timeout_s: TimeoutS = 600.0

    @model_validator(mode="after")
    def _trains_something(self) -> Self:
        if not (self.train_attn or self.train_mlp or self.train_unembed):
            raise ValueError("one of train_attn, train_mlp and train_unembed must be true")
        return self


class StartRunOutputs(Contract):
    run_id: str = Field(description="The training run.")
    policy: str = Field(description="tinker:// path of the policy before any update.")


def run(params: StartRunParams, inputs: NoInputs, locations: Locations) -> StartRunOutputs:
    del inputs, locations  # it reads none, and its outputs are values
    with connect(params.timeout_s) as client:
        if not params.step_key:
            return _first_policy(client, _create(client, params), params)
        state = client.ledger.begin_step(params.step_key)
        match state:
            case tuft_sdk.Finished():
                return StartRunOutputs.model_validate_json(state.result)
            case tuft_sdk.Resubmit() if client.run_exists(run_id := json.loads(state.plan)):
                outputs = _first_policy(client, run_id, params)
            case _:
                outputs = _first_policy(client, _create(client, params), params)
        recorded = client.ledger.finish(params.step_key, outputs.model_dump_json())
        return StartRunOutputs.model_validate_json(recorded)


def _create(client: tuft_sdk.TuftClient, params: StartRunParams) -> str:
    """Make a run, after the ledger knows its id; returns the id.

    Where another execution's plan is in the ledger already (which died before it made its run,
    or is at work now), that one stays; whoever finishes first has made the step's run.
    """
    base_model = params.base_model
    if not base_model:
        models = client.models()
        if not models:
            raise BadConfiguration("the service serves no model; set base_model when it does")
        base_model = models[0]
    with tuft_sdk.translated():
        # The SDK numbers the runs of a session from 0; this session is ours alone.
        run_id = f"{client.service.holder.get_session_id()}:train:0"
        if params.step_key:
            client.ledger.record_plan(params.step_key, json.dumps(run_id).encode(), first_seq_id=0)
        training = client.service.create_lora_training_client(
            base_model=base_model,
            rank=params.lora_rank,
            seed=params.seed,
            train_attn=params.train_attn,
            train_mlp=params.train_mlp,
            train_unembed=params.train_unembed,
        ).result(timeout=params.timeout_s)
    return str(training.model_id)


def _first_policy(
    client: tuft_sdk.TuftClient, run_id: str, params: StartRunParams
) -> StartRunOutputs:
    from tuft_sdk.plans import Plan, SaveForSampler

    attached = client.attach(run_id)
    try:
        name = policy_name(0)
        attached.execute_once(
            "start_run",
            build=lambda: Plan([SaveForSampler(name)]),
            conclude=lambda _plan, _results: "{}",
            timeout_s=params.timeout_s,
        )
    finally:
        attached.close()
    return StartRunOutputs(run_id=run_id, policy=tuft_sdk.sampler_path(run_id, name))


STEP = Step(
    name="start_run",
    summary="Start a training run on a base model and publish its policy before any update.",
    params=StartRunParams,
    inputs=NoInputs,
    outputs=StartRunOutputs,
    run=run,
)
