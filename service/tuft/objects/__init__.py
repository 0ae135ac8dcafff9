"""The object store: one interface over a local directory and any S3 server."""

from pathlib import Path

from tuft.config import ObjectStoreConfig
from tuft.errors import ConfigError, InvalidRequest
from tuft.objects.base import ObjectInfo, ObjectStore
from tuft.objects.keys import MAX_KEY_BYTES, check_key, check_prefix
from tuft.objects.local import LocalObjects
from tuft.objects.s3 import S3Objects

__all__ = [
    "MAX_KEY_BYTES",
    "LocalObjects",
    "ObjectInfo",
    "ObjectStore",
    "S3Objects",
    "check_key",
    "check_prefix",
    "open_object_store",
]


def open_object_store(config: ObjectStoreConfig, default_folder: Path | None = None) -> ObjectStore:
    """The object store that the configuration names.

    `default_folder` is used for kind local where `object_store.path` is not set. A server is
    not contacted here: a service must start while it is away. `check()` contacts it.

    Raises:
        ConfigError: no folder, one that can't be written, no S3 credentials, a malformed prefix.
    """
    try:
        if config.prefix:
            check_prefix(config.prefix)
    except InvalidRequest as error:
        raise ConfigError(f"object_store.prefix: {error.message}") from error
    if config.kind == "s3":
        return S3Objects.from_config(config)
    folder = config.path or default_folder
    if folder is None:
        raise ConfigError(
            "object_store.kind local needs object_store.path, or tuft's --checkpoint-dir"
        )
    return LocalObjects(folder.expanduser() / config.prefix)
