"""Merged weights: the base model's files, with `alpha / rank * B @ A` added to each layer.

Without torch, and shard by shard: a file is copied, and its tensors are changed in place. What is
stored in bfloat16 or float16 is added to in float32 and rounded once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuft_components.artifacts import list_uris, local_input, read_bytes
from tuft_components.errors import BadData
from tuft_components.promote.adapters import Adapter
from tuft_components.promote.publishing import Publication
from tuft_components.promote.safetensors_files import Place, add_low_rank, places, write_copy

FOLDER = "merged"
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_CONFIG = "config.json"
_HEAD, _EMBEDDING = "lm_head", "model.embed_tokens.weight"
_SUFFIXES = (".json", ".txt", ".jinja", ".model", ".tiktoken")
_LEGAL = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")


@dataclass(frozen=True)
class Base:
    """A base model below `uri`. `shards` are its files of weights, `others` the small ones;
    `index` says in which shard each tensor is, where there are several."""

    uri: str
    shards: Sequence[str]
    others: Sequence[str]
    index: dict[str, str] | None
    config: dict[str, Any]

    @classmethod
    def find(cls, uri: str) -> Base:
        """Raises:
        BadData: there is no model in safetensors files.
        """
        uri = uri.rstrip("/")
        below = (found.removeprefix(uri + "/") for found in list_uris(uri))
        names = [name for name in below if "/" not in name]
        if _CONFIG not in names:
            raise BadData(f"{uri} has no {_CONFIG}: base_model_uri is a model's folder, or prefix")
        config = _json(f"{uri}/{_CONFIG}")
        index: dict[str, str] | None = None
        if _INDEX in names:
            index = dict(_json(f"{uri}/{_INDEX}").get("weight_map", {}))
        elif _SINGLE not in names:
            raise BadData(f"{uri} has neither {_SINGLE} nor {_INDEX}")
        shards = [_SINGLE] if index is None else sorted(set(index.values()))
        if missing := [name for name in shards if name not in names]:
            raise BadData(f"{uri} lacks {', '.join(missing[:3])}, which its {_INDEX} names")
        others = [
            name
            for name in names
            if (name.endswith(_SUFFIXES) or name.startswith(_LEGAL))
            and name != _CONFIG
            and not name.endswith(".index.json")
        ]
        return cls(uri, shards, others, index, config)


def publish_merged(base: Base, adapter: Adapter, publication: Publication) -> None:
    """Add `merged/…` to a publication: a folder that transformers loads.

    Raises:
        BadData: the adapter has layers that the base model has not, or of other shapes.
    """
    if base.index is not None:
        _check(set(base.index), adapter, base)
    maker = _Maker(base, adapter, publication)
    for shard in base.shards:
        maker.shard(shard)
    maker.finish()


class _Maker:
    def __init__(self, base: Base, adapter: Adapter, publication: Publication) -> None:
        self._base = base
        self._adapter = adapter
        self._publication = publication
        self._weight_map: dict[str, str] = {}
        self._merged: set[str] = set()
        self._bytes = 0
        names = base.index
        # An output layer that shares the embedding's tensor gets one of its own: the adapter is
        # for the output only.
        self._untied = _HEAD in adapter.pairs and (
            names is not None and f"{_HEAD}.weight" not in names
        )

    def shard(self, name: str) -> None:
        with local_input(f"{self._base.uri}/{name}") as source:
            found = places(source, f"{self._base.uri}/{name}")
            target = name
            if self._base.index is None:
                _check(set(found), self._adapter, self._base)
                self._untied = _HEAD in self._adapter.pairs and f"{_HEAD}.weight" not in found
                # transformers would read no second file beside one of the usual name.
                target = "model-00001-of-00002.safetensors" if self._untied else name
            with self._publication.file(f"{FOLDER}/{target}") as path:
                shutil.copyfile(source, path)
                for tensor, place in found.items():
                    self._note(tensor, target, place)
                    layer = tensor.removesuffix(".weight")
                    if layer in self._adapter.pairs and tensor.endswith(".weight"):
                        self._add(path, place, layer)
            if self._untied and _EMBEDDING in found:
                self._head(source, found[_EMBEDDING])

    def finish(self) -> None:
        """What is not weights. Raises BadData: a layer was in no shard."""
        if missing := sorted(set(self._adapter.pairs) - self._merged):
            raise BadData(f"no file of {self._base.uri} has the weights of {missing[0]}")
        for name in self._base.others:
            with local_input(f"{self._base.uri}/{name}") as source:
                self._publication.add(f"{FOLDER}/{name}", source)
        config = dict(self._base.config)
        if _HEAD in self._adapter.pairs:
            config["tie_word_embeddings"] = False
        self._json(_CONFIG, config)
        if self._untied or self._base.index is not None:
            about = {"metadata": {"total_size": self._bytes}, "weight_map": self._weight_map}
            self._json(_INDEX, about)

    def _head(self, source: Path, embedding: Place) -> None:
        single = self._base.index is None
        name = "model-00002-of-00002.safetensors" if single else "model-unembed.safetensors"
        tensor = f"{_HEAD}.weight"
        with self._publication.file(f"{FOLDER}/{name}") as path:
            place = write_copy(source, embedding, tensor, path)
            self._note(tensor, name, place)
            self._add(path, place, _HEAD)

    def _add(self, path: Path, place: Place, layer: str) -> None:
        a, b = self._adapter.weights(layer)
        what = f"{layer}.weight of {self._base.uri}"
        add_low_rank(path, place, b, a, self._adapter.scaling, what)
        self._merged.add(layer)

    def _note(self, tensor: str, file: str, place: Place) -> None:
        self._weight_map[tensor] = file
        self._bytes += place.size

    def _json(self, name: str, value: dict[str, Any]) -> None:
        with self._publication.file(f"{FOLDER}/{name}") as path:
            path.write_text(json.dumps(value, indent=2) + "\n")


def _check(names: set[str], adapter: Adapter, base: Base) -> None:
    """All layers of the adapter are there; an output layer may share the embedding's tensor."""
    missing = sorted(layer for layer in adapter.pairs if f"{layer}.weight" not in names)
    if missing == [_HEAD] and _EMBEDDING in names:
        return
    if missing:
        raise BadData(
            f"{base.uri} has no weights for {len(missing)} layers of the adapter, {missing[0]} "
            "among them: is it the adapter's base model?"
        )


def _json(uri: str) -> dict[str, Any]:
    try:
        value = json.loads(read_bytes(uri))
    except ValueError as error:
        raise BadData(f"{uri} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadData(f"{uri} is not a JSON object")
    return value
