"""A user's own step, as docs/steps.md shows it."""

from __future__ import annotations

from pydantic import Field

from tuft_components.errors import BadData
from tuft_components.steps import Contract, Dataset, Locations, Metrics, Step
from tuft_components.trajectories import read_trajectories


class Params(Contract):
    longest: int = Field(default=100, ge=1, description="Tokens of an answer, at most.")


class Inputs(Contract):
    trajectories: Dataset = Field(description="Parquet of schema tuft.trajectories/3.")


class Outputs(Contract):
    too_long: int = Field(description="Answers that are longer.")
    metrics: Metrics = Field(description="Their share.")


def run(params: Params, inputs: Inputs, locations: Locations) -> Outputs:
    del locations  # its outputs are values
    answers = [
        len(transition.completion_tokens)
        for trajectory in read_trajectories(inputs.trajectories.uri)
        for transition in trajectory.transitions
    ]
    if not answers:
        raise BadData(f"{inputs.trajectories.uri} holds no answers")
    too_long = sum(length > params.longest for length in answers)
    return Outputs(too_long=too_long, metrics={"share_too_long": too_long / len(answers)})


STEP = Step(
    name="count_long",
    summary="How many answers are too long.",
    params=Params,
    inputs=Inputs,
    outputs=Outputs,
    run=run,
)
