"""preflight: everything that would stop a pipeline later, said at once and before it begins.

It changes nothing, but for one object that it writes below `work_uri` and deletes.
"""

from __future__ import annotations

from pydantic import Field

from tuft_components.artifacts import write_bytes
from tuft_components.preflight.findings import Finding, markdown, raise_what_is_wrong
from tuft_components.preflight.own_checks import (
    environment_finding,
    reward_finding,
    reward_needs_finding,
    work_finding,
)
from tuft_components.preflight.service_checks import service_findings
from tuft_components.steps import (
    Contract,
    JsonObject,
    Locations,
    Markdown,
    NoInputs,
    Step,
    WorkUri,
)

SCHEMA = "tuft.preflight/1"


class PreflightParams(Contract):
    base_model: str = Field(default="", description="Empty: the first model that is served.")
    policy: str = Field(
        default="", description="A tinker:// path that must be there. Empty: not checked."
    )
    env: str = Field(default="", description="Environment to check. Empty: none.")
    env_args: JsonObject = Field(default={}, description="JSON object for the environment.")
    split: str = Field(default="train", description="Which of the environment's tasks.")
    reward: str = Field(default="", description="Reward to check. Empty: none.")
    reward_args: JsonObject = Field(default={}, description="JSON object for the reward.")
    work_uri: WorkUri = ""
    wait_s: float = Field(
        default=30.0, gt=0, description="How long the service is waited for while it starts."
    )


class PreflightOutputs(Contract):
    report: Markdown = Field(description="What was checked and seen, and what to do.")


def run(params: PreflightParams, inputs: NoInputs, locations: Locations) -> PreflightOutputs:
    del inputs
    findings: list[Finding] = [
        # Before the service, so that an environment that imports torch finds it (see `processes`).
        environment_finding(params.env, params.env_args, params.split),
        reward_finding(params.reward, params.reward_args),
        *service_findings(params.base_model, params.policy, params.wait_s),
        work_finding(params.work_uri),
    ]
    if not any(finding.state in ("wrong", "away") for finding in findings):
        needs = reward_needs_finding(params.reward, params.reward_args)
        findings += [needs] if needs else []
    # Also where the step fails: whoever looks into the output finds it whole.
    write_bytes(locations["report"], markdown(findings).encode())
    raise_what_is_wrong(findings)
    report = Markdown(uri=locations["report"], metadata={"schema": SCHEMA, "checks": len(findings)})
    return PreflightOutputs(report=report)


STEP = Step(
    name="preflight",
    summary="Say at once what would stop a pipeline later: service, models, storage, environment.",
    params=PreflightParams,
    inputs=NoInputs,
    outputs=PreflightOutputs,
    run=run,
)
