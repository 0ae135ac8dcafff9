"""Memory that may be taken: by the machine and by control groups, of both versions."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tuft.modeling.free_memory import free_bytes

MIB = 1 << 20


def _group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def _free(tmp_path: Path, membership: str) -> int:
    (tmp_path / "membership").write_text(membership)
    return free_bytes(tmp_path / "membership", tmp_path / "mount")


def test_the_limit_of_a_pod_counts_and_not_the_machine(tmp_path: Path) -> None:
    stat = f"anon {2 * MIB}\ninactive_file {3 * MIB}"
    _group(tmp_path / "mount", memory__max=64 * MIB, memory__current=10 * MIB, memory__stat=stat)
    assert _free(tmp_path, "0::/\n") == (64 - 10 + 3) * MIB


def test_a_limit_above_counts_too(tmp_path: Path) -> None:
    pod = tmp_path / "mount" / "kubepods" / "pod1"
    _group(pod, memory__max=32 * MIB, memory__current=MIB)
    _group(pod / "container", memory__max="max", memory__current=MIB)
    assert _free(tmp_path, "0::/kubepods/pod1/container\n") == 31 * MIB


def test_version_1_seen_from_a_container(tmp_path: Path) -> None:
    """The path is the host's, and the mount is the container's own group."""
    _group(
        tmp_path / "mount" / "memory",
        memory__limit_in_bytes=64 * MIB,
        memory__usage_in_bytes=4 * MIB,
        memory__stat=f"total_inactive_file {MIB}",
    )
    assert _free(tmp_path, "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n") == 61 * MIB


@pytest.mark.parametrize("limit", ["max", 2**63 - 4096])
def test_without_a_limit_it_is_the_machine(tmp_path: Path, limit: object) -> None:
    _group(tmp_path / "mount", memory__max=limit, memory__current=MIB)
    free = _free(tmp_path, "0::/\n")
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_what_is_over_its_limit_has_nothing(tmp_path: Path) -> None:
    _group(tmp_path / "mount", memory__max=MIB, memory__current=2 * MIB)
    assert _free(tmp_path, "0::/\n") == 0


def test_a_machine_without_control_groups(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "none", tmp_path) > 0
