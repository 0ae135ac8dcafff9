"""From what the MinIO client raises to the service's errors: the one place that knows both."""

from __future__ import annotations

from minio.error import S3Error
from urllib3.exceptions import SSLError

from tuft.errors import ConfigError, NotFound, StorageFull, TuftError, Unavailable

_WRONG_CREDENTIALS = frozenset(
    {
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "InvalidToken",
        "ExpiredToken",
        "RequestTimeTooSkewed",
        "AuthorizationHeaderMalformed",
        "XMinioInvalidIAMCredentials",
    }
)
_FULL = frozenset(
    {
        "XMinioStorageFull",
        "XMinioAdminBucketQuotaExceeded",
        "QuotaExceeded",
        "InsufficientStorage",
    }
)


def translated(error: Exception, what: str, where: str, bucket: str) -> TuftError:
    """`what` was tried ("read 'a/b'"), at the endpoint `where`."""
    if isinstance(getattr(error, "reason", None), SSLError):
        return ConfigError(
            f"no TLS connection to the object store at {where} ({what}): {error}; set "
            "object_store.secure: false where it speaks plain http, or the environment variable "
            "SSL_CERT_FILE to its certificate authority"
        )
    if not isinstance(error, S3Error):
        return Unavailable(f"the object store at {where} did not answer ({what}): {error}")
    said = f"{error.code}: {error.message}"
    if error.code == "NoSuchKey":
        return NotFound(f"there is no such object ({what})")
    if error.code == "NoSuchBucket":
        return Unavailable(f"bucket {bucket!r} is gone at {where} ({what})")
    if error.code in _WRONG_CREDENTIALS:
        return ConfigError(
            f"the object store at {where} refuses the credentials for bucket {bucket!r} "
            f"({what}): {said}; set object_store.access_key and secret_key, or their "
            "environment variables, to keys that may list, read, write and delete there"
        )
    if error.code in _FULL or error.response.status == 507:
        return StorageFull(
            f"the object store at {where} has no room ({what}): {said}; "
            "delete checkpoints or give it more space, and try again"
        )
    return Unavailable(f"the object store at {where} failed ({what}): {said}")
