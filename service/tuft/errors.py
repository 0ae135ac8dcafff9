"""Domain errors: each has a stable code and says whether a retry can help.

Nothing here knows HTTP; `tuft.api.errors` is the one place that maps codes to statuses.
Messages are written for the user: what was wrong, where, and what would be right.
"""

from __future__ import annotations


class TuftError(Exception):
    """Base of all errors that a user may see.

    Attributes:
        code: stable, machine-readable name.
        retryable: whether the same request may succeed later.
    """

    code = "internal"
    retryable = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(TuftError):
    """The request can never succeed as it is."""

    code = "invalid_request"


class Unauthenticated(TuftError):
    """No API key, or one that no tenant owns."""

    code = "unauthenticated"


class NotFound(TuftError):
    """No such thing, or it belongs to another tenant (which must look the same)."""

    code = "not_found"


class Conflict(TuftError):
    """The same identity was used before with another content."""

    code = "conflict"


class StaleWriter(TuftError):
    """A newer writer attached to the training run; this one may not write any more."""

    code = "stale_writer"


class PayloadTooLarge(TuftError):
    """A body, compressed or not, is over the configured limit."""

    code = "payload_too_large"


class QueueFull(TuftError):
    """Too much is pending; the client should slow down and retry."""

    code = "queue_full"
    retryable = True


class Unavailable(TuftError):
    """Something the service needs is away (store, object store, a loading model)."""

    code = "unavailable"
    retryable = True


class Expired(TuftError):
    """A result existed and was removed after its time to live."""

    code = "expired"


class DamagedCheckpoint(TuftError):
    """A checkpoint's files do not match its manifest."""

    code = "damaged_checkpoint"


class StorageFull(TuftError):
    """A checkpoint could not be written because the object store has no room."""

    code = "storage_full"


class LeaseLost(TuftError):
    """Another worker took over this work; the caller must stop."""

    code = "lease_lost"


class ConfigError(TuftError):
    """The configuration is wrong; the message names the key and what would be right."""

    code = "config"
