"""Artifacts by URI: a file path, file:// or s3://bucket/key.

S3 is spoken through the MinIO client, with the usual variables: AWS_ENDPOINT_URL (or
MINIO_ENDPOINT), AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or MINIO_ACCESS_KEY and
MINIO_SECRET_KEY), AWS_REGION. Without keys, a pod's identity (AWS_WEB_IDENTITY_TOKEN_FILE and
AWS_ROLE_ARN, as EKS sets them) is exchanged for some.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tuft_components.errors import BadConfiguration, BadData, TransientFailure

if TYPE_CHECKING:
    from minio import Minio
    from minio.credentials.providers import IamAwsProvider

_DENIED = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})
_ABSENT = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchObject"})
# What a cloud puts into a pod that has an identity: EKS (IRSA, pod identities), ECS.
_IDENTITIES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)


@contextmanager
def local_input(uri: str) -> Iterator[Path]:
    """A local file with the artifact's content.

    Raises:
        BadData: it is not there. TransientFailure: the object store is away.
    """
    target = _parse(uri)
    if isinstance(target, Path):
        if not target.is_file():
            raise BadData(f"the input {uri} does not exist")
        yield target
        return
    bucket, key = target
    with tempfile.TemporaryDirectory(prefix="tuft-") as folder:
        path = Path(folder) / Path(key).name
        with _object_store_errors(uri):
            _s3().fget_object(bucket, key, str(path))
        yield path


@contextmanager
def local_output(uri: str, *, synced: bool = True) -> Iterator[Path]:
    """A local path to write to. It becomes the artifact only if the block succeeds; then it is on
    the disk, or in the object store.

    Args:
        synced: False for what may be lost, or be half there, after a power failure.

    Raises:
        TransientFailure: the object store is away.
    """
    target = _parse(uri)
    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tuft-", dir=target.parent) as folder:
            path = Path(folder) / target.name
            yield path
            if synced:
                _sync(path)
            os.replace(path, target)
            if synced:
                _sync(target.parent)
        return
    bucket, key = target
    with tempfile.TemporaryDirectory(prefix="tuft-") as folder:
        path = Path(folder) / Path(key).name
        yield path
        with _object_store_errors(uri):
            _s3().fput_object(bucket, key, str(path))


def read_bytes(uri: str) -> bytes:
    """The content of a small artifact.

    Raises:
        BadData: it is not there. TransientFailure: the object store is away.
    """
    with local_input(uri) as path:
        return path.read_bytes()


def write_bytes(uri: str, data: bytes, *, synced: bool = True) -> None:
    """Write a small artifact, all or nothing; `synced` as of `local_output`.

    Raises:
        TransientFailure: the object store is away.
    """
    with local_output(uri, synced=synced) as path:
        path.write_bytes(data)


def delete(uri: str) -> None:
    """Remove one file or object; nothing where it is gone already.

    Raises:
        TransientFailure: the object store is away.
    """
    target = _parse(uri)
    if isinstance(target, Path):
        target.unlink(missing_ok=True)
        return
    bucket, key = target
    with _object_store_errors(uri):
        _s3().remove_object(bucket, key)


def list_uris(prefix: str) -> list[str]:
    """What lies below a folder or `s3://bucket/prefix/`, at any depth, sorted.

    Files and objects whose names begin with a dot are being written, or are none of ours.

    Raises:
        TransientFailure: the object store is away.
    """
    target = _parse(prefix)
    if isinstance(target, Path):
        begin = prefix.rstrip("/")
        return sorted(
            f"{begin}/{path.relative_to(target).as_posix()}"
            for path in target.rglob("*")
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(target).parts)
        )
    bucket, key = target
    with _object_store_errors(prefix):
        found = _s3().list_objects(bucket, prefix=key.rstrip("/") + "/", recursive=True)
        return sorted(f"s3://{bucket}/{item.object_name}" for item in found)


def _sync(path: Path) -> None:
    """What a step has said to be done must survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _parse(uri: str) -> Path | tuple[str, str]:
    if "://" not in uri:
        return Path(uri)
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    key = parts.path.lstrip("/")
    if parts.scheme == "s3" and parts.netloc and key:
        return parts.netloc, key
    raise BadConfiguration(f"can't read {uri!r}: give a file path, file:///path or s3://bucket/key")


def _s3() -> Minio:
    from minio import Minio

    env = os.environ
    endpoint = env.get("AWS_ENDPOINT_URL") or env.get("MINIO_ENDPOINT") or ""
    if not endpoint:
        raise BadConfiguration(
            "AWS_ENDPOINT_URL (or MINIO_ENDPOINT) is not set: it says where s3:// is, "
            "for example http://minio:9000"
        )
    scheme, _, host = endpoint.rpartition("://")
    access_key = env.get("AWS_ACCESS_KEY_ID") or env.get("MINIO_ACCESS_KEY")
    # A pod with an identity of its cloud has no keys: they are fetched.
    identity = (
        None if access_key else next((env[name] for name in _IDENTITIES if env.get(name)), None)
    )
    return Minio(
        host.rstrip("/"),
        access_key=access_key,
        secret_key=env.get("AWS_SECRET_ACCESS_KEY") or env.get("MINIO_SECRET_KEY"),
        credentials=None if identity is None else _keys_of(identity),
        region=env.get("AWS_REGION") or "us-east-1",
        secure=scheme != "http",
    )


@cache
def _keys_of(identity: str) -> IamAwsProvider:  # noqa: ARG001 (it is what the cache goes by)
    """One for all clients: it fetches keys once, and anew before they expire."""
    from minio.credentials.providers import IamAwsProvider

    return IamAwsProvider(custom_endpoint=os.environ.get("AWS_ENDPOINT_URL_STS"))


@contextmanager
def _object_store_errors(uri: str) -> Iterator[None]:
    import urllib3
    from minio.error import MinioException, S3Error

    try:
        yield
    except S3Error as error:
        code = error.code or ""
        if code in _ABSENT:
            raise BadData(f"{uri} does not exist ({code})") from error
        if code in _DENIED:
            raise BadConfiguration(f"{uri}: the object store refused the keys ({code})") from error
        raise TransientFailure(f"{uri}: the object store failed: {error}") from error
    except MinioException as error:  # an answer that is none of S3: a proxy's page, say
        raise TransientFailure(f"{uri}: the object store failed: {error}") from error
    except ValueError as error:  # the client's word on names that no bucket can have
        raise BadConfiguration(f"{uri}: {error}") from error
    except urllib3.exceptions.HTTPError as error:
        raise TransientFailure(f"{uri}: the object store can't be reached: {error}") from error
