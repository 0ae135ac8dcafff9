"""Replicas of a sampler: what each process is told."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tuft.config import ServiceConfig
from tuft.supervisor import Supervisor
from tuft.supervisor.child import ChildGroup


def test_replicas_have_names_and_gpus_of_their_own(tmp_path: Path) -> None:
    config = ServiceConfig.model_validate(
        {
            "supported_models": [
                {"model_name": name, "model_path": "org/name"} for name in ("org/a", "b")
            ],
            "sampler": {"replicas": 2, "gpus": ["0,1", "2,3", "4,5", "6,7"], "threads": 3},
        }
    )
    supervisor = Supervisor(
        config, checkpoint_dir=tmp_path, host="127.0.0.1", port=8181, log_dir=tmp_path
    )
    groups: list[ChildGroup] = [
        supervisor._sampler(tmp_path / "config.json", model, replica, "1")
        for model in config.supported_models
        for replica in range(config.sampler.replicas)
    ]
    assert [group.name for group in groups] == [
        "sampler-org-a",
        "sampler-org-a-1",
        "sampler-b",
        "sampler-b-1",
    ]
    assert len({group.log_file for group in groups}) == 4
    envs = [group.envs()[0] for group in groups]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in envs] == ["0,1", "2,3", "4,5", "6,7"]
    assert {env["OMP_NUM_THREADS"] for env in envs} == {"3"}
    # The first one's name says nothing of how many there are, and is the same after a restart.
    host = f"{socket.gethostname()}:8181"
    assert [env["TUFT_WORKER_ID"] for env in envs] == [
        f"sampler:org/a@{host}",
        f"sampler:org/a@{host}#1",
        f"sampler:b@{host}",
        f"sampler:b@{host}#1",
    ]


@pytest.mark.parametrize("own", [None, "77"])
def test_workers_spin_little_unless_the_user_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    """Else trainer and sampler on the same cores keep them from each other."""
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if own is not None:
        monkeypatch.setenv("GOMP_SPINCOUNT", own)
    config = ServiceConfig.model_validate(
        {"supported_models": [{"model_name": "a", "model_path": "org/name"}]}
    )
    supervisor = Supervisor(
        config, checkpoint_dir=tmp_path, host="127.0.0.1", port=8181, log_dir=tmp_path
    )
    [model] = config.supported_models
    trainer = supervisor._trainer(tmp_path / "config.json", model, "1")
    sampler = supervisor._sampler(tmp_path / "config.json", model, 0, "1")
    for group in (trainer, sampler):
        assert group.envs()[0]["GOMP_SPINCOUNT"] == (own or "1000")
