"""Finished groups are kept at once, and taken by the next try; sources are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.components.samples import transition
from tests.components.test_episodes import TOKENIZER, Counting, Says, episode_set
from tests.helpers.s3_server import S3Server
from tuft_components.artifacts import list_uris, write_bytes
from tuft_components.episodes import Sample
from tuft_components.errors import BadConfiguration, BadData, TransientFailure
from tuft_components.kept_episodes import KeptEpisodes, read_episodes
from tuft_components.playing import play
from tuft_components.trajectories import Transition, write_trajectories


@pytest.fixture(params=["folder", "s3"])
def work_uri(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    if request.param == "folder":
        return str(tmp_path / "work")
    server: S3Server = request.getfixturevalue("s3_server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    server.make_bucket("kept")
    return f"s3://kept/{tmp_path.name}"


def _kept(work_uri: str, shard: int = 0, **decided_by: Any) -> KeptEpisodes:
    return KeptEpisodes(
        work_uri, "rollout-000003", shard=shard, shards=2, decided_by={"seed": 1, **decided_by}
    )


def test_what_is_kept_is_found_by_the_next_try(work_uri: str) -> None:
    group = [transition(group_id=2, sample=n) for n in range(2)]
    _kept(work_uri).add(2, group)
    kept = _kept(work_uri)
    assert kept.read([0, 2, 4]) == {2: group}
    (file,) = list_uris(f"{work_uri}/episodes/rollout-000003/")
    assert file == f"{kept.uri}group-000002.parquet"
    assert kept.uri.endswith("/shard-0000-of-0002/")
    assert read_episodes([kept.uri]) == read_episodes([file])


def test_what_follows_from_something_else_is_not_taken(work_uri: str) -> None:
    _kept(work_uri).add(0, [transition()])
    assert _kept(work_uri, temperature=0.5).read([0]) == {}
    assert _kept(work_uri, shard=1).read([0]) == {}
    assert list(_kept(work_uri).read([0])) == [0]


class _Dies(Says):
    """The service goes away after some requests."""

    left = 2

    async def sample(
        self, prompt: Sequence[int], count: int, *, seed: int, stop: Sequence[str]
    ) -> list[Sample]:
        if self.left == 0:
            raise TransientFailure("away")
        self.left -= 1
        return await super().sample(prompt, count, seed=seed, stop=stop)


async def test_groups_that_are_done_outlive_the_failure_of_another(work_uri: str) -> None:
    episodes = episode_set(groups=5, concurrency=2)  # a group of two at once
    kept = _kept(work_uri)

    async def keep(group_id: int, transitions: list[Transition]) -> None:
        kept.add(group_id, transitions)

    with pytest.raises(TransientFailure, match="away"):
        await play(_Dies([" a"]), Counting(turns=1), TOKENIZER, episodes, on_group=keep)
    before = kept.read(episodes.group_ids())
    assert sorted(before) == [0, 1]
    policy = Says([" b"])
    counting = Counting(turns=1)
    outcome = await play(policy, counting, TOKENIZER, episodes, skip=before, on_group=keep)
    assert sorted(asked[0] for asked in policy.asked) == ["task 12:", "task 13:", "task 14:"]
    assert [t.group_id for t in outcome.transitions] == [2, 2, 3, 3, 4, 4]
    (whole,) = {len(read_episodes([kept.uri]))}
    assert whole == 10


def test_a_kept_file_that_is_something_else_is_named(tmp_path: Path) -> None:
    kept = _kept(str(tmp_path))
    write_bytes(f"{kept.uri}group-000000.parquet", b"hello")
    with pytest.raises(BadData, match=r"group-000000\.parquet is not a readable Parquet file"):
        kept.read([0])


def test_sources_are_put_together_in_canonical_order(work_uri: str, tmp_path: Path) -> None:
    groups = [[transition(group_id=g, sample=n) for n in range(2)] for g in range(4)]
    shards = [_kept(work_uri, shard=shard) for shard in range(2)]
    for group_id, group in enumerate(groups):
        shards[group_id % 2].add(group_id, group)
    whole = str(tmp_path / "whole")  # KFP's artifacts have no suffix
    write_trajectories(whole, [t for group in reversed(groups) for t in group], {})
    uris = [shard.uri for shard in shards]
    read = read_episodes(uris)
    assert [t.key for t in read] == [(0, g, n) for g in range(4) for n in range(2)]
    assert read == read_episodes(uris[::-1]) == read_episodes([whole])
    # Identical transitions may come from several places.
    assert read_episodes([whole, *uris, uris[0]]) == read


@pytest.mark.parametrize(
    "other",
    [
        transition(env_reward=0.0),
        transition(logprobs=[-0.25, -1.25]),
        transition(policy="tinker://s:train:1/sampler_weights/policy-000000"),
    ],
)
def test_two_rollouts_are_not_taken_for_one(tmp_path: Path, other: Transition) -> None:
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    write_trajectories(first, [transition()], {})
    write_trajectories(second, [other], {})
    with pytest.raises(BadData, match=r"\(0, 0, 0, 0\) is in .*/a and in .*/b, and not the same"):
        read_episodes([first, second])


def test_a_transition_that_a_file_has_twice_is_refused(tmp_path: Path) -> None:
    write_trajectories(str(tmp_path / "a"), [transition()] * 2, {})
    with pytest.raises(BadData, match="is there twice"):
        read_episodes([str(tmp_path / "a")])


def test_a_turn_that_is_in_no_source_is_missed(tmp_path: Path) -> None:
    write_trajectories(str(tmp_path / "a"), [transition(done=False)], {})
    write_trajectories(str(tmp_path / "b"), [transition(turn=2)], {})
    with pytest.raises(BadData, match=r"has turns \[0, 2\]"):
        read_episodes([str(tmp_path / name) for name in "ab"])


@pytest.mark.parametrize(
    ("uris", "error", "says"),
    [
        ([], BadConfiguration, "no trajectories: give the input"),
        ([""], BadConfiguration, "only where it has a work_uri"),
        (["{}/"], BadData, "holds no episodes"),
        (["{}"], BadData, "holds no episodes"),
        (["{}/nothing/"], BadData, "holds no episodes"),
        (["{}/nothing"], BadData, "does not exist"),
    ],
)
def test_without_episodes_it_says_where_they_were_looked_for(
    tmp_path: Path, uris: list[str], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        read_episodes([uri.format(tmp_path) for uri in uris])


def test_shards_are_the_whole_and_do_not_overlap() -> None:
    shards = [replace(episode_set(groups=7), shard=n, shards=3) for n in range(3)]
    ids = [list(shard.group_ids()) for shard in shards]
    assert ids == [[0, 3, 6], [1, 4], [2, 5]]
    with pytest.raises(BadConfiguration, match="3 shards of 2 groups"):
        episode_set(groups=2, shards=3)
    with pytest.raises(BadConfiguration, match="shard 3 of 3"):
        episode_set(groups=7, shard=3, shards=3)
