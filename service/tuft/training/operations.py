"""What each journalled operation does to its run. Publishing the outcome is the caller's."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Literal, cast

from tuft.checkpoints import Checkpoints
from tuft.config import ServiceConfig
from tuft.contracts.operations import (
    ClearGradients,
    CreateFromCheckpoint,
    CreateModel,
    ForwardBackward,
    LoadWeights,
    Operation,
    OptimStep,
    SaveWeights,
    SaveWeightsForSampler,
)
from tuft.contracts.records import (
    CheckpointKind,
    CheckpointManifest,
    CheckpointRecord,
    CheckpointSettings,
    SamplerRecord,
)
from tuft.contracts.wire import (
    ForwardBackwardRequest,
    ForwardBackwardResult,
    decode_forward_backward,
    encode_forward_backward_output,
)
from tuft.errors import InvalidRequest, NotFound
from tuft.objects import ObjectStore
from tuft.store import Effect, Lease, Store
from tuft.training import commands
from tuft.training.computing import Answers, Rows
from tuft.training.group import RankGroup
from tuft.training.policies import PolicyWriter
from tuft.training.replica import OPTIMIZER_FILE
from tuft.training.runs import RunState
from tuft.training.scheduler import Piece
from tuft.training.waiting import until_available


@dataclass(frozen=True)
class Done:
    """Body of a successful operation, and what is written together with its completion."""

    body: bytes
    content: Literal["json", "proto"] = "json"
    effects: list[Effect] = field(default_factory=list)


Doing = Generator[Piece, Answers | None, Done]
"""An operation in pieces, as `tuft.training.scheduler.Task`."""


class Operations:
    """Does operations on the ranks and on the object store."""

    def __init__(
        self,
        group: RankGroup,
        store: Store,
        objects: ObjectStore,
        config: ServiceConfig,
        lease: Lease,
    ) -> None:
        self._group = group
        self._lease = lease
        self._store = store
        self._objects = objects
        self._checkpoints = Checkpoints(objects)
        self._policies = PolicyWriter(store, objects, config)
        self.alone: set[str] = set()
        """Runs whose rows are not computed together with those of others."""

    def do(self, state: RunState, op: Operation, payload: bytes | None = None) -> Doing:
        """Do an operation, piece by piece; the journal is not touched.

        `payload`: its inline payload, where that is at hand.

        Raises:
            TuftError: it failed for a reason that the user should read. Weights and optimizer
                are as before.
            RankFailure: it failed unforeseen; the run must be rebuilt if it changed the state.
            InDoubt: it was computed together with other runs, and which of them failed is
                unknown; the run must be rebuilt, and the operation done again, `alone`.
        """
        body = op.body
        if state.broken is not None and not isinstance(body, CreateModel | CreateFromCheckpoint):
            raise InvalidRequest(state.broken)
        match body:
            case CreateModel():
                return self._create(state, body)
            case ForwardBackward():
                return (yield from self._forward_backward(state, op, body, payload))
            case OptimStep():
                return self._optim_step(state, op, body)
            case ClearGradients():
                return self._clear_gradients(state)
            case SaveWeights():
                return (yield from self._save_weights(state, op, body))
            case SaveWeightsForSampler():
                return (yield from self._save_for_sampler(state, op, body))
            case CreateFromCheckpoint() | LoadWeights():
                return (yield from self._load(state, body))

    def export(self, state: RunState, *, optimizer: bool) -> dict[str, bytes]:
        """The files of the run's adapter, and its optimizer's where asked."""
        return cast(
            "dict[str, bytes]", self._group.call(commands.Export(state.run_id, optimizer))[0]
        )

    def clear_gradients(self, state: RunState) -> None:
        """Forget what the run accumulated."""
        self._group.call(commands.ClearGradients(state.run_id))

    def _create(self, state: RunState, body: CreateModel) -> Done:
        self._group.call(commands.Create(state.run_id, body.lora))
        self._group.call(commands.Start(state.run_id, None))
        return _json(model_id=state.run_id, type="create_model")

    def _forward_backward(
        self, state: RunState, op: Operation, body: ForwardBackward, payload: bytes | None
    ) -> Doing:
        request = yield from self._request(op, payload)
        if not body.forward_only:
            state.accumulated = True
        rows = Rows(
            run_id=state.run_id,
            tenant=state.record.tenant,
            rows=request.rows,
            loss_fn=request.loss_fn,
            loss_config=request.loss_config,
            backward=not body.forward_only,
            alone=state.run_id in self.alone,
        )
        answers = (yield rows) if request.rows else []
        assert answers is not None
        results = _finite(answers, body)
        if not body.forward_only:
            state.tokens += request.num_tokens
        return Done(
            encode_forward_backward_output(
                ForwardBackwardResult(
                    logprobs=[result.logprobs for result in results],
                    metrics={"loss:sum": math.fsum(result.loss for result in results)},
                )
            ),
            "proto",
        )

    def _request(
        self, op: Operation, payload: bytes | None
    ) -> Generator[float, None, ForwardBackwardRequest]:
        key = op.payload_object
        if payload is None:
            payload = yield from until_available(
                op.request_id,
                lambda: self._store.journal.payload(op) if key is None else self._objects.get(key),
            )
        if payload is None:
            raise NotFound(f"the payload of {op.request_id} is gone from the store")
        return decode_forward_backward(payload)

    def _optim_step(self, state: RunState, op: Operation, body: OptimStep) -> Done:
        if state.poison is not None:
            raise InvalidRequest(
                f"optim_step with seq_id {op.seq_id} was not applied, since {state.poison}. "
                "The accumulated gradients were cleared: send the whole batch again"
            )
        (report, *_) = self._group.call(commands.Step(state.run_id, body))
        assert isinstance(report, commands.StepReport)
        state.accumulated = False
        if not report.applied:
            raise InvalidRequest(
                f"optim_step with seq_id {op.seq_id} was not applied, since the norm of the "
                f"gradient is {report.grad_norm}. The accumulated gradients were cleared"
            )
        state.step += 1
        return _json(metrics={"grad_norm": report.grad_norm, "step": float(state.step)})

    def _load(self, state: RunState, body: CreateFromCheckpoint | LoadWeights) -> Doing:
        manifest, files = yield from until_available(
            body.path, lambda: self._checkpoints.read(body.prefix)
        )
        _check_fits(state, body, manifest)
        optimizer = files.pop(OPTIMIZER_FILE, None)
        self._group.call(commands.Restore(state.run_id, files))
        self._group.call(commands.Start(state.run_id, optimizer if body.optimizer else None))
        # The gradients went with the weights that they were of.
        state.accumulated, state.poison, state.step = False, None, manifest.step
        return _json(path=body.path, model_id=state.run_id, type="load_weights")

    def _clear_gradients(self, state: RunState) -> Done:
        if state.accumulated:
            self.clear_gradients(state)
        state.accumulated, state.poison = False, None
        return _json(type="clear_gradients")

    def _save_weights(self, state: RunState, op: Operation, body: SaveWeights) -> Doing:
        record = yield from self._write(
            state, op, body, "weights", body.name, overwrite=body.overwrite
        )
        effects = self._store.checkpoints.effects(record)
        return _json(effects, path=record.manifest.path, type="save_weights")

    def _save_for_sampler(
        self, state: RunState, op: Operation, body: SaveWeightsForSampler
    ) -> Doing:
        if body.name is not None:
            record = yield from self._write(state, op, body, "sampler_weights", body.name)
            effects = self._store.checkpoints.effects(record)
            return _json(effects, path=record.manifest.path, type="save_weights_for_sampler")
        sampler_id = body.sampler_id
        if sampler_id is None:
            raise InvalidRequest("save_weights_for_sampler needs a name or a sampling session")
        prefix = f"runs/{state.run_id}/policies/{sampler_id}"
        files = self.export(state, optimizer=False)
        manifest = _manifest(state, op, body, "sampler_weights", sampler_id)
        manifest = yield from self._policies.publish(prefix, manifest, files)
        sampler = SamplerRecord(
            sampler_id=sampler_id,
            tenant=state.record.tenant,
            session_id=state.record.session_id,
            base_model=state.record.base_model,
            policy=prefix,
            created_at=manifest.created_at,
        )
        effects = self._store.samplers.creation_effects(sampler)
        return _json(effects, sampling_session_id=sampler_id, type="save_weights_for_sampler")

    def _write(
        self,
        state: RunState,
        op: Operation,
        body: SaveWeights | SaveWeightsForSampler,
        kind: CheckpointKind,
        name: str,
        *,
        overwrite: bool = False,
    ) -> Generator[float, None, CheckpointRecord]:
        files = self.export(state, optimizer=kind == "weights")
        manifest = _manifest(state, op, body, kind, name)
        ttl = body.ttl_seconds
        settings = CheckpointSettings(expires_at=None if ttl is None else manifest.created_at + ttl)
        return (
            yield from until_available(
                op.request_id,
                lambda: self._checkpoints.write(
                    manifest,
                    files,
                    overwrite=overwrite,
                    settings=settings,
                    # A trainer that stalled and was replaced must not write over its successor's.
                    fence=lambda: self._store.workers.check(self._lease),
                ),
            )
        )


def _manifest(
    state: RunState,
    op: Operation,
    body: SaveWeights | SaveWeightsForSampler,
    kind: CheckpointKind,
    name: str,
) -> CheckpointManifest:
    return CheckpointManifest(
        run=state.record,
        kind=kind,
        name=name,
        step=state.step,
        has_optimizer=kind == "weights",
        created_at=time.time(),
        user_metadata=body.user_metadata,
        step_key=body.step_key,
        request_id=op.request_id,
        files={},
    )


def _json(effects: list[Effect] | None = None, **body: object) -> Done:
    return Done(json.dumps(body).encode(), "json", effects or [])


def _finite(answers: Answers, body: ForwardBackward) -> list[commands.RowResult]:
    for index, answer in enumerate(answers):
        if answer is not None and not math.isfinite(answer.loss):
            then = (
                "" if body.forward_only else ". The next optim_step will fail and clear gradients"
            )
            raise InvalidRequest(
                f"the loss of data[{index}] is {answer.loss}; check its loss_fn_inputs and the "
                f"learning rate of earlier steps{then}"
            )
    return [answer for answer in answers if answer is not None]


def _check_fits(
    state: RunState, body: CreateFromCheckpoint | LoadWeights, manifest: CheckpointManifest
) -> None:
    theirs, ours = manifest.run, state.record
    if theirs.base_model != ours.base_model:
        raise InvalidRequest(
            f"{body.path} is of base model {theirs.base_model!r}, this training run of "
            f"{ours.base_model!r}"
        )
    # The seed only says how the weights began.
    if theirs.lora.model_copy(update={"seed": ours.lora.seed}) != ours.lora:
        raise InvalidRequest(
            f"{body.path} has other LoRA settings than this training run: {theirs.lora!r} "
            f"instead of {ours.lora!r}"
        )
    if body.optimizer and not manifest.has_optimizer:
        raise InvalidRequest(
            f"{body.path} has no optimizer state; load it without, or load a checkpoint of "
            "save_state"
        )
