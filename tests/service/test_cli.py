"""`tuft`: what is said before anything starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_REDIS = """
import sys
sys.modules["redis"] = None  # as where the extra `service` is not installed
from tuft.cli import main
sys.exit(main([]))
"""


def test_the_base_install_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_REDIS], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 78
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("tuft: the service's packages are not installed (redis is missing)")
    assert "pip install 'tuft-pipelines[service]'" in line


@pytest.mark.parametrize("option", ["--checkpoint-dir", "--log-dir"])
def test_a_folder_that_can_not_be_made_is_told(
    option: str, tmp_path: Path, tiny_model_folder: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    folders = {"--checkpoint-dir": tmp_path / "c", "--log-dir": tmp_path / "l"}
    folders[option] = file / "folder"
    config = tmp_path / "models.yaml"
    config.write_text(
        f"supported_models: [{{model_name: tiny, model_path: {tiny_model_folder}}}]\n"
    )
    command = [sys.executable, "-m", "tuft.cli", "--port", "0", "--model-config", str(config)]
    for name, folder in folders.items():
        command += [name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert done.stderr == f"tuft: {option} {file / 'folder'} can't be used: Not a directory\n"
