"""What the experiments share: a service that goes on after a stop, and where results go."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tuft.demo_model import demo_model
from tuft_pipelines.local_service import LocalService, local_service

DOCS = Path(__file__).parents[2] / "docs" / "learning"


@contextmanager
def lasting_service(folder: Path, dtype: str = "auto") -> Iterator[LocalService]:
    """The demo model in a dtype of the configuration, with everything on disk below the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "models.yaml"
    store = {"mode": "file_redis", "file_path": str((folder / "store").absolute())}
    model = demo_model().model_dump(mode="json", exclude_defaults=True) | {"dtype": dtype}
    file.write_text(yaml.safe_dump({"supported_models": [model], "persistence": store}))
    config = ["--model-config", str(file)]
    with local_service(folder / "service", say=say, arguments=config) as service:
        yield service


def say(line: str) -> None:
    """A line for who waits."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
