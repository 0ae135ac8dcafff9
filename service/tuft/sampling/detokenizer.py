"""The model's tokenizer, as far as sampling needs it: for stop strings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuft.errors import ConfigError
from tuft.sampling.stops import Detokenizer

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


class _HuggingFace:
    def __init__(self, tokenizer: Any) -> None:  # transformers is typed in part only
        self._tokenizer = tokenizer

    def decode(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(
            token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text


def load_detokenizer(folder: Path) -> Detokenizer | None:
    """The tokenizer of a prepared model's folder; None where the folder has none.

    Raises:
        ConfigError: it has one that can't be loaded.
    """
    if not any((folder / name).exists() for name in _TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer

    try:
        return _HuggingFace(AutoTokenizer.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError) as error:
        raise ConfigError(f"can't load the tokenizer in {folder}: {error}") from error
