"""What tests of sandboxes need of this machine."""

from __future__ import annotations

import pytest

from tuft_components.errors import BadConfiguration
from tuft_components.sandbox.local import LocalSandbox


def local_sandbox() -> LocalSandbox:
    """Skips the test where bubblewrap can't be used, and says why."""
    place = LocalSandbox(at_once=2)
    try:
        place.check()
    except BadConfiguration as error:
        pytest.skip(f"no sandbox here (make install-envs): {error}")
    return place
