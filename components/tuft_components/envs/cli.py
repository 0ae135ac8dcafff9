"""`tuft-env`: the environments that there are; play one in the terminal; serve one to others.

    tuft-env list
    tuft-env play number_guess --env-args '{"highest": 16}'
    tuft-env serve number_guess --port 8000

Exit codes: 0 done, 65 bad data, 75 transient, 78 bad configuration; anything else is a bug.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tuft_components.envs import make_environment
from tuft_components.envs.base import SPLITS, EnvironmentFamily, Observation, Task, Turn
from tuft_components.envs.instances import Instances
from tuft_components.envs.registry import ENVIRONMENTS
from tuft_components.errors import BadConfiguration, ExitCode, exit_code_of
from tuft_components.user_code import user_code

_CALL_TIMEOUT_S = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = _parser().parse_args(arguments)
    try:
        if parsed.command == "list":
            return _list()
        args = _env_args(parsed.env_args)
        family = make_environment(parsed.name, args)
        if parsed.command == "play":
            task = Task(parsed.split, parsed.seed, parsed.index)
            asyncio.run(_play(parsed.name, family, task, parsed.max_turns))
        else:
            asyncio.run(_serve(parsed, family))
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise  # a bug: with its traceback, exit code 1
        print(f"tuft-env: {error}", file=sys.stderr)
        return int(code)
    return int(ExitCode.OK)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tuft-env", description="Agent environments.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | play | serve")
    commands.add_parser("list", help="what there is, and how to install the rest")
    play = commands.add_parser("play", help="play one episode in the terminal; Ctrl-D ends it")
    serve = commands.add_parser("serve", help="offer one on the OpenEnv protocol")
    for command in (play, serve):
        command.add_argument("name", metavar="NAME", help="as `tuft-env list` shows them")
        command.add_argument("--env-args", default="{}", metavar="JSON", help="its arguments")
    play.add_argument("--split", choices=SPLITS, default=SPLITS[0])
    play.add_argument("--seed", type=int, default=0)
    play.add_argument("--index", type=int, default=0, help="which task")
    play.add_argument("--max-turns", type=int, default=1000)
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8000, help="0: a free one")
    serve.add_argument("--sessions", type=int, default=8, help="at once, at most")
    return parser


def _env_args(text: str) -> Mapping[str, Any]:
    try:
        args = json.loads(text)
    except ValueError as error:
        raise BadConfiguration(f"--env-args {text!r} is no JSON: {error}") from error
    if not isinstance(args, dict):
        raise BadConfiguration(f"--env-args {text!r}: give a JSON object")
    return args


def _list() -> int:
    names = {
        name: f"{name}:{entry.argument.upper()}" if entry.argument else name
        for name, entry in ENVIRONMENTS.items()
    }
    width = max(map(len, names.values()))
    for name, entry in ENVIRONMENTS.items():
        missing = entry.missing()
        print(
            f"{names[name]:{width}}  {'not installed' if missing else 'installed':13}  {entry.summary}"
        )
        if missing:
            print(f"{'':{width}}  needs {', '.join(missing)}. To install: {entry.install}")
    print(f"{'python:MODULE:CLASS':{width}}  {'':13}  your own, by its import path")
    return int(ExitCode.OK)


async def _play(name: str, family: EnvironmentFamily, task: Task, max_turns: int) -> None:
    instances = Instances(family, _CALL_TIMEOUT_S)
    try:
        with user_code(f"environment {name}"):
            instance = await instances.take()
            try:
                turn = await _reset(name, instances, instance, task)
                await _turns(instances, instance, turn, max_turns)
            finally:
                await instances.drop(instance)
    finally:
        await instances.close()


async def _reset(name: str, instances: Instances, instance: Any, task: Task) -> Turn:
    try:
        return await instances.bounded(instance.reset(task))
    except ValueError as error:
        raise BadConfiguration(f"environment {name}: {error}") from error


async def _turns(instances: Instances, instance: Any, turn: Turn, max_turns: int) -> None:
    total, played = 0.0, 0
    _show(turn, first=True)
    while not turn.done and played < max_turns:
        said = await _said()
        if said is None:
            print("\nended")
            break
        turn = await instances.bounded(instance.step(f"{said}\n"))
        total, played = total + turn.reward, played + 1
        _show(turn)
    print(
        f"reward {total:g} in {played} turns" + ("" if turn.done else "; the episode is not over")
    )


def _show(turn: Turn, *, first: bool = False) -> None:
    text = _text(turn.observation)
    if text:
        print(text)
    if turn.error:
        print(f"[error: {turn.error}]")
    if turn.actions and not turn.done:
        print(f"[actions: {' | '.join(turn.actions)}]")
    if not first:
        print(f"[reward {turn.reward:g}{', done' if turn.done else ''}]")


def _text(observation: Observation) -> str:
    if isinstance(observation, str):
        return observation.strip("\n")
    return "\n".join(f"{message['role']}: {message['content']}" for message in observation)


async def _said() -> str | None:
    """A line of the player's; None: Ctrl-D. In a thread, so that the environment goes on."""
    prompt = "> " if sys.stdin.isatty() else ""
    try:
        return await asyncio.to_thread(input, prompt)
    except EOFError:
        return None


async def _serve(parsed: argparse.Namespace, family: EnvironmentFamily) -> None:
    missing = ENVIRONMENTS["openenv"].missing()
    if missing:
        raise BadConfiguration(
            f"tuft-env serve needs {', '.join(missing)}. "
            f"To install: {ENVIRONMENTS['openenv'].install}"
        )
    from tuft_components.envs.openenv.server import EnvironmentServer

    server = EnvironmentServer(
        parsed.name, family, sessions=parsed.sessions, call_timeout_s=_CALL_TIMEOUT_S
    )
    try:
        listening = await server.start(parsed.host, parsed.port)
    except OSError as error:
        raise BadConfiguration(f"can't listen at {parsed.host}:{parsed.port}: {error}") from error
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    port = next(iter(listening.sockets)).getsockname()[1]
    print(f"{parsed.name} at ws://{parsed.host}:{port}/ws; Ctrl-C ends", flush=True)
    await stopped.wait()
    listening.close()
    await listening.wait_closed()
    await server.close()


if __name__ == "__main__":
    sys.exit(main())
