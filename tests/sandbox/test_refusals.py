"""Where no sandbox can be made, nothing is run, and the reason is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.components.samples import transition
from tests.sandbox.needs import local_sandbox
from tuft_components.envs import make_environment
from tuft_components.errors import BadConfiguration
from tuft_components.rewards import rewards_of
from tuft_components.sandbox import Job, Limits, bubblewrap, seccomp
from tuft_components.sandbox.local import LocalSandbox
from tuft_components.trajectories import Trajectory


@pytest.fixture
def without_bubblewrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("TUFT_SANDBOX_URL", raising=False)
    monkeypatch.setattr("tuft_components.sandbox._local", LocalSandbox)  # none that was tried


@pytest.mark.usefixtures("without_bubblewrap")
def test_without_bubblewrap_nothing_runs(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'ran')!r}, 'w')"
    for _ in range(2):
        with pytest.raises(BadConfiguration, match=r"apt-get install bubblewrap.*TUFT_SANDBOX_URL"):
            LocalSandbox().run(Job(code=code))
    info = {"tests": ["assert f()"]}
    episode = Trajectory([transition(completion_text=code, info=info)])
    with pytest.raises(BadConfiguration, match="bwrap is missing"):
        rewards_of("unit_tests", [episode])
    with pytest.raises(BadConfiguration, match="bwrap is missing"):
        make_environment("code", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("what", "value", "says"),
    [
        ("sys.platform", "darwin", "needs Linux: this is .*TUFT_SANDBOX_URL"),
        ("platform.machine", lambda: "riscv64", "run on x86_64 and aarch64: this is riscv64"),
        ("tuft_components.sandbox.bubblewrap.can_watch", lambda: False, "CONFIG_PROC_CHILDREN"),
    ],
)
def test_other_machines_are_refused(
    monkeypatch: pytest.MonkeyPatch, what: str, value: object, says: str
) -> None:
    """Machines that are not at hand."""
    local_sandbox()
    monkeypatch.setattr(what, value)
    with pytest.raises(BadConfiguration, match=says):
        LocalSandbox().check()


def test_a_python_that_does_not_start_is_told() -> None:
    place = local_sandbox()
    result = place.run(Job(code="print(1)", limits=Limits(memory_mb=64, processes=4)))
    assert result.ok  # the least that can be asked for is enough


def test_the_filter_is_for_each_machine() -> None:
    for machine in seccomp.machines():
        program = seccomp.program(machine)
        assert len(program) % 8 == 0
        assert len(program) // 8 < 4096  # the kernel takes no more
    assert seccomp.program("x86_64") != seccomp.program("aarch64")
    with pytest.raises(KeyError):
        seccomp.program("riscv64")


def test_the_machines_own_python_where_it_can_be_read() -> None:
    found = bubblewrap.interpreter()
    assert Path(found.program).exists()
