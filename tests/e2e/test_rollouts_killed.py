"""Rollouts and evaluations that die half-way keep what was done; their retries do the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.service import Service
from tests.helpers.s3_server import S3Server
from tests.helpers.step_process import Fault, Outcome, StepProcess
from tests.waiting import wait_until
from tuft_components.artifacts import list_uris, read_bytes
from tuft_components.kept_episodes import read_episodes
from tuft_components.trajectories import Trajectory, read_trajectories

# They start several processes each, which takes long on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
KEY = "tml-local-dev-key"
GROUPS = 6
KILLED = -signal.SIGKILL
SAMPLE = "POST asample"


@dataclass
class Rollouts:
    """Starts `tuft-step rollout` of `GROUPS` groups, one after the other."""

    service: Service
    folder: Path
    work_uri: str
    storage: dict[str, str]

    @property
    def env(self) -> dict[str, str]:
        return {"TINKER_BASE_URL": self.service.url, "TINKER_API_KEY": KEY, **self.storage}

    def arguments(self, **params: object) -> list[str]:
        values = {
            "policy": "tiny",
            "groups": GROUPS,
            "group_size": 2,
            "max_tokens": 24,
            "concurrency": 2,
            "work_uri": self.work_uri,
            **params,
        }
        pairs = [text for n, value in values.items() for text in ("--param", f"{n}={value}")]
        return ["rollout", *pairs, "--output", f"trajectories={self.folder / 'trajectories'}"]

    def run(self, fault: Fault | None = None, **params: object) -> Outcome:
        return StepProcess(self.folder, self.arguments(**params), self.env, fault).wait()

    def kept(self) -> dict[str, bytes]:
        return {uri: read_bytes(uri) for uri in list_uris(f"{self.work_uri}/episodes/")}

    def result(self) -> list[Trajectory]:
        return read_trajectories(str(self.folder / "trajectories"))


@pytest.fixture
def rollouts(service: Service, tmp_path: Path) -> Rollouts:
    return Rollouts(service, tmp_path, str(tmp_path / "work"), {})


@pytest.fixture
def rollouts_to_s3(
    rollouts: Rollouts, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Rollouts:
    s3_server.make_bucket("rollouts")
    environment = s3_server.environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    uri = f"s3://rollouts/{rollouts.folder.name}"
    return replace(rollouts, work_uri=uri, storage=environment)


def test_a_rollout_that_is_killed_is_not_played_again(rollouts_to_s3: Rollouts) -> None:
    rollouts = rollouts_to_s3
    killed = subprocess.Popen(
        [sys.executable, "-m", "tuft_components.cli", *rollouts.arguments()],
        env={**os.environ, **rollouts.env},
    )
    try:
        wait_until(
            lambda: killed.poll() is not None or len(rollouts.kept()) >= GROUPS // 2,
            timeout_s=300,
            what="half of the groups",
        )
    finally:
        killed.kill()
    assert killed.wait() == KILLED, "it was done before it could be killed"
    before = rollouts.kept()
    assert GROUPS // 2 <= len(before) < GROUPS
    assert not (rollouts.folder / "trajectories").exists()

    outcome = rollouts.run()
    assert outcome.code == 0, outcome.error
    assert outcome.requests.count(SAMPLE) == GROUPS - len(before)
    assert outcome.outputs["metrics"]["groups_kept"] == len(before)
    assert outcome.outputs["metrics"]["groups"] == GROUPS
    played, after = rollouts.result(), rollouts.kept()
    assert [t.key for t in played] == [(0, g, n) for g in range(GROUPS) for n in range(2)]
    assert len(after) == GROUPS
    assert all(after[uri] == content for uri, content in before.items())
    assert read_episodes([outcome.outputs["uri"]]) == played

    again = rollouts.run()  # all is there: the service is not even asked
    assert again.requests == []
    assert rollouts.result() == played
    assert again.outputs["metrics"]["groups_kept"] == GROUPS


def test_it_dies_at_a_request_and_its_shard_alone_goes_on(rollouts: Rollouts) -> None:
    half: dict[str, Any] = {"shard": 1, "shards": 2}
    died = rollouts.run(Fault(SAMPLE, "before", nth=3), **half)
    assert died.code == KILLED
    assert len(rollouts.kept()) == 2
    outcome = rollouts.run(**half)
    assert outcome.requests.count(SAMPLE) == 1
    assert [t.key[1] for t in rollouts.result()[::2]] == [1, 3, 5]
    # Something else than before is played anew, and so is another part.
    assert rollouts.run(**half, temperature=0.5).requests.count(SAMPLE) == 3
    assert rollouts.run(shard=0, shards=2).requests.count(SAMPLE) == 3


def test_an_evaluation_goes_on_too(rollouts: Rollouts) -> None:
    params = {"policy": "tiny", "episodes": 6, "max_tokens": 4, "concurrency": 1, "iteration": 2}
    params["work_uri"] = rollouts.work_uri
    pairs = [text for n, value in params.items() for text in ("--param", f"{n}={value}")]

    def evaluate(fault: Fault | None = None, *more: str) -> Outcome:
        arguments = ["evaluate", *pairs, *more]
        return StepProcess(rollouts.folder, arguments, rollouts.env, fault).wait()

    assert evaluate(Fault(SAMPLE, "after", nth=5)).code == KILLED
    assert len(rollouts.kept()) == 4
    outcome = evaluate()
    assert outcome.requests.count(SAMPLE) == 2
    assert outcome.outputs["metrics"]["episodes_kept"] == 4
    assert {t.key[0] for t in read_episodes([outcome.outputs["uri"]])} == {2}
    # Another reward needs no other samples; longer ones are others.
    name = "tests.e2e.rewards:even_first_token"
    other = evaluate(None, "--param", f"reward={name}")
    assert other.requests == []
    even = [
        t.transitions[0].completion_tokens[0] % 2 == 0
        for t in read_episodes([outcome.outputs["uri"]])
    ]
    assert other.outputs["mean_reward"] == pytest.approx(sum(even) / 6)
