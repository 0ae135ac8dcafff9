"""What is run in a sandbox, within which limits, and what came of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

Limit = Literal["", "cpu", "wall", "memory", "disk", "files", "processes", "open_files", "output"]

FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")]


def _writable(text: object) -> object:
    return text.encode(errors="replace").decode() if isinstance(text, str) else text


Text = Annotated[str, BeforeValidator(_writable)]
"""Half a pair of surrogates, which a model's text may have, fits no file and no request."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Model):
    """Of one job, all its processes together where nothing else is said."""

    cpu_s: float = Field(default=5.0, gt=0, le=600, description="Seconds of CPU time.")
    wall_s: float = Field(default=10.0, gt=0, le=600, description="Seconds until it is ended.")
    memory_mb: int = Field(
        default=512, ge=64, le=65_536, description="MiB, its folder's content among them."
    )
    processes: int = Field(default=16, ge=4, le=256, description="Processes and threads.")
    disk_mb: int = Field(default=16, ge=1, le=1024, description="MiB in its folder, and of a file.")
    files: int = Field(default=1000, ge=10, le=100_000, description="Files in its folder.")
    open_files: int = Field(default=64, ge=16, le=1024, description="Open files of a process.")
    output_kb: int = Field(
        default=1024, ge=1, le=16_384, description="KiB on stdout and stderr until it is ended."
    )
    kept_kb: int = Field(
        default=16, ge=1, le=1024, description="KiB that are kept of stdout, and of stderr."
    )


class Job(_Model):
    """A Python program: `code` is `main.py` in a folder of its own, beside `files`."""

    code: Text = Field(max_length=1_000_000)
    stdin: Text = Field(default="", max_length=4_000_000)
    files: dict[FileName, Text] = Field(default={}, max_length=16)
    limits: Limits = Limits()


class Result(_Model):
    """
    Args:
        status: the exit status; of a program that a signal ended, 128 and its number.
        limit: which limit ended it; or which it was refused, by what it said at its end.
        stdout, stderr: shortened in the middle.
        seconds: from start to end.
    """

    status: int
    limit: Limit = ""
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """It ended by itself, and well."""
        return self.status == 0 and not self.limit


_LAST_WORDS: tuple[tuple[str, Limit], ...] = (
    ("MemoryError", "memory"),
    ("[Errno 28]", "disk"),
    ("[Errno 27]", "disk"),
    ("[Errno 24]", "open_files"),
    ("BlockingIOError: [Errno 11]", "processes"),
    ("can't start new thread", "processes"),
)


def limit_in(stderr: str) -> Limit:
    """The limit that a failed program's last line tells of."""
    last = stderr.strip().rpartition("\n")[2]
    return next((limit for words, limit in _LAST_WORDS if words in last), "")


def shortened(text: str, longest: int) -> str:
    """The text, or its beginning and its end."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters …\n{text[len(text) - half :]}"
