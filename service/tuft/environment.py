"""What the supervisor (or a pod's manifest) hands to a child process: its environment.

TUFT_CONFIG: path of the configuration as JSON. TUFT_STORE_URL: the store. Workers also get
TUFT_MODEL, the name of their base model, TUFT_WORKER_ID, the name of their work, and TUFT_SEAT,
which tells the process that does it from the one that waits.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from tuft.config import ModelConfig, ServiceConfig, describe
from tuft.errors import ConfigError

EX_CONFIG = 78
"""Exit status (sysexits.h) of a child whose configuration can't work: no restart helps."""


def required(name: str) -> str:
    """The value of an environment variable. Raises ConfigError where it is not set."""
    value = os.environ.get(name)
    if not value:
        raise ConfigError(f"the environment variable {name} is not set; `tuft` sets it")
    return value


def seated(worker_id: str) -> str:
    """What this very process is called, among those that could do the same work."""
    seat = os.environ.get("TUFT_SEAT")
    return f"{worker_id}/{seat}" if seat else worker_id


def service_config() -> ServiceConfig:
    """The configuration that TUFT_CONFIG names. Raises ConfigError."""
    path = Path(required("TUFT_CONFIG"))
    try:
        return ServiceConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"can't read TUFT_CONFIG {path}: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(f"TUFT_CONFIG {path} is not valid:\n{describe(error)}") from error


def base_model(config: ServiceConfig) -> tuple[ModelConfig, Path]:
    """The base model that TUFT_MODEL names, and the folder that it was prepared into.

    Raises:
        ConfigError: it is not configured, or was not prepared.
    """
    name = required("TUFT_MODEL")
    try:
        model = config.model(name)
    except KeyError as error:
        known = ", ".join(model.model_name for model in config.supported_models)
        raise ConfigError(f"TUFT_MODEL {name!r} is not configured; there is: {known}") from error
    if model.resolved_folder is None:
        raise ConfigError(f"resolved_folder of {name!r} is not set; `tuft` sets it")
    return model, model.resolved_folder
