"""The messages come without torch, and are the same that tinker itself uses."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PB = "from tuft.contracts.proto import pb"
_TINKER = "import tinker.proto.tinker_public_pb2 as other"


@pytest.mark.parametrize("code", [f"{_PB}; {_TINKER}", f"{_TINKER}; {_PB}"])
def test_no_message_exists_twice(code: str) -> None:
    check = f"{code}; assert pb is other; assert pb.Datum is other.Datum"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_neither_tinker_nor_torch_is_imported() -> None:
    check = f"import sys; {_PB}; assert not {{'tinker', 'torch'}} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
