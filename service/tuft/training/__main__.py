"""`python -m tuft.training`: one rank of a trainer group.

Environment: TUFT_CONFIG (path of the service's configuration as JSON), TUFT_STORE_URL and
TUFT_MODEL; with several ranks those of torch.distributed. SIGTERM ends the process at once:
whatever it was doing is done again from the journal.
"""

from __future__ import annotations

import logging
import signal
import sys

from tuft.environment import EX_CONFIG, base_model, required, service_config
from tuft.errors import ConfigError, LeaseLost
from tuft.training.group import GroupBroken
from tuft.training.worker import run_worker

log = logging.getLogger(__name__)

_EX_GROUP_BROKEN = 70
_EX_LEASE_LOST = 75


def main() -> int:
    """Exit status 78 for a configuration that can't work, 75 for a lost lease, 70 for a lost rank."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        config = service_config()
        run_worker(config, *base_model(config), required("TUFT_STORE_URL"))
    except ConfigError as error:
        sys.stderr.write(f"tuft.training: {error.message}\n")
        return EX_CONFIG
    except LeaseLost as error:
        log.warning("%s", error.message)
        return _EX_LEASE_LOST
    except GroupBroken as error:
        log.error("%s", error)  # noqa: TRY400  # the rank that ended first has the traceback
        return _EX_GROUP_BROKEN
    return 0


if __name__ == "__main__":
    sys.exit(main())
