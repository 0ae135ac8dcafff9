"""`tuft`: what is said before anything starts."""

from __future__ import annotations

import subprocess
import sys

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
