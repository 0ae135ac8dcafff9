"""Which keys are allowed: the same for both backends, so that none can leave its folder."""

from __future__ import annotations

from tuft.errors import InvalidRequest

MAX_KEY_BYTES = 900
"""S3 allows 1024, of which the configured prefix needs some."""
_MAX_SEGMENT_BYTES = 255


def check_key(key: str) -> str:
    """The key itself, where it is segments separated by single slashes.

    Raises:
        InvalidRequest: empty, absolute, too long, with empty, `.` or `..` segments, with a
            segment that begins with `.tmp`, or with control characters or backslashes.
    """
    problem = _problem_of(key)
    if problem is not None:
        raise InvalidRequest(f"object key {key!r}: {problem}")
    return key


def check_prefix(prefix: str) -> str:
    """A folder prefix without its trailing slash. Raises InvalidRequest as check_key does."""
    return check_key(prefix.removesuffix("/"))


def _problem_of(key: str) -> str | None:
    if not key:
        return "is empty"
    if any(ord(char) < 32 or char in "\\\x7f" for char in key):
        return "has a backslash or a control character"
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if size > MAX_KEY_BYTES:
        return f"has {size} bytes; at most {MAX_KEY_BYTES} are allowed"
    for segment in key.split("/"):
        if segment in ("", ".", ".."):
            return "has an empty, '.' or '..' segment; write it as a/b/c"
        if segment.startswith(".tmp"):
            return "has a segment that begins with '.tmp', which is for unfinished writes"
        if len(segment.encode()) > _MAX_SEGMENT_BYTES:
            return f"has a segment of more than {_MAX_SEGMENT_BYTES} bytes"
    return None
