"""What runs are waited for; times are given, no clock is read."""

from __future__ import annotations

import pytest

from tuft.training.patience import Patience, longest_wait_s


def everyone(_tenant: str) -> bool:
    return True


@pytest.fixture
def patience() -> Patience:
    """Run "a" came back 10 ms after it went, and went again at 100."""
    patience = Patience()
    patience.went("a", "A", 99.0)
    patience.came("a", 99.01)
    patience.went("a", "A", 100.0)
    return patience


def test_who_came_back_soon_is_waited_for_a_little_longer(patience: Patience) -> None:
    assert patience.wait_s(100.0, everyone) == pytest.approx(0.02)
    assert patience.wait_s(100.015, everyone) == pytest.approx(0.005)
    assert patience.wait_s(100.021, everyone) == 0.0


def test_who_came_is_not_waited_for(patience: Patience) -> None:
    patience.came("a", 100.01)
    assert patience.wait_s(100.01, everyone) == 0.0


def test_only_tenants_that_matter_are_waited_for(patience: Patience) -> None:
    assert patience.wait_s(100.0, lambda tenant: tenant != "A") == 0.0


def test_who_is_new_or_was_away_for_long_is_not_waited_for(patience: Patience) -> None:
    patience.went("b", "B", 100.0)
    patience.came("a", 107.0)
    patience.went("a", "A", 108.0)
    assert patience.wait_s(108.0, everyone) == 0.0


def test_who_came_soon_but_was_seen_late_is_waited_for_again(patience: Patience) -> None:
    assert patience.wait_s(105.0, everyone) == 0.0
    patience.came("a", 100.01)  # seen at 105
    patience.went("a", "A", 106.0)
    assert patience.wait_s(106.0, everyone) > 0.0


def test_quick_ones_get_some_milliseconds(patience: Patience) -> None:
    for number in range(10):
        patience.came("a", 100.0 + number)
        patience.went("a", "A", 101.0 + number)
    assert patience.wait_s(110.0, everyone) == pytest.approx(0.01)


def test_short_micro_batches_wait_less() -> None:
    assert longest_wait_s(0.04) == pytest.approx(0.01)
    assert longest_wait_s(10.0) == pytest.approx(0.03)
