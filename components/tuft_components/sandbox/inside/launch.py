"""Takes the limits that the kernel keeps for each process, and becomes the program.

Here, inside, and not before: the number of processes would else be counted with all that the user
runs outside, and not be limited at all where that is root.
"""

import os
import resource
import sys


def main() -> None:
    wait, cpu, memory, processes, file, open_files = map(int, sys.argv[1:7])
    if not os.read(wait, 1):
        return  # who began it is gone
    os.close(wait)
    wanted = {
        resource.RLIMIT_CPU: (cpu, cpu + 1),
        resource.RLIMIT_AS: (memory, memory),
        resource.RLIMIT_NPROC: (processes, processes),
        resource.RLIMIT_FSIZE: (file, file),
        resource.RLIMIT_NOFILE: (open_files, open_files),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_MEMLOCK: (0, 0),
        resource.RLIMIT_MSGQUEUE: (0, 0),
        resource.RLIMIT_STACK: (8 << 20, 8 << 20),
    }
    for kind, limits in wanted.items():
        highest = resource.getrlimit(kind)[1]
        if highest != resource.RLIM_INFINITY:
            limits = (min(limits[0], highest), min(limits[1], highest))  # noqa: PLW2901
        resource.setrlimit(kind, limits)
    os.execv(sys.argv[7], sys.argv[7:])  # noqa: S606  # it becomes the program


main()
