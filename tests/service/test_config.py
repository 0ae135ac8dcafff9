"""models.yaml: what it may say, and that every mistake is named with its key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from tuft.config import ModelConfig, ServiceConfig, load_config
from tuft.errors import ConfigError
from tuft.persistence import PersistenceConfig

MODEL = {"model_name": "org/model", "model_path": "org/model"}


def load(tmp_path: Path, data: object) -> ServiceConfig:
    file = tmp_path / "models.yaml"
    file.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return load_config(file)


def refused(tmp_path: Path, data: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, data)
    assert str(tmp_path / "models.yaml") in caught.value.message
    return caught.value.message


def test_the_least_that_works(tmp_path: Path) -> None:
    config = load(tmp_path, {"supported_models": [MODEL]})
    model = config.supported_models[0]
    assert (model.model_name, model.model_path) == ("org/model", "org/model")
    assert model.max_model_len is None
    assert model.lora_alpha == 32
    assert config.persistence == PersistenceConfig.disabled()
    assert config.object_store.kind == "local"
    assert config.api_keys == []
    assert config.model("org/model") is model
    with pytest.raises(KeyError):
        config.model("other")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    persistence = {"mode": "file_redis", "file_path": "~/state"}
    data = {"supported_models": [MODEL], "object_store": {"path": "~/objects"}}
    config = load(tmp_path, data | {"persistence": persistence})
    assert config.persistence.file_path == tmp_path / "state"
    assert config.object_store.path == tmp_path / "objects"
    assert PersistenceConfig.from_file_redis("~/state") == config.persistence
    unknown = {"persistence": persistence | {"file_path": "~nobody-of-this-name/state"}}
    assert "file_path: the home folder in" in refused(tmp_path, data | unknown)


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("supported_models: []\ntrainer: {}\nsupported_models: []\n", "supported_models", 3),
        ("trainer: {ranks: 1, ranks: 2}\n", "ranks", 1),
        ("supported_models:\n  - model_name: a\n    model_name: b\n", "model_name", 3),
    ],
)
def test_a_key_given_twice_is_named(tmp_path: Path, text: str, key: str, line: int) -> None:
    message = refused(tmp_path, text)
    assert f"the key {key!r} is given twice" in message
    assert f"line {line}" in message


def test_a_merge_key_overridden_is_no_repetition(tmp_path: Path) -> None:
    text = """
    supported_models:
      - &first {model_name: a, model_path: a, dtype: float32}
      - {<<: *first, model_name: b}
    """
    first, second = load(tmp_path, text).supported_models
    assert (first.model_name, second.model_name, second.dtype) == ("a", "b", "float32")


def test_a_full_example(tmp_path: Path) -> None:
    text = """
    supported_models:
      - model_name: Qwen/Qwen3-8B
        model_path: Qwen/Qwen3-8B      # folder, hub name, or a .gguf file
        max_model_len: 32768
        tensor_parallel_size: 1
        dtype: bfloat16
    persistence:
      mode: redis_url
      redis_url: redis://valkey:6379/0
    object_store: {kind: s3, endpoint: "minio:9000", bucket: tuft, prefix: team/a, secure: false}
    api_keys: [{key: tml-secret-1, tenant: team-a}, {key: tml-secret-2, tenant: team-a}]
    trainer: {ranks: 2, max_lora_rank: 32}
    sampler: {max_running_sequences: 8}
    limits: {result_ttl_s: 60, inline_payload_bytes: 0}
    """
    config = load(tmp_path, text)
    assert config.supported_models[0].max_model_len == 32768
    assert config.persistence.redis_url == "redis://valkey:6379/0"
    assert config.object_store.bucket == "tuft"
    assert [key.tenant for key in config.api_keys] == ["team-a", "team-a"]
    assert config.trainer.ranks == 2
    # Processes hand it on as JSON.
    assert ServiceConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError):
        config.trainer.ranks = 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"suported_models": []}, "suported_models: unknown key"),
        ({"supported_models": []}, "supported_models: List should have at least 1 item"),
        ({"supported_models": None}, "supported_models: "),
        ({"supported_models": [MODEL | {"rank": 8}]}, "supported_models.0.rank: unknown key"),
        ({"supported_models": [{"model_name": "x"}]}, "supported_models.0.model_path: Field req"),
        ({"supported_models": [MODEL | {"model_name": ""}]}, "supported_models.0.model_name: "),
        (
            {"supported_models": [MODEL, MODEL]},
            "supported_models: model_name given twice: org/model",
        ),
        (
            {"supported_models": [MODEL | {"tensor_parallel_size": 2}]},
            "tensor_parallel_size 2 of 'org/model' needs sampler.engine vllm",
        ),
        (
            {"supported_models": [MODEL | {"tensor_parallel_size": 0}]},
            "supported_models.0.tensor_parallel_size: Input should be greater",
        ),
        ({"supported_models": [MODEL | {"max_model_len": 4}]}, "supported_models.0.max_model_len"),
        ({"supported_models": [MODEL | {"max_model_len": "long"}]}, "0.max_model_len: "),
        ({"supported_models": [MODEL | {"dtype": "int8"}]}, "supported_models.0.dtype: "),
        ({"supported_models": [MODEL | {"lora_alpha": 0}]}, "supported_models.0.lora_alpha: "),
        ({"object_store": {"kind": "s3", "bucket": "b"}}, "needs endpoint (host:port) and bucket"),
        ({"object_store": {"kind": "s3", "endpoint": "h:1"}}, "needs endpoint (host:port) and"),
        (
            {"object_store": {"kind": "s3", "endpoint": "http://h:1", "bucket": "b"}},
            "object_store.endpoint 'http://h:1' must be host:port",
        ),
        ({"object_store": {"kind": "gcs"}}, "object_store.kind: Input should be 'local' or 's3'"),
        ({"object_store": {"folder": "x"}}, "object_store.folder: unknown key"),
        (
            {"api_keys": [{"key": "sk-12345678", "tenant": "a"}]},
            "api_keys.0.key: API keys begin with 'tml-'",
        ),
        ({"api_keys": [{"key": "tml-", "tenant": "a"}]}, "api_keys.0.key: String should have at"),
        ({"api_keys": [{"key": "tml-12345678"}]}, "api_keys.0.tenant: Field required"),
        ({"api_keys": [{"key": "tml-12345678", "tenant": "a/b"}]}, "api_keys.0.tenant: "),
        ({"api_keys": [{"key": "tml-12345678", "tenant": "../b"}]}, "api_keys.0.tenant: "),
        (
            {"api_keys": [{"key": "tml-12345678", "tenant": t} for t in ("a", "b")]},
            "api_keys: key given twice: tml-1234…",
        ),
        ({"persistence": {"mode": "redis"}}, "persistence.mode: Input should be 'disabled', "),
        (
            {"persistence": {"redis_url": "redis://h"}},
            "persistence: persistence.redis_url goes with mode: redis_url",
        ),
        ({"persistence": {"mode": "redis_url"}}, "redis_url goes with mode: redis_url"),
        (
            {"persistence": {"mode": "redis_url", "redis_url": "http://h"}},
            "persistence.redis_url 'http://h' must begin with one of",
        ),
        ({"persistence": {"mode": "file_redis"}}, "file_path goes with mode: file_redis"),
        ({"persistence": {"file_path": "x"}}, "file_path goes with mode: file_redis"),
        ({"persistence": {"mode": "disabled", "path": "x"}}, "persistence.path: unknown key"),
        ({"trainer": {"ranks": 0}}, "trainer.ranks: Input should be greater than or equal to 1"),
        ({"trainer": {"rank": 1}}, "trainer.rank: unknown key"),
        ({"sampler": {"engine": "sglang"}}, "sampler.engine: "),
        ({"limits": {"long_poll_s": 60}}, "limits.long_poll_s: Input should be less than or equal"),
        ({"limits": {"result_ttl_s": 0}}, "limits.result_ttl_s: "),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: dict[str, object], expected: str) -> None:
    message = refused(tmp_path, {"supported_models": [MODEL]} | change)
    assert "is not a valid configuration:" in message
    assert expected in message


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    message = refused(
        tmp_path,
        {"supported_models": [MODEL | {"a": 1}], "trainer": {"ranks": 0}, "b": 2},
    )
    assert len(message.splitlines()) == 4


def test_a_key_is_never_shown_whole(tmp_path: Path) -> None:
    key = "tml-very-secret-key"
    for change in (
        {"api_keys": [{"key": key, "tenant": tenant} for tenant in ("a", "b")]},
        {"api_keys": [{"key": key, "tenant": "a", "more": 1}]},
        {"object_store": {"kind": "s3", "secret_key": key}},
    ):
        assert key not in refused(tmp_path, {"supported_models": [MODEL]} | change)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "must be a mapping with the key supported_models"),
        ("- model_name: x", "must be a mapping with the key supported_models"),
        ("just words", "must be a mapping with the key supported_models"),
        ("supported_models: [", "is not valid YAML"),
        ("supported_models: !!python/object:os.system {}", "is not valid YAML"),
        ("a: 1\n\tb: 2", "is not valid YAML"),
        ("1: 2", "1"),
    ],
)
def test_what_is_no_configuration_at_all(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refused(tmp_path, text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: No such file"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path)
    (tmp_path / "models.yaml").write_bytes(b"supported_models: \xff\xfe")
    with pytest.raises(ConfigError, match=r"models\.yaml is not UTF-8 text"):
        load_config(tmp_path / "models.yaml")


@pytest.mark.parametrize("path", ["./absent", "/absent", "a/b/c", "absent.gguf", "~/absent/x"])
def test_a_model_path_that_does_not_exist(tmp_path: Path, path: str) -> None:
    message = refused(tmp_path, {"supported_models": [MODEL | {"model_path": path}]})
    assert f"supported_models.0.model_path: {path!r} does not exist" in message
    assert "folder, a hub name or a .gguf file" in message


def test_model_paths_that_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model.gguf").touch()
    for path, expected in (
        (str(tmp_path / "model"), str(tmp_path / "model")),
        ("~/model", str(tmp_path / "model")),
        ("~/model.gguf", str(tmp_path / "model.gguf")),
        ("gpt2", "gpt2"),
        ("org/name", "org/name"),
    ):
        assert ModelConfig(model_name="m", model_path=path).model_path == expected


def test_persistence_from_python(tmp_path: Path) -> None:
    assert PersistenceConfig.disabled().mode == "disabled"
    external = PersistenceConfig.from_redis_url("unix:///run/valkey.sock")
    assert (external.mode, external.redis_url) == ("redis_url", "unix:///run/valkey.sock")
    for folder in (tmp_path, str(tmp_path)):
        on_disk = PersistenceConfig.from_file_redis(folder)
        assert (on_disk.mode, on_disk.file_path) == ("file_redis", tmp_path)
    for config in (external, on_disk, PersistenceConfig.disabled()):
        assert PersistenceConfig.model_validate(config.model_dump()) == config
    with pytest.raises(ValidationError, match=r"persistence\.redis_url 'localhost:6379' must"):
        PersistenceConfig.from_redis_url("localhost:6379")


def test_vllm_may_spread_a_model(tmp_path: Path) -> None:
    spread = {"supported_models": [MODEL | {"tensor_parallel_size": 2}]}
    assert load(tmp_path, spread | {"sampler": {"engine": "vllm"}}).vllm_lora_rank == 64


def test_vllm_serves_certain_ranks(tmp_path: Path) -> None:
    def config(rank: int, **vllm: object) -> dict[str, object]:
        sampler = {"engine": "vllm", "vllm": vllm}
        return {
            "supported_models": [MODEL],
            "trainer": {"max_lora_rank": rank},
            "sampler": sampler,
        }

    assert load(tmp_path, config(33)).vllm_lora_rank == 64
    assert load(tmp_path, config(33, max_lora_rank=16)).vllm_lora_rank == 16
    assert "vLLM has 8, 16, 32" in refused(tmp_path, config(33, max_lora_rank=12))
    assert "max_lora_rank 600 is more than vLLM serves: 512" in refused(tmp_path, config(600))


def test_gpus_are_given_for_every_sampler(tmp_path: Path) -> None:
    message = refused(
        tmp_path, {"supported_models": [MODEL], "sampler": {"replicas": 2, "gpus": ["0"]}}
    )
    assert "sampler.gpus has 1 entries; there are 2 sampler processes" in message
