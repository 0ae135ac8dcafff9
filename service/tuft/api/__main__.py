"""`python -m tuft.api`: one api process, configured by its environment.

TUFT_CONFIG: path of the service's configuration as JSON. TUFT_STORE_URL: the store.
TUFT_HOST, TUFT_PORT: where to listen. It ends on SIGTERM within seconds.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from tuft.api.app import create_app
from tuft.api.server import Server, raise_open_files
from tuft.api.services import open_services
from tuft.config import ServiceConfig
from tuft.errors import ConfigError


def main() -> None:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        config = ServiceConfig.model_validate_json(Path(_env("TUFT_CONFIG")).read_text())
        services = open_services(config, _env("TUFT_STORE_URL"))
        host, port = _env("TUFT_HOST"), int(_env("TUFT_PORT"))
    except ConfigError as error:
        sys.exit(f"tuft.api: {error}")
    raise_open_files()
    Server(create_app(services), services.waiters, host, port).run()


def _env(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ConfigError(f"the environment variable {name} is missing; `tuft` sets it")
    return value


if __name__ == "__main__":
    main()
