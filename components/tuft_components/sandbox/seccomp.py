"""System calls that no program in a sandbox makes: a filter for the kernel.

Namespaces already keep these from doing harm. The filter is a second wall, and a smaller kernel
to attack; and it takes away memory that is of no process (shared segments, files without a
folder), which would not be counted.
"""

from __future__ import annotations

import errno
import platform

from tuft_components.sandbox import bpf

_DENIED = {
    # name: number on x86_64, on aarch64
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "unshare": (272, 97),
    "setns": (308, 268),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "socket": (41, 198),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "vmsplice": (278, 75),
    "fanotify_init": (300, 262),
    "personality": (135, 92),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "acct": (163, 89),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
}
_CLONE = (56, 220)
_CLONE3 = 435
_NEW_NAMESPACES = 0x7E020000
"""The flags CLONE_NEW…; in clone3 they are behind a pointer, which a filter can't follow."""
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def machines() -> list[str]:
    """Those that there is a filter for."""
    return list(_ARCHITECTURES)


def denied() -> list[str]:
    """Names of the system calls that are refused whatever they are given."""
    return list(_DENIED)


def program(machine: str | None = None) -> bytes:
    """The filter as the kernel takes it, for `bwrap --seccomp`.

    Raises:
        KeyError: no filter for this machine.
    """
    column, architecture = _ARCHITECTURES[machine or platform.machine()]
    lines = [
        *bpf.only_on(architecture),
        # glibc then takes clone, whose flags can be seen.
        *bpf.refused(_CLONE3, errno.ENOSYS),
    ]
    for numbers in _DENIED.values():
        lines += bpf.refused(numbers[column], errno.EPERM)
    lines += [
        bpf.line(bpf.EQUAL, _CLONE[column], 1, 0),
        bpf.line(bpf.RETURN, bpf.ALLOW),
        bpf.line(bpf.LOAD, bpf.FIRST_ARGUMENT),
        bpf.line(bpf.ANY_OF, _NEW_NAMESPACES, 0, 1),
        bpf.line(bpf.RETURN, bpf.ERROR | errno.EPERM),
        bpf.line(bpf.RETURN, bpf.ALLOW),
    ]
    return b"".join(lines)
