"""`tuft-step`: execute one step.

    tuft-step feedback --param reward=exact_match \\
        --input trajectories=s3://runs/1/trajectories.parquet --output batch=s3://runs/1/batch.parquet

Prints the outputs as one line of JSON. Exit codes: 0 done, 3 another writer took the run over,
65 bad data, 75 transient (retry), 78 bad configuration; anything else is a bug.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from tuft_components.errors import BadConfiguration, ExitCode, exit_code_of
from tuft_components.kfp_faces import run_container
from tuft_components.processes import enter_step_process
from tuft_components.steps import STEP_NAMES, Contract, Step, load_step
from tuft_components.termination import leave_last_words


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are bad configuration, not argparse's exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise BadConfiguration(f"{message}\n{self.format_usage()}")


def main(arguments: Sequence[str] | None = None) -> int:
    enter_step_process()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        outputs = _run(arguments)
    except Exception as error:
        leave_last_words(arguments[0] if arguments else "", error)
        code = exit_code_of(error)
        if code is None:
            raise  # a bug: with its traceback, exit code 1
        print(f"tuft-step: {error}", file=sys.stderr)
        return int(code)
    if outputs is not None:
        print(outputs.model_dump_json())
    return int(ExitCode.OK)


def _run(arguments: Sequence[str]) -> Contract | None:
    parser = _Parser(
        prog="tuft-step",
        description="Execute one step of a pipeline.",
        epilog="Steps: " + ", ".join(STEP_NAMES) + ". `tuft-step STEP --help` tells about one.",
    )
    parser.add_argument("step", metavar="STEP")
    if not arguments or arguments[0] in ("-h", "--help"):
        parser.print_help()
        return None
    step = load_step(arguments[0])
    parser = _parser_of(step)
    parsed = parser.parse_args(arguments[1:])
    if parsed.executor_input is not None:
        if parsed.param or parsed.input or parsed.output:
            raise BadConfiguration(
                "--executor-input brings everything: no --param, --input or --output beside it"
            )
        return run_container(step, parsed.executor_input)
    outputs: Contract = step.execute(
        _pairs(parsed.param, "--param"),
        _pairs(parsed.input, "--input"),
        _pairs(parsed.output, "--output"),
    )
    return outputs


def _parser_of(step: Step[Any, Any, Any]) -> _Parser:
    parser = _Parser(
        prog=f"tuft-step {step.name}",
        description=step.summary,
        epilog=_contract_text(step),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, metavar in (("--param", "NAME=VALUE"), ("--input", "NAME=URI")):
        parser.add_argument(option, action="append", default=[], metavar=metavar)
    parser.add_argument("--output", action="append", default=[], metavar="NAME=URI")
    parser.add_argument(
        "--executor-input",
        metavar="JSON",
        help="KFP's executor input, instead of the other three",
    )
    return parser


def _contract_text(step: Step[Any, Any, Any]) -> str:
    lines: list[str] = []
    for title, model in (
        ("parameters", step.params),
        ("inputs", step.inputs),
        ("outputs", step.outputs),
    ):
        if model.model_fields:
            lines.append(f"{title}:")
        for name, field in model.model_fields.items():
            default = "" if field.is_required() else f" [{field.get_default()!r}]"
            lines.append(f"  {name}{default}  {field.description or ''}")
    return "\n".join(lines)


def _pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise BadConfiguration(f"{option} {text!r}: give NAME=VALUE")
        if name in pairs:
            raise BadConfiguration(f"{option} {name} is given twice")
        pairs[name] = value
    return pairs


if __name__ == "__main__":
    sys.exit(main())
