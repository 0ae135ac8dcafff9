"""One process of the service in a pod: what it is configured with, and what is refused."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tuft.config import ServiceConfig
from tuft.errors import ConfigError
from tuft.store import Store, connect
from tuft.supervisor.pod import main, settings, worker_id

CONFIG = {
    "persistence": {"mode": "redis_url", "redis_url": "redis://valkey:6379/0"},
    "object_store": {"kind": "s3", "endpoint": "s3:9000", "bucket": "tuft"},
}
KEYS = [{"key": "tml-first-key", "tenant": "research"}]
Env = dict[str, str]
Write = Callable[..., Env]


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """Nothing here looks into it."""
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


@pytest.fixture
def write(tmp_path: Path, model_folder: Path) -> Write:
    """Writes models.yaml (sections replaced by the arguments) and keys; gives the environment."""

    def written(keys: Any = KEYS, **sections: Any) -> Env:
        models = [
            {"model_name": "tiny", "model_path": str(model_folder)},
            {"model_name": "other", "model_path": "a-hub/name"},
        ]
        data = {"supported_models": models, **CONFIG, **sections}
        (tmp_path / "models.yaml").write_text(yaml.safe_dump(data))
        (tmp_path / "keys.yaml").write_text(yaml.safe_dump(keys))
        return {
            "TUFT_MODELS_FILE": str(tmp_path / "models.yaml"),
            "TUFT_API_KEYS_FILE": str(tmp_path / "keys.yaml"),
            "TUFT_MODEL": "tiny",
        }

    return written


def refused(role: str, env: Env) -> str:
    with pytest.raises(ConfigError) as caught:
        settings(role, env)
    return caught.value.message


def test_a_worker_gets_its_own_model_its_name_and_its_share_of_the_machine(
    write: Write, model_folder: Path
) -> None:
    env = write() | {"OMP_NUM_THREADS": "3", "TUFT_STATE_FOLDER": "/var/lib/tuft"}
    config, more = settings("trainer", env)
    # The other model is a name on the hub, which a trainer of this one never asks for.
    assert [model.resolved_folder for model in config.supported_models] == [
        model_folder.resolve(),
        None,
    ]
    assert more == {
        "TUFT_STORE_URL": "redis://valkey:6379/0",
        "TUFT_WORKER_ID": f"trainer:tiny@{socket.gethostname()}",
    }
    assert config.trainer.threads == 3
    assert config.sampler.threads is None
    assert str(config.state_folder) == "/var/lib/tuft"
    assert config.handover_folder is None, "pods share no folder"
    assert config.api_keys == []
    # What it writes is what the process reads.
    assert ServiceConfig.model_validate_json(config.model_dump_json()) == config


def test_what_models_yaml_says_of_threads_counts(write: Write) -> None:
    env = write(sampler={"threads": 2}) | {"OMP_NUM_THREADS": "7"}
    assert settings("sampler", env)[0].sampler.threads == 2


def test_the_api_gets_the_keys_and_every_model(write: Write, model_folder: Path) -> None:
    model = {"model_name": "tiny", "model_path": str(model_folder)}
    config, more = settings("api", write(supported_models=[model]))
    assert [(entry.key, entry.tenant) for entry in config.api_keys] == [
        ("tml-first-key", "research")
    ]
    assert config.supported_models[0].resolved_folder == model_folder.resolve()
    assert set(more) == {"TUFT_STORE_URL"}


def test_the_password_goes_into_the_url_as_it_must_be_written(write: Write) -> None:
    env = write() | {"TUFT_STORE_PASSWORD": "p@ss/w:rd#1"}
    url = settings("trainer", env)[1]["TUFT_STORE_URL"]
    assert url == "redis://:p%40ss%2Fw%3Ard%231@valkey:6379/0"
    assert connect(url).connection_pool.connection_kwargs["password"] == "p@ss/w:rd#1"
    named = {"mode": "redis_url", "redis_url": "rediss://tuft@valkey:6379/0"}
    env = write(persistence=named) | {"TUFT_STORE_PASSWORD": "secret"}
    assert settings("trainer", env)[1]["TUFT_STORE_URL"] == "rediss://tuft:secret@valkey:6379/0"


@pytest.mark.parametrize(
    ("sections", "env", "words"),
    [
        ({"persistence": {"mode": "disabled"}}, {}, "persistence.mode must be redis_url"),
        ({"object_store": {"kind": "local"}}, {}, "object_store.kind must be s3"),
        ({}, {"TUFT_MODEL": "third"}, "TUFT_MODEL is 'third'; models.yaml has: tiny, other"),
        ({}, {"TUFT_MODELS_FILE": "/no/models.yaml"}, "can't read the configuration"),
        (
            {"persistence": {"mode": "redis_url", "redis_url": "redis://:old@valkey:6379"}},
            {"TUFT_STORE_PASSWORD": "new"},
            "TUFT_STORE_PASSWORD is set, and persistence.redis_url has a password",
        ),
        (
            {"persistence": {"mode": "redis_url", "redis_url": "unix:///run/valkey.sock"}},
            {"TUFT_STORE_PASSWORD": "new"},
            "does not go with a URL without a host",
        ),
    ],
)
def test_what_can_not_work_is_refused(
    write: Write, sections: dict[str, Any], env: Env, words: str
) -> None:
    assert words in refused("trainer", write(**sections) | env)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([], "has no API key"),
        (None, "must be a list of {key: …, tenant: …}"),
        ([{"key": "sk-wrong-prefix", "tenant": "research"}], "API keys begin with 'tml-'"),
        ([{"key": "tml-first-key"}], "0.tenant"),
    ],
)
def test_wrong_keys_are_refused_and_not_told(write: Write, keys: Any, words: str) -> None:
    message = refused("api", write(keys))
    assert words in message
    assert "sk-wrong-prefix" not in message
    assert "tml-first-key" not in message


def test_keys_that_are_no_yaml_or_absent_or_in_both_places(write: Write, tmp_path: Path) -> None:
    env = write()
    (tmp_path / "keys.yaml").write_text("[{key: tml-first-key")
    assert refused("api", env).endswith("keys.yaml is not valid YAML")
    (tmp_path / "keys.yaml").unlink()
    assert "can't read TUFT_API_KEYS_FILE" in refused("api", env)
    assert "choose one" in refused("api", write(api_keys=KEYS))
    env = write()
    del env["TUFT_API_KEYS_FILE"]
    assert "there are no API keys" in refused("api", env)


def test_ready_is_who_works_or_waits(
    write: Write,
    valkey_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    env = write(persistence={"mode": "redis_url", "redis_url": valkey_url})
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    workers = Store(connect(valkey_url)).workers
    assert main(["ready", "sampler"]) == 1
    assert capsys.readouterr().out.endswith(": not heard of\n")
    for state, status in (("loading", 1), ("standby", 0), ("ready", 0)):
        workers.report(worker_id("sampler", "tiny"), "sampler", "tiny", state)  # type: ignore[arg-type]
        assert main(["ready", "sampler"]) == status
        # Another pod's state says nothing of this one.
        assert main(["ready", "trainer"]) == 1


def test_what_is_wrong_is_said_with_an_exit_status(
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (["cook"], ["ready"], ["ready", "api"], ["api", "trainer"], []):
        assert main(words) == 64
        assert capsys.readouterr().err.startswith("usage: python -m tuft.supervisor.pod")
    for name, value in write().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TUFT_RUN_FOLDER", str(tmp_path / "absent"))
    assert main(["trainer"]) == 78
    assert "see TUFT_RUN_FOLDER" in capsys.readouterr().err
