"""The folder that a pipeline run leaves behind, and the lines that it prints."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from tuft_pipelines.report import History, draw_curve, render_page


def say(line: str) -> None:
    """A line of progress, with the time of day, at once."""
    # Not `print`: while a pipeline runs, stdout is redirected to its log file.
    stream = sys.__stdout__
    assert stream is not None
    stream.write(f"{time.strftime('%H:%M:%S')}  {line}\n")
    stream.flush()


class OutputFolder:
    """Where a run's results go: history, picture and report on top, all else in folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history_file = folder / "history.json"
        self.picture_file = folder / "reward.png"
        self.report_file = folder / "report.html"
        self.artifacts = folder / "artifacts"
        self.log_file = folder / "logs" / "pipeline.log"

    def clear(self) -> None:
        """Make the folder, and remove what an earlier run reported in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in (self.history_file, self.picture_file, self.report_file, self.log_file):
            file.unlink(missing_ok=True)

    def write(self, history: History) -> list[Path]:
        """History and report always; a picture where matplotlib is installed. Returns the files."""
        self.history_file.write_text(json.dumps(asdict(history), indent=1))
        self.report_file.write_text(render_page(history))
        if find_spec("matplotlib") is None:
            return [self.history_file, self.report_file]
        self.picture_file.write_bytes(draw_curve(history))
        return [self.history_file, self.picture_file, self.report_file]
