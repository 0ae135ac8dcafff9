"""A published version: files below `target_uri/model_name/version/`, and a manifest that makes
them one.

The manifest is written last: a version is there if and only if its manifest is. It never changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuft_components.artifacts import list_uris, local_output, read_bytes, write_bytes
from tuft_components.errors import BadData

SCHEMA = "tuft.model/1"
MANIFEST = "manifest.json"


class Publication:
    """Writes the files of one version. `about` is what the manifest says besides them."""

    def __init__(self, uri: str, about: Mapping[str, Any]) -> None:
        self.uri = uri.rstrip("/")
        self._about = {"schema": SCHEMA, **about}
        self._files: dict[str, dict[str, str | int]] = {}

    def existing(self, files: Mapping[str, Path]) -> bytes | None:
        """The manifest of this version where it is there with this content; None: it is not there.

        Args:
            files: what can be known before it is made. Merged weights follow from the rest.

        Raises:
            BadData: the version is there with another content.
        """
        place = f"{self.uri}/{MANIFEST}"
        if place not in list_uris(self.uri):
            return None
        data = read_bytes(place)
        try:
            found = json.loads(data)
            others = found.pop("files")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadData(f"{place} is not a manifest of {SCHEMA}: {error!r}") from error
        differ = sorted(
            name
            for name in {*found, *self._about}
            if found.get(name) != json.loads(json.dumps(self._about.get(name)))
        )
        differ += [name for name, path in files.items() if others.get(name) != described(path)]
        if differ:
            raise BadData(
                f"{self.uri} is published already, and with another content ({', '.join(differ)}): "
                "a version never changes. Give another version"
            )
        return data

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A local path to write a file to; it is published when the block ends."""
        with local_output(f"{self.uri}/{name}") as path:
            yield path
            self._files[name] = described(path)

    def add(self, name: str, source: Path) -> None:
        with self.file(name) as path, source.open("rb") as read, path.open("wb") as write:
            while piece := read.read(1 << 24):
                write.write(piece)

    def finish(self) -> bytes:
        """Write the manifest, and return it."""
        manifest = {**self._about, "files": dict(sorted(self._files.items()))}
        data = (json.dumps(manifest, indent=1) + "\n").encode()
        write_bytes(f"{self.uri}/{MANIFEST}", data)
        return data


def described(path: Path) -> dict[str, str | int]:
    """Size and sha256 of a file, as manifests have them."""
    with path.open("rb") as file:
        return {
            "size": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }
