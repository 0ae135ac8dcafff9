"""HTTP connections to an S3 server: timeouts, and tries again with jitter."""

from __future__ import annotations

import os
import random

import certifi
import urllib3

# Short, since callers hold requests open: the client of the service retries, not we.
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 60.0
TRIES = 4
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 2.0
# What a server that is overloaded, restarting or failing over answers.
_TRANSIENT = [408, 429, 500, 502, 503, 504]


def pause_s(failures: int) -> float:
    """How long to wait after so many failures in a row.

    Twice as long each time, and spread, so that many clients that lost their server at one
    moment don't come back at one moment.
    """
    longest = min(_FIRST_PAUSE_S * 2**failures, _LONGEST_PAUSE_S)
    return random.uniform(longest / 2, longest)


class _Retry(urllib3.Retry):
    """Jitter from the first time on; the server's last answer is kept, since it says why."""

    def get_backoff_time(self) -> float:
        return pause_s(max(len(self.history) - 1, 0))


def connections() -> urllib3.PoolManager:
    """For all requests of one client: each is tried a few times within some seconds.

    All that is sent may be sent twice. A server's Retry-After is not waited for: it may be
    minutes, and a request is held open meanwhile.
    """
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
        maxsize=16,
        cert_reqs="CERT_REQUIRED",
        ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        retries=_Retry(
            total=TRIES - 1,
            allowed_methods=None,
            status_forcelist=_TRANSIENT,
            raise_on_status=False,
            respect_retry_after_header=False,
        ),
    )
