"""Hosts of a network of their own, whose cables can be pulled: Linux network namespaces."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

Direction = Literal["both", "to", "from"]


@dataclass(frozen=True)
class Host:
    """`prefix` before a command runs it there, under the host's name."""

    name: str
    address: str
    namespace: str
    prefix: tuple[str, ...]


class Network:
    """A router, and hosts on a cable each. This process is on another cable."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._router = f"tuft-{os.getpid()}-r"
        self._hosts = 0
        self._namespace(self._router)
        self._inside(self._router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self._cable(None, 250)
        _run("ip", "route", "add", "10.77.0.0/16", "via", "10.77.250.1")

    def host(self, name: str) -> Host:
        """One more host."""
        self._hosts += 1
        namespace = f"tuft-{os.getpid()}-{name}"
        self._namespace(namespace)
        self._cable(namespace, self._hosts)
        _run("ip", "-n", namespace, "route", "add", "default", "via", f"10.77.{self._hosts}.1")
        rename = ("unshare", "--uts", "sh", "-c", f'hostname {name}; exec "$@"', "sh")
        return Host(
            name,
            f"10.77.{self._hosts}.2",
            namespace,
            ("ip", "netns", "exec", namespace, *rename),
        )

    @contextmanager
    def cut(self, host: Host, direction: Direction) -> Iterator[None]:
        """What is sent to the host, from it, or both, is lost, and nobody is told."""
        ways = ["to", "from"] if direction == "both" else [direction]
        for way in ways:
            _run("ip", "-n", self._router, "rule", "add", way, host.address, "blackhole")
        try:
            yield
        finally:
            for way in ways:
                _run("ip", "-n", self._router, "rule", "del", way, host.address, "blackhole")

    def _namespace(self, name: str) -> None:
        _run("ip", "netns", "add", name)
        self._stack.callback(_run, "ip", "netns", "del", name)
        _run("ip", "-n", name, "link", "set", "lo", "up")

    def _cable(self, namespace: str | None, number: int) -> None:
        """From the router to a namespace, or to where this process is."""
        ours, theirs = f"t{os.getpid()}n{number}", f"t{os.getpid()}m{number}"
        _run("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs)
        _run("ip", "link", "set", theirs, "netns", self._router)
        there: tuple[str, ...] = ("ip",)
        if namespace is not None:
            _run("ip", "link", "set", ours, "netns", namespace)
            there = ("ip", "-n", namespace)
        for ip, link, end in ((there, ours, 2), (("ip", "-n", self._router), theirs, 1)):
            _run(*ip, "addr", "add", f"10.77.{number}.{end}/30", "dev", link)
            _run(*ip, "link", "set", link, "up")

    def _inside(self, namespace: str, *command: str) -> None:
        _run("ip", "netns", "exec", namespace, *command)


@contextmanager
def network() -> Iterator[Network]:
    """An empty one. Skips the test where this user or kernel can't have one."""
    with ExitStack() as stack:
        if os.geteuid() or not Path("/proc/self/ns/net").exists():
            pytest.skip("only root can make network namespaces")
        try:
            found = Network(stack)
        except (FileNotFoundError, RuntimeError) as error:
            pytest.skip(f"no network of our own: {error}")
        yield found


def _run(*command: str) -> None:
    done: subprocess.CompletedProcess[str] = _completed(command)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _completed(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)
