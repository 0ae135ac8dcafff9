"""Objects in a bucket of any S3 server (MinIO, AWS, SeaweedFS, Ceph, …).

The MinIO client addresses buckets by path, except on AWS and Aliyun, which want the bucket
in the host name.
"""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.credentials.providers import (
    ChainedProvider,
    EnvAWSProvider,
    EnvMinioProvider,
    IamAwsProvider,
    Provider,
    StaticProvider,
)
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error
from minio.helpers import check_bucket_name

from tuft.config import ObjectStoreConfig
from tuft.errors import ConfigError
from tuft.objects.base import ObjectInfo
from tuft.objects.keys import check_key, check_prefix
from tuft.objects.s3_download import download
from tuft.objects.s3_errors import translated
from tuft.objects.s3_http import connections
from tuft.objects.s3_upload import PART_BYTES, upload_in_parts

_UPLOADS_AT_ONCE = 1000
# What a cloud puts into a pod that has an identity: EKS (IRSA, pod identities), ECS.
_IDENTITIES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)
_Uploads = list[tuple[str, str]]


class S3Objects:
    """An ObjectStore in a bucket, under a key prefix ("" or one that ends with a slash).

    The bucket is looked up, and made where it is missing, at the first use.
    """

    def __init__(self, client: Minio, where: str, bucket: str, prefix: str = "") -> None:
        self._client = client
        self._where = where
        self._bucket = bucket
        self._prefix = prefix
        self._bucket_seen = False

    @classmethod
    def from_config(cls, config: ObjectStoreConfig) -> S3Objects:
        """Raises ConfigError: endpoint, bucket or credentials missing or malformed."""
        if not config.endpoint or not config.bucket:
            raise ConfigError("object_store.kind s3 needs endpoint (host:port) and bucket")
        try:
            client = Minio(
                config.endpoint,
                credentials=_credentials(config),
                secure=config.secure,
                region=config.region,
                http_client=connections(),
            )
        except ValueError as error:
            raise ConfigError(f"object_store.endpoint {config.endpoint!r}: {error}") from error
        try:
            check_bucket_name(config.bucket)
        except ValueError as error:
            raise ConfigError(f"object_store.bucket {config.bucket!r}: {error}") from error
        prefix = config.prefix.removesuffix("/") + "/" if config.prefix else ""
        scheme = "https" if config.secure else "http"
        return cls(client, f"{scheme}://{config.endpoint}", config.bucket, prefix)

    def check(self) -> None:
        self._bucket_seen = False
        with self._translating("check"):
            pass

    def put(self, key: str, data: bytes) -> None:
        self._upload(key, io.BytesIO(data), len(data))

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self._upload(key, source, os.fstat(source.fileno()).st_size)

    def get(self, key: str) -> bytes:
        name = self._name(key)
        content = io.BytesIO()
        with self._translating(f"read {key!r}"):
            download(self._client, self._bucket, name, content)
        return content.getvalue()

    def get_file(self, key: str, path: Path) -> None:
        name = self._name(key)
        part = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with self._translating(f"read {key!r} into {path}"):
                with part.open("xb") as out:
                    download(self._client, self._bucket, name, out)
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        name = self._name(key)
        with self._translating(f"look up {key!r}"):
            try:
                self._client.stat_object(self._bucket, name)
            except S3Error as error:
                if error.code == "NoSuchKey":
                    return False
                raise
            return True

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = check_prefix(prefix) + "/" if prefix else ""
        return self._list(folder)

    def delete(self, key: str) -> None:
        name = self._name(key)
        with self._translating(f"delete {key!r}"):
            self._client.remove_object(self._bucket, name)

    def delete_prefix(self, prefix: str) -> None:
        folder = check_prefix(prefix) + "/"
        names = [self._prefix + info.key for info in self._list(folder)]
        with self._translating(f"delete {folder!r}"):
            # The answer is lazy: nothing is deleted unless it is read.
            for failure in self._client.remove_objects(
                self._bucket, [DeleteObject(name) for name in names]
            ):
                raise MinioException(f"{failure.code}: {failure.message} ({failure.name})")

    def sweep(self, before: float) -> int:
        with self._translating("give up old uploads"):
            uploads = self._old_uploads(before)
            for name, upload_id in uploads:
                try:
                    self._client._abort_multipart_upload(self._bucket, name, upload_id)
                except S3Error as error:
                    if error.code != "NoSuchUpload":
                        raise
        return len(uploads)

    def _old_uploads(self, before: float) -> _Uploads:
        """Names and upload ids; a thousand at most."""
        found = self._client._list_multipart_uploads(
            self._bucket, prefix=self._prefix, max_uploads=_UPLOADS_AT_ONCE
        )
        return [
            (upload.object_name, upload.upload_id)
            for upload in found.uploads
            # Servers may take the prefix for a hint.
            if upload.object_name.startswith(self._prefix)
            and upload.upload_id is not None
            and upload.initiated_time is not None
            and upload.initiated_time.timestamp() < before
        ]

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _upload(self, key: str, source: BinaryIO, size: int) -> None:
        name = self._name(key)
        with self._translating(f"write {key!r}"):
            if size > PART_BYTES:
                upload_in_parts(self._client, self._bucket, name, source, size)
            else:
                self._client.put_object(self._bucket, name, source, size)

    def _list(self, folder: str) -> Iterator[ObjectInfo]:
        with self._translating(f"list {folder!r}"):
            for item in self._client.list_objects(
                self._bucket, prefix=self._prefix + folder, recursive=True
            ):
                if not item.is_dir and item.object_name is not None:
                    changed = item.last_modified
                    yield ObjectInfo(
                        item.object_name.removeprefix(self._prefix),
                        item.size or 0,
                        0.0 if changed is None else changed.timestamp(),
                    )

    @contextlib.contextmanager
    def _translating(self, what: str) -> Iterator[None]:
        try:
            self._ensure_bucket()
            yield
        except (
            MinioException,
            urllib3.exceptions.HTTPError,
            OSError,
            # An answer that is no S3 server's.
            ValueError,
            ParseError,
        ) as error:
            raise translated(error, what, self._where, self._bucket) from error

    def _ensure_bucket(self) -> None:
        # Several threads may look at once: nothing is lost, and none waits for another.
        if self._bucket_seen:
            return
        try:
            # A listing tells a wrong key from a missing bucket; a HEAD answers 403 to both.
            next(iter(self._client.list_objects(self._bucket, prefix=self._prefix)), None)
        except S3Error as error:
            if error.code != "NoSuchBucket":
                raise
            self._make_bucket()
        self._bucket_seen = True

    def _make_bucket(self) -> None:
        try:
            self._client.make_bucket(self._bucket)
        except S3Error as error:
            if error.code in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                return
            if error.code == "AccessDenied":
                raise ConfigError(
                    f"bucket {self._bucket!r} does not exist at {self._where}, and these keys "
                    "may not create it; create it, or set object_store.bucket to one that exists"
                ) from error
            raise


def _credentials(config: ObjectStoreConfig) -> Provider:
    if config.access_key or config.secret_key:
        if not (config.access_key and config.secret_key):
            raise ConfigError("object_store.access_key and secret_key go together: one is missing")
        return StaticProvider(config.access_key, config.secret_key)
    provider = ChainedProvider([EnvAWSProvider(), EnvMinioProvider()])
    try:
        provider.retrieve()
    except ValueError as error:
        if any(os.environ.get(name) for name in _IDENTITIES):
            # Keys are fetched with the first request, and anew before they expire.
            return IamAwsProvider(
                custom_endpoint=os.environ.get("AWS_ENDPOINT_URL_STS"), http_client=connections()
            )
        raise ConfigError(
            "object_store.kind s3 needs credentials: set access_key and secret_key, or the "
            "environment variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "(or MINIO_ACCESS_KEY and MINIO_SECRET_KEY), or give the pod an identity "
            "(AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN)"
        ) from error
    return provider
