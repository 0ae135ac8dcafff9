"""start_run: a new training run, and its policy before any update.

Under a name, or a step key, it is idempotent: the ledger keeps which run an execution was about to
make, and a retry makes that one, or finds it made. There is never a second run for one of them.
"""

from __future__ import annotations

import json
from typing import Self

from pydantic import Field, model_validator

import tuft_sdk
from tuft_components.errors import BadConfiguration
from tuft_components.policy_names import policy_name
from tuft_components.service import connect
from tuft_components.steps import Contract, Locations, NoInputs, Step, TimeoutS, WorkUri

_FIRST_OF_SESSION = ":train:0"


class StartRunParams(Contract):
    base_model: str = Field(default="", description="Empty: the first model that is served.")
    lora_rank: int = Field(default=8, ge=1, description="Rank of the adapter.")
    seed: int = Field(default=0, ge=0, description="Of the adapter's initial weights.")
    train_attn: bool = Field(default=True, description="Train the attention layers.")
    train_mlp: bool = Field(default=True, description="Train the MLP layers.")
    train_unembed: bool = Field(default=True, description="Train the output layer.")
    name: str = Field(
        default="",
        max_length=512,
        description="Of the training run, unique in your tenant: a pipeline that is submitted "
        "again with it goes on with that run. Empty: step_key says which run.",
    )
    step_key: str = Field(
        default="",
        max_length=512,
        description="What makes a retry the same step: the pipeline job's id, say. "
        "Empty, and no name: every execution makes a new run.",
    )
    work_uri: WorkUri = ""
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
    key = params.name or params.step_key
    with connect(params.timeout_s) as client:
        if not key:
            return _start(client, _new_run_id(client), params)
        state = client.ledger.begin_step(key)
        if isinstance(state, tuft_sdk.Fresh):
            plan = json.dumps(_new_run_id(client)).encode()
            client.ledger.record_plan(key, plan, first_seq_id=0)
            # Another execution may have recorded one meanwhile; then both make the same run.
            state = client.ledger.begin_step(key)
        if isinstance(state, tuft_sdk.Finished):
            outputs = StartRunOutputs.model_validate_json(state.result)
        else:
            assert isinstance(state, tuft_sdk.Resubmit), "its plan was recorded"
            made = _start(client, json.loads(state.plan), params)
            recorded = client.ledger.finish(key, made.model_dump_json())
            outputs = StartRunOutputs.model_validate_json(recorded)
        _check_same_kind(client, outputs.run_id, key, params)
        return outputs


def _check_same_kind(
    client: tuft_sdk.TuftClient, run_id: str, key: str, params: StartRunParams
) -> None:
    """A run that was made earlier is what is asked for now.

    Raises:
        BadConfiguration: it has another base model or rank, or is there no longer.
    """
    try:
        run = client.extension.request("GET", f"training_runs/{run_id}").json()
    except tuft_sdk.NotThere as error:
        raise BadConfiguration(
            f"start_run: {key!r} was the training run {run_id}, which is there no longer: "
            "give another name, or step_key"
        ) from error
    wanted: dict[str, object] = {"lora_rank": params.lora_rank}
    if params.base_model:
        wanted["base_model"] = params.base_model
    for what, value in wanted.items():
        if run[what] != value:
            raise BadConfiguration(
                f"start_run: {key!r} is the training run {run_id} with {what} {run[what]}, and "
                f"this one is to have {value}: give another name, or step_key, for a new run"
            )


def _new_run_id(client: tuft_sdk.TuftClient) -> str:
    """The id of a run that is not made yet: the first one of a session that is ours alone."""
    with tuft_sdk.translated():
        return f"{client.service.holder.get_session_id()}{_FIRST_OF_SESSION}"


def _start(client: tuft_sdk.TuftClient, run_id: str, params: StartRunParams) -> StartRunOutputs:
    """Make the run where it was not made yet, and its first policy."""
    if not client.run_exists(run_id):
        base_model = params.base_model
        if not base_model:
            models = client.models()
            if not models:
                raise BadConfiguration("the service serves no model; set base_model when it does")
            base_model = models[0]
        # Not through the SDK, whose client makes runs of its own session only. However often
        # this is sent, there is one run of that session and number.
        request = {
            "session_id": run_id.removesuffix(_FIRST_OF_SESSION),
            "model_seq_id": 0,
            "base_model": base_model,
            "lora_config": {
                "rank": params.lora_rank,
                "seed": params.seed,
                "train_attn": params.train_attn,
                "train_mlp": params.train_mlp,
                "train_unembed": params.train_unembed,
            },
            "type": "create_model",
        }
        client.extension.request("POST", "create_model", json=request)
    return _first_policy(client, run_id, params)


def _first_policy(
    client: tuft_sdk.TuftClient, run_id: str, params: StartRunParams
) -> StartRunOutputs:
    from tuft_sdk.plans import Plan, SaveForSampler

    name = policy_name(0)
    client.execute_once(
        run_id,
        "start_run",
        build=lambda _attached: Plan([SaveForSampler(name)]),
        conclude=lambda _plan, _results: "{}",
        timeout_s=params.timeout_s,
    )
    return StartRunOutputs(run_id=run_id, policy=tuft_sdk.sampler_path(run_id, name))


STEP = Step(
    name="start_run",
    summary="Start a training run on a base model and publish its policy before any update.",
    params=StartRunParams,
    inputs=NoInputs,
    outputs=StartRunOutputs,
    run=run,
)
