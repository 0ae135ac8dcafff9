"""Tinker's protobuf messages, without the rest of the tinker package.

`import tinker` also imports torch where that is installed: seconds and 200 MB that a process
like the api has no use for. The module is registered under its own name, so that a later
import of tinker finds this one and no message exists twice.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

__all__ = ["pb"]

_NAME = "tinker.proto.tinker_public_pb2"


def _load() -> ModuleType:
    loaded = sys.modules.get(_NAME)
    if loaded is not None:
        return loaded
    # Looking for a package at the top does not run it.
    package = importlib.util.find_spec("tinker")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("the package tinker is not installed", name="tinker")
    path = Path(package.submodule_search_locations[0], "proto", "tinker_public_pb2.py")
    spec = importlib.util.spec_from_file_location(_NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from tinker.proto import tinker_public_pb2 as pb
else:
    pb = _load()
