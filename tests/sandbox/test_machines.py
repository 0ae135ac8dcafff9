"""Sandboxes of an ordinary user, in a pod's user namespace, and where there can be none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox.needs import local_sandbox

HERE = Path(__file__).parent
SYSTEM_PYTHON = "/usr/bin/python3"
TRY = """
import os
from tuft_components.errors import BadConfiguration
from tuft_components.sandbox import Job, Limits, sandbox
try:
    sandbox().check()
except BadConfiguration as error:
    raise SystemExit(f"refused: {error}")
fork = "import os\\nfor _ in range(60):\\n    if os.fork() == 0:\\n        os.execlp('sleep', 'sleep', '9')"
files = "n = 0\\nwhile True:\\n    n += 1\\n    open(str(n), 'w').close()"
for code in (fork, files, "print(6 * 7)"):
    result = sandbox().run(Job(code=code, limits=Limits(wall_s=60)))
    print(os.getuid(), result.limit, result.stdout.strip())
"""
# Nobody but root can read our own Python on some machines; this one has our libraries too.
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": ":".join(path for path in sys.path if path),
}


def start_as(*before: str) -> subprocess.CompletedProcess[str]:
    """The program above, by the system's Python."""
    return subprocess.run(
        [*before, SYSTEM_PYTHON, "-c", TRY], env=ENVIRONMENT, capture_output=True, text=True
    )


@pytest.fixture(autouse=True)
def other_users() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become other users")
    probe = [SYSTEM_PYTHON, "-c", "import pydantic, httpx"]
    done = subprocess.run(probe, env=ENVIRONMENT, user=12345, group=12345, capture_output=True)
    if done.returncode:
        pytest.skip(f"other users have no Python with our libraries: {done.stderr.decode()[-200:]}")


SETPRIV = ("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups")
EXPECTED = "{0} processes \n{0} files \n{0}  42\n"


def test_an_ordinary_user() -> None:
    local_sandbox()
    done = start_as(*SETPRIV)
    assert done.stdout == EXPECTED.format(12345), done.stderr


def test_a_pod_with_users_of_its_own() -> None:
    """As hostUsers: false, runAsUser, allowPrivilegeEscalation: false and no capabilities."""
    local_sandbox()
    pod = ("setpriv", "--reuid=10001", "--regid=10001", "--clear-groups", "--no-new-privs",
           "--bounding-set=-all", "--inh-caps=-all")  # fmt: skip
    done = start_as(sys.executable, str(HERE / "user_namespace.py"), *pod)
    assert done.stdout == EXPECTED.format(10001), done.stderr


def test_a_machine_without_user_namespaces_refuses() -> None:
    local_sandbox()
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    done = start_as(
        sys.executable, str(HERE / "user_namespace.py"), "sh", "-c", forbid, "sh", *SETPRIV
    )
    assert done.stdout == ""
    assert "refused: bubblewrap can't make namespaces here:" in done.stderr
    assert "sysctl user.max_user_namespaces" in done.stderr
    assert "TUFT_SANDBOX_URL" in done.stderr
