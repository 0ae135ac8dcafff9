"""A filter for the kernel, with which a process has threads but starts no other process.

Limits on the number of processes do not bind root, and a container seldom has a group to count
them in. So what runs a model's code may not fork at all; node needs only threads.
"""

from __future__ import annotations

import errno
import platform
import struct

_ARCHITECTURES = {
    # numbers of clone, and of fork and vfork where there are any
    "x86_64": (0xC000003E, 56, (57, 58)),
    "aarch64": (0xC00000B7, 220, ()),
}
_CLONE3 = 435
_CLONE_THREAD = 0x10000
_X32 = 0x40000000
"""x86_64 has another set of numbers from here on."""
_LOAD, _EQUAL, _AT_LEAST, _ANY_OF, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ERROR, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data


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
        _line(_LOAD, _ARCHITECTURE),
        _line(_EQUAL, architecture, 1, 0),
        _line(_RETURN, _KILL),
        _line(_LOAD, _NUMBER),
        _line(_AT_LEAST, _X32, 0, 1),
        _line(_RETURN, _KILL),
        # Its flags are behind a pointer; without it glibc takes clone.
        *_refused(_CLONE3, errno.ENOSYS),
    ]
    for number in forks:
        lines += _refused(number, errno.EPERM)
    lines += [
        _line(_EQUAL, clone, 1, 0),
        _line(_RETURN, _ALLOW),
        _line(_LOAD, _FIRST_ARGUMENT),
        _line(_ANY_OF, _CLONE_THREAD, 1, 0),
        _line(_RETURN, _ERROR | errno.EPERM),
        _line(_RETURN, _ALLOW),
    ]
    return b"".join(lines)


def _refused(number: int, error: int) -> list[bytes]:
    return [_line(_EQUAL, number, 0, 1), _line(_RETURN, _ERROR | error)]


def _line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
