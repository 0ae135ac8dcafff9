"""`tuft_sdk` extends the Tinker SDK for pipelines of stateless steps.

`connect()` gives a client from the environment; `TuftClient.attach` continues a training run
that another process made; `TuftClient.execute_once` executes a step of a run at most once;
tokenizers come from the service.
"""

from tuft_sdk.checkpoints import CheckpointInfo
from tuft_sdk.client import INTERFACE, ServiceVersion, TuftClient, connect
from tuft_sdk.errors import (
    ConfigurationError,
    LeaseLost,
    NotThere,
    OperationFailed,
    Rejected,
    ResultExpired,
    SdkError,
    Transient,
    translated,
)
from tuft_sdk.ledger import Attempt, Finished, Fresh, Resubmit, StepLedger, StepState
from tuft_sdk.paths import checkpoint_path, parse_path, sampler_path
from tuft_sdk.runs import AttachedRun

__all__ = [
    "INTERFACE",
    "AttachedRun",
    "Attempt",
    "CheckpointInfo",
    "ConfigurationError",
    "Finished",
    "Fresh",
    "LeaseLost",
    "NotThere",
    "OperationFailed",
    "Rejected",
    "Resubmit",
    "ResultExpired",
    "SdkError",
    "ServiceVersion",
    "StepLedger",
    "StepState",
    "Transient",
    "TuftClient",
    "checkpoint_path",
    "connect",
    "parse_path",
    "sampler_path",
    "translated",
]
