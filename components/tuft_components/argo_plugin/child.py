"""The process of one step: `tuft-step`, told on its standard input what to do.

There a line of JSON has its arguments: an argument of a command line could be 128 KiB long at
most, and every user of the machine could read it. The standard input stays open as long as the
plugin lives. When it ends the plugin is gone, even by kill -9, and so must be this process: the
next plugin runs the step again.
"""

from __future__ import annotations

import json
import os
import sys
import threading

_STDIN = 0
_ORPHANED = 75


def main() -> int:
    arguments = json.loads(_line())
    threading.Thread(target=_end_with_the_plugin, name="lifeline", daemon=True).start()
    from tuft_components.cli import main as tuft_step

    return tuft_step(arguments)


def _line() -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        part = os.read(_STDIN, 65_536)
        if not part:
            raise SystemExit(_ORPHANED)
        data += part
    return data


def _end_with_the_plugin() -> None:
    os.read(_STDIN, 1)  # returns at its end only: nothing else is written
    os._exit(_ORPHANED)


if __name__ == "__main__":
    sys.exit(main())
