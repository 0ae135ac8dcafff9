"""Rollout and evaluate without a service: what is kept, and what is refused before any sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.components.samples import transition
from tuft_components.errors import BadConfiguration, BadData
from tuft_components.evaluate.step import STEP as EVALUATE
from tuft_components.evaluate.step import EvaluateParams
from tuft_components.evaluate.step import kept_of as kept_of_evaluation
from tuft_components.rollout.step import STEP as ROLLOUT
from tuft_components.rollout.step import RolloutParams, kept_of
from tuft_components.steps import load_step
from tuft_components.trajectories import read_trajectories

HERE = "tests.components.test_rollout"


@pytest.fixture(autouse=True)
def no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINKER_BASE_URL", raising=False)


def _uri(**params: Any) -> str:
    kept = kept_of(RolloutParams.model_validate({"policy": "p", "work_uri": "/w", **params}))
    assert kept is not None
    return kept.uri


@pytest.mark.parametrize(
    "change",
    [
        {"policy": "q"},
        {"env": "other"},
        {"env_args": {"x": 1}},
        {"group_size": 9},
        {"iteration": 4},
        {"policy_version": 2},
        {"seed": 1},
        {"max_tokens": 17},
        {"max_turns": 3},
        {"temperature": 0.5},
        {"split": "eval"},
        {"groups": 4},  # iteration 3 begins with another task
        {"shard": 1},
        {"shards": 3},
    ],
    ids=str,
)
def test_what_decides_the_episodes_decides_where_they_are(change: dict[str, Any]) -> None:
    assert _uri(**{"iteration": 3, "shards": 2, **change}) != _uri(iteration=3, shards=2)


def test_what_decides_nothing_does_not() -> None:
    assert _uri(iteration=3) == _uri(
        iteration=3, policy_version=3, timeout_s=5, concurrency=1, work_uri="/w/"
    )
    assert _uri(groups=8) == _uri(groups=16)  # a longer rollout takes a shorter one's
    assert kept_of(RolloutParams(policy="p")) is None


def test_a_rollout_whose_groups_are_all_there_needs_no_service(tmp_path: Path) -> None:
    params = {"policy": "p", "groups": 4, "group_size": 1, "shard": 1, "shards": 2}
    params |= {"work_uri": str(tmp_path / "work")}
    kept = kept_of(RolloutParams.model_validate(params))
    assert kept is not None
    for group_id in (3, 1):
        kept.add(group_id, [transition(group_id=group_id, stop_reason="stop")])
    outputs = ROLLOUT.execute(params, {}, {"trajectories": str(tmp_path / "t")})
    assert [t.key for t in read_trajectories(str(tmp_path / "t"))] == [(0, 1, 0), (0, 3, 0)]
    assert outputs.uri == kept.uri
    assert outputs.metrics == {
        "groups": 2,
        "groups_kept": 2,
        "groups_left_out": 0,
        "episodes": 2,
        "failed": 0,
        "cut_short": 0,
        "tokens_per_s": 0,
        "mean_env_reward": 1,
        "mean_turns": 1,
        "mean_completion_tokens": 2,
        "truncated": 0,
    }


def test_another_reward_of_an_evaluation_needs_no_service(tmp_path: Path) -> None:
    params = {"policy": "p", "episodes": 2, "work_uri": str(tmp_path), "iteration": 5}
    kept = kept_of_evaluation(EvaluateParams.model_validate(params))
    assert kept is not None
    for group_id in range(2):
        kept.add(group_id, [transition(group_id=group_id, env_reward=group_id)])
    assert EVALUATE.execute(params, {}, {}).mean_reward == 0.5
    reward = {"reward": "tests.components.test_rewards:scaled", "reward_args": '{"scale": 3}'}
    outputs = EVALUATE.execute({**params, **reward}, {}, {})
    assert outputs.mean_reward == 3
    assert outputs.metrics["episodes_kept"] == 2


def broken(**args: object) -> None:
    raise RuntimeError("no disk")


@pytest.mark.parametrize("name", ["rollout", "evaluate"])
@pytest.mark.parametrize(
    ("params", "error", "says"),
    [
        ({"env": "no_such_module:Env"}, BadConfiguration, "can't import no_such_module"),
        ({"env": "chess"}, BadConfiguration, "no environment 'chess'; there are: second_word"),
        ({"env_args": {"x": 1}}, BadConfiguration, "second_word with env_args {'x': 1}"),
        ({"env": f"{HERE}:broken"}, BadData, r"broken raised RuntimeError: no disk \(.*, line"),
    ],
)
def test_an_environment_is_refused_before_any_sampling(
    name: str, params: dict[str, Any], error: type[Exception], says: str, tmp_path: Path
) -> None:
    places = {"trajectories": str(tmp_path / "t")} if name == "rollout" else {}
    with pytest.raises(error, match=says):
        load_step(name).execute({"policy": "p", **params}, {}, places)


def test_shards_and_rewards_are_refused_before_any_sampling(tmp_path: Path) -> None:
    places = {"trajectories": str(tmp_path / "t")}
    with pytest.raises(BadConfiguration, match="9 shards of 8 groups"):
        ROLLOUT.execute({"policy": "p", "shards": 9}, {}, places)
    with pytest.raises(BadConfiguration, match="reward env with reward_args"):
        EVALUATE.execute({"policy": "p", "reward_args": {"x": 1}}, {}, {})
