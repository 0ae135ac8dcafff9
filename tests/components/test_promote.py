"""The step `promote` without a service: gates, and what is published. The rest is in tests/e2e."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tuft_sdk
from tests.helpers.s3_server import S3Server
from tuft_components.artifacts import list_uris, read_bytes
from tuft_components.errors import BadConfiguration, BadData
from tuft_components.promote.adapters import Adapter
from tuft_components.promote.gate import Bar
from tuft_components.promote.publishing import Publication
from tuft_components.promote.step import STEP, PromoteParams, _publish

PATH = "tinker://r:train:0/sampler_weights/p"
INFO = tuft_sdk.CheckpointInfo(
    path=PATH,
    base_model="tiny",
    lora={"rank": 2, "alpha": 32.0, "train_attn": True, "train_mlp": False, "train_unembed": True},
    parent=None,
    step=7,
    step_key="update/6",
    created_at=1.0,
    user_metadata={},
    files={},
)


@pytest.mark.parametrize(
    ("bar", "metric", "why"),
    [
        (Bar("threshold", 0.5, 0, 0, True), 0.5, "m 0.5 reaches the threshold 0.5"),
        (Bar("baseline", 0, 0.5, 0, True), 0.51, "m 0.51 beats the baseline 0.5"),
        (Bar("baseline", 0, 0.5, 0.1, True), 0.7, "beats the baseline 0.5 by more than 0.1"),
        (Bar("both", 0.5, 0.4, 0, True), 0.6, "reaches the threshold 0.5 and beats the baseline"),
        (Bar("both", 2.0, 2.5, 0, False), 1.9, "reaches the threshold 2 and beats the baseline"),
        (Bar("none", 0, 0, 0, True), math.nan, "no gate"),
    ],
)
def test_a_gate_that_is_passed(bar: Bar, metric: float, why: str) -> None:
    verdict = bar.verdict("m", metric)
    assert (verdict.promoted, why in verdict.why) == (True, True), verdict


@pytest.mark.parametrize(
    ("bar", "metric", "why"),
    [
        (Bar("threshold", 0.5, 0, 0, True), 0.49, "m 0.49 misses the threshold 0.5"),
        (Bar("threshold", 0.5, 0, 0, True), math.nan, "m nan misses"),
        (Bar("baseline", 0, 0.5, 0, True), 0.5, "m 0.5 does not beat the baseline 0.5"),
        (Bar("baseline", 0, 0.5, 0.1, True), 0.6, "does not beat the baseline 0.5 by more than"),
        (Bar("both", 0.5, 0.4, 0, True), 0.45, "misses the threshold 0.5 and beats"),
        (Bar("both", 0.5, 0.7, 0, True), 0.6, "reaches the threshold 0.5 and does not beat"),
        (Bar("threshold", 2.0, 0, 0, False), 2.1, "misses the threshold 2"),
        (Bar("baseline", 0, 2.0, 0, False), 2.0, "does not beat"),
    ],
)
def test_a_gate_that_is_not_passed(bar: Bar, metric: float, why: str) -> None:
    verdict = bar.verdict("m", metric)
    assert (verdict.promoted, why in verdict.why) == (False, True), verdict


def test_a_refused_gate_is_a_success_that_says_why(tmp_path: Path) -> None:
    """It needs no service: nothing is fetched."""
    files = {name: str(tmp_path / name) for name in ("promoted", "uri", "model", "card")}
    params = {"policy": PATH, "target_uri": str(tmp_path / "models"), "model_name": "m"}
    outputs = STEP.execute({**params, "metric": 0.2, "threshold": 0.5}, {}, files)
    assert (outputs.promoted, outputs.uri) == (False, "")
    why = "mean_reward 0.2 misses the threshold 0.5"
    assert why in (tmp_path / "card").read_text()
    assert json.loads((tmp_path / "model").read_text())["why"] == why
    assert outputs.metrics == {"promoted": 0.0, "mean_reward": 0.2, "threshold": 0.5}
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"baseline": 0.3}, "gate is threshold: set baseline or both"),
        ({"gate": "baseline", "threshold": 0.3}, "gate is baseline: set threshold or both"),
        ({"gate": "none", "min_gain": 0.3}, "gate is none"),
        ({"merge": True}, "go together"),
        ({"base_model_uri": "/models/tiny"}, "go together"),
        ({"model_name": "a/b"}, "model_name"),
        ({"version": ".."}, "version"),
        ({"card_metrics": '{"a": "b"}'}, "a is not a number"),
    ],
)
def test_parameters_that_do_not_fit(more: dict[str, Any], why: str, tmp_path: Path) -> None:
    params = {"policy": PATH, "target_uri": "t", "model_name": "m", "metric": 1, **more}
    with pytest.raises(BadConfiguration, match=why):
        STEP.execute(params, {}, {"model": str(tmp_path / "m"), "card": str(tmp_path / "c")})


def adapter_in(folder: Path, seed: int = 0, **config: Any) -> Adapter:
    """On one layer and the output layer of `base_in`."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer, (out, inner) in (("model.q", (5, 6)), ("lm_head", (9, 6))):
        name = f"base_model.model.{layer}"
        tensors[f"{name}.lora_A.weight"] = rng.standard_normal((2, inner)).astype(np.float32)
        tensors[f"{name}.lora_B.weight"] = rng.standard_normal((out, 2)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": 2, "lora_alpha": 32, **config}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return Adapter.read(folder)


def params_for(target: str, **more: Any) -> PromoteParams:
    given = {"policy": PATH, "target_uri": target, "model_name": "m", "metric": 0.75, **more}
    return PromoteParams(**{"threshold": 0.5, **given})


def publish(params: PromoteParams, adapter: Adapter) -> tuple[str, dict[str, Any]]:
    bar = Bar(params.gate, params.threshold, params.baseline, params.min_gain, True)
    verdict = bar.verdict(params.metric_name, params.metric)
    uri, manifest = _publish(params, INFO, adapter, verdict)
    told: dict[str, Any] = json.loads(manifest)
    return uri, told


def test_a_version_has_its_files_and_their_digests(tmp_path: Path) -> None:
    adapter = adapter_in(tmp_path / "a")
    uri, manifest = publish(params_for(f"{tmp_path}/models/", version="1"), adapter)
    assert uri == f"{tmp_path}/models/m/1"
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert sorted(manifest["files"]) == names
    for name in names:
        data = (Path(uri) / name).read_bytes()
        told = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        assert manifest["files"][name] == told
    assert manifest["source"]["path"] == PATH
    assert json.loads((Path(uri) / "manifest.json").read_text()) == manifest
    card = (Path(uri) / "README.md").read_text()
    for part in ("| Optimizer steps | 7 |", "mean_reward 0.75 reaches", PATH, "rank 2, alpha 32"):
        assert part in card


def test_a_version_never_changes(tmp_path: Path) -> None:
    target = str(tmp_path / "models")
    uri, manifest = publish(params_for(target, version="1"), adapter_in(tmp_path / "a"))
    before = {path: path.stat().st_mtime_ns for path in Path(uri).iterdir()}
    assert publish(params_for(target, version="1"), adapter_in(tmp_path / "b"))[1] == manifest
    for other, changed in (
        (params_for(target, version="1"), adapter_in(tmp_path / "c", seed=1)),
        (params_for(target, version="1", metric=0.8), adapter_in(tmp_path / "d")),
    ):
        with pytest.raises(BadData, match="published already, and with another content"):
            publish(other, changed)
    assert {path: path.stat().st_mtime_ns for path in Path(uri).iterdir()} == before


def test_without_a_version_it_follows_from_the_weights(tmp_path: Path) -> None:
    target = str(tmp_path)
    uris = [
        publish(params_for(target), adapter_in(tmp_path / str(n), seed=n))[0] for n in (0, 1, 0)
    ]
    assert uris[0] == uris[2] != uris[1]
    assert Path(uris[0]).name.startswith("p-")


def test_a_publication_that_died_is_made_whole(tmp_path: Path) -> None:
    """Without a manifest nothing is published: what lies there is written over."""
    died = Publication(f"{tmp_path}/m/1", {})
    died.add("adapter_config.json", Path(__file__))
    uri, manifest = publish(params_for(str(tmp_path), version="1"), adapter_in(tmp_path / "a"))
    told = json.loads((Path(uri) / "adapter_config.json").read_text())
    assert told["peft_type"] == "LORA"
    assert "adapter_config.json" in manifest["files"]


def test_into_a_bucket(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    s3_server.make_bucket("published")
    base = base_in(tmp_path / "base")
    merge = {"merge": True, "base_model_uri": str(base), "version": "1"}
    adapter = adapter_in(tmp_path / "a")
    uri, manifest = publish(params_for("s3://published/models", **merge), adapter)
    assert uri == "s3://published/models/m/1"
    found = {name.removeprefix(f"{uri}/") for name in list_uris(uri)}
    assert found == {*manifest["files"], "manifest.json"}
    data = read_bytes(f"{uri}/merged/model.safetensors")
    assert (
        hashlib.sha256(data).hexdigest()
        == (manifest["files"]["merged/model.safetensors"]["sha256"])
    )
    assert publish(params_for("s3://published/models", **merge), adapter)[1] == manifest
    # And from a bucket: what was published is a base model itself.
    again = params_for(str(tmp_path), merge=True, base_model_uri=f"{uri}/merged")
    assert "merged/model.safetensors" in publish(again, adapter)[1]["files"]


def base_in(
    folder: Path, dtype: Any = np.float32, *, shards: int = 1, head: bool = True, **config: Any
) -> Path:
    """A folder with the layers that `adapter_in` changes, and one that it does not."""
    folder.mkdir()
    rng = np.random.default_rng(9)
    tensors = {
        "model.embed_tokens.weight": rng.standard_normal((9, 6)),
        "model.q.weight": rng.standard_normal((5, 6)),
        "model.norm.weight": rng.standard_normal(6),
        **({"lm_head.weight": rng.standard_normal((9, 6))} if head else {}),
    }
    stored = {name: value.astype(dtype) for name, value in tensors.items()}
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": not head, **config}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "LICENSE").write_text("as you like")
    (folder / "pytorch_model.bin").write_text("no")
    if shards == 1:
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names = sorted(stored)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        mine = {name: stored[name] for name in names[number::shards]}
        save_file(mine, folder / file)
        weight_map |= dict.fromkeys(mine, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"x": np.zeros(1)}, folder / "consolidated.safetensors")
    return folder


def merged(base: Path, adapter: Adapter, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder, and its tensors as the index (or the one file) has them."""
    params = params_for(str(tmp_path / "models"), merge=True, base_model_uri=str(base))
    folder = Path(publish(params, adapter)[0]) / "merged"
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return folder, dict(load_file(folder / "model.safetensors"))
    told = json.loads(index.read_text())
    tensors = {name: load_file(folder / f)[name] for name, f in told["weight_map"].items()}
    assert told["metadata"]["total_size"] == sum(value.nbytes for value in tensors.values())
    return folder, tensors


def expected(base: Path, adapter: Adapter) -> dict[str, Any]:
    """In float64: base + alpha / rank * B @ A."""
    stored: dict[str, Any] = {}
    for file in base.glob("model*.safetensors"):
        stored |= load_file(file)
    sums = {name: value.astype(np.float64) for name, value in stored.items()}
    for layer in adapter.pairs:
        a, b = adapter.weights(layer)
        start = sums.get(f"{layer}.weight", sums["model.embed_tokens.weight"])
        sums[f"{layer}.weight"] = start + 16 * b.astype(np.float64) @ a
    return sums


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("head", [True, False])
def test_merged_weights(shards: int, head: bool, tmp_path: Path) -> None:
    """Also where the output layer shares the embedding's tensor: then it gets one of its own."""
    adapter = adapter_in(tmp_path / "a")
    base = base_in(tmp_path / "base", shards=shards, head=head)
    folder, tensors = merged(base, adapter, tmp_path)
    sums = expected(base, adapter)
    assert tensors.keys() == sums.keys()
    for name, value in sums.items():
        np.testing.assert_allclose(tensors[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    assert json.loads((folder / "config.json").read_text()) == {"tie_word_embeddings": False}
    names = {path.name for path in folder.iterdir()}
    assert {"tokenizer.json", "LICENSE"} < names
    assert not names & {"pytorch_model.bin", "consolidated.safetensors"}
    assert ("model.safetensors" in names) == (shards == 1 and head)


def test_a_tensor_larger_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuft_components.promote.safetensors_files._BLOCK_VALUES", 13)
    adapter, base = adapter_in(tmp_path / "a"), base_in(tmp_path / "base")
    tensors = merged(base, adapter, tmp_path)[1]
    sums = expected(base, adapter)
    np.testing.assert_allclose(tensors["lm_head.weight"], sums["lm_head.weight"], rtol=1e-5)


def test_half_precision_is_rounded_once(tmp_path: Path) -> None:
    adapter, base = adapter_in(tmp_path / "a"), base_in(tmp_path / "base", np.float16)
    tensors = merged(base, adapter, tmp_path)[1]
    sums = expected(base, adapter)
    for layer in adapter.pairs:
        found = tensors[f"{layer}.weight"]
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, sums[f"{layer}.weight"].astype(np.float16))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    adapter = adapter_in(tmp_path / "a")

    def refused(base: Path, why: str) -> None:
        with pytest.raises(BadData, match=why):
            merged(base, adapter, tmp_path)
        assert not list((tmp_path / "models").rglob("manifest.json"))

    refused(tmp_path, "has no config.json")
    large = base_in(tmp_path / "large", np.float16)
    tensors = dict(load_file(large / "model.safetensors"))
    save_file(
        {**tensors, "model.q.weight": np.full((5, 6), 65504, np.float16)},
        large / "model.safetensors",
    )
    refused(large, "too large for F16")
    other = base_in(tmp_path / "other")
    save_file({**tensors, "model.q.weight": np.zeros((5, 7))}, other / "model.safetensors")
    refused(other, r"model.q.weight of .* has shape \[5, 7\]")
    save_file({**tensors, "model.q.weight": np.zeros((5, 6), np.int8)}, other / "model.safetensors")
    refused(other, "is of type I8")
    del tensors["model.q.weight"]
    save_file(tensors, other / "model.safetensors")
    refused(other, "no weights for 1 layers of the adapter, model.q")
    (other / "model.safetensors").write_bytes((large / "model.safetensors").read_bytes()[:-8])
    refused(other, "not a whole safetensors file")
    split = base_in(tmp_path / "split", shards=2)
    index = json.loads((split / "model.safetensors.index.json").read_text())
    file = split / index["weight_map"]["model.q.weight"]
    save_file({n: v for n, v in load_file(file).items() if n != "model.q.weight"}, file)
    refused(split, "no file of .* has the weights of model.q")
    file.unlink()
    refused(split, "lacks model-0000")
    with pytest.raises(BadData, match="only plain LoRA"):
        adapter_in(tmp_path / "dora", use_dora=True)
