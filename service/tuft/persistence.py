"""Where journal and state live, configured from Python or from models.yaml.

One implementation over the Redis protocol serves all three modes:
`disabled`: an embedded Valkey without a disk; state survives workers, not the service.
`file_redis`: an embedded Valkey with an append-only file, fsync always.
`redis_url`: an external Valkey or Redis, whose own durability settings then count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator


def _expand_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"the home folder in {str(path)!r} is not known") from error


UserPath = Annotated[Path, AfterValidator(_expand_home)]
"""A path that may begin with `~` or `~user`."""


class PersistenceConfig(BaseModel):
    """How the store persists. Use the three constructors, or the same keys in YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["disabled", "redis_url", "file_redis"] = "disabled"
    redis_url: str | None = None
    """For mode redis_url: redis://, rediss:// or unix:// URL."""
    file_path: UserPath | None = None
    """For mode file_redis: the folder of the append-only file; made where it is missing."""

    @classmethod
    def disabled(cls) -> Self:
        """An embedded Valkey that writes nothing to disk."""
        return cls(mode="disabled")

    @classmethod
    def from_redis_url(cls, url: str) -> Self:
        """An external Valkey or Redis at `url`."""
        return cls(mode="redis_url", redis_url=url)

    @classmethod
    def from_file_redis(cls, path: str | Path) -> Self:
        """An embedded Valkey that appends every write to a file in the folder `path`."""
        return cls(mode="file_redis", file_path=Path(path))

    @model_validator(mode="after")
    def _mode_and_keys_fit(self) -> Self:
        if (self.mode == "redis_url") != (self.redis_url is not None):
            raise ValueError("persistence.redis_url goes with mode: redis_url, and only there")
        if (self.mode == "file_redis") != (self.file_path is not None):
            raise ValueError("persistence.file_path goes with mode: file_redis, and only there")
        schemes = ("redis://", "rediss://", "unix://")
        if self.redis_url is not None and not self.redis_url.startswith(schemes):
            raise ValueError(
                f"persistence.redis_url {self.redis_url!r} must begin with one of {schemes}"
            )
        return self
