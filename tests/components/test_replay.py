"""Error replay: what is remembered, what is played again, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.components.samples import transition
from tests.components.test_episodes import TOKENIZER, Counting, Says, episode_set, played
from tuft_components.artifacts import list_uris
from tuft_components.envs.base import Task
from tuft_components.episodes import Again, EpisodeSet, Limits
from tuft_components.errors import BadConfiguration, BadData
from tuft_components.feedback.step import STEP as FEEDBACK
from tuft_components.replay.attempts import LONGEST, attempt_of, hint_from
from tuft_components.replay.choosing import Chosen, Replay, choose
from tuft_components.replay.recording import remember
from tuft_components.replay.records import REPLAY, TaskRecord, read_records, write_records
from tuft_components.replay.store import Bounds, Store
from tuft_components.rollout.step import RolloutParams, kept_of
from tuft_components.steps import load_step
from tuft_components.tables import TableSchema, write_table
from tuft_components.trajectories import Transition, group_transitions, write_trajectories


def record(iteration: int = 0, index: int = 0, failed: int = 4, **changes: Any) -> TaskRecord:
    values: dict[str, Any] = {
        "env": "counting",
        "env_args": "{}",
        "split": "train",
        "seed": 0,
        "replay": "",
        "episodes": 4,
        "mean_reward": 1 - failed / 4,
        "attempt": "> no",
    }
    return TaskRecord(iteration=iteration, index=index, failed=failed, **{**values, **changes})


def store_of(*records: TaskRecord, now: int = 10, **bounds: int) -> Store:
    return Store.of(records, now, Bounds(**bounds))


def indices(store: Store) -> set[int]:
    return {entry.failure.index for entry in store.entries.values()}


# What is in the store


def test_a_task_that_fails_half_is_in_the_store() -> None:
    store = store_of(record(index=1, failed=2), record(index=2, failed=1), record(index=3))
    assert indices(store) == {1, 3}


def test_a_task_leaves_when_it_was_solved_in_a_row() -> None:
    lost = record(0)
    won = [record(n, failed=1, replay="fresh") for n in range(1, 5)]
    assert indices(store_of(lost, won[0])) == {0}
    assert indices(store_of(lost, won[0], record(2, replay="fresh"), won[2])) == {0}
    assert indices(store_of(lost, won[0], won[1])) == set()
    assert indices(store_of(lost, won[0], won[1], solved=3)) == {0}
    # What fails after that is in it anew.
    assert indices(store_of(lost, won[0], won[1], record(5))) == {0}


def test_a_task_leaves_after_replays_in_vain() -> None:
    again = [record(n, replay="hint") for n in range(1, 4)]
    assert indices(store_of(record(), *again, tries=4)) == {0}
    assert indices(store_of(record(), *again, tries=3)) == set()


def test_those_that_failed_most_and_are_oldest_stay() -> None:
    records = [record(9, index=1, failed=2), record(9, index=2), record(3, index=3, failed=2)]
    assert indices(store_of(*records, size=2)) == {2, 3}
    assert indices(store_of(*records, size=1)) == {2}


def test_the_draw_follows_weights_and_the_iteration_alone() -> None:
    records = [record(9, index=n, failed=4 if n < 5 else 2) for n in range(10)]
    draws = [
        [e.last.index for e in store_of(*records, now=now).draw(3, 7)] for now in range(10, 210)
    ]
    again = [
        [e.last.index for e in store_of(*records, now=now).draw(3, 7)] for now in range(10, 210)
    ]
    assert draws == again
    assert all(len(set(draw)) == 3 for draw in draws)
    first = [draw[0] for draw in draws]
    often = sum(index < 5 for index in first) / len(first)
    assert 0.55 < often < 0.77  # two thirds: those that failed twice as much
    assert len({tuple(draw) for draw in draws}) > 50
    assert draws[0] != [e.last.index for e in store_of(*records).draw(3, 8)]
    assert len(store_of(*records).draw(99, 7)) == 10


# The files


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    work = str(tmp_path)
    for number in (0, 1, 3):
        write_records(work, number, [record(number, index=n) for n in (2, 1)])
    assert [(one.iteration, one.index) for one in read_records(work, -5, 3)] == [
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
    ]
    assert read_records(work, 2, 4)[0] == record(3, index=1)
    assert read_records(str(tmp_path / "none"), 0, 4) == []


def _changed(file: Path) -> None:
    described: dict[str, str | int | float] = {"iteration": 0, "digest": "0" * 64}
    write_table(str(file), REPLAY, [record(index=5).__dict__], described)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def _renamed(file: Path) -> None:
    write_records(str(file.parent.parent), 7, [record(7)])
    (file.parent / "000007.parquet").replace(file)


def _older(file: Path) -> None:
    write_table(str(file), TableSchema("tuft.replay/0", REPLAY.columns), [], {"digest": ""})


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_changed, r"000000\.parquet is not what feedback 0 wrote: its rows and its digest"),
        (_cut, "is not a readable Parquet file"),
        (_renamed, "is not what feedback 0 wrote"),
        (_older, r"tuft\.replay/0, but this step reads tuft\.replay/1: another version"),
    ],
)
def test_a_file_that_was_changed_is_refused(damage: Any, says: str, tmp_path: Path) -> None:
    write_records(str(tmp_path), 0, [record()])
    (file,) = map(Path, list_uris(f"{tmp_path}/replay"))
    damage(file)
    with pytest.raises(BadData, match=says):
        choose(_replay(tmp_path), episode_set(iteration=1))


# Choosing


def _replay(work: Path, ratio: float = 0.5, form: str = "fresh", **bounds: int) -> Replay:
    return Replay(str(work), ratio, form, Bounds(**bounds))


def _chosen(work: Path, ratio: float = 0.5, form: str = "fresh", **changes: Any) -> Chosen:
    return choose(_replay(work, ratio, form), episode_set(**{"groups": 8, **changes}))


def test_groups_at_equal_distances_play_failed_tasks(tmp_path: Path) -> None:
    write_records(str(tmp_path), 0, [record(index=n) for n in range(20)])
    chosen = _chosen(tmp_path, 0.3)
    assert list(chosen.again) == [2, 6]
    assert chosen.store == 20
    assert all(one.task.index < 20 and not one.hint for one in chosen.again.values())
    assert list(_chosen(tmp_path, 1.0).again) == list(range(8))
    assert _chosen(tmp_path, 0.0) == Chosen({}, 0)
    # Of shards, each sees the same.
    assert _chosen(tmp_path, shard=1, shards=2) == _chosen(tmp_path)


def test_a_store_with_less_gives_what_it_has(tmp_path: Path) -> None:
    assert _chosen(tmp_path).again == {}
    write_records(str(tmp_path), 0, [record(index=3)])
    assert _chosen(tmp_path).again == {4: Again(Task("train", 0, 3), "fresh")}


def test_only_tasks_of_the_same_environment_and_split(tmp_path: Path) -> None:
    others: list[dict[str, Any]] = [{"env": "other"}, {"env_args": '{"x": 1}'}, {"split": "eval"}]
    write_records(str(tmp_path), 0, [record(**other) for other in others])
    assert _chosen(tmp_path).store == 0
    assert _chosen(tmp_path, env_args={"x": 1}).store == 1


def test_what_is_known_are_the_iterations_whose_updates_the_policy_has(tmp_path: Path) -> None:
    for number in range(6):
        write_records(str(tmp_path), number, [record(number, index=number)])
    for version, known in ((0, 0), (2, 2), (5, 5)):
        chosen = _chosen(tmp_path, 1.0, iteration=5, policy_version=version)
        assert {one.task.index for one in chosen.again.values()} == set(range(known))
    aged = choose(_replay(tmp_path, 1.0, max_age=2), episode_set(groups=8, iteration=5))
    assert {one.task.index for one in aged.again.values()} == {3, 4}


def test_replay_without_a_work_uri_is_refused_by_both_steps(tmp_path: Path) -> None:
    places = {"trajectories": str(tmp_path / "t"), "batch": str(tmp_path / "b")}
    for name, given in (("rollout", {"policy": "p"}), ("feedback", {})):
        wanted = {k: v for k, v in places.items() if k in load_step(name).outputs.model_fields}
        with pytest.raises(BadConfiguration, match="replay_ratio is set: error replay keeps"):
            load_step(name).execute({**given, "replay_ratio": 0.5}, {}, wanted)


def test_what_is_replayed_decides_where_episodes_are_kept(tmp_path: Path) -> None:
    params = {"policy": "p", "work_uri": str(tmp_path), "iteration": 3}
    off = RolloutParams.model_validate(params)
    on = RolloutParams.model_validate({**params, "replay_ratio": 0.5, "replay_tries": 3})
    assert kept_of(off).uri == kept_of(on, Chosen({}, 0).decides()).uri  # type: ignore[union-attr]
    forms = []
    for form in ("fresh", "hint"):
        write_records(str(tmp_path), 0, [record()])
        chosen = _chosen(tmp_path, form=form)
        forms.append(kept_of(on, chosen.decides()).uri)  # type: ignore[union-attr]
    assert len({kept_of(on).uri, *forms}) == 3  # type: ignore[union-attr]


# Playing them


async def test_a_group_plays_the_task_again() -> None:
    again = {1: Again(Task("train", 0, 3), "fresh")}
    transitions = await played(
        Says([" x"]), Counting(turns=1), again=again, env_args={"a": 1}, group_size=1
    )
    assert [t.prompt_text for t in transitions] == ["task 10:", "task 3:"]
    task = {"split": "train", "seed": 0, "env_args": {"a": 1}}
    assert [t.task for t in transitions] == [
        {**task, "index": 10},
        {**task, "index": 3, "replay": "fresh"},
    ]


@pytest.mark.parametrize("chat", [False, True])
async def test_a_hint_changes_the_prompt_and_nothing_else(chat: bool) -> None:
    """Neither what is sampled nor its seeds, and what comes later goes behind."""
    hinted = {0: Again(Task("train", 0, 10), "hint", "HINT ")}
    plain, shown = Says([" x"]), Says([" x"])
    before = await played(plain, Counting(chat=chat), groups=1)
    after = await played(shown, Counting(chat=chat), groups=1, again=hinted)
    assert [asked[0].replace("task 10:", "HINT task 10:") for asked in plain.asked] == [
        asked[0] for asked in shown.asked
    ]
    assert [asked[1:] for asked in plain.asked] == [asked[1:] for asked in shown.asked]
    same = ("completion_tokens", "logprobs", "env_reward", "end", "info", "completion_text")
    for one, other in zip(before, after, strict=True):
        assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]
        added = len(other.prompt_tokens) - len(one.prompt_tokens)
        assert added > 0
        assert other.observation_tokens - one.observation_tokens == (added if not one.turn else 0)


async def test_a_hint_that_does_not_fit_is_left_out() -> None:
    room = len(TOKENIZER.encode("task 10:"))
    again = {0: Again(Task("train", 0, 10), "hint", "HINT ")}
    (one,) = await played(
        Says([" x"]),
        Counting(turns=1),
        groups=1,
        group_size=1,
        limits=Limits(longest_prompt=room),
        again=again,
    )
    assert one.prompt_text == "task 10:"


def _said(turn: int, said: str, **more: Any) -> Transition:
    seen = "Guess:" if turn == 0 else "Guess: 3\nhigher\nGuess:"
    return transition(turn=turn, prompt_text=seen, completion_text=said, **more)


def test_the_attempt_has_what_was_said_and_what_came_back() -> None:
    turns = [
        _said(0, " 3\n"),
        _said(1, " cat\n", error="say a number", info={"reference": 7, "hint": "it is odd"}),
    ]
    (episode,) = group_transitions("here", turns)
    attempt = attempt_of(episode)
    assert attempt == "> 3\nhigher\nGuess:\n> cat\nsay a number\nit is odd"
    assert "7" not in attempt
    assert hint_from(record(attempt=attempt)).startswith(
        "An earlier attempt at this task failed:\n>"
    )
    assert hint_from(record(attempt="")) == ""
    (long,) = group_transitions("here", [_said(0, "x" * 5000)])
    assert len(attempt_of(long)) < LONGEST + 50


# Remembering


def _group(
    group_id: int, rewards: Sequence[float], iteration: int = 2, **task: Any
) -> list[Transition]:
    described = {"split": "train", "seed": 0, "index": group_id, "env_args": {"b": 1, "a": 2}}
    return [
        transition(
            iteration=iteration,
            group_id=group_id,
            sample=sample,
            completion_text=f" s{sample}",
            env_reward=reward,
            task={**described, **task},
        )
        for sample, reward in enumerate(rewards)
    ]


def test_what_failed_and_what_was_replayed_is_remembered(tmp_path: Path) -> None:
    transitions = [
        *_group(0, [1, 1]),
        *_group(1, [1, 0.25]),
        *_group(2, [0, 0]),
        *_group(3, [1, 1], index=40, replay="fresh"),
        *_group(9, [0, 0], iteration=1),
    ]
    trajectories = group_transitions("here", transitions)
    rewards = np.asarray([one.transitions[0].env_reward for one in trajectories], dtype=np.float64)
    rewards[rewards == 1] -= 1e-8  # as a sum of float32 may be
    metrics = remember(str(tmp_path), 2, trajectories, rewards, below=1.0)
    assert metrics == {
        "tasks_failed": 2,
        "replayed": 1,
        "replayed_solved": 1,
        "mean_reward_new": pytest.approx(3.25 / 6),
        "mean_reward_replayed": pytest.approx(1),
    }
    found = read_records(str(tmp_path), 0, 9)
    assert [(one.index, one.failed, one.replay, one.attempt) for one in found] == [
        (1, 1, "", "> s1"),
        (2, 2, "", "> s0"),
        (40, 0, "fresh", ""),
    ]
    assert {(one.iteration, one.env_args, one.episodes) for one in found} == {
        (2, '{"a": 2, "b": 1}', 2)
    }


def _feedback(folder: Path, transitions: Sequence[Transition], **params: Any) -> dict[str, float]:
    write_trajectories(str(folder / "t"), transitions, {})
    given = {"work_uri": str(folder), "replay_ratio": 0.5, **params}
    outputs = FEEDBACK.execute(given, {"trajectories": str(folder / "t")}, {"batch": f"{folder}/b"})
    metrics: dict[str, float] = outputs.metrics
    return metrics


def test_feedback_that_runs_again_gives_the_same(tmp_path: Path) -> None:
    """Also after later iterations were remembered."""
    groups = [*_group(0, [0, 1]), *_group(1, [0, 0])]
    metrics = _feedback(tmp_path, groups, iteration=2)
    assert (metrics["tasks_failed"], metrics["replayed"]) == (2, 0)
    before = _chosen(tmp_path, env="second_word", env_args={"a": 2, "b": 1}, iteration=3)
    assert {one.task.index for one in before.again.values()} == {0, 1}
    _feedback(tmp_path, _group(5, [0], iteration=3), iteration=3)
    _feedback(tmp_path, groups, iteration=2)
    assert before == _chosen(tmp_path, env="second_word", env_args={"a": 2, "b": 1}, iteration=3)


def test_without_replay_nothing_is_remembered(tmp_path: Path) -> None:
    metrics = _feedback(tmp_path, _group(0, [0]), iteration=2, replay_ratio=0)
    assert "tasks_failed" not in metrics
    assert not (tmp_path / "replay").exists()


@pytest.mark.parametrize(
    ("iteration", "task", "says"),
    [
        (3, True, "feedback of iteration 3 was given trajectories of iteration 2"),
        (2, False, "error replay needs trajectories that say their tasks"),
    ],
)
def test_trajectories_that_can_not_be_remembered(
    iteration: int, task: bool, says: str, tmp_path: Path
) -> None:
    group = _group(0, [0])
    with pytest.raises(BadConfiguration, match=says):
        _feedback(tmp_path, group if task else [replace(group[0], task={})], iteration=iteration)


def test_an_episode_set_says_its_tasks_as_json() -> None:
    episodes: EpisodeSet = episode_set(env_args={"a": [1]})
    assert json.loads(json.dumps(episodes.described(1))) == episodes.described(1)
