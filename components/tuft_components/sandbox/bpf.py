"""Filters of system calls, written for the kernel (classic BPF, seccomp(2))."""

from __future__ import annotations

import struct
from collections.abc import Sequence

LOAD, EQUAL, AT_LEAST, ANY_OF, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
KILL, ERROR, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000
"""x86_64 has another set of numbers from here on."""


def line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """An instruction; a jump says how many of the next ones are left out."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


def only_on(architecture: int) -> Sequence[bytes]:
    """The beginning of a filter: calls by another architecture's numbers end the process.

    Behind it, the number of the call is what is compared.
    """
    return [
        line(LOAD, ARCHITECTURE),
        line(EQUAL, architecture, 1, 0),
        line(RETURN, KILL),
        line(LOAD, NUMBER),
        line(AT_LEAST, _X32, 0, 1),
        line(RETURN, KILL),
    ]


def refused(number: int, error: int) -> Sequence[bytes]:
    """That call fails with the error, whatever it is given."""
    return [line(EQUAL, number, 0, 1), line(RETURN, ERROR | error)]
