"""`python -m tuft_pipelines.argo`: write the manifests for Argo.

python -m tuft_pipelines.argo --profile profile.yaml --output argo/
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tuft_components.argo.files import write_manifests
from tuft_components.profile import Profile
from tuft_pipelines.argo import manifests
from tuft_pipelines.argo.examples import examples

COMMITTED = Path(__file__).parents[3] / "manifests" / "argo"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tuft_pipelines.argo", description=__doc__)
    parser.add_argument("--profile", type=Path, metavar="FILE", help="settings of your cluster")
    parser.add_argument("--output", type=Path, default=COMMITTED, metavar="DIR", help="%(default)s")
    parser.add_argument(
        "--plugin", action="store_true", help="steps that mostly wait go to the executor plugin"
    )
    options = parser.parse_args()
    profile = Profile.load(options.profile) if options.profile else Profile()
    write_manifests(options.output, {**manifests(profile, plugin=options.plugin), **examples()})


if __name__ == "__main__":
    main()
