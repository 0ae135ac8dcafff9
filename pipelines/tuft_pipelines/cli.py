"""`tuft-pipelines`: run ready pipelines on Kubeflow, on Argo, or on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tuft_components.errors import BadConfiguration
from tuft_pipelines import commands
from tuft_pipelines.errors import (
    DemoFailed,
    PipelineFailed,
    RemoteFailed,
    ServiceFailed,
    WrongArgument,
)
from tuft_pipelines.processes import sigterm_interrupts

EX_FAILED = 1
EX_CONFIG = 78
EX_INTERRUPTED = 130
_EXTRAS = {"kfp": "kfp", "kfp_server_api": "kfp", "argo_workflows": "argo"}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. 0 done, 1 the pipeline failed, 78 a wrong argument, 130 interrupted."""
    args = _parser().parse_args(argv)
    try:
        with sigterm_interrupts():
            args.command(args)
    except KeyboardInterrupt:
        print("\ntuft-pipelines: interrupted; everything it started is stopped", file=sys.stderr)
        return EX_INTERRUPTED
    except (WrongArgument, BadConfiguration) as error:
        print(f"tuft-pipelines: {error}", file=sys.stderr)
        return EX_CONFIG
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(
            f"tuft-pipelines: install it with its extra: tuft-pipelines[{extra}]", file=sys.stderr
        )
        return EX_CONFIG
    except (DemoFailed, PipelineFailed, RemoteFailed, ServiceFailed) as error:
        print(f"tuft-pipelines: {error}", file=sys.stderr)
        return EX_FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tuft-pipelines", description=__doc__)
    commands_of = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, does: Callable[[argparse.Namespace], None], about: str
    ) -> argparse.ArgumentParser:
        added = commands_of.add_parser(name, help=about, description=about)
        added.set_defaults(command=does)
        return added

    listed = command("list", commands.list_pipelines, "the ready pipelines, or one's parameters")
    listed.add_argument("name", nargs="?", metavar="NAME", help="a pipeline")

    compiled = command("compile", commands.compile_one, "write a pipeline, to upload to a cluster")
    _add_name(compiled)
    compiled.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.yaml")
    _add_engine(compiled, default="kfp")
    _add_profile(compiled)
    _add_build(compiled)

    run = command("run", commands.run, "run here, against the service that TINKER_BASE_URL names")
    _add_name(run)
    run.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for results and logs (NAME-output)",
    )
    run.add_argument(
        "--retries", type=int, default=0, metavar="N", help="of a task that fails (%(default)s)"
    )
    _add_param(run)
    _add_build(run)

    demo = command("demo", commands.demo, "start a service, run the demo pipeline, report")
    demo.add_argument("--output", type=Path, default=Path("demo-output"), metavar="DIR")
    demo.add_argument(
        "--model-config",
        type=Path,
        metavar="FILE",
        help="models.yaml of the service (without: SmolLM2-135M-Instruct)",
    )
    demo.add_argument("--iterations", type=int, default=8, metavar="N", help="(%(default)s)")
    _add_param(demo)

    _add_remote(command)
    return parser


def _add_remote(command: Callable[..., argparse.ArgumentParser]) -> None:
    submit = command("submit", commands.submit, "start a pipeline on a cluster")
    _add_name(submit)
    _add_engine(submit)
    _add_profile(submit)
    _add_param(submit)
    _add_build(submit)
    submit.add_argument("--experiment", default="", metavar="NAME", help="of Kubeflow")

    status = command("status", commands.status, "how a run on a cluster stands, task by task")
    logs = command("logs", commands.logs, "what the tasks of a run on a cluster have printed")
    resume = command("resume", commands.resume, "submit a run again: it goes on where it ended")
    for one in (status, logs, resume):
        one.add_argument("run_id", metavar="RUN", help="as `submit` printed it")
        _add_engine(one)
    logs.add_argument(
        "--task", default="", metavar="TASK", help="one task (without: those that failed, or all)"
    )


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a pipeline; `list` shows them")


def _add_engine(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument(
        "--engine",
        choices=("kfp", "argo"),
        default=default,
        required=default is None,
        help="Kubeflow Pipelines or Argo Workflows" + (f" ({default})" if default else ""),
    )


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="settings of your cluster (docs/kubeflow.md)"
    )
    parser.add_argument(
        "--secret",
        metavar="NAME",
        help="Kubernetes Secret with TINKER_BASE_URL and TINKER_API_KEY (tuft-client)",
    )
    parser.add_argument("--image", help="image of the steps")


def _add_param(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the pipeline; may be repeated",
    )


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--build",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what is decided when the pipeline is compiled; may be repeated",
    )
    parser.add_argument(
        "--iterations", type=int, metavar="N", help="the same as --build iterations=N"
    )


if __name__ == "__main__":
    sys.exit(main())
