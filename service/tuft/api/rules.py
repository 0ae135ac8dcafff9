"""What a training run may be: its optimizer, its adapter, and the checkpoint it begins with."""

from __future__ import annotations

from tuft.api.deps import Caller
from tuft.api.schemas import LoraRequest, OptimizerRequest
from tuft.api.services import Services
from tuft.checkpoints import parse_path
from tuft.contracts.records import CheckpointRecord, ModelInfo
from tuft.errors import InvalidRequest


def check_optimizer(asked: OptimizerRequest) -> None:
    """Raises InvalidRequest for another than AdamW."""
    if asked.type != "adamw":
        raise InvalidRequest(f"optimizer {asked.type!r} is not served; this service has: 'adamw'")


def check_rank(services: Services, rank: int) -> None:
    """Raises InvalidRequest."""
    limit = services.config.trainer.max_lora_rank
    if not 1 <= rank <= limit:
        raise InvalidRequest(f"the LoRA rank is {rank}; this service takes 1 to {limit}")


def check_lora(lora: LoraRequest, model: ModelInfo) -> None:
    """Raises InvalidRequest where a flag reaches no module, or none is set."""
    parts = {
        "train_attn": (lora.train_attn, model.attn_modules),
        "train_mlp": (lora.train_mlp, model.mlp_modules),
        "train_unembed": (lora.train_unembed, model.unembed_modules),
    }
    if not any(asked for asked, _ in parts.values()):
        raise InvalidRequest(f"nothing would be trained: set one of {', '.join(parts)}")
    for name, (asked, modules) in parts.items():
        if asked and not modules:
            raise InvalidRequest(
                f"{name} is set, but {model.model_name} has no such linear layers; set it to false"
            )


def loadable(
    services: Services, caller: Caller, path: str, *, optimizer: bool, user: str
) -> CheckpointRecord:
    """A training checkpoint that a run can take up; its files stay for as long as `user` lives.

    Raises:
        InvalidRequest: not a path, a sampler's checkpoint, or no optimizer state to restore.
        NotFound: no such checkpoint that the caller may read.
    """
    kind = parse_path(path).kind
    if kind != "weights":
        raise InvalidRequest(
            f"{path} is a checkpoint of kind {kind!r}; training starts from kind 'weights' "
            "(save_state)"
        )
    record = services.catalog.use(caller.tenant, path, user)
    if optimizer and not record.manifest.has_optimizer:
        raise InvalidRequest(f"checkpoint {path} has no optimizer state; load it without")
    return record
