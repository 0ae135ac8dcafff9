"""promote: publish the adapter of a checkpoint or policy, if it passes a gate.

A version is immutable: published again with the same content it is done already, and with another
one it is refused. A gate that is not passed is no failure of the step.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

import tuft_sdk
from tuft_components.artifacts import write_bytes
from tuft_components.promote.adapters import CONFIG, WEIGHTS, Adapter, fetch_adapter
from tuft_components.promote.card import Card, refusal
from tuft_components.promote.gate import Bar, Gate, Verdict
from tuft_components.promote.merging import Base, publish_merged
from tuft_components.promote.publishing import SCHEMA, Publication, described
from tuft_components.service import connect
from tuft_components.steps import (
    Contract,
    JsonObject,
    Locations,
    Markdown,
    Metrics,
    Model,
    NoInputs,
    Step,
    TimeoutS,
    WorkUri,
)

CARD = "README.md"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class PromoteParams(Contract):
    policy: str = Field(min_length=1, description="tinker:// path of a policy or checkpoint.")
    target_uri: str = Field(min_length=1, description="Folder or s3://bucket/prefix of models.")
    model_name: str = Field(pattern=_NAME, description="Name of the model below target_uri.")
    version: str = Field(
        default="",
        pattern=f"{_NAME}|^$",
        description="Of the model. Empty: the policy's name and a digest of its weights.",
    )
    metric: float = Field(description="What the gate looks at: a mean reward, say.")
    metric_name: str = Field(default="mean_reward", min_length=1, description="What it is called.")
    gate: Gate = Field(
        default="threshold", description="The metric must pass: threshold, baseline, both or none."
    )
    threshold: float = Field(default=0.0, description="The metric must reach it.")
    baseline: float = Field(default=0.0, description="The metric must beat it.")
    min_gain: float = Field(default=0.0, ge=0, description="Beat the baseline by more than this.")
    higher_is_better: bool = Field(default=True, description="Whether a larger metric is better.")
    merge: bool = Field(default=False, description="Also publish the merged weights.")
    base_model_uri: str = Field(
        default="", description="For merge: folder or s3://bucket/prefix of the base model."
    )
    base_model_name: str = Field(
        default="", description="What others call the base model. Empty: as the service does."
    )
    card_metrics: JsonObject = Field(
        default={}, description="JSON object: further numbers for the card."
    )
    card_notes: str = Field(default="", description="Markdown for the card.")
    work_uri: WorkUri = ""
    timeout_s: TimeoutS = 600.0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        # A bar that is given and not looked at would let anything through.
        if self.threshold and self.gate not in ("threshold", "both"):
            raise ValueError(f"threshold is given, but gate is {self.gate}: set threshold or both")
        if (self.baseline or self.min_gain) and self.gate not in ("baseline", "both"):
            raise ValueError(f"baseline is given, but gate is {self.gate}: set baseline or both")
        if self.merge != bool(self.base_model_uri):
            raise ValueError("merge and base_model_uri go together")
        for name, value in self.card_metrics.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"card_metrics: {name} is not a number")  # noqa: TRY004  # pydantic's
        return self


class PromoteOutputs(Contract):
    promoted: bool = Field(description="Whether it passed the gate and is published.")
    uri: str = Field(description="Where it is published; empty where it was not promoted.")
    model: Model = Field(description="JSON: the manifest, or why it was not promoted.")
    card: Markdown = Field(description="The model card, or why it was not promoted.")
    metrics: Metrics = Field(description="promoted, the metric, and what it was held against.")


def run(params: PromoteParams, inputs: NoInputs, locations: Locations) -> PromoteOutputs:
    del inputs  # it reads none
    bar = Bar(
        params.gate, params.threshold, params.baseline, params.min_gain, params.higher_is_better
    )
    verdict = bar.verdict(params.metric_name, params.metric)
    if not verdict.promoted:
        return _refused(params, verdict, locations)
    with (
        connect(params.timeout_s) as client,
        tempfile.TemporaryDirectory(prefix="tuft-promote-") as temporary,
    ):
        folder = Path(temporary)
        found = client.checkpoint(params.policy)
        adapter = fetch_adapter(client, found, params.base_model_name, folder)
        uri, manifest = _publish(params, found, adapter, verdict)
        write_bytes(locations["model"], manifest)
        write_bytes(locations["card"], (folder / CARD).read_bytes())
    about = json.loads(manifest)
    metadata: dict[str, str | int | float] = {
        "schema": SCHEMA,
        "published_uri": uri,
        "model_name": params.model_name,
        "version": about["version"],
        "base_model": about["base_model"],
        "policy": params.policy,
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
    }
    size = float(sum(file["size"] for file in about["files"].values()))
    return PromoteOutputs(
        promoted=True,
        uri=uri,
        model=Model(uri=locations["model"], metadata=metadata),
        card=Markdown(uri=locations["card"]),
        metrics={**_metrics(params, promoted=True), "bytes": size},
    )


def _publish(
    params: PromoteParams, found: tuft_sdk.CheckpointInfo, adapter: Adapter, verdict: Verdict
) -> tuple[str, bytes]:
    """Publish what is not there yet. Returns where, and the manifest; the card is in the folder."""
    folder = adapter.folder
    digest = str(described(folder / WEIGHTS)["sha256"])
    # What begins with a dot is not listed, and so not found again.
    name = params.policy.rpartition("/")[2].lstrip(".")
    version = params.version or f"{name}-{digest[:12]}"
    uri = f"{params.target_uri.rstrip('/')}/{params.model_name}/{version}"
    base_model = params.base_model_name or found.base_model
    metrics = {params.metric_name: params.metric} if params.gate != "none" else {}
    card = Card(
        name=params.model_name,
        version=version,
        uri=uri,
        base_model=base_model,
        source=found.path,
        parent=found.parent or "",
        steps=found.step,
        lora=found.lora,
        verdict=verdict,
        metrics={**metrics, **params.card_metrics},
        notes=params.card_notes,
        merged=params.merge,
    )
    (folder / CARD).write_text(card.text())
    publication = Publication(uri, _about(params, found, version, base_model, verdict))
    files = {name: folder / name for name in (CONFIG, WEIGHTS, CARD)}
    manifest = publication.existing(files)
    if manifest is None:
        base = Base.find(params.base_model_uri) if params.merge else None
        for name, path in files.items():
            publication.add(name, path)
        if base is not None:
            publish_merged(base, adapter, publication)
        manifest = publication.finish()
    return uri, manifest


def _about(
    params: PromoteParams,
    found: tuft_sdk.CheckpointInfo,
    version: str,
    base_model: str,
    verdict: Verdict,
) -> dict[str, Any]:
    return {
        "model_name": params.model_name,
        "version": version,
        "base_model": base_model,
        "source": {
            "path": found.path,
            "parent": found.parent,
            "step": found.step,
            "step_key": found.step_key,
            "created_at": found.created_at,
            "lora": dict(found.lora),
        },
        "gate": verdict.why,
        "merged_from": params.base_model_uri or None,
    }


def _refused(params: PromoteParams, verdict: Verdict, locations: Locations) -> PromoteOutputs:
    """A success, which says that nothing was published, and why."""
    told = {"schema": SCHEMA, "promoted": False, "policy": params.policy, "why": verdict.why}
    write_bytes(locations["model"], json.dumps(told).encode())
    text = refusal(params.model_name, params.policy, verdict)
    write_bytes(locations["card"], text.encode())
    return PromoteOutputs(
        promoted=False,
        uri="",
        model=Model(uri=locations["model"], metadata={"schema": SCHEMA, "why": verdict.why}),
        card=Markdown(uri=locations["card"]),
        metrics=_metrics(params, promoted=False),
    )


def _metrics(params: PromoteParams, *, promoted: bool) -> Metrics:
    found = {"promoted": float(promoted)}
    if params.gate != "none" and math.isfinite(params.metric):
        found[params.metric_name] = params.metric
    if params.gate in ("threshold", "both"):
        found["threshold"] = params.threshold
    if params.gate in ("baseline", "both"):
        found["baseline"] = params.baseline
    return found


STEP = Step(
    name="promote",
    summary="Publish the adapter of a policy as a version of a model, if it passes a gate.",
    params=PromoteParams,
    inputs=NoInputs,
    outputs=PromoteOutputs,
    run=run,
)
