"""report: the reward curve and sample transcripts of a pipeline run, as one HTML page.

It reads what the other steps left below `work_uri`, and may be made at any time: while the pipeline
is still at work it shows what is there.
"""

from __future__ import annotations

from pydantic import Field

from tuft_components.artifacts import write_bytes
from tuft_components.errors import BadData
from tuft_components.report.history import History
from tuft_components.report.page import render_page
from tuft_components.report.records import history_of, times_of
from tuft_components.report.transcripts import transcripts_of
from tuft_components.steps import Contract, Html, Locations, Metrics, NoInputs, Step
from tuft_components.work import Work

SCHEMA = "tuft.report/1"
_TITLE = "Training run"


class ReportParams(Contract):
    work_uri: str = Field(
        min_length=1,
        description="Folder or s3://bucket/prefix of the pipeline run, as its steps were given it.",
    )
    title: str = Field(default="", description=f"Of the page. Empty: {_TITLE}.")
    samples: int = Field(
        default=2,
        ge=0,
        le=50,
        description="Groups to show transcripts of, for each of up to four iterations: their best "
        "and their worst episode.",
    )
    longest_text: int = Field(
        default=4000, ge=100, description="Letters of a text before its middle is left out."
    )


class ReportOutputs(Contract):
    html: Html = Field(description="A page that needs no network and runs no scripts.")
    metrics: Metrics = Field(description="Iterations, first, best and last rewards, seconds.")


def run(params: ReportParams, inputs: NoInputs, locations: Locations) -> ReportOutputs:
    del inputs
    records = Work(params.work_uri).records()
    # Its own record of an earlier try is nothing to report.
    records = [record for record in records if record.step != "report"]
    if not records:
        raise BadData(
            f"{params.work_uri} holds no records of steps: give the pipeline's steps this same "
            "work_uri, and make the report after them"
        )
    title = params.title or _TITLE
    history = history_of(title, records)
    page = render_page(
        history,
        transcripts_of(records, params.work_uri, params.samples) if params.samples else [],
        times_of(records),
        longest_text=params.longest_text,
    )
    write_bytes(locations["html"], page.encode())
    # Executions overlap, and a train_loop's time is that of its steps: from begin to end then.
    begun = min(record.finished_at - record.seconds for record in records)
    elapsed = max(record.finished_at for record in records) - begun
    return ReportOutputs(
        html=Html(uri=locations["html"], metadata={"schema": SCHEMA, "title": title}),
        metrics={**_summary(history), "elapsed_seconds": round(elapsed, 3)},
    )


def _summary(history: History) -> Metrics:
    summary = {"iterations": float(len(history.iterations))}
    rewards = [iteration.reward for iteration in history.iterations]
    if rewards:
        summary |= {"first_reward": rewards[0], "last_reward": rewards[-1]}
        summary["best_reward"] = max(rewards)
    if history.evaluations:
        summary["first_evaluation"] = history.before.reward
        summary["last_evaluation"] = history.after.reward
    return summary


STEP = Step(
    name="report",
    summary="The reward curve and sample transcripts of a pipeline run, as one HTML page.",
    params=ReportParams,
    inputs=NoInputs,
    outputs=ReportOutputs,
    run=run,
)
