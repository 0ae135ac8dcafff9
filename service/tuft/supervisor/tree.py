"""The whole local service as a process tree, from configuration to ready."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
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
# Beyond what children may take to stop, which they see to themselves.
_STOP_MARGIN_S = 2.0
# Connections that wait while all api processes start anew.
_BACKLOG = 4096
_LOOK_EVERY_S = 0.1
_STORE_PAUSE_S = 1.0
# In the names of children and their logs.
_SEATS = {"1": "", "2": "-standby"}
# A service that was killed needs a moment to free its port.
_PORT_TIMEOUT_S = 3.0
# glibc gives large blocks back to the system at once, and then has each page of the next one
# found and cleared anew: 7 % of a training step. Up to 1 GiB is kept instead.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(1 << 24),
}
# Threads of libgomp wait for each other by spinning, for milliseconds. Where trainer and sampler
# share cores, each then spins while its own threads, which it waits for, have none: both together
# did 6 % of what one does alone (tests/bench/bench_shared_cores.py). 1,000 turns are microseconds.
_THREADS = {"GOMP_SPINCOUNT": "1000"}


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
        ConfigError: the host is public without API keys.
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
        self._config = config
        self._checkpoint_dir = checkpoint_dir
        self._host = host
        self._port = port
        self._log_dir = log_dir
        self._say = say
        self._run_dir = Path(tempfile.mkdtemp(prefix="tuft-"))
        self._store = EmbeddedStore(config.persistence, self._run_dir, log_dir / "store.log")
        self._store_url = ""
        self._store_again_at = 0.0
        self._groups: list[ChildGroup] = []
        self._socket: socket.socket | None = None
        self._hurry = threading.Event()

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
        self._socket = bind(self._host, self._port)
        make_folder("--log-dir", self._log_dir)
        self._store_url = self._store.start()
        self._check_servers()
        config_file = self._write_config(self._prepare_models())
        self._socket.listen(_BACKLOG)
        self._groups = self._workers_and_api(config_file, "1")
        for group in self._groups:
            group.start()
        self._say("loading models …")
        while not self._healthy():
            self._keep_up_at_start()
            time.sleep(_LOOK_EVERY_S)
        # Afterwards, so that they don't slow down the others' start.
        standbys = self._workers_and_api(config_file, "2")
        by_name = {group.name: group for group in self._groups}
        for group in standbys:
            group.twin = by_name[group.name.removesuffix(_SEATS["2"])]
            group.twin.twin = group
            group.start()
        self._groups += standbys

    def run_once(self) -> None:
        """Look at every child once, and restart those that ended; call it many times a second."""
        if not self._store.alive():
            self._restart_store()
        for group in self._groups:
            group.keep_up()

    def stop(self) -> None:
        """Stop everything, workers and api first, the store last.

        It takes up to `limits.stop_grace_s`: what was begun is finished.
        """
        for group in self._groups:
            group.signal_stop()
        deadline = time.monotonic() + self._config.limits.stop_grace_s + _STOP_MARGIN_S
        for group in self._groups:
            group.wait(deadline - time.monotonic(), self._hurry.is_set)
            group.kill()
        if self._socket is not None:
            self._socket.close()
        self._store.stop()
        shutil.rmtree(self._run_dir, ignore_errors=True)

    def hurry(self) -> None:
        """Have `stop` wait for nobody: it is done again, from the journal, at the next start."""
        self._hurry.set()

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
        state = self._state_folder()
        config = config.model_copy(
            update={"state_folder": state, "handover_folder": state / "handover"}
        )
        file = self._run_dir / "config.json"
        # It may hold API keys and secrets.
        file.touch(mode=0o600)
        file.write_text(json.dumps(config.model_dump(mode="json")))
        return file

    def _state_folder(self) -> Path:
        """As lasting as the journal, which says that what lies there exists."""
        return (self._config.persistence.file_path or self._run_dir).resolve()

    def _env(self, config_file: Path, **more: str) -> dict[str, str]:
        return {"TUFT_CONFIG": str(config_file), "TUFT_STORE_URL": self._store_url, **more}

    def _worker_env(
        self, config_file: Path, name: str, seat: str, model: ModelConfig, threads: int
    ) -> dict[str, str]:
        """Of a trainer rank or a sampler; `name` is the same after a restart of the service."""
        env = {key: os.environ.get(key, value) for key, value in (_ALLOCATOR | _THREADS).items()}
        env |= {"TUFT_MODEL": model.model_name, "OMP_NUM_THREADS": str(threads)}
        return self._env(config_file, **env, TUFT_WORKER_ID=name, TUFT_SEAT=seat)

    def _workers_and_api(self, config_file: Path, seat: str) -> list[ChildGroup]:
        """What sits in a seat: 1 has everything, 2 those that wait to take over."""
        groups = []
        if seat == "1":
            groups += [self._api(config_file, n) for n in range(self._config.api.replicas)]
        for model in self._config.supported_models:
            if seat == "1" or self._config.trainer.standby:
                groups.append(self._trainer(config_file, model, seat))
            if seat == "1" or self._config.sampler.standby:
                groups += [
                    self._sampler(config_file, model, replica, seat)
                    for replica in range(self._config.sampler.replicas)
                ]
        return groups

    def _api(self, config_file: Path, replica: int) -> ChildGroup:
        assert self._socket is not None
        descriptor = self._socket.fileno()
        env = self._env(config_file, TUFT_SOCKET=str(descriptor))
        if self._config.api.replicas > 1:
            # A scrape of the metrics reaches one of them: here they add up their numbers.
            folder = self._run_dir / "metrics"
            folder.mkdir(exist_ok=True)
            env["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        name = f"api-{replica}" if replica else "api"
        return self._group(name, "tuft.api", lambda: [env], [descriptor])

    def _worker_id(self, role: str, model: ModelConfig) -> str:
        # Two services of one host, with one store, have different ports.
        return f"{role}:{model.model_name}@{socket.gethostname()}:{self._port}"

    def _sampler(
        self, config_file: Path, model: ModelConfig, replica: int, seat: str
    ) -> ChildGroup:
        sampler = self._config.sampler
        threads = sampler.threads or max(1, (os.cpu_count() or 1) // sampler.replicas)
        number = f"-{replica}" if replica else ""
        # The first has the same name however many there are, so that it finds its work again when
        # `replicas` changes; what the others held goes to it soon after.
        worker_id = self._worker_id("sampler", model) + number.replace("-", "#")
        env = self._worker_env(config_file, worker_id, seat, model, threads)
        if sampler.gpus is not None:
            index = self._config.supported_models.index(model) * sampler.replicas + replica
            env["CUDA_VISIBLE_DEVICES"] = sampler.gpus[index]
        name = f"sampler-{_slug(model)}{number}{_SEATS[seat]}"
        return self._group(name, "tuft.sampling", lambda: [env])

    def _trainer(self, config_file: Path, model: ModelConfig, seat: str) -> ChildGroup:
        ranks = self._config.trainer.ranks
        threads = self._config.trainer.threads or max(1, (os.cpu_count() or 1) // ranks)
        worker_id = self._worker_id("trainer", model)

        def envs() -> list[dict[str, str]]:
            group = {
                **self._worker_env(config_file, worker_id, seat, model, threads),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(free_port()),
            }
            return [{**group, "RANK": str(n), "LOCAL_RANK": str(n)} for n in range(ranks)]

        return self._group(f"trainer-{_slug(model)}{_SEATS[seat]}", "tuft.training", envs)

    def _group(
        self,
        name: str,
        module: str,
        envs: Callable[[], list[dict[str, str]]],
        pass_fds: Sequence[int] = (),
    ) -> ChildGroup:
        log_file = self._log_dir / f"{name}.log"
        log_file.unlink(missing_ok=True)
        return ChildGroup(name, [sys.executable, "-m", module], envs, log_file, pass_fds)

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
        if time.monotonic() < self._store_again_at:
            return
        # One that ends at once (its disk is full, say) is not started all the time.
        self._store_again_at = time.monotonic() + _STORE_PAUSE_S
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
        except (TuftError, OSError) as error:
            # A full disk, say: everything else waits for the store, and so do we.
            logger.error("the embedded store can't start, trying again: %s", error)  # noqa: TRY400


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


def bind(host: str, port: int) -> socket.socket:
    """The socket that the api's processes are going to share, so that it outlives each of them.

    Raises:
        ConfigError: another service listens there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    deadline = time.monotonic() + _PORT_TIMEOUT_S
    while True:
        try:
            bound.bind((host, port))
            return bound
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                bound.close()
                raise ConfigError(
                    f"can't listen on {host}:{port} ({error.strerror}); another service may run "
                    "there: choose another --port"
                ) from error
        time.sleep(_LOOK_EVERY_S)


def _slug(model: ModelConfig) -> str:
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in model.model_name)
