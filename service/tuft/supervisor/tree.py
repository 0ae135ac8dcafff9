"""The whole local service as a process tree, from configuration to ready."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tuft.config import ModelConfig, ServiceConfig
from tuft.environment import EX_CONFIG
from tuft.errors import ConfigError, TuftError, Unavailable
from tuft.objects import open_object_store
from tuft.store import EmbeddedStore, Store, connect
from tuft.supervisor.child import ChildGroup

logger = logging.getLogger(__name__)

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
# Deaths of one child before the service was ever ready: then starting it again won't help.
_MAX_DEATHS_AT_START = 3
_STOP_GRACE_S = 10.0
# glibc gives large blocks back to the system at once, and then has each page of the next one
# found and cleared anew: 7 % of a training step. Up to 1 GiB is kept instead.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(1 << 24),
}


class StartFailed(TuftError):
    """The service did not come up; the message has the reason and the log's last lines."""

    code = "start_failed"


class Supervisor:
    """Starts store, api and workers, restarts those that die, and stops them all.

    Args:
        config: checked configuration.
        checkpoint_dir: root of the local object store (unused where S3 is configured).
        host, port: where the api listens.
        log_dir: one log file a child.
        say: called with one line of progress for the user.

    Raises:
        ConfigError: the port is taken, or the host is public without API keys.
    """

    def __init__(
        self,
        config: ServiceConfig,
        *,
        checkpoint_dir: Path,
        host: str,
        port: int,
        log_dir: Path,
        say: Callable[[str], None] = logger.info,
    ) -> None:
        if not config.api_keys and host not in LOOPBACK_HOSTS:
            raise ConfigError(
                f"--host {host} is reachable from other machines, but no api_keys are configured; "
                "configure api_keys in models.yaml, or leave --host at 127.0.0.1"
            )
        check_port_is_free(host, port)
        self._config = config
        self._checkpoint_dir = checkpoint_dir
        self._host = host
        self._port = port
        self._log_dir = log_dir
        self._say = say
        self._run_dir = Path(tempfile.mkdtemp(prefix="tuft-"))
        self._store = EmbeddedStore(config.persistence, self._run_dir, log_dir / "store.log")
        self._store_url = ""
        self._groups: list[ChildGroup] = []

    @property
    def base_url(self) -> str:
        """Where clients on this machine reach the service."""
        return url_of(self._host, self._port)

    def start(self) -> None:
        """Start everything and return once the service is healthy.

        Raises:
            StartFailed: a child can't start.
            ConfigError: a folder can't be made, the embedded store can't work there, or a newer
            `tuft` wrote what is in the store.
        """
        make_folder("--log-dir", self._log_dir)
        self._store_url = self._store.start()
        self._check_servers()
        config_file = self._write_config(self._prepare_models())
        self._groups = [self._api(config_file)]
        for model in self._config.supported_models:
            self._groups += [self._trainer(config_file, model)]
            for replica in range(self._config.sampler.replicas):
                self._groups.append(self._sampler(config_file, model, replica))
        for group in self._groups:
            group.start()
        self._say("loading models …")
        while not self._healthy():
            self._keep_up_at_start()
            time.sleep(0.2)

    def run_once(self) -> None:
        """Look at every child once, and restart those that ended; call it twice a second or so."""
        if not self._store.alive():
            self._restart_store()
        for group in self._groups:
            group.keep_up()

    def stop(self) -> None:
        """Stop everything, workers and api first, the store last."""
        for group in self._groups:
            group.signal_stop()
        for group in self._groups:
            group.stop(_STOP_GRACE_S)
        self._store.stop()
        shutil.rmtree(self._run_dir, ignore_errors=True)

    def _check_servers(self) -> None:
        """Say at once what is wrong with servers of the user's; one that is away may come back.

        A store of an older version is migrated here, before anybody works with it.
        """
        store = Store(connect(self._store_url))
        try:
            store.ping()
            if self._config.persistence.mode == "redis_url":
                for warning in store.check_server():
                    self._say(f"warning: {warning}")
            if self._config.object_store.kind == "s3":
                open_object_store(self._config.object_store).check()
        except Unavailable as error:
            self._say(f"warning: {error.message}; going on when it is back")

    def _prepare_models(self) -> ServiceConfig:
        models = []
        for model in self._config.supported_models:
            self._say(f"preparing {model.model_name} …")
            models.append(model.model_copy(update={"resolved_folder": prepare(model)}))
        return self._config.model_copy(update={"supported_models": models})

    def _write_config(self, config: ServiceConfig) -> Path:
        store = config.object_store
        if store.kind == "local" and store.path is None:
            make_folder("--checkpoint-dir", self._checkpoint_dir)
            path = self._checkpoint_dir.resolve()
            config = config.model_copy(
                update={"object_store": store.model_copy(update={"path": path})}
            )
        config = config.model_copy(update={"handover_folder": self._handover_folder()})
        file = self._run_dir / "config.json"
        # It may hold API keys and secrets.
        file.touch(mode=0o600)
        file.write_text(json.dumps(config.model_dump(mode="json")))
        return file

    def _handover_folder(self) -> Path:
        """As lasting as the journal, which says that what lies there exists."""
        file_path = self._config.persistence.file_path
        return (file_path or self._run_dir).resolve() / "handover"

    def _env(self, config_file: Path, **more: str) -> dict[str, str]:
        return {"TUFT_CONFIG": str(config_file), "TUFT_STORE_URL": self._store_url, **more}

    def _worker_env(
        self, config_file: Path, model: ModelConfig, threads: int, **more: str
    ) -> dict[str, str]:
        """Of a trainer rank or a sampler."""
        env = {"TUFT_MODEL": model.model_name, "OMP_NUM_THREADS": str(threads), **more}
        allocator = {name: os.environ.get(name, value) for name, value in _ALLOCATOR.items()}
        return self._env(config_file, **allocator, **env)

    def _api(self, config_file: Path) -> ChildGroup:
        env = self._env(config_file, TUFT_HOST=self._host, TUFT_PORT=str(self._port))
        return self._group("api", "tuft.api", lambda: [env])

    def _sampler(self, config_file: Path, model: ModelConfig, replica: int) -> ChildGroup:
        sampler = self._config.sampler
        threads = sampler.threads or max(1, (os.cpu_count() or 1) // sampler.replicas)
        env = self._worker_env(config_file, model, threads)
        name = f"sampler-{_slug(model)}"
        if replica:
            # The first has the worker's default name, so that it finds its work again when
            # `replicas` changes; what the others held goes to it after a minute.
            env["TUFT_WORKER_ID"] = f"sampler:{model.model_name}@{socket.gethostname()}#{replica}"
            name += f"-{replica}"
        if sampler.gpus is not None:
            index = self._config.supported_models.index(model) * sampler.replicas + replica
            env["CUDA_VISIBLE_DEVICES"] = sampler.gpus[index]
        return self._group(name, "tuft.sampling", lambda: [env])

    def _trainer(self, config_file: Path, model: ModelConfig) -> ChildGroup:
        ranks = self._config.trainer.ranks
        threads = self._config.trainer.threads or max(1, (os.cpu_count() or 1) // ranks)

        def envs() -> list[dict[str, str]]:
            port = str(free_port())
            return [
                self._worker_env(
                    config_file,
                    model,
                    threads,
                    RANK=str(rank),
                    LOCAL_RANK=str(rank),
                    WORLD_SIZE=str(ranks),
                    MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=port,
                )
                for rank in range(ranks)
            ]

        return self._group(f"trainer-{_slug(model)}", "tuft.training", envs)

    def _group(
        self, name: str, module: str, envs: Callable[[], list[dict[str, str]]]
    ) -> ChildGroup:
        log_file = self._log_dir / f"{name}.log"
        log_file.unlink(missing_ok=True)
        return ChildGroup(name, [sys.executable, "-m", module], envs, log_file)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.base_url}/api/v1/healthz", timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _keep_up_at_start(self) -> None:
        if not self._store.alive():
            raise StartFailed(
                f"the embedded store ended while starting (log: {self._store.log_file})"
            )
        for group in self._groups:
            code = group.keep_up()
            if code == EX_CONFIG or group.deaths >= _MAX_DEATHS_AT_START:
                raise StartFailed(
                    f"{group.name} can't start. The last lines of {group.log_file}:\n"
                    f"{group.log_tail()}"
                )

    def _restart_store(self) -> None:
        if self._config.persistence.mode == "disabled":
            logger.error(
                "the embedded store ended; persistence.mode is disabled, so sessions and training "
                "runs are lost (checkpoints are kept). Use file_redis to keep them."
            )
        else:
            logger.warning("the embedded store ended; starting it again from its file")
        # Same socket: api and workers reconnect by themselves.
        try:
            self._store.start()
        except TuftError as error:
            # A full disk, say: everything else waits for the store, and so do we.
            logger.error("the embedded store can't start, trying again: %s", error.message)  # noqa: TRY400


def prepare(model: ModelConfig) -> Path:
    """The local folder of a model, downloaded or converted first where that is needed.

    In a process of its own: it may need torch, which the supervisor must not load.
    """
    folder = Path(model.model_path)
    if folder.is_dir():
        return folder.resolve()
    command = [sys.executable, "-m", "tuft.modeling.prepare", model.model_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise StartFailed(f"can't prepare the model {model.model_path!r}:\n{tail}")
    return Path(done.stdout.strip().splitlines()[-1])


def url_of(host: str, port: int) -> str:
    """The URL of what listens on `host`; all addresses (0.0.0.0, ::) include the loopback one."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (none is bound)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def make_folder(option: str, folder: Path) -> None:
    """Make a folder that the user named. Raises ConfigError where that can't be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option} {folder} can't be used: {error.strerror}") from error


def free_port() -> int:
    """A TCP port that was free on loopback just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def check_port_is_free(host: str, port: int) -> None:
    """Raise ConfigError where the api could not listen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"can't listen on {host}:{port} ({error.strerror}); another service may run "
                "there: choose another --port"
            ) from error


def _slug(model: ModelConfig) -> str:
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in model.model_name)
