"""`make bench`: every benchmark in a process of its own, and the table at the end.

Names given as arguments (`python -m tests.bench packing fairness`) run those only.
Exit status: 1 where a benchmark failed to run; a reach that is missed is no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.measure import REPORT_VARIABLE, line

_PREFIX = "bench_"


def main() -> int:
    there = sorted(f.stem.removeprefix(_PREFIX) for f in Path(__file__).parent.glob("bench_*.py"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *there], metavar="name", default=there)
    names = parser.parse_args().names or there
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report"
        file.touch()
        for name in names:
            print(f"== {name}", flush=True)
            begun = time.monotonic()
            command = [sys.executable, "-m", f"tests.bench.{_PREFIX}{name}"]
            env = {**os.environ, REPORT_VARIABLE: str(file)}
            if subprocess.run(command, env=env, check=False).returncode != 0:
                failed.append(name)
            print(f"== {name}: {time.monotonic() - begun:.0f} s\n", flush=True)
        rows = [json.loads(text) for text in file.read_text().splitlines()]
    print("\n".join(line(row) for row in rows))
    if failed:
        print(f"failed to run: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
