"""The bench of tenants measures what it says."""

from __future__ import annotations

import pytest

from bench.tenants import jain, small_batch, tenants


def test_jain_tells_equal_shares_from_unequal_ones() -> None:
    """1 for equal shares, a third if one of three has all."""
    assert jain([5.0, 5.0, 5.0]) == pytest.approx(1.0)
    assert jain([9.0, 0.0, 0.0]) == pytest.approx(1 / 3)


def test_a_small_batch_ends_soon_beside_a_large_one() -> None:
    """Beside a hundred times as much it takes at most three times as long as alone."""
    assert small_batch(5_000) <= 3 * small_batch(0)


def test_equal_tenants_get_equal_shares() -> None:
    """Whatever their items are like, each is given the same cost tokens a minute."""
    assert min(map(jain, tenants(2))) >= 0.95
