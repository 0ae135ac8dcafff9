"""`python -m tuft.supervisor.pod api|trainer|sampler`: one process of the service, alone in a pod.

On a cluster nobody does what `tuft` does on one machine before it starts its children. This does
it for one of them, and then becomes that process, so that signals reach it. It takes

    TUFT_MODELS_FILE     models.yaml, of a ConfigMap (default /etc/tuft/models.yaml)
    TUFT_API_KEYS_FILE   api: what would stand under api_keys, of a Secret; a YAML list
    TUFT_STORE_PASSWORD  put into persistence.redis_url
    TUFT_MODEL           trainer, sampler: the base model's name
    TUFT_RUN_FOLDER      where the configuration is put together (default /run/tuft)
    TUFT_STATE_FOLDER    optional: a folder that outlives this container, not the pod
    OMP_NUM_THREADS      the pod's CPUs; without it a process would take the machine's

`… pod ready trainer|sampler` says by its exit status whether this pod's worker works or waits to
take over: for a readiness probe.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, urlsplit, urlunsplit

import yaml
from pydantic import TypeAdapter, ValidationError

from tuft.config import ApiKeyConfig, ServiceConfig, describe, load_config
from tuft.environment import EX_CONFIG
from tuft.errors import ConfigError, TuftError, Unavailable
from tuft.store import Store, connect
from tuft.supervisor.tree import prepare

MODULES = {"api": "tuft.api", "trainer": "tuft.training", "sampler": "tuft.sampling"}
_WORKERS = ("trainer", "sampler")
_USAGE = "usage: python -m tuft.supervisor.pod {api,trainer,sampler,ready trainer,ready sampler}\n"
_EX_USAGE = 64


def main(words: Sequence[str]) -> int:
    """Exit status 78 for a configuration that can't work, 1 for what may go by; else the process'."""
    try:
        if len(words) == 2 and words[0] == "ready" and words[1] in _WORKERS:
            return _ready(words[1], os.environ)
        if len(words) == 1 and words[0] in MODULES:
            _become(words[0], os.environ)
    except ConfigError as error:
        sys.stderr.write(f"tuft: {error.message}\n")
        return EX_CONFIG
    except TuftError as error:
        sys.stderr.write(f"tuft: {error.message}\n")
        return 1
    sys.stderr.write(_USAGE)
    return _EX_USAGE


def _become(role: str, env: Mapping[str, str]) -> NoReturn:
    config, more = settings(role, env)
    if role == "api":
        _look_at_store(more["TUFT_STORE_URL"])
    file = Path(env.get("TUFT_RUN_FOLDER", "/run/tuft")) / "config.json"
    try:
        _write_private(file, json.dumps(config.model_dump(mode="json")))
    except OSError as error:
        raise ConfigError(f"can't write {file}: {error.strerror}; see TUFT_RUN_FOLDER") from error
    command = [sys.executable, "-m", MODULES[role]]
    os.execve(sys.executable, command, {**env, **more, "TUFT_CONFIG": str(file)})  # noqa: S606


def settings(role: str, env: Mapping[str, str]) -> tuple[ServiceConfig, dict[str, str]]:
    """The whole configuration of a role, with its model prepared, and what is new in its environment.

    Raises:
        ConfigError: it can't work, and what would.
        StartFailed: a model can't be prepared.
    """
    config = load_config(_models_file(env))
    update: dict[str, object] = {}
    more = {"TUFT_STORE_URL": _store_url(config, env)}
    if role == "api":
        update["api_keys"] = _api_keys(config, env)
        names = [model.model_name for model in config.supported_models]
    else:
        names = [_model_name(config, env)]
        more["TUFT_WORKER_ID"] = worker_id(role, names[0])
    if config.object_store.kind != "s3":
        raise ConfigError("object_store.kind must be s3: pods share no folder")
    update["supported_models"] = [
        model.model_copy(update={"resolved_folder": prepare(model)})
        if model.model_name in names
        else model
        for model in config.supported_models
    ]
    if state := env.get("TUFT_STATE_FOLDER"):
        update["state_folder"] = Path(state)
    if role in _WORKERS and (threads := _threads(env)):
        section = config.trainer if role == "trainer" else config.sampler
        if section.threads is None:
            update[role] = section.model_copy(update={"threads": threads})
    return config.model_copy(update=update), more


def worker_id(role: str, model_name: str) -> str:
    """The worker's name in the store; a StatefulSet's pod has the same after a restart."""
    return f"{role}:{model_name}@{socket.gethostname()}"


def _ready(role: str, env: Mapping[str, str]) -> int:
    config = load_config(_models_file(env))
    name = worker_id(role, _model_name(config, env))
    store = Store(connect(_store_url(config, env)))
    said = {status.worker_id: status.state for status in store.workers.statuses()}
    state = said.get(name, "not heard of")
    sys.stdout.write(f"{name}: {state}\n")
    return 0 if state in ("ready", "standby") else 1


def _models_file(env: Mapping[str, str]) -> Path:
    return Path(env.get("TUFT_MODELS_FILE", "/etc/tuft/models.yaml"))


def _model_name(config: ServiceConfig, env: Mapping[str, str]) -> str:
    known = [model.model_name for model in config.supported_models]
    name = env.get("TUFT_MODEL", "")
    if name not in known:
        raise ConfigError(f"TUFT_MODEL is {name!r}; models.yaml has: {', '.join(known)}")
    return name


def _store_url(config: ServiceConfig, env: Mapping[str, str]) -> str:
    url = config.persistence.redis_url
    if url is None:
        raise ConfigError("persistence.mode must be redis_url: pods share no embedded store")
    password = env.get("TUFT_STORE_PASSWORD")
    if not password:
        return url
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if ":" in user:
        raise ConfigError("TUFT_STORE_PASSWORD is set, and persistence.redis_url has a password")
    if not host:
        raise ConfigError(f"TUFT_STORE_PASSWORD does not go with a URL without a host: {url}")
    netloc = f"{user if at else ''}:{quote(password, safe='')}@{host}"
    return urlunsplit(parts._replace(netloc=netloc))


def _api_keys(config: ServiceConfig, env: Mapping[str, str]) -> list[ApiKeyConfig]:
    name = env.get("TUFT_API_KEYS_FILE")
    if not name:
        if not config.api_keys:
            raise ConfigError("there are no API keys: set TUFT_API_KEYS_FILE")
        return config.api_keys
    if config.api_keys:
        raise ConfigError("api_keys stand in models.yaml and in TUFT_API_KEYS_FILE; choose one")
    try:
        keys = TypeAdapter(list[ApiKeyConfig]).validate_python(
            yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        )
    except OSError as error:
        raise ConfigError(f"can't read TUFT_API_KEYS_FILE {name}: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(
            f"{name} must be a list of {{key: …, tenant: …}}:\n{describe(error)}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError):
        # The error would quote the line, which may hold a key.
        raise ConfigError(f"{name} is not valid YAML") from None
    if not keys:
        raise ConfigError(f"{name} has no API key")
    return keys


def _threads(env: Mapping[str, str]) -> int | None:
    text = env.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _look_at_store(url: str) -> None:
    """Say what the server's settings weaken; one that is away may come back."""
    try:
        for warning in Store(connect(url)).check_server():
            sys.stderr.write(f"tuft: warning: {warning}\n")
    except Unavailable as error:
        sys.stderr.write(f"tuft: warning: {error.message}; going on when it is back\n")


def _write_private(file: Path, text: str) -> None:
    """It may hold API keys and secrets."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
