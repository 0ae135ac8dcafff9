"""`python -m tuft_components.envs.voyager install`: the npm packages that the environment needs.
`… bridge`: the four routes of one bot, for other clients than ours."""

from __future__ import annotations

import argparse
import asyncio
import sys

from tuft_components.envs.voyager import server_address
from tuft_components.envs.voyager.installing import home, install
from tuft_components.envs.voyager.sandboxed import check
from tuft_components.envs.voyager.serving import serve
from tuft_components.envs.voyager.tasks import all_tasks
from tuft_components.errors import StepError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tuft_components.envs.voyager")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="install the npm packages")
    bridge = commands.add_parser("bridge", help="offer /start, /step, /pause and /stop of one bot")
    bridge.add_argument("--port", type=int, default=3000)
    bridge.add_argument("--task", choices=all_tasks(), default="cobblestone", help="whose world")
    bridge.add_argument("--server", default="", help="HOST:PORT of a Minecraft server, not ours")
    given = parser.parse_args()
    try:
        if given.command == "install":
            install()
            _say(f"The npm packages of voyager are in {home()}")
        else:
            check()
            address = server_address(given.server)
            asyncio.run(serve(given.task, address, given.port, _started))
    except (StepError, ValueError) as error:
        print(error, file=sys.stderr)
        return int(error.exit_code) if isinstance(error, StepError) else 2
    return 0


def _started(port: int) -> None:
    """In the words that Voyager's client waits for."""
    _say(f"Server started on port {port}")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
