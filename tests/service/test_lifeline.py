"""Children end with their parent, also with one that died while it started them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tuft.lifeline import lifeline

# `tie` of the test's process runs in a grandchild: as if the child's parent had been replaced.
ORPHANED = """
import os
from tuft.lifeline import lifeline
tie = lifeline()
child = os.fork()
if child == 0:
    if os.fork() == 0:
        tie()
        os._exit(0)
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems can't tie a child to its parent")
def test_a_child_whose_parent_is_gone_does_not_start() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHANED], capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr


def test_a_child_of_a_living_parent_starts() -> None:
    subprocess.run([sys.executable, "-c", ""], preexec_fn=lifeline(), check=True)
