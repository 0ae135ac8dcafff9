"""The version of what stands in a store, and how an older one is brought up to date.

Version 0, which names itself nowhere: before the index of runs with something pending.
Version 1: that index, and counters of what tenants have pending.
"""

from __future__ import annotations

import logging

from tuft.errors import ConfigError
from tuft.store import keys
from tuft.store.connection import Connection, blob, integer, script, text

log = logging.getLogger(__name__)

VERSION = 1
"""Of what this `tuft` writes."""


def read_version(connection: Connection) -> int | None:
    """What the store says of itself; None: nothing (it is empty, or of version 0).

    Raises:
        ConfigError: only a part of it is there.
    """
    found = connection.call("GET", keys.SCHEMA)
    if found is None:
        return None
    if not blob(found).isdigit():
        raise ConfigError(
            f"`tuft store {text(found)}` did not end, so that only a part of the store is there. "
            "Empty it with `tuft store clear`, then import again what was to be imported"
        )
    return integer(found)


def bring_up_to_date(connection: Connection) -> None:
    """Migrate a store of an older version in place; nothing happens where it is up to date.

    One script does it, so that it is done as a whole or not at all, and once only. Processes of
    the older `tuft` must not run meanwhile: they would write what the newer one does not expect.

    Raises:
        ConfigError: a newer `tuft` wrote it, or an import into it did not end.
    """
    version = read_version(connection)
    if version is None:
        said = text(
            connection.run(script("schema_migrate_0"), [keys.SCHEMA, keys.MODELS], [VERSION])
        )
        if said != "new":
            log.warning("the store was of version 0 and is of version %d now (%s)", VERSION, said)
        version = read_version(connection) or VERSION
    if version > VERSION:
        raise ConfigError(
            f"the store was written by a newer tuft: it is of version {version}, this one knows "
            f"versions up to {VERSION}. Use the newer tuft; or save what is there with `tuft store "
            "export` and begin anew with `tuft store clear`"
        )
