"""`tuft store`: look at a store, save it to a file, read it back, empty it, check it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pydantic import ValidationError

from tuft.config import LimitsConfig, ServiceConfig, describe, load_config
from tuft.environment import EX_CONFIG
from tuft.errors import ConfigError, InvalidRequest, TuftError
from tuft.objects import LocalObjects, ObjectStore, open_object_store
from tuft.persistence import PersistenceConfig
from tuft.store import EmbeddedStore, connect
from tuft.store.connection import Connection
from tuft.store.schema import VERSION, read_version
from tuft.store.server import check_server
from tuft.store.workers import Workers
from tuft.store_tools.check import check_store
from tuft.store_tools.moving import leave_machine
from tuft.store_tools.summary import summarize
from tuft.store_tools.transfer import clear_store, export_store, import_store


def main(argv: Sequence[str]) -> int:
    """Returns 0 where all is well, 78 for a wrong configuration, 1 for anything else."""
    args = _parser().parse_args(argv)
    try:
        config, persistence = _place(args)
        with _opened(persistence, must_exist=args.command != "import") as connection:
            return _run(args, connection, config, persistence)
    except ConfigError as error:
        print(f"tuft store: {error.message}", file=sys.stderr)
        return EX_CONFIG
    except TuftError as error:
        print(f"tuft store: {error.message}", file=sys.stderr)
        return 1


def _run(
    args: argparse.Namespace,
    connection: Connection,
    config: ServiceConfig | None,
    persistence: PersistenceConfig,
) -> int:
    if args.command == "info":
        return _info(args, connection, persistence)
    _nobody_works(connection, persistence)
    match args.command:
        case "export":
            _leave_machine(connection, config, persistence)
            count = export_store(connection, args.file)
            print(f"{count} keys written to {args.file}")
            print("Checkpoints and large payloads are in the object store: save that, too.")
        case "import":
            print(f"{import_store(connection, args.file)} keys read from {args.file}")
            print(
                "Start no service on the store that it comes from any more: the two would remove "
                "each other's data from their object store."
            )
        case "clear":
            if not args.yes:
                raise InvalidRequest(
                    "this forgets all sessions, training runs and operations that are not done "
                    "(checkpoints stay in the object store); say --yes to do it"
                )
            print(f"{clear_store(connection)} keys removed")
        case _:
            return _check(connection, config, persistence)
    return 0


def _leave_machine(
    connection: Connection, config: ServiceConfig | None, persistence: PersistenceConfig
) -> None:
    if persistence.file_path is not None:
        limits = LimitsConfig() if config is None else config.limits
        folder = persistence.file_path.expanduser()
        count = leave_machine(connection, _objects(config)[0], folder, limits)
        if count:
            print(f"{count} snapshots and policies of this machine copied to the object store")


def _info(args: argparse.Namespace, connection: Connection, persistence: PersistenceConfig) -> int:
    about = {"store": _name(persistence), **summarize(connection)}
    if args.json:
        print(json.dumps(about, indent=2))
        return 0
    for what, value in about.items():
        shown = value
        if isinstance(value, dict):
            shown = ", ".join(f"{name} {part}" for name, part in value.items())
        elif isinstance(value, list):
            shown = "; ".join(value) or "none heard of"
        print(f"{what.replace('_', ' '):38} {'none' if shown is None else shown}")
    return 0


def _check(
    connection: Connection, config: ServiceConfig | None, persistence: PersistenceConfig
) -> int:
    version = read_version(connection)
    if version is None:
        print("it is empty, or of version 0, which the next start of `tuft` brings up to date")
        return 0
    if version != VERSION:
        raise ConfigError(f"it is of version {version}; this tuft can check version {VERSION}")
    if persistence.mode == "redis_url":
        for warning in check_server(connection):
            print(f"warning: {warning}")
    objects, local = _objects(config)
    if objects is None:
        print("objects: not looked at; they are with --model-config and --checkpoint-dir")
    problems = 0
    for problem in check_store(connection, objects, local):
        print(problem)
        problems += 1
    print("all is well" if not problems else f"{problems} problems")
    return 1 if problems else 0


def _place(args: argparse.Namespace) -> tuple[ServiceConfig | None, PersistenceConfig]:
    try:
        if args.file_path is not None:
            return None, PersistenceConfig.from_file_redis(args.file_path)
        if args.redis_url is not None:
            return None, PersistenceConfig.from_redis_url(args.redis_url)
    except ValidationError as error:
        raise ConfigError(describe(error).strip()) from error
    config = load_config(args.model_config)
    if config.object_store.kind == "local" and config.object_store.path is None:
        store = config.object_store.model_copy(update={"path": args.checkpoint_dir})
        config = config.model_copy(update={"object_store": store})
    return config, config.persistence


@contextmanager
def _opened(persistence: PersistenceConfig, *, must_exist: bool) -> Iterator[Connection]:
    """A connection that asks for no version; of file_redis the server runs meanwhile."""
    if persistence.mode == "disabled":
        raise ConfigError(
            "persistence.mode is disabled: that store lives and ends with its service, and is on "
            "no disk"
        )
    if persistence.mode == "redis_url":
        yield Connection(connect(str(persistence.redis_url)))
        return
    folder_of_file = persistence.file_path
    if must_exist and folder_of_file is not None and not any(folder_of_file.glob("appendonly*")):
        raise ConfigError(f"there is no store in {folder_of_file}")
    with tempfile.TemporaryDirectory(prefix="tuft-") as folder:
        embedded = EmbeddedStore(persistence, Path(folder))
        try:
            yield Connection(connect(embedded.start()))
        finally:
            embedded.stop()


def _nobody_works(connection: Connection, persistence: PersistenceConfig) -> None:
    """Of file_redis the folder's lock says it."""
    if persistence.mode != "redis_url":
        return
    workers = Workers(connection).statuses()
    if workers:
        seen = ", ".join(sorted({f"{worker.role} of {worker.base_model}" for worker in workers}))
        raise InvalidRequest(
            f"a service works on this store (heard of within the last 15 seconds: {seen}); stop "
            "all its processes first, the api's too"
        )


def _objects(config: ServiceConfig | None) -> tuple[ObjectStore | None, ObjectStore | None]:
    """The object store, and the folder of this machine's snapshots; None where not known."""
    if config is None:
        return None, None
    objects = None
    if config.object_store.kind == "s3" or config.object_store.path is not None:
        objects = open_object_store(config.object_store)
    local = None
    if config.persistence.file_path is not None:
        local = LocalObjects(config.persistence.file_path.expanduser() / "snapshots")
    return objects, local


def _name(persistence: PersistenceConfig) -> str:
    if persistence.redis_url is None:
        return f"file_redis {persistence.file_path}"
    parts = urlsplit(persistence.redis_url)
    if parts.password:
        host = parts.netloc.rpartition("@")[2]
        parts = parts._replace(netloc=f"{parts.username or ''}:***@{host}")
    return f"redis_url {urlunsplit(parts)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tuft store", description="Look at a store, save it, read it back, empty it."
    )
    where = argparse.ArgumentParser(add_help=False)
    place = where.add_mutually_exclusive_group(required=True)
    place.add_argument("--model-config", type=Path, metavar="FILE", help="models.yaml")
    place.add_argument("--file-path", type=Path, metavar="DIR", help="as persistence.file_path")
    place.add_argument("--redis-url", metavar="URL", help="as persistence.redis_url")
    where.add_argument(
        "--checkpoint-dir",
        type=Path,
        metavar="DIR",
        help="as the service's, where models.yaml names no object store",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, says: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=says, description=says, parents=[where])

    info = command(
        "info", "what is in it, in a few numbers; of a redis_url also while a service works"
    )
    info.add_argument("--json", action="store_true", help="for programs")
    save = command("export", "save everything in it to a new file; any version's")
    save.add_argument("file", type=Path)
    read = command("import", "fill an empty store from such a file")
    read.add_argument("file", type=Path)
    clear = command("clear", "forget everything in it; checkpoints stay in the object store")
    clear.add_argument("--yes", action="store_true", help="really")
    command("check", "whether journals, counters and the objects that they name fit together")
    return parser
