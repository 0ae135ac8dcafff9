"""`python -m tuft.training`: one rank of a trainer group.

Environment: TUFT_CONFIG (path of the service's configuration as JSON), TUFT_STORE_URL and
TUFT_MODEL; with several ranks those of torch.distributed; optionally TUFT_WORKER_ID, what it is
called among the workers. On SIGTERM rank 0 finishes what it is doing, takes snapshots, hands its
lease on and ends the other ranks, all within `limits.stop_grace_s`.
"""

from __future__ import annotations

import logging
import sys

from tuft.environment import EX_CONFIG, base_model, required, service_config
from tuft.errors import ConfigError, LeaseLost
from tuft.stopping import Stop
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
    stop = Stop()
    try:
        config = service_config()
        run_worker(config, *base_model(config), required("TUFT_STORE_URL"), stop)
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
