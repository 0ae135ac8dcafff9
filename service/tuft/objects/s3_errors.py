"""From what the MinIO client raises to the service's errors: the one place that knows both."""

from __future__ import annotations

import errno
import ssl
from datetime import UTC, datetime
from xml.etree.ElementTree import ParseError

from minio.error import MinioException, S3Error
from urllib3 import exceptions as http

from tuft.errors import ConfigError, NotFound, StorageFull, TuftError, Unavailable
from tuft.objects.s3_http import CONNECT_TIMEOUT_S, READ_TIMEOUT_S

_WRONG_CREDENTIALS = frozenset(
    {
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "XMinioInvalidIAMCredentials",
    }
)
_WRONG_REGION = frozenset(
    {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
)
_FULL = frozenset(
    {
        "InsufficientStorage",
        "QuotaExceeded",
        "XMinioAdminBucketQuotaExceeded",
        "XMinioStorageFull",
    }
)
_BUSY = frozenset({"RequestTimeout", "ServiceUnavailable", "SlowDown", "TooManyRequests"})
_NO_ROOM_HERE = (errno.ENOSPC, errno.EDQUOT)


def translated(error: Exception, what: str, where: str, bucket: str) -> TuftError:
    """`what` was tried ("read 'a/b'"), at the endpoint `where`."""
    if isinstance(error, S3Error):
        return _answered(error, what, where, bucket)
    if isinstance(error, MinioException | ValueError | ParseError):
        return Unavailable(
            f"the object store at {where} failed ({what}): {error}; if this stays so, see whether "
            "object_store.endpoint is that of an S3 server, and not of its console or a proxy"
        )
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, http.SSLError | ssl.SSLError):
        return ConfigError(
            f"no TLS connection to the object store at {where} ({what}): {reason}; set "
            "object_store.secure: false where it speaks plain http, or the environment variable "
            "SSL_CERT_FILE to its certificate authority"
        )
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
        return _local(error, what)
    return Unavailable(f"the object store at {where} did not answer ({what}): {_network(reason)}")


def _answered(error: S3Error, what: str, where: str, bucket: str) -> TuftError:
    said = f"{error.code}: {error.message}"
    if error.code == "NoSuchKey":
        return NotFound(f"there is no such object ({what})")
    if error.code == "NoSuchBucket":
        return Unavailable(f"bucket {bucket!r} is gone at {where} ({what})")
    if error.code == "RequestTimeTooSkewed":
        here = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        there = error.response.headers.get("date", "another time")
        return Unavailable(
            f"the object store at {where} refuses requests, since its clock and this machine's "
            f"differ ({what}): here it is {here}, there {there}; set the clock that is wrong, "
            "and keep both right with NTP"
        )
    if error.code in _WRONG_REGION:
        return ConfigError(
            f"the object store at {where} wants another region for bucket {bucket!r} ({what}): "
            f"{said}; set object_store.region to it"
        )
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
    if error.code in _BUSY:
        return Unavailable(f"the object store at {where} has too much to do ({what}): {said}")
    return Unavailable(f"the object store at {where} failed ({what}): {said}")


def _network(reason: object) -> str:
    """What is between us and the server, in words."""
    if isinstance(reason, http.NameResolutionError):
        return f"its name can't be resolved; check object_store.endpoint and the DNS: {reason}"
    if isinstance(reason, http.NewConnectionError):
        return f"it can't be connected; is it up, and is this its port? {reason}"
    if isinstance(reason, http.ConnectTimeoutError):
        return f"no connection within {CONNECT_TIMEOUT_S:g} s; check the network and the firewall"
    if isinstance(reason, http.ReadTimeoutError):
        return f"it was connected, and said nothing for {READ_TIMEOUT_S:g} s"
    if isinstance(reason, http.ProtocolError):
        return f"the connection broke: {reason}"
    return str(reason)


def _local(error: OSError, what: str) -> TuftError:
    """A file of this machine that was to be sent, or received."""
    if error.errno in _NO_ROOM_HERE:
        return StorageFull(f"can't {what}: no space left on this machine's disk: {error}")
    return Unavailable(f"can't {what}: {error}")
