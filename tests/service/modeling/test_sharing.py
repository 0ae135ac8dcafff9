from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tuft.modeling.loading import load_base
from tuft.modeling.sharing import shared_bytes, shared_folder

CPU = torch.device("cpu")
# Loads a model, runs it, waits for the other process to have done so, and tells its memory.
PROCESS = """
import json, pathlib, sys, torch
from tuft.modeling.loading import load_base
model = load_base(pathlib.Path(sys.argv[1]), "float32", "cpu")
with torch.inference_mode():
    logits = model(input_ids=torch.tensor([[5, 6, 7]])).logits
print("loaded", flush=True)
sys.stdin.readline()
kilobytes, inside = {}, False
for key, *words in map(str.split, open("/proc/self/smaps")):
    if not key.endswith(":"):
        inside = words[-1].endswith(".safetensors")
    elif inside and words[-1] == "kB":
        kilobytes[key] = kilobytes.get(key, 0) + int(words[0])
print(json.dumps({"logits": logits[0, -1].tolist(), "kilobytes": kilobytes}), flush=True)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tuft" / "models"


@pytest.fixture
def half_folder(base_folder: Path, tmp_path: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half", max_shard_size="200KB")
    return tmp_path / "half"


def logits_of(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits
    assert isinstance(logits, torch.Tensor)
    return logits


def test_a_half_precision_model_is_mapped_from_a_float32_copy(
    half_folder: Path, cache: Path
) -> None:
    model = load_base(half_folder, "auto", "cpu")
    plain = AutoModelForCausalLM.from_pretrained(half_folder, dtype=torch.float32).eval()
    assert torch.equal(logits_of(model), logits_of(plain))
    assert shared_bytes(model) == sum(parameter.nbytes for parameter in model.parameters())
    assert shared_bytes(plain) == 0
    ours, theirs = dict(model.named_parameters()), dict(plain.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    (copy,) = (path for path in cache.iterdir() if path.is_dir())
    assert shared_folder(half_folder, torch.float32, CPU) == copy


def test_other_content_in_the_same_place_has_a_copy_of_its_own(
    half_folder: Path, cache: Path
) -> None:
    before = load_base(half_folder, "auto", "cpu")
    changed = AutoModelForCausalLM.from_pretrained(half_folder, dtype=torch.bfloat16)
    changed.get_input_embeddings().weight.data.add_(1.0)
    changed.save_pretrained(half_folder, max_shard_size="200KB")
    after = load_base(half_folder, "auto", "cpu")
    wanted = changed.float().get_input_embeddings().weight
    assert torch.equal(after.get_input_embeddings().weight, wanted)
    assert not torch.equal(before.get_input_embeddings().weight, wanted)


def test_what_needs_no_copy_gets_none(half_folder: Path, base_folder: Path, cache: Path) -> None:
    assert shared_folder(half_folder, torch.bfloat16, CPU) == half_folder
    assert shared_folder(half_folder, torch.float32, torch.device("cuda")) == half_folder
    assert shared_folder(base_folder, torch.float32, CPU) == base_folder
    model = load_base(base_folder, "auto", "cpu")
    assert shared_bytes(model) == sum(parameter.nbytes for parameter in model.parameters())
    assert not cache.exists()


def test_without_room_each_process_loads_for_itself(
    half_folder: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    (small_disk / "full").write_bytes(bytes(700_000))
    model = load_base(half_folder, "auto", "cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert "keeps its own copy" in caplog.text
    assert "GB are free" in caplog.text


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux' /proc")
def test_two_processes_have_the_weights_in_memory_once(half_folder: Path, cache: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache.parents[1]), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(half_folder)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "loaded\n"
    told = []
    for process in processes:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        told.append(json.loads(process.stdout.readline()))
    for process in processes:
        process.communicate()
    assert told[0]["logits"] == told[1]["logits"]
    for kilobytes in (one["kilobytes"] for one in told):
        # Not a page of the mapping was written to, so none became a private copy.
        assert kilobytes["Private_Dirty:"] == kilobytes["Anonymous:"] == 0
        assert 0 < kilobytes["Pss:"] < 0.6 * kilobytes["Rss:"]
