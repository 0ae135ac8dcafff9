"""The npm packages: where they are, whether they are there, and how they get there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tuft_components.errors import BadConfiguration, TransientFailure

NODE = Path(__file__).parent / "node"
"""Our own JavaScript."""
INSTALL = "apt-get install nodejs npm bubblewrap && python -m tuft_components.envs.voyager install"
_OLDEST_NODE = 18


def home() -> Path:
    """Where the packages are; TUFT_ENVS_HOME moves it."""
    base = os.environ.get("TUFT_ENVS_HOME") or "~/.cache/tuft/envs"
    return Path(base).expanduser() / "voyager"


def modules() -> Path:
    """Raises:
    BadConfiguration: they are not installed, or others than this version of ours wants.
    """
    found = home() / "node_modules"
    if not (found / "flying-squid").is_dir():
        raise BadConfiguration(
            f"environment voyager needs its npm packages, which are not in {home()}. "
            f"To install: {INSTALL} (or make install-envs)"
        )
    installed = home() / "package-lock.json"
    if installed.read_bytes() != (NODE / "package-lock.json").read_bytes():
        raise BadConfiguration(
            f"the npm packages in {home()} are of another version of tuft-pipelines. "
            f"To install those of this one: {INSTALL} (or make install-envs)"
        )
    return found


def install() -> None:
    """With npm, from the lock file, into `home()`. Does nothing where they are there.

    Raises:
        BadConfiguration: npm or node is missing, or too old. TransientFailure: npm failed.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise BadConfiguration(f"the program {program} is missing: apt-get install nodejs npm")
    _check_node()
    try:
        modules()
        return
    except BadConfiguration:
        pass
    home().mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(NODE / name, home() / name)
    command = ["npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=home(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(home() / "node_modules", ignore_errors=True)
        raise TransientFailure(f"npm could not install into {home()}: {done.stderr[-2000:]}")
    _prune(home() / "node_modules" / "minecraft-data" / "minecraft-data" / "data" / "bedrock")


def _check_node() -> None:
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(said.lstrip("v").split(".")[0]) < _OLDEST_NODE:
        raise BadConfiguration(f"node is {said.strip()}; voyager needs {_OLDEST_NODE} or newer")


def _prune(bedrock: Path) -> None:
    """Two thirds of all that was installed are tables of another edition of the game. Its table
    of versions stays: it is read for every edition."""
    for folder in bedrock.iterdir() if bedrock.is_dir() else ():
        if folder.name != "common":
            shutil.rmtree(folder)
