"""What models.yaml may say. Unknown keys are errors that name the key.

Workers and the api get the resolved configuration as JSON from the supervisor, so a value
is read and checked in one place only.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tuft.deepspeed_config import DeepSpeedPlan, read_plan
from tuft.errors import ConfigError
from tuft.persistence import PersistenceConfig, UserPath

VLLM_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class Section(BaseModel):
    """Base of all sections: closed and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelConfig(Section):
    """One base model.

    `model_path` is a folder, a hub name or a .gguf file. `max_model_len` None takes what the
    model's own configuration says.
    """

    model_name: str = Field(min_length=1)
    model_path: str = Field(min_length=1)
    max_model_len: int | None = Field(default=None, ge=8)
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that a sampler spreads the model over; more than 1 needs sampler.engine vllm."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: float32 on CPU, bfloat16 on GPU. Adapters are float32 either way."""
    lora_alpha: float = Field(default=32.0, gt=0)
    resolved_folder: Path | None = None
    """Set by the supervisor: the folder that the model was prepared into."""

    @field_validator("model_path")
    @classmethod
    def _path_exists(cls, value: str) -> str:
        path = os.path.expanduser(value)
        looks_local = path.startswith((".", os.sep)) or path.endswith(".gguf")
        looks_local = looks_local or path.count("/") > 1
        if looks_local and not os.path.exists(path):
            raise ValueError(f"{value!r} does not exist; give a folder, a hub name or a .gguf file")
        return path if os.path.exists(path) else value


class ObjectStoreConfig(Section):
    """Where checkpoints, snapshots and large payloads are kept.

    Credentials of S3 come from `access_key`/`secret_key`, or from the environment variables
    AWS_ACCESS_KEY_ID / AWS_SECRET_ACCESS_KEY, or MINIO_ACCESS_KEY / MINIO_SECRET_KEY.
    """

    kind: Literal["local", "s3"] = "local"
    path: UserPath | None = None
    endpoint: str | None = None
    """host:port, without a scheme."""
    bucket: str | None = None
    prefix: str = ""
    region: str | None = None
    secure: bool = True
    access_key: str | None = None
    secret_key: str | None = None

    @model_validator(mode="after")
    def _kind_and_keys_fit(self) -> Self:
        if self.kind == "s3" and not (self.endpoint and self.bucket):
            raise ValueError("object_store.kind s3 needs endpoint (host:port) and bucket")
        if self.endpoint and "://" in self.endpoint:
            raise ValueError(
                f"object_store.endpoint {self.endpoint!r} must be host:port; "
                "choose http or https by `secure`"
            )
        return self

    @property
    def where(self) -> str:
        """Names the place: two configurations of one object store have the same."""
        if self.kind == "s3":
            return f"s3://{self.endpoint}/{self.bucket}/{self.prefix.strip('/')}"
        return f"file://{self.path}/{self.prefix.strip('/')}"


class ApiKeyConfig(Section):
    """An API key and the tenant that owns it. Keys begin with `tml-` (the SDK wants it)."""

    key: str = Field(min_length=8)
    tenant: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")

    @field_validator("key")
    @classmethod
    def _prefix(cls, value: str) -> str:
        if not value.startswith("tml-"):
            raise ValueError("API keys begin with 'tml-': the Tinker SDK refuses others")
        return value


class TrainerConfig(Section):
    ranks: int = Field(default=1, ge=1)
    """Processes (DeepSpeed ranks) per base model; rows are sharded over them."""
    max_lora_rank: int = Field(default=64, ge=1)
    max_resident_adapters: int = Field(default=32, ge=1)
    """Training runs kept in memory, and under way at a time; others wait on disk (`spill_gb`)."""
    spill_gb: float = Field(default=8.0, ge=0)
    """Disk in TMPDIR of each rank for idle adapters; beyond it, idle ones come back by replay."""
    max_training_runs: int = Field(default=10_000, ge=1)
    """Live training runs a tenant may have."""
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens in one forward and backward pass of a rank; None: by the size of the model."""
    activation_memory_gb: float | None = Field(default=None, ge=0)
    """A rank's memory for the activations of a micro-batch; where they need more, the backward
    pass computes them again. None: a quarter of the free memory (of a GPU's: 70 %)."""
    snapshot_every_tokens: int = Field(default=20_000, ge=1)
    """A snapshot of a run is taken after this many tokens were trained; see `Snapshots`."""
    snapshots: Literal["auto", "local", "object_store"] = "auto"
    """Where snapshots go. auto: beside the journal where the store is embedded, else to the object
    store, from where another machine can take over."""
    snapshot_gb: float | None = Field(default=None, gt=0)
    """Disk for local snapshots; what does not fit goes to the object store. None: most of the disk."""
    standby: bool = False
    """A second trainer group, loaded and waiting, that takes over at once. It needs as much memory
    as the first; on CPU they share the base model's weights."""
    lease_s: float = Field(default=5.0, ge=1)
    """A trainer that was not heard of for this long has lost its work to one that waits."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of each rank; None shares the machine's cores between trainer ranks."""
    deepspeed: dict[str, Any] = {}
    """DeepSpeed's own configuration: the mapping, or the path of a JSON file, read at once."""

    @field_validator("deepspeed", mode="before")
    @classmethod
    def _from_file(cls, value: object) -> object:
        if not isinstance(value, str | Path):
            return value
        path = Path(value).expanduser()
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"can't read {path}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error

    @field_validator("deepspeed")
    @classmethod
    def _is_served(cls, value: dict[str, Any]) -> dict[str, Any]:
        read_plan(value)
        return value

    @model_validator(mode="after")
    def _activations_are_kept_at_stage_3(self) -> Self:
        if self.activation_memory_gb is not None and self.deepspeed_plan.base_zero is not None:
            raise ValueError(
                "activation_memory_gb is not served with deepspeed's zero_optimization.stage 3, "
                "where activations are kept; lower micro_batch_tokens instead"
            )
        return self

    @property
    def deepspeed_plan(self) -> DeepSpeedPlan:
        """What `deepspeed` means."""
        return read_plan(self.deepspeed)


class VllmConfig(Section):
    """What only `sampler.engine: vllm` looks at."""

    gpu_memory_utilization: float = Field(default=0.5, gt=0, le=1)
    """Share of each GPU that vLLM may fill: weights, LoRA slots, keys and values."""
    kv_cache_gb: float | None = Field(default=None, gt=0)
    """GiB for keys and values; None: what is left of gpu_memory_utilization, on CPU a quarter
    of the free memory."""
    max_loras: int = Field(default=8, ge=1)
    """Policies in one batch; each takes memory for the largest rank, whatever its own."""
    max_lora_rank: int | None = None
    """Largest rank that is served; None: the smallest vLLM has that takes trainer.max_lora_rank."""
    enforce_eager: bool = False
    """No compilation: starts faster, decodes slower."""

    @field_validator("max_lora_rank")
    @classmethod
    def _is_one_of_vllms(cls, value: int | None) -> int | None:
        if value is not None and value not in VLLM_LORA_RANKS:
            raise ValueError(f"vLLM has {', '.join(map(str, VLLM_LORA_RANKS))}; not {value}")
        return value


class SamplerConfig(Section):
    engine: Literal["transformers", "vllm"] = "transformers"
    replicas: int = Field(default=1, ge=1)
    """Sampler processes per base model; requests go to whichever has room."""
    gpus: list[str] | None = None
    """CUDA_VISIBLE_DEVICES of each replica, models one after the other; None: all GPUs to all."""
    standby: bool = False
    """A second process per replica, loaded and waiting, that takes over at once."""
    max_running_sequences: int = Field(default=64, ge=1)
    """Sequences decoded together in one continuous batch."""
    cache_tokens: int | None = Field(default=None, ge=1)
    """Tokens whose keys and values are kept; None: what fits a quarter of the free memory."""
    max_resident_adapters: int = Field(default=16, ge=1)
    threads: int | None = Field(default=None, ge=1)
    vllm: VllmConfig = VllmConfig()


class ApiConfig(Section):
    replicas: int = Field(default=1, ge=1)
    """Processes that answer requests, on one port."""


class LimitsConfig(Section):
    max_request_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    max_decompressed_bytes: int = Field(default=256 * 1024 * 1024, ge=1024)
    max_pending_operations: int = Field(default=512, ge=1)
    """Per training run; more get 429."""
    max_tenant_operations: int = Field(default=8192, ge=1)
    """Pending in all training runs of a tenant; more get 429."""
    max_journal_operations: int = Field(default=20_000, ge=1)
    """Per training run, behind its last snapshot; more get 429 until a snapshot is taken."""
    max_pending_tokens: int = Field(default=8_000_000, ge=1)
    """Per tenant, in forward_backwards that wait; more get 429."""
    max_pending_samples: int = Field(default=8192, ge=1)
    """Per base model, waiting or running; more get 429."""
    max_tenant_samples: int = Field(default=4096, ge=1)
    """Of a tenant, per base model, waiting or running; more get 429."""
    max_datums: int = Field(default=4096, ge=1)
    max_num_samples: int = Field(default=256, ge=1)
    inline_payload_bytes: int = Field(default=64 * 1024, ge=0)
    """Larger payloads and results go to the object store."""
    result_ttl_s: float = Field(default=3600, gt=0)
    max_kept_results: int = Field(default=100_000, ge=1)
    """Results that wait to be fetched, or fetched again; beyond, the oldest are dropped."""
    orphan_ttl_s: float = Field(default=86_400, gt=0)
    """What nothing refers to any more stays in the object store for this long."""
    stop_grace_s: float = Field(default=20, gt=0)
    """How long a process that is asked to end may take to finish what it has begun."""
    policy_ttl_s: float = Field(default=86_400, gt=0)
    """An ephemeral policy is kept for as long as its session is heard of, and this long after."""
    gap_timeout_s: float = Field(default=330, gt=0)
    """Last resort on a seq_id that never arrives: longer than the SDK's five minutes of retries."""
    long_poll_s: float = Field(default=25, gt=0, le=40)


class ServiceConfig(Section):
    """The whole of models.yaml."""

    supported_models: list[ModelConfig] = Field(min_length=1)
    persistence: PersistenceConfig = PersistenceConfig()
    object_store: ObjectStoreConfig = ObjectStoreConfig()
    api_keys: list[ApiKeyConfig] = []
    """None configured: the service binds 127.0.0.1 only, any tml- key is one local tenant."""
    trainer: TrainerConfig = TrainerConfig()
    sampler: SamplerConfig = SamplerConfig()
    api: ApiConfig = ApiConfig()
    limits: LimitsConfig = LimitsConfig()
    state_folder: Path | None = None
    """Set by the supervisor: what its workers keep on this machine (snapshots, locks, and what
    they are doing). It is as lasting as the journal."""
    handover_folder: Path | None = None
    """Set by the supervisor: where its trainers put new policies for its samplers."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for what, names in (
            ("supported_models: model_name", [m.model_name for m in self.supported_models]),
            ("api_keys: key", [k.key for k in self.api_keys]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                shown = [name[:8] + "…" for name in twice] if "key" in what else twice
                raise ValueError(f"{what} given twice: {', '.join(shown)}")
        return self

    @model_validator(mode="after")
    def _sampler_fits(self) -> Self:
        vllm = self.sampler.engine == "vllm"
        for model in self.supported_models:
            if model.tensor_parallel_size > 1 and not vllm:
                raise ValueError(
                    f"tensor_parallel_size {model.tensor_parallel_size} of {model.model_name!r} "
                    "needs sampler.engine vllm; the transformers sampler serves 1 only"
                )
        if vllm and self.vllm_lora_rank is None:
            raise ValueError(
                f"trainer.max_lora_rank {self.trainer.max_lora_rank} is more than vLLM serves: "
                f"{VLLM_LORA_RANKS[-1]}; lower it, or set sampler.vllm.max_lora_rank"
            )
        samplers = len(self.supported_models) * self.sampler.replicas
        if self.sampler.gpus is not None and len(self.sampler.gpus) != samplers:
            raise ValueError(
                f"sampler.gpus has {len(self.sampler.gpus)} entries; there are {samplers} sampler "
                "processes (models times replicas)"
            )
        return self

    @property
    def vllm_lora_rank(self) -> int | None:
        """The largest rank that vLLM is to serve; None where it can't serve what is trained."""
        wanted = self.trainer.max_lora_rank
        fitting = (rank for rank in VLLM_LORA_RANKS if rank >= wanted)
        return self.sampler.vllm.max_lora_rank or next(fitting, None)

    def model(self, name: str) -> ModelConfig:
        """The entry of a base model; KeyError where there is none."""
        for entry in self.supported_models:
            if entry.model_name == name:
                return entry
        raise KeyError(name)


class _Loader(yaml.SafeLoader):
    """YAML where a key may be given once only: PyYAML would silently take the last one."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        seen: set[str] = set()
        for key in keys:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return node


def load_config(path: Path) -> ServiceConfig:
    """Read and check a models.yaml.

    Raises:
        ConfigError: with file, key and what would be right.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"can't read the configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error
    try:
        data = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must be a mapping with the key supported_models")
    try:
        return ServiceConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path} is not a valid configuration:\n{describe(error)}") from error


def describe(error: ValidationError) -> str:
    """One line a problem: where it is and what would be right."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "(top level)"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key"
        lines.append(f"  {where}: {message}")
    return "\n".join(lines)
