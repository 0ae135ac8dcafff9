"""The issue's program, as it stands there, against a real service."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.e2e.service import Service

PROGRAM = Path(__file__).with_name("program.py")


def test_program_runs_unchanged(service: Service, tmp_path: Path) -> None:
    text = PROGRAM.read_text()
    if not service.url.endswith(":8080"):  # the port was taken on this machine
        text = text.replace("http://localhost:8080", service.url)
    script = tmp_path / "program.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    line = done.stdout.strip().splitlines()[-1]
    assert "loss:sum" in line
    assert "grad_norm" in line
    assert ":train:0" in line
    assert "/weights/demo-checkpoint" in line


def test_printed_snippet_works_when_pasted(service: Service, tmp_path: Path) -> None:
    printed = "".join(service.output)
    snippet = printed.split("Try it in Python:")[1].split("Ctrl-C stops it")[0]
    assert len(snippet.strip().splitlines()) == 5
    # This service has configured keys, which are not printed.
    snippet = snippet.replace("<one of your api_keys>", "tml-local-dev-key")
    done = subprocess.run(
        [sys.executable, "-c", snippet], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
