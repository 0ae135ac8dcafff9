"""Make a folder that transformers loads from what `model_path` says.

`python -m tuft.modeling.prepare MODEL_PATH` prints that folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tuft.durable import sync_folder, sync_tree
from tuft.errors import ConfigError

log = logging.getLogger(__name__)

# Part of a converted model's folder name: raise it when the conversion changes.
_CONVERSION = 1
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.safetensors"]


def prepare_model(model_path: str) -> Path:
    """The folder of a model: config, safetensors weights and tokenizer.

    A folder is itself. A .gguf file is converted once, dequantized to bfloat16, into the
    user's cache folder. Anything else is a name on the Hugging Face hub.

    Raises:
        ConfigError: no such model, not a model, or the hub can't be reached.
    """
    path = Path(model_path).expanduser()
    if path.is_dir():
        return _checked(path.resolve())
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ConfigError(f"model file {model_path!r} does not exist")
        return _converted(path.resolve())
    if path.is_file():
        raise ConfigError(
            f"model_path {model_path!r} is a file, but no .gguf; "
            "give a folder, a hub name or a .gguf file"
        )
    return _checked(_from_hub(model_path))


def cache_folder() -> Path:
    """Where converted models are kept: $XDG_CACHE_HOME/tuft, or ~/.cache/tuft."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "tuft"


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} is not a model: it has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"{folder} has no *.safetensors weights; convert the model with save_pretrained"
        )
    return folder


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ConfigError(
            f"model {name!r} is not a folder here, and can't be had from the Hugging Face hub: "
            f"{first}. Give a folder, a hub name or a .gguf file"
        ) from error


def _converted(gguf: Path) -> Path:
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    target = cache_folder() / "models" / f"{gguf.stem}-{digest}-v{_CONVERSION}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    log.info("converting %s to %s (once)", gguf, target)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _convert(gguf, part)
        part.chmod(0o755)
        # What is found under its name is taken for whole ever after.
        sync_tree(part)
        part.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        # Another process may have been first: its folder is as good.
        if not target.is_dir():
            raise ConfigError(f"can't convert {gguf} into {target}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(gguf_file=gguf.name, dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(folder)


def main(arguments: list[str]) -> int:
    """Print the folder of the prepared model; exit status 78 for one that can't be prepared."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tuft.modeling.prepare MODEL_PATH\n")
        return 64
    try:
        # Libraries write to stdout, which is for the folder alone.
        with contextlib.redirect_stdout(sys.stderr):
            folder = prepare_model(arguments[0])
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 78
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    sys.exit(main(sys.argv[1:]))
