"""Is what the pipeline brings itself in order: its storage, its environment, its reward?"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Mapping
from typing import Any

from tuft_components.artifacts import delete, list_uris, read_bytes, write_bytes
from tuft_components.envs import make_environment
from tuft_components.envs.base import Task
from tuft_components.envs.instances import Instances
from tuft_components.errors import BadConfiguration, BadData
from tuft_components.preflight.findings import Finding, look
from tuft_components.rewards import reward_function
from tuft_components.user_code import user_code
from tuft_components.work import Work

_CALL_S = 120.0
_STORE = (
    "make the bucket or folder, or correct work_uri; for s3:// set AWS_ENDPOINT_URL, "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of a key that may read, write, list and delete"
)


def work_finding(work_uri: str) -> Finding:
    """A real object is written, listed, read and deleted."""
    if not work_uri:
        return Finding(
            "work_uri",
            "note",
            "none is given",
            "with one, a rollout that dies keeps its episodes, and a report has something to show",
        )
    return look("work_uri", _STORE, lambda: _use_store(work_uri))


def _use_store(work_uri: str) -> str:
    folder = f"{Work(work_uri).uri}/preflight"
    probe, content = f"{folder}/{uuid.uuid4().hex}", os.urandom(64)
    write_bytes(probe, content)
    try:
        if read_bytes(probe) != content:
            raise BadData(f"{probe} was read otherwise than it was written")
        if probe not in list_uris(folder):
            raise BadData(f"{probe} was written, but is not in the list of {folder}/")
    finally:
        delete(probe)
    if probe in list_uris(folder):
        raise BadData(f"{probe} was deleted, but is still there")
    return f"{work_uri} can be read and written"


def environment_finding(name: str, args: Mapping[str, Any], split: str) -> Finding:
    """A task of it begins, and begins alike a second time."""
    if not name:
        return Finding("environment", "not checked", "none is given")
    return look(
        "environment",
        "correct env and env_args, or the environment's code; it must be in the image",
        lambda: _first_observation(name, args, split),
    )


def _first_observation(name: str, args: Mapping[str, Any], split: str) -> str:
    family = make_environment(name, args)
    task = Task(split, 0, 0)

    async def first() -> tuple[object, object]:
        instances = Instances(family, _CALL_S)
        try:
            return await _begun(instances, task), await _begun(instances, task)
        finally:
            await instances.close()

    with user_code(f"environment {name}, at its first task of split {split!r},"):
        try:
            seen, again = asyncio.run(first())
        except ValueError as error:
            raise BadConfiguration(f"environment {name}: {error}") from error
    if not seen:
        raise BadData(f"environment {name} begins its first task with nothing")
    if seen != again:
        raise BadData(
            f"environment {name} begins the task (split {split!r}, seed 0, index 0) in two ways: "
            "the same three must give the same task"
        )
    return f"{name} gives tasks of split {split!r}"


async def _begun(instances: Instances, task: Task) -> object:
    """What the task begins with."""
    instance = await instances.take()
    try:
        return (await instances.bounded(instance.reset(task))).observation
    finally:
        await instances.drop(instance)


def reward_finding(name: str, args: Mapping[str, Any]) -> Finding:
    """It can be imported, and takes its arguments."""
    if not name:
        return Finding("reward", "not checked", "none is given")

    def see() -> str:
        reward_function(name, args)
        return f"{name} can be called"

    return look(
        "reward",
        "correct reward and reward_args, or the reward's code; it must be in the image",
        see,
    )


def reward_needs_finding(name: str, args: Mapping[str, Any]) -> Finding | None:
    """What the reward itself says of its needs, where it has a method `check`: a judge's model."""
    check = getattr(reward_function(name, args), "check", None) if name else None
    if check is None:
        return None

    def see() -> str:
        with user_code(f"reward {name}, in check,"):
            return str(check())

    return look("what the reward needs", "correct reward_args, or bring what is missing", see)
