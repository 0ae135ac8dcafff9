"""What a program tries in a sandbox, and what becomes of it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.needs import local_sandbox
from tests.waiting import wait_until
from tuft_components.sandbox import Job, Limits, Result
from tuft_components.sandbox.local import LocalSandbox

KEY = "a-key-that-nobody-may-see"

# Each is tried by itself; what comes out is its value, or the error's text.
ATTEMPTS = {
    "uid": "os.getuid()",
    "become root": "os.setuid(0)",
    "environment": "dict(os.environ)",
    "open files": "[n for n in range(256) if is_open(n)]",
    "the project": f"os.listdir({str(Path(__file__).parents[2])!r})",
    "root's home": "os.listdir('/root')",
    "passwords": "open('/etc/passwd').read()",
    "the machine's processes": "os.listdir('/proc')",
    "the kernel": "os.listdir('/sys')",
    "what is there": "sorted(os.listdir('/'))",
    "devices": "sorted(os.listdir('/dev'))",
    "write to /": "open('/x', 'w')",
    "write to /usr/bin": "open('/usr/bin/x', 'w')",
    "write to /dev": "open('/dev/x', 'w')",
    "write to /etc": "open('/etc/ld.so.cache', 'w')",
    "a folder of its own": "open('/work/x', 'w').write('x') + open('/tmp/y', 'w').write('y')",
    "stdin": "os.write(0, b'x')",
    "internet socket": "socket.socket()",
    "unix socket": "socket.socket(socket.AF_UNIX)",
    "netlink socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "look up a name": "socket.getaddrinfo('localhost', 80, proto=6) and socket.socket()",
    "signal the parent outside": f"os.kill({os.getpid()}, 0)",
    "a user namespace": "call('unshare', 0x10000000)",
    "a user namespace by clone": "call('syscall', CLONE, 0x10000000 | 17, 0, 0, 0, 0)",
    "a mount": "call('mount', b'x', b'/work', b'tmpfs', 0, 0)",
    "an unmount": "call('umount2', b'/work', 2)",
    "another root": "call('chroot', b'/work')",
    "ptrace": "call('ptrace', 16, os.getppid(), 0, 0)",
    "its parent's memory": "call('process_vm_readv', os.getppid(), 0, 0, 0, 0, 0)",
    "memory without a folder": "call('memfd_create', b'x', 0)",
    "shared memory": "call('shmget', 0, 4096, 0o1600)",
    "a kernel keyring": "call('syscall', KEYCTL, 0, -3, 0)",
    "more processes": "resource.setrlimit(resource.RLIMIT_NPROC, (4096, 4096))",
    "more memory": "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    "a set-user-id program": "privileges()",
    "kill init": "os.kill(1, 9) or 'it lives'",
    "another host name": "socket.sethostname('x')",
    "threads": "threads()",
    "a child": "subprocess.run(['/bin/echo', 'hello'], capture_output=True).stdout.decode()",
    "asyncio": "asyncio.run(asyncio.sleep(0, 'slept'))",
}
TRIES = """
import asyncio, ctypes, json, os, platform, resource, socket, subprocess, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
CLONE, KEYCTL = (56, 250) if platform.machine() == 'x86_64' else (220, 219)
def call(name, *args):
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def is_open(number):
    try:
        return bool(os.fstat(number))
    except OSError:
        return False
def privileges():
    return libc.prctl(39, 0, 0, 0, 0)  # PR_GET_NO_NEW_PRIVS
def threads():
    found = []
    started = [threading.Thread(target=found.append, args=(n,)) for n in range(3)]
    for each in started: each.start()
    for each in started: each.join()
    return sorted(found)
found = {}
for name, attempt in json.load(sys.stdin).items():
    try:
        found[name] = eval(attempt)
        json.dumps(found[name])
    except BaseException as error:
        found[name] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""
DENIED = "PermissionError: [Errno 1] Operation not permitted"
READ_ONLY = "OSError: [Errno 30] Read-only file system"
GONE = "FileNotFoundError"
EXPECTED: dict[str, Any] = {
    "uid": 65534,
    "become root": "OSError",
    "environment": None,
    "open files": [0, 1, 2],
    "the project": GONE,
    "root's home": GONE,
    "passwords": GONE,
    "the machine's processes": GONE,
    "the kernel": GONE,
    "what is there": None,
    "devices": ["full", "null", "random", "urandom", "zero"],
    "write to /": READ_ONLY,
    "write to /usr/bin": READ_ONLY,
    "write to /dev": READ_ONLY,
    "write to /etc": READ_ONLY,
    "a folder of its own": 2,
    "internet socket": DENIED,
    "unix socket": DENIED,
    "netlink socket": DENIED,
    "look up a name": None,
    "signal the parent outside": "ProcessLookupError",
    "another host name": "PermissionError",
    "more processes": "ValueError: not allowed to raise maximum limit",
    "more memory": "ValueError: not allowed to raise maximum limit",
    "a set-user-id program": 1,
    "kill init": "it lives",
    "threads": [0, 1, 2],
    "a child": "hello\n",
    "asyncio": "slept",
}


@pytest.fixture(scope="module")
def place() -> LocalSandbox:
    return local_sandbox()


def run(place: LocalSandbox, code: str, **limits: Any) -> Result:
    return place.run(Job(code=code, limits=Limits(**limits)))


@pytest.fixture(scope="module")
def found(place: LocalSandbox) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
        limits = Limits(wall_s=60, kept_kb=64)
        result = place.run(Job(code=TRIES, stdin=json.dumps(ATTEMPTS), limits=limits))
    assert result.ok, result
    tried: dict[str, Any] = json.loads(result.stdout)
    return tried


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_attempt(attempt: str, found: dict[str, Any]) -> None:
    expected, came = EXPECTED.get(attempt, DENIED), found[attempt]
    if isinstance(expected, str) and isinstance(came, str):
        assert came.startswith(expected)
    elif expected is not None:
        assert came == expected


def test_nothing_of_the_environment_is_inside(found: dict[str, Any]) -> None:
    assert KEY not in json.dumps(found)
    assert set(found["environment"]) <= {
        "PATH", "HOME", "LANG", "PWD", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE",
        "MALLOC_ARENA_MAX",
    }  # fmt: skip
    assert {"work", "usr", "dev", "tmp"} <= set(found["what is there"])
    assert not {"root", "home", "proc", "sys", "run", "var", "boot"} & set(found["what is there"])


MANY = """
import os, time
for _ in range(4):
    if not os.fork():
        x = b'x' * (100 << 20)
        time.sleep(60)
time.sleep(60)
"""
DEAF = """
import signal, time
for each in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(each, signal.SIG_IGN)
time.sleep(60)
"""
LIMITS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "fork bomb": ("import os\nwhile True: os.fork()", "processes", {}),
    "fork bomb whose parents leave": (
        "import os\nfor _ in range(99):\n    if os.fork(): os._exit(0)\nwhile True: pass", "", {}
    ),
    "memory": ("x = bytearray(1 << 30)", "memory", {}),
    "memory of many processes": (MANY, "memory", {"memory_mb": 256, "wall_s": 60}),
    "a large file": ("open('x', 'wb').write(bytes(3 << 20))", "disk", {"disk_mb": 1}),
    "a full disk": (
        "for n in range(9):\n    open(str(n), 'wb').write(bytes(1 << 19))", "disk", {"disk_mb": 1}
    ),
    "many files": ("n = 0\nwhile True:\n    n += 1\n    open(str(n), 'w').close()", "files", {}),
    "open files": ("x = [open('x', 'w') for _ in range(99)]", "open_files", {}),
    "stdout": ("import os\nwhile True: os.write(1, b'x' * 9999)", "output", {"output_kb": 64}),
    "stderr": ("import os\nwhile True: os.write(2, b'x' * 9999)", "output", {"output_kb": 64}),
    "endless loop": ("while True: pass", "cpu", {"cpu_s": 0.2, "wall_s": 60}),
    "endless loops of many processes": (
        "import os\nfor _ in range(3): os.fork()\nwhile True: pass",
        "cpu", {"cpu_s": 0.5, "wall_s": 60},
    ),
    "sleep": ("import time\ntime.sleep(60)", "wall", {"wall_s": 0.4}),
    "sleep without signals": (DEAF, "wall", {"wall_s": 0.4}),
    "a stopped process": ("import os\nos.kill(os.getpid(), 19)", "wall", {"wall_s": 0.4}),
}  # fmt: skip


@pytest.fixture(scope="module")
def ended(place: LocalSandbox) -> dict[str, Result]:
    """All at once: most of them wait."""
    jobs = [Job(code=code, limits=Limits(**given)) for code, _, given in LIMITS.values()]
    with ThreadPoolExecutor(len(jobs)) as threads:
        return dict(zip(LIMITS, threads.map(LocalSandbox(at_once=6).run, jobs), strict=True))


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_ends_it(name: str, ended: dict[str, Result]) -> None:
    result, limit = ended[name], LIMITS[name][1]
    assert result.limit == limit
    assert (result.status != 0) == bool(limit)
    assert len(result.stdout) + len(result.stderr) < 40_000


def test_a_daemon_does_not_stay(place: LocalSandbox) -> None:
    name = f"stays-{uuid.uuid4()}"
    result = run(
        place,
        "import os, subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', {name!r}],"
        " start_new_session=True)\nprint('left')",
    )
    assert (result.status, result.stdout, result.limit) == (0, "left\n", "")
    wait_until(lambda: not running(name), 10)


def test_it_ends_with_the_process_that_began_it(place: LocalSandbox) -> None:
    sleep = f"60.{random.SystemRandom().randrange(10**9)}"
    program = (
        "from tuft_components.sandbox import Job, sandbox\n"
        f'code = \'import os; os.execlp("sleep", "sleep", "{sleep}")\'\n'
        "sandbox().run(Job(code=code))"
    )
    sandboxed = f"sleep\0{sleep}\0"
    process = subprocess.Popen([sys.executable, "-c", program])
    wait_until(lambda: running(sandboxed), 30)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not running(sandboxed), 10)


def running(name: str) -> bool:
    """Whether a process of this machine has it in its command line."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if name in (folder / "cmdline").read_text(errors="replace"):
                    return True
            except OSError:
                continue
    return False


def test_what_it_says_is_shortened(place: LocalSandbox) -> None:
    result = run(place, "print('a' + 'x' * 99_999 + 'z')\nraise SystemExit(3)", kept_kb=1)
    assert result.status == 3
    assert result.stdout.startswith("ax")
    assert result.stdout.endswith("xz\n")
    assert "characters" in result.stdout
    assert len(result.stdout) < 1100


def test_what_it_is_given(place: LocalSandbox) -> None:
    job = Job(code="print(input(), open('a.txt').read())", stdin="in\n", files={"a.txt": "é\ud800"})
    assert place.run(job).stdout == "in é?\n"


def test_the_same_program_does_the_same(place: LocalSandbox) -> None:
    """Sets of texts would have another order in each process."""
    code = "print({chr(n) for n in range(97, 123)})"
    assert len({run(place, code).stdout for _ in range(2)}) == 1
