"""`python -m tuft_components.envs.voyager install`: the npm packages that the environment needs."""

from __future__ import annotations

import argparse
import sys

from tuft_components.envs.voyager.installing import home, install
from tuft_components.errors import StepError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tuft_components.envs.voyager")
    parser.add_argument("command", choices=["install"], help="install the npm packages")
    parser.parse_args()
    try:
        install()
    except StepError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    print(f"The npm packages of voyager are in {home()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
