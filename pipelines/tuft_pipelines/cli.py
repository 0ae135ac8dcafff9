"""`tuft-pipelines`: compile ready pipelines for Kubeflow, or run them on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tuft_pipelines.demo import run_demo
from tuft_pipelines.errors import DemoFailed, PipelineFailed, ServiceFailed, WrongArgument
from tuft_pipelines.processes import sigterm_interrupts

PIPELINES = {"demo": "start_run → evaluate → N × (rollout → feedback → update) → evaluate"}
EX_FAILED = 1
EX_CONFIG = 78
EX_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. 0 done, 1 the pipeline failed, 78 a wrong argument, 130 interrupted."""
    args = _parser().parse_args(argv)
    try:
        with sigterm_interrupts():
            args.command(args)
    except KeyboardInterrupt:
        print("\ntuft-pipelines: interrupted; everything it started is stopped", file=sys.stderr)
        return EX_INTERRUPTED
    except WrongArgument as error:
        print(f"tuft-pipelines: {error}", file=sys.stderr)
        return EX_CONFIG
    except ModuleNotFoundError as error:
        if error.name not in ("kfp", "kfp.kubernetes"):
            raise
        print("tuft-pipelines: install it with its extra: tuft-pipelines[kfp]", file=sys.stderr)
        return EX_CONFIG
    except (DemoFailed, PipelineFailed, ServiceFailed) as error:
        print(f"tuft-pipelines: {error}", file=sys.stderr)
        return EX_FAILED
    return 0


def _compile(args: argparse.Namespace) -> None:
    from tuft_pipelines.compiling import compile_pipeline
    from tuft_pipelines.demo_pipeline import build_demo
    from tuft_pipelines.faces import container_faces

    faces = container_faces(secret=args.secret, image=args.image)
    compile_pipeline(build_demo(faces, args.iterations), args.output)
    print(f"{args.output}: a pipeline for Kubeflow Pipelines 2")
    print(f"Its steps read TINKER_BASE_URL and TINKER_API_KEY from the Secret {args.secret!r}.")


def _run(args: argparse.Namespace) -> None:
    from tuft_pipelines.run import run_demo_pipeline

    run_demo_pipeline(args.output, args.iterations, args.param)


def _demo(args: argparse.Namespace) -> None:
    settings = [text for setting in args.param for text in ("--param", setting)]
    settings += ["--iterations", str(args.iterations)]
    service = ["--model-config", str(args.model_config)] if args.model_config else []
    run_demo(args.output, settings, service)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tuft-pipelines", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    names = "; ".join(f"{name}: {what}" for name, what in PIPELINES.items())

    compiled = commands.add_parser("compile", help="write KFP IR, to upload to a cluster")
    compiled.add_argument("name", choices=PIPELINES, help=names)
    compiled.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.yaml")
    compiled.add_argument(
        "--secret",
        default="tuft-client",
        help="Kubernetes Secret with TINKER_BASE_URL and TINKER_API_KEY (%(default)s)",
    )
    compiled.add_argument("--image", help="image of the steps")
    compiled.set_defaults(command=_compile)

    run = commands.add_parser(
        "run", help="run here, against the service that TINKER_BASE_URL names"
    )
    run.add_argument("name", choices=PIPELINES, help=names)
    run.set_defaults(command=_run)

    demo = commands.add_parser("demo", help="start a service, run the demo pipeline, report")
    demo.add_argument(
        "--model-config",
        type=Path,
        metavar="FILE",
        help="models.yaml of the service (without: SmolLM2-135M-Instruct)",
    )
    demo.set_defaults(command=_demo)

    for command in (run, demo):
        command.add_argument(
            "--output",
            type=Path,
            default=Path("demo-output"),
            metavar="DIR",
            help="folder for results, logs and checkpoints (%(default)s)",
        )
        command.add_argument(
            "--param",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="a parameter of the pipeline; may be repeated",
        )
    for command in (compiled, run, demo):
        command.add_argument(
            "--iterations", type=int, default=8, metavar="N", help="of the loop (%(default)s)"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
