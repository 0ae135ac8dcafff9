"""A running service with several tenants, and the CPU time of its processes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tinker
import yaml
from tinker import types
from transformers import logging

from tests.bench.bare import RANK, Rows
from tests.bench.measure import cpu_seconds
from tests.e2e.service import Service, running
from tests.helpers.tiny_model import VOCAB_SIZE, build_tiny_model
from tuft.demo_model import demo_model
from tuft.supervisor.tree import prepare

TIMEOUT_S = 600
_MODULES = {"tuft.api": "api", "tuft.training": "trainer", "tuft.sampling": "sampler"}


@dataclass(frozen=True)
class Model:
    """A model that benchmarks run on: `name` as people say it, and its folder."""

    name: str
    folder: Path
    vocab: int


def models(folder: Path, names: Sequence[str] = ("tiny", "SmolLM2")) -> list[Model]:
    """The small random model (written below `folder`), the demo model, or both."""
    logging.disable_progress_bar()
    made = {
        "tiny": lambda: Model("tiny", build_tiny_model(folder / "tiny"), VOCAB_SIZE),
        "SmolLM2": lambda: Model("SmolLM2", prepare(demo_model()), 49152),
    }
    return [made[name]() for name in names]


@dataclass(frozen=True)
class Stage:
    """A service, and a client of each tenant."""

    service: Service
    model: Model
    clients: Sequence[tinker.ServiceClient]
    processes: Sequence[tuple[str, psutil.Process]]

    def clock(self) -> dict[str, float]:
        """CPU seconds by process; those of clients are not among them."""
        seconds: dict[str, float] = {}
        for name, process in self.processes:
            seconds[name] = seconds.get(name, 0.0) + cpu_seconds(process)
        return seconds

    def training_clients(self) -> list[tinker.TrainingClient]:
        """A training run of each tenant."""
        made = [
            client.create_lora_training_client(
                base_model=self.model.name, rank=RANK, train_unembed=False
            )
            for client in self.clients
        ]
        return [future.result(TIMEOUT_S) for future in made]


@contextmanager
def stage(
    model: Model, *, tenants: int = 1, dtype: str = "float32", **sections: Any
) -> Iterator[Stage]:
    """Start a service of one model; `sections` are further ones of models.yaml."""
    keys = [{"key": f"tml-bench-{n:04}", "tenant": f"tenant-{n}"} for n in range(tenants)]
    entry = {"model_name": model.name, "model_path": str(model.folder), "dtype": dtype}
    data = {
        "supported_models": [entry],
        "api_keys": keys,
        **sections,
    }
    with tempfile.TemporaryDirectory(prefix="tuft-bench-") as folder:
        config = Path(folder) / "models.yaml"
        config.write_text(yaml.safe_dump(data))
        with running(Path(folder), config) as service:
            clients = [
                tinker.ServiceClient(base_url=service.url, api_key=key["key"]) for key in keys
            ]
            yield Stage(service, model, clients, _processes(service))


def datums(rows: Rows) -> list[types.Datum]:
    """Rows as the SDK sends them."""
    return [
        types.Datum(
            model_input=types.ModelInput.from_ints(list(row[:-1])),
            loss_fn_inputs={"target_tokens": types.TensorData.from_numpy(np.array(row[1:]))},
        )
        for row in rows
    ]


def training_step(client: tinker.TrainingClient, data: list[types.Datum]) -> Callable[[], None]:
    """A forward_backward and an optim_step, sent together as the SDK's users do."""
    params = types.AdamParams(learning_rate=1e-6)

    def step() -> None:
        sent = client.forward_backward(data, "cross_entropy")
        client.optim_step(params).result(TIMEOUT_S)
        sent.result(TIMEOUT_S)

    return step


def _processes(service: Service) -> list[tuple[str, psutil.Process]]:
    supervisor = psutil.Process(service.process.pid)
    found = [("supervisor", supervisor)]
    for child in supervisor.children(recursive=True):
        command = child.cmdline()
        named = [name for module, name in _MODULES.items() if module in command]
        found.append((named[0] if named else "store", child))
    return found
