"""A filter for the kernel, with which a process has threads but starts no other process.

Limits on the number of processes do not bind root, and a container seldom has a group to count
them in. So what runs a model's code may not fork at all; node needs only threads.
"""

from __future__ import annotations

import errno
import platform

from tuft_components.sandbox import bpf

_ARCHITECTURES = {
    # numbers of clone, and of fork and vfork where there are any
    "x86_64": (0xC000003E, 56, (57, 58)),
    "aarch64": (0xC00000B7, 220, ()),
}
_CLONE3 = 435
_CLONE_THREAD = 0x10000


def machines() -> list[str]:
    """Those that there is a filter for."""
    return list(_ARCHITECTURES)


def no_forks(machine: str | None = None) -> bytes:
    """The filter as `bwrap --seccomp` takes it.

    Raises:
        KeyError: no filter for this machine.
    """
    architecture, clone, forks = _ARCHITECTURES[machine or platform.machine()]
    lines = [
        *bpf.only_on(architecture),
        # Its flags are behind a pointer; without it glibc takes clone.
        *bpf.refused(_CLONE3, errno.ENOSYS),
    ]
    for number in forks:
        lines += bpf.refused(number, errno.EPERM)
    lines += [
        bpf.line(bpf.EQUAL, clone, 1, 0),
        bpf.line(bpf.RETURN, bpf.ALLOW),
        bpf.line(bpf.LOAD, bpf.FIRST_ARGUMENT),
        bpf.line(bpf.ANY_OF, _CLONE_THREAD, 1, 0),
        bpf.line(bpf.RETURN, bpf.ERROR | errno.EPERM),
        bpf.line(bpf.RETURN, bpf.ALLOW),
    ]
    return b"".join(lines)
