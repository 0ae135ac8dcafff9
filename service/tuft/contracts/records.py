"""State records: what the store keeps of sessions, training runs, samplers and checkpoints.

All times are seconds since the epoch (float, UTC). Records are JSON in the store; unknown
fields are errors, so that an older process never silently drops what a newer one wrote.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

CheckpointKind = Literal["weights", "sampler_weights", "external_weights"]


class Record(BaseModel):
    """Base of all records: immutable, closed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SessionRecord(Record):
    session_id: str
    tenant: str
    created_at: float
    tags: list[str] = []
    user_metadata: dict[str, str] = {}
    sdk_version: str = ""
    project_id: str | None = None
    display_name: str | None = None


class LoraSpec(Record):
    """What the adapter of a training run looks like.

    `seed` is always set here: where the client gave none, the api draws one before it
    accepts the run, so that a replay builds the same adapter.
    """

    rank: int
    alpha: float
    seed: int
    train_attn: bool = True
    train_mlp: bool = True
    train_unembed: bool = True


class RunRecord(Record):
    """A training run (the SDK's model id is its `run_id`)."""

    run_id: str
    tenant: str
    session_id: str
    base_model: str
    lora: LoraSpec
    created_at: float
    user_metadata: dict[str, str] = {}
    parent: str | None = None
    """tinker:// path of the checkpoint that this run started from."""
    live: bool = True
    """False where only checkpoints are left (the service restarted without persistence)."""


class SamplerRecord(Record):
    """A sampling session: a frozen policy version, or the base model.

    `policy` is the object prefix of a PEFT adapter (None: the base model).
    """

    sampler_id: str
    tenant: str
    session_id: str
    base_model: str
    model_path: str | None = None
    policy: str | None = None
    created_at: float


class CheckpointFile(Record):
    size: int
    sha256: str


class CheckpointManifest(Record):
    """Written last, as `manifest.json`: a checkpoint exists if and only if this does."""

    format: Literal[1] = 1
    run: RunRecord
    kind: CheckpointKind
    name: str
    step: int
    """Number of optimizer steps applied."""
    has_optimizer: bool
    created_at: float
    user_metadata: dict[str, str] = {}
    step_key: str | None = None
    request_id: str | None = None
    """The operation that wrote it: its replay finds its own work and not a duplicate name."""
    folder: str = ""
    """Subfolder of the files; "" is the manifest's own. An overwrite gets one of its own."""
    files: dict[str, CheckpointFile]

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files.values())

    @property
    def path(self) -> str:
        return f"tinker://{self.run.run_id}/{self.kind}/{self.name}"


class CheckpointSettings(Record):
    """What may change after a checkpoint was written; `settings.json` beside the manifest."""

    public: bool = False
    expires_at: float | None = None
    deleted_at: float | None = None
    """Its owner removed it; the files stay for as long as something uses them."""

    def is_over(self, now: float) -> bool:
        """Whether nobody may begin to use the checkpoint any more."""
        return self.deleted_at is not None or (
            self.expires_at is not None and self.expires_at <= now
        )


class CheckpointRecord(Record):
    manifest: CheckpointManifest
    settings: CheckpointSettings


class ModelInfo(Record):
    """What a trainer learnt of a base model when it loaded it; the api validates with it."""

    model_name: str
    architecture: str
    tokenizer_id: str
    vocab_size: int
    max_model_len: int
    num_parameters: int
    eos_token_ids: list[int]
    attn_modules: int
    """How many linear layers `train_attn` reaches; 0 means that it can't be trained."""
    mlp_modules: int
    unembed_modules: int


class SnapshotRecord(Record):
    """Internal recovery point of a run: its state after operation `seq_id`."""

    seq_id: int
    prefix: str
    step: int
    local: bool = False
    """It is in the state folder of the trainer's machine, else in the object store."""
    accumulated: bool = False
    """Gradients that wait for an optim_step are in it."""
    poison: str | None = None
    """Why those must not be applied."""


class Disposable(Record):
    """Something in the object store that is removed later.

    `key` is an object, or a folder of them where `folder` is true. With a `session_id` it
    stays for as long as that session is heard of.
    """

    key: str
    folder: bool = False
    session_id: str | None = None


class LedgerAttempt(Record):
    """Another attempt at a step: its plan from `first_operation` on, under later seq_ids."""

    first_operation: int
    first_seq_id: int


class LedgerEntry(Record):
    """One step (execution of a component) under its step key.

    `plan_object` names in the object store what a second execution submits again, from
    `first_seq_id` on, instead of building it anew; it goes when the step is finished.
    `overtaken_at`: another step recorded a plan from this seq_id on since this one's newest
    attempt, so that nothing of it was submitted there or later.
    """

    step_key: str
    state: Literal["started", "finished"]
    writer_epoch: int | None = None
    first_seq_id: int | None = None
    plan_object: str | None = None
    attempts: list[LedgerAttempt] = []
    overtaken_at: int | None = None
    result: str | None = None
    started_at: float
    finished_at: float | None = None
