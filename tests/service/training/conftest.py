"""One rank in this process: torch.distributed and the base model are set up once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.leases import take_lease
from tests.service.training.harness import MODEL, Trainer, World
from tuft.modeling.loading import load_base
from tuft.modeling.lora import inject_lora
from tuft.training.group import Place, RankGroup, join_group
from tuft.training.leader import Leader
from tuft.training.replica import Replica


@pytest.fixture(scope="session")
def place() -> Place:
    torch.set_num_threads(1)
    return join_group()


@pytest.fixture(scope="session")
def base_model(tiny_model_folder: Path) -> Any:
    """With LoRA layers; adapters are apart from it, so tests can share it."""
    model = load_base(tiny_model_folder, "float32", "cpu")
    inject_lora(model)
    return model


@pytest.fixture
def world(valkey_url: str, tmp_path: Path, tiny_model_folder: Path) -> World:
    return World.create(valkey_url, tmp_path, tiny_model_folder)


StartTrainer = Callable[[World], Trainer]


@pytest.fixture
def start_trainer(place: Place, base_model: Any) -> StartTrainer:
    """A new trainer with nothing in memory; it takes the lease from the one before."""

    def start(world: World) -> Trainer:
        group = RankGroup(Replica(base_model, MODEL, 0), place)
        lease = take_lease(world.store, f"trainer:{MODEL}")
        leader = Leader(group, world.store, world.objects, world.config, MODEL, lease)
        return Trainer(world, leader)

    return start


@pytest.fixture
def trainer(world: World, start_trainer: StartTrainer) -> Trainer:
    return start_trainer(world)
