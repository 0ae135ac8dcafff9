"""The LoRA policies that vLLM holds, and how many of them may sample at a time."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from tuft.contracts.policies import Content
from tuft.errors import InvalidRequest
from tuft.modeling.adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    adapter_from_files,
    read_adapter,
)
from tuft.modeling.loading import PreTrainedModel
from tuft.modeling.lora import target_modules
from tuft.sampling.vllm_link import VllmLink


@dataclass(eq=False)
class Policy:
    """A loaded policy. `lora`: vLLM's LoRARequest; None where its weights are not finite: such
    a policy is never given to vLLM, all its requests fail.
    """

    lora: Any
    users: int = 0
    """Requests that sample from it, or are to."""
    running: int = 0
    """Those of them that have a slot."""
    dropped: bool = False


class VllmPolicies:
    """Loads and frees policies.

    Args:
        model: the base model without weights (on the meta device), to check adapters with.
        slots: policies that may sample at a time.
        reserve: keep a slot empty; see `_reserve_last_slot`. vLLM needs `slots + 1` then.
        max_rank: vLLM's max_lora_rank.
    """

    def __init__(
        self, link: VllmLink, model: PreTrainedModel, *, slots: int, reserve: bool, max_rank: int
    ) -> None:
        self._link = link
        self._model = model
        self._modules = lora_modules(model)
        self._slots = slots
        self._max_rank = max_rank
        self._active: set[Policy] = set()
        self._numbers = itertools.count(1)
        if reserve:
            self._reserve_last_slot()

    def load(self, policy: str, files: Mapping[str, Content]) -> Policy:
        """Give vLLM a policy.

        Raises:
            DamagedCheckpoint: the files are not those of an adapter of this model.
            InvalidRequest: vLLM can't serve it.
        """
        self._check(files)
        if not _is_finite(files):
            return Policy(None)
        try:
            return Policy(self._add(policy, files))
        except ValueError as error:
            raise InvalidRequest(f"vLLM can't serve the policy {policy}: {error}") from error

    def drop(self, policy: Policy) -> None:
        """Free its memory, when the last request that samples from it has ended."""
        policy.dropped = True
        self._free_unused(policy)

    def hold(self, policy: Policy) -> None:
        """A request is to sample from it: its weights stay until that request leaves."""
        policy.users += 1

    def may_enter(self, policy: Policy) -> bool:
        """Whether there is a slot for it."""
        return policy in self._active or len(self._active) < self._slots

    def enter(self, policy: Policy) -> None:
        """One of those requests begins; `may_enter` says whether it may."""
        policy.running += 1
        self._active.add(policy)

    def leave(self, policy: Policy) -> None:
        """One of those requests has ended."""
        policy.users -= 1
        policy.running -= 1
        if not policy.running:
            self._active.discard(policy)
        self._free_unused(policy)

    def _check(self, files: Mapping[str, Content]) -> None:
        adapter = adapter_from_files(self._model, files)
        last = {module: module.rsplit(".", 1)[-1] for module in adapter.modules_trained}
        unserved = [module for module, name in last.items() if name not in self._modules]
        if unserved:
            raise InvalidRequest(
                f"vLLM is not given LoRA on {', '.join(unserved[:3])}: train with "
                "train_unembed=False to sample here"
            )
        if adapter.spec.rank > self._max_rank:
            raise InvalidRequest(
                f"the policy has LoRA rank {adapter.spec.rank}; this service's vLLM serves ranks "
                f"up to {self._max_rank} (sampler.vllm.max_lora_rank)"
            )

    def _add(self, name: str, files: Mapping[str, Content]) -> Any:
        number = next(self._numbers)
        with tempfile.TemporaryDirectory(prefix="tuft-policy-") as folder:
            for file in (CONFIG_FILE, WEIGHTS_FILE):
                (Path(folder) / file).write_bytes(files[file])
            # vLLM tells adapters apart by name in some places, by number in others.
            return self._link.add_lora(number, f"{name}#{number}", Path(folder))

    def _free_unused(self, policy: Policy) -> None:
        if policy.dropped and not policy.users and policy.lora is not None:
            self._link.start(self._link.remove_lora(policy.lora))
            policy.lora = None

    def _reserve_last_slot(self) -> None:
        """Keep zeros in vLLM's last slot, for ever.

        On CPU vLLM 0.32 gives rows without LoRA the index -1, and takes that for the last slot:
        whatever policy is there would change what the base model says.
        """
        files = self._zeros()
        # Slots are filled in order.
        loras = [self._add("zeros", files) for _ in range(self._slots + 1)]
        self._link.call(self._link.pin_lora(loras[-1]))
        for lora in loras[:-1]:
            self._link.call(self._link.remove_lora(lora))

    def _zeros(self) -> dict[str, bytes]:
        """A PEFT folder's files: zeros for one layer; vLLM sets the others to zero itself."""
        kinds = target_modules(self._model).items()
        module = next(name for name, kind in kinds if kind != "unembed")
        rows, columns = self._model.get_submodule(module).weight.shape
        prefix = f"base_model.model.{module}"
        tensors = {
            f"{prefix}.lora_A.weight": torch.zeros(1, columns),
            f"{prefix}.lora_B.weight": torch.zeros(rows, 1),
        }
        config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": [module]}
        return {CONFIG_FILE: json.dumps(config).encode(), WEIGHTS_FILE: save(tensors)}


def lora_modules(model: PreTrainedModel) -> frozenset[str]:
    """Last parts of the names of the layers that policies may change when vLLM serves them.

    Without the head: vLLM 0.32 takes the rows of prompt logprobs for those of requests there,
    and dies on CPU.
    """
    kinds = target_modules(model).items()
    return frozenset(name.rsplit(".", 1)[-1] for name, kind in kinds if kind != "unembed")


def _is_finite(files: Mapping[str, Content]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in read_adapter(files)[1].values())
