from __future__ import annotations

import pytest

from bench.fairness import BOXES, Box, jain, judge, shares, small_beside_large

WORLDS = 200
PARTS = 20


@pytest.mark.parametrize("part", range(PARTS))
def test_what_can_be_done_in_time_is(part: int) -> None:
    """Days with outages, failing endpoints, live traffic and overload: every feasible batch ends before it expires."""
    verdicts = [judge(seed) for seed in range(part, WORLDS, PARTS)]
    missed = {verdict.seed: verdict.missed for verdict in verdicts if verdict.missed}

    assert sum(verdict.feasible for verdict in verdicts) > len(verdicts), "worlds in which nothing can be done"
    assert not missed, f"play them again with `python -m bench.fairness SEED`: {missed}"


def test_worlds_can_tell_a_policy_without_deadlines() -> None:
    """By fair shares alone some batches are late in the same worlds."""
    assert any(judge(seed, is_plain=True).missed for seed in range(8))


def test_worlds_are_the_same_each_time() -> None:
    """One seed, one world, one outcome."""
    assert judge(7) == judge(7)


@pytest.mark.parametrize("submitted", [(1, 1, 1), (1, 1, 10)])
@pytest.mark.parametrize("box", BOXES[:2])
def test_equal_tenants_get_equal_shares_of_every_minute(box: Box, submitted: tuple[int, int, int]) -> None:
    """Jain's index is at least 0.95 in each minute, however many batches each hands in."""
    assert min(shares(box, submitted)) >= 0.95


def test_turns_between_batches_are_not_shares_of_tenants() -> None:
    """What the index is compared with fails it."""
    assert min(shares(BOXES[1], (1, 1, 10), is_ours=False)) < 0.6


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("is_same_tenant", [True, False])
def test_a_small_batch_ends_soon_beside_a_large_one(seed: int, *, is_same_tenant: bool) -> None:
    """50 items beside 100,000 that are late from the beginning on: within three times the time they take alone."""
    assert small_beside_large(others=1, is_same_tenant=is_same_tenant, seed=seed) <= 3


def test_jain_s_index() -> None:
    """One for equals, 1/n if one has it all."""
    assert jain([5, 5, 5]) == pytest.approx(1)
    assert jain([9, 0, 0]) == pytest.approx(1 / 3)
