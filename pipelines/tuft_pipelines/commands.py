"""What each command of `tuft-pipelines` does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuft_components.profile import Profile, SecretKey
from tuft_pipelines.catalogue import NAMES, ready_pipeline
from tuft_pipelines.errors import WrongArgument
from tuft_pipelines.parameters import plain_type
from tuft_pipelines.remote import Engine, TaskStatus, lines_of

_DEMO = "start_run → evaluate → N × (rollout → feedback → update) → evaluate"
_DEMO_ITERATIONS = 8
_CLIENT = ("TINKER_BASE_URL", "TINKER_API_KEY")


def list_pipelines(args: argparse.Namespace) -> None:
    if args.name and args.name != "demo":
        pipeline = ready_pipeline(args.name)
        _print(f"{pipeline.name}: {pipeline.summary}", "", "Parameters (--param NAME=VALUE):")
        fields = pipeline.parameters.fields
        _print(*(_described(name, fields[name]) for name in pipeline.parameters.shown))
        if choices := pipeline.choices.model_fields:
            _print("", "Decided when it is compiled for KFP (--build NAME=VALUE):")
            _print(*(_described(name, field) for name, field in choices.items()))
        return
    summaries = {"demo": _DEMO} | {name: ready_pipeline(name).summary for name in NAMES}
    width = max(len(name) for name in summaries)
    _print(*(f"{name:<{width}}  {summary}" for name, summary in summaries.items()))


def compile_one(args: argparse.Namespace) -> None:
    profile, build = _profile(args), _build(args)
    if args.engine == "argo":
        from tuft_pipelines.argo_files import write_for_argo

        if build:
            raise WrongArgument("--build is for KFP: with Argo everything is a parameter")
        write_for_argo(args.name, profile, args.output)
        _print(f"{args.output}: for `kubectl apply -f`; Argo Workflows 4")
    else:
        from tuft_pipelines.compiling import compile_pipeline
        from tuft_pipelines.faces import container_faces

        faces = container_faces(profile)
        if args.name == "demo":
            from tuft_pipelines.demo_pipeline import build_demo

            built = build_demo(faces, _demo_iterations(args))
        else:
            pipeline = ready_pipeline(args.name)
            built = pipeline.build(faces, pipeline.choose(build))
        compile_pipeline(built, args.output)
        _print(f"{args.output}: a pipeline for Kubeflow Pipelines 2")
    secret = profile.secret_env().get(_CLIENT[0])
    if secret is not None:
        _print(f"Its steps read {' and '.join(_CLIENT)} from the Secret {secret.secret!r}.")


def run(args: argparse.Namespace) -> None:
    folder = args.output or Path(f"{args.name}-output")
    if args.name == "demo":
        from tuft_pipelines.run import run_demo_pipeline

        run_demo_pipeline(folder, _demo_iterations(args), args.param)
        return
    from tuft_pipelines.run_ready import run_ready

    run_ready(ready_pipeline(args.name), folder, args.param, _build(args), retries=args.retries)


def demo(args: argparse.Namespace) -> None:
    from tuft_pipelines.demo import run_demo

    settings = [text for setting in args.param for text in ("--param", setting)]
    settings += ["--iterations", str(args.iterations)]
    service = ["--model-config", str(args.model_config)] if args.model_config else []
    run_demo(args.output, settings, service)


def submit(args: argparse.Namespace) -> None:
    engine = _engine(args.engine, getattr(args, "experiment", ""))
    run_id = engine.submit(args.name, _build(args), args.param, _profile(args))
    _started(run_id, args.engine)


def status(args: argparse.Namespace) -> None:
    _print(*lines_of(_engine(args.engine).status(args.run_id)))


def logs(args: argparse.Namespace) -> None:
    engine = _engine(args.engine)
    for task in _of_interest(engine.status(args.run_id).tasks, args.task):
        for pod in task.pods:
            _print(f"== {task.name} ({task.state}), pod {pod}")
            _print(*engine.logs(args.run_id, pod))


def resume(args: argparse.Namespace) -> None:
    _started(_engine(args.engine).resume(args.run_id), args.engine)


def _of_interest(tasks: Sequence[TaskStatus], wanted: str) -> Sequence[TaskStatus]:
    if wanted:
        chosen = [task for task in tasks if task.name == wanted]
        if not chosen:
            names = ", ".join(task.name for task in tasks) or "none yet"
            raise WrongArgument(f"no task {wanted!r}; there are: {names}")
        return chosen
    return [task for task in tasks if task.failed] or tasks


def _engine(name: str, experiment: str = "") -> Engine:
    if name == "argo":
        from tuft_pipelines.argo_server import ArgoServer

        return ArgoServer()
    from tuft_pipelines.kubeflow import Kubeflow

    return Kubeflow(experiment)


def _started(run_id: str, engine: str) -> None:
    _print(run_id)
    sys.stderr.write(f"see: tuft-pipelines status {run_id} --engine {engine}\n")


def _profile(args: argparse.Namespace) -> Profile:
    profile = Profile.load(args.profile) if args.profile else Profile()
    changed: dict[str, Any] = {}
    if args.secret:
        given = {name: SecretKey(secret=args.secret, key=name) for name in _CLIENT}
        changed["secrets"] = {**profile.secrets, **given}
    if args.image:
        changed["image"] = args.image
    return profile.model_copy(update=changed)


def _build(args: argparse.Namespace) -> list[str]:
    more = [] if args.iterations is None else [f"iterations={args.iterations}"]
    return [*args.build, *more]


def _demo_iterations(args: argparse.Namespace) -> int:
    if args.build:
        raise WrongArgument("demo takes --iterations and no --build")
    return _DEMO_ITERATIONS if args.iterations is None else int(args.iterations)


def _described(name: str, field: Any) -> str:
    default = "required" if field.is_required() else f"[{field.get_default()!r}]"
    return f"  {name}: {plain_type(field)} {default}  {field.description}"


def _print(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
