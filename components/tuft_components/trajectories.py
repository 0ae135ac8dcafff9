"""`tuft.trajectories/3`: what a rollout produced, one row a transition (one turn of one episode).

| column | meaning |
|---|---|
| iteration, group_id, sample, turn | which transition: rows of one group share their task |
| env | the environment's name, or module:factory |
| task | JSON object: split, seed, index and env_args; and replay, the form of it, where it is one |
| policy | what was sampled from: a tinker:// path, or a base model |
| policy_version | updates behind that policy: the iteration, or less where it was older |
| prompt_tokens, completion_tokens | int32 token ids: all that was seen and said before, and the action |
| observation_tokens | how many of the prompt's last tokens the environment said since the last action |
| logprobs | float32 [T], of the distribution sampled from |
| prompt_text, completion_text | the same as text, without special tokens |
| stop_reason | stop, or length |
| env_reward, done | what the environment said to the completion |
| actions | what might be done, where that was a list |
| error | what was wrong with the action; of a failed episode, why it failed |
| end | of the last turn: done, turns, context, budget or failed; else empty |
| info | JSON object of the environment: the reference answer, say |

docs/data.md says it to those who read the files with other tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from math import isfinite
from typing import Any

import pyarrow as pa

from tuft_components.errors import BadData
from tuft_components.steps import Dataset
from tuft_components.tables import TableSchema, read_table, write_table

TRAJECTORIES = TableSchema(
    "tuft.trajectories/3",
    pa.schema(
        [
            ("iteration", pa.int64()),
            ("group_id", pa.int64()),
            ("sample", pa.int64()),
            ("turn", pa.int64()),
            ("env", pa.string()),
            ("task", pa.string()),
            ("policy", pa.string()),
            ("policy_version", pa.int64()),
            ("prompt_tokens", pa.list_(pa.int32())),
            ("observation_tokens", pa.int64()),
            ("completion_tokens", pa.list_(pa.int32())),
            ("logprobs", pa.list_(pa.float32())),
            ("prompt_text", pa.string()),
            ("completion_text", pa.string()),
            ("stop_reason", pa.string()),
            ("env_reward", pa.float32()),
            ("done", pa.bool_()),
            ("actions", pa.list_(pa.string())),
            ("error", pa.string()),
            ("end", pa.string()),
            ("info", pa.string()),
        ]
    ),
)

_OBJECTS = ("info", "task")
"""Columns of JSON objects."""


@dataclass(frozen=True)
class Transition:
    """One turn: the policy saw `prompt_tokens` and answered `completion_tokens`."""

    iteration: int
    group_id: int
    sample: int
    turn: int
    env: str
    policy: str
    policy_version: int
    prompt_tokens: Sequence[int]
    completion_tokens: Sequence[int]
    logprobs: Sequence[float]
    prompt_text: str
    completion_text: str
    stop_reason: str
    env_reward: float
    done: bool
    observation_tokens: int = 0
    actions: Sequence[str] = field(default_factory=list)
    error: str = ""
    end: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trajectory:
    """The transitions of one episode, in order; never empty."""

    transitions: Sequence[Transition]

    @property
    def key(self) -> tuple[int, int, int]:
        first = self.transitions[0]
        return (first.iteration, first.group_id, first.sample)

    @property
    def failed(self) -> bool:
        """Whether the environment failed in it: it says nothing about the policy."""
        return self.transitions[-1].end == "failed"


def without_failed(where: str, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Raises:
    BadData: none is left.
    """
    left = [trajectory for trajectory in trajectories if not trajectory.failed]
    if not left:
        why = trajectories[0].transitions[-1].error if trajectories else "none was played"
        raise BadData(f"{where}: the environment failed in every episode: {why}")
    return left


def write_trajectories(
    uri: str, transitions: Iterable[Transition], metadata: Mapping[str, str | int | float]
) -> Dataset:
    rows = []
    for transition in transitions:
        row = asdict(transition)
        for name in _OBJECTS:
            row[name] = json.dumps(row[name], sort_keys=True)
        rows.append(row)
    return write_table(uri, TRAJECTORIES, rows, metadata)


def read_trajectories(uri: str) -> list[Trajectory]:
    """Episodes in canonical order: by iteration, group and sample.

    Raises:
        BadData: another schema, no rows, a transition that is there twice, or one with another
            number of logprobs than of tokens.
    """
    return group_transitions(uri, read_transitions(uri))


def read_transitions(uri: str) -> list[Transition]:
    """The rows of one file, in its order.

    Raises:
        BadData: another schema, or no rows.
    """
    transitions = []
    for row in read_table(uri, TRAJECTORIES):
        objects = {name: json.loads(row[name]) for name in _OBJECTS}
        transitions.append(Transition(**{**row, **objects}))
    if not transitions:
        raise BadData(f"{uri} has no rows: the rollout that wrote it played no episode")
    return transitions


def group_transitions(where: str, transitions: Iterable[Transition]) -> list[Trajectory]:
    """Transitions in any order → episodes in canonical order; BadData as `read_trajectories`."""
    ordered = sorted(transitions, key=lambda t: (t.iteration, t.group_id, t.sample, t.turn))
    for transition in ordered:
        if len(transition.logprobs) != len(transition.completion_tokens):
            raise BadData(
                f"{where}: group {transition.group_id} sample {transition.sample} has "
                f"{len(transition.completion_tokens)} completion tokens and "
                f"{len(transition.logprobs)} logprobs"
            )
        if not all(map(isfinite, transition.logprobs)):
            raise BadData(
                f"{where}: group {transition.group_id} sample {transition.sample} has a logprob "
                "that is not finite"
            )
    trajectories = []
    for key, rows in groupby(ordered, key=lambda t: (t.iteration, t.group_id, t.sample)):
        trajectory = Trajectory(list(rows))
        turns = [transition.turn for transition in trajectory.transitions]
        if turns != list(range(len(turns))):
            raise BadData(
                f"{where}: (iteration, group, sample) {key} has turns {turns}; "
                "each turn from 0 on must be there once"
            )
        trajectories.append(trajectory)
    return trajectories
