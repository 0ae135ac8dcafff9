"""`python -m tuft.api`: one api process, configured by its environment.

TUFT_CONFIG: path of the service's configuration as JSON. TUFT_STORE_URL: the store.
TUFT_SOCKET: the number of an open socket to listen on, which other processes may share; or
TUFT_HOST, TUFT_PORT: where to listen. It ends on SIGTERM within seconds.
"""

from __future__ import annotations

import logging
import os
import socket
import sys

from tuft.api.app import create_app
from tuft.api.server import Server, raise_open_files
from tuft.api.services import open_services
from tuft.environment import EX_CONFIG, required, service_config
from tuft.errors import ConfigError, Unavailable
from tuft.store import Store

log = logging.getLogger("tuft.api")


def main() -> int:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        services = open_services(service_config(), required("TUFT_STORE_URL"))
        sockets = _inherited_socket()
        host, port = ("", 0) if sockets else (required("TUFT_HOST"), int(required("TUFT_PORT")))
        _look_at(services.store)
    except ConfigError as error:
        print(f"tuft.api: {error.message}", file=sys.stderr)
        return EX_CONFIG
    raise_open_files()
    Server(create_app(services), services.waiters, host, port).run(sockets)
    return 0


def _inherited_socket() -> list[socket.socket] | None:
    descriptor = os.environ.get("TUFT_SOCKET")
    return [socket.socket(fileno=int(descriptor))] if descriptor else None


def _look_at(store: Store) -> None:
    """Raises: ConfigError: the store can't be used. One that is away may come back."""
    try:
        store.ping()
    except Unavailable as error:
        log.warning("%s; requests are answered when it is back", error.message)


if __name__ == "__main__":
    sys.exit(main())
