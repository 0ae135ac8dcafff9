"""What a trainer works on at this moment, written where its death can't take it along.

An operation that needs more memory than there is, say, ends the whole process, and would end
the next one, too. A new trainer reads here what the one before it died at. The marks are in
memory that is mapped to a file: writing them takes microseconds, and the system keeps what a
killed process wrote. (What a power cut takes along was not killed by an operation.)
"""

from __future__ import annotations

import json
import logging
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

log = logging.getLogger(__name__)

_SIZE = 1 << 18
_LENGTH = 4

Mark = tuple[str, int]
"""Run id and seq_id of an operation."""


class InFlight:
    """The marks of one trainer group. Without a file, nothing is remembered."""

    def __init__(self, file: Path | None) -> None:
        self._life = uuid4().hex
        self._at: dict[str, int] = {}
        self._map: mmap.mmap | None = None
        if file is None:
            return
        try:
            self._open(file)
        except OSError as error:
            log.warning("no notes of what the trainer does, %s can't be used: %s", file, error)

    def _open(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a+b") as opened:
            # Real zeros, not a hole: to write into a hole of a full disk would end the process.
            opened.write(bytes(max(0, _SIZE - opened.seek(0, os.SEEK_END))))
            opened.flush()
            self._map = mmap.mmap(opened.fileno(), _SIZE)

    def left_behind(self) -> tuple[str, list[Mark]]:
        """What only the trainer before this one was called, and what it died at: nothing where it
        ended in order."""
        length = 0 if self._map is None else int.from_bytes(self._map[:_LENGTH], "little")
        if self._map is None or not length:
            return "", []
        try:
            life, found = json.loads(self._map[_LENGTH : _LENGTH + length])
            return str(life), [(str(run_id), int(seq_id)) for run_id, seq_id in found]
        except (ValueError, TypeError):
            log.warning("what the last trainer was doing can't be read; nothing is held against it")
            return "", []

    def clear(self) -> None:
        """Nothing is under way."""
        if self._map is not None:
            self._map[:_LENGTH] = bytes(_LENGTH)

    def begin(self, run_id: str, seq_id: int) -> None:
        """From now on, work on this run is for this operation."""
        self._at[run_id] = seq_id

    def mark(self, run_ids: Iterable[str]) -> None:
        """Work for these runs begins; `clear` ends it, unless it ends the process."""
        self._write([(run_id, self._at[run_id]) for run_id in run_ids if run_id in self._at])

    def _write(self, marks: list[Mark]) -> None:
        if self._map is None or not marks:
            return
        text = json.dumps([self._life, marks]).encode()
        while len(text) > _SIZE - _LENGTH:
            marks = marks[: len(marks) // 2]
            text = json.dumps([self._life, marks]).encode()
        self._map[_LENGTH : _LENGTH + len(text)] = text
        # Last: who reads a length finds what it is of.
        self._map[:_LENGTH] = len(text).to_bytes(_LENGTH, "little")
