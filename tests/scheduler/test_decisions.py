from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.errors import EngineError, Failure
from standby.records import SECOND, Load
from standby.scheduler.admission import FixedWindow
from standby.scheduler.dispatch import InHand, may_lease
from standby.scheduler.retry import (
    MOST_S,
    RETRY_FLOOR,
    RETRY_FLOOR_A_SECOND,
    RETRY_MOST,
    RETRY_SHARE,
    Again,
    Final,
    RetryBudget,
    Tries,
    backoff_s,
    decide,
)

loads = st.builds(Load, live=st.integers(0, 200), batch=st.integers(0, 200), slots=st.integers(0, 128))


@given(loads, st.integers(0, 64), st.integers(0, 8))
def test_admission_leaves_the_live_slots_free(load: Load, window: int, live_slots: int) -> None:
    """Batch items plus the larger of live requests and their reserve never exceed the slots."""
    allowed = FixedWindow(window=window, live_slots=live_slots).allowed(load)

    assert allowed >= 0
    assert allowed == 0 or allowed + max(load.live, live_slots) <= load.slots
    assert not window or allowed <= window


def in_hand(runs: int, *, left: int = 16, size: int = 1 << 16) -> InHand:
    """So many runs, of as many items and bytes each."""
    return InHand(runs=runs, left=runs * left, size=runs * size)


def test_runs_of_few_items_are_held_until_they_fill_the_window_twice() -> None:
    """A batch of some thousands has runs of 16; but no more bytes are held than full runs would have."""
    assert may_lease(queued=9, is_unserved=False, held=in_hand(124), window=1000)
    assert not may_lease(queued=9, is_unserved=False, held=in_hand(125), window=1000)
    assert not may_lease(queued=9, is_unserved=False, held=in_hand(33, size=2 << 20), window=1000)
    assert may_lease(queued=9, is_unserved=False, held=in_hand(62), window=1000, is_stuck=True)
    assert not may_lease(queued=9, is_unserved=False, held=in_hand(63), window=1000, is_stuck=True)


def test_a_worker_leases_for_a_batch_that_nobody_serves_even_when_it_is_busy() -> None:
    """So that a small batch need not wait for large ones; but not without end."""
    assert may_lease(queued=0, is_unserved=True, held=in_hand(63), window=8)
    assert not may_lease(queued=0, is_unserved=True, held=in_hand(64), window=8)


def test_every_batch_has_a_window_of_items_at_hand() -> None:
    """However many of others wait: else its turn would be cut short."""
    assert may_lease(queued=7, is_unserved=False, held=in_hand(31), window=8)
    assert not may_lease(queued=8, is_unserved=False, held=in_hand(3), window=8)
    assert not may_lease(queued=7, is_unserved=False, held=in_hand(32), window=8)


def test_items_whose_endpoint_is_down_do_not_keep_others_out() -> None:
    """With such items in hand more runs are leased, but half the room stays for batches that nobody serves."""
    assert may_lease(queued=0, is_unserved=False, held=in_hand(15), window=8, is_stuck=True)
    assert not may_lease(queued=0, is_unserved=False, held=in_hand(16), window=8, is_stuck=True)
    assert may_lease(queued=0, is_unserved=True, held=in_hand(31), window=8, is_stuck=True)


@pytest.mark.parametrize("failure", [f for f in Failure if f.fault == "endpoint"])
def test_an_endpoint_that_is_down_never_fails_an_item(failure: Failure) -> None:
    """However often it happens, the item is tried again."""
    tries = Tries()
    for _ in range(1000):
        tries = tries.after(failure)
        assert isinstance(decide(EngineError(failure, "down"), tries, most_attempts=5, jitter=0.5), Again)


@pytest.mark.parametrize("failure", [f for f in Failure if f.fault == "attempt"])
def test_an_attempt_that_breaks_again_and_again_becomes_the_items_error(failure: Failure) -> None:
    """The fifth such failure is final, with the wire's type."""
    tries = Tries()
    for number in range(1, 6):
        tries = tries.after(failure)
        decision = decide(EngineError(failure, "it broke"), tries, most_attempts=5, jitter=0.5)
        assert isinstance(decision, Final) == (number == 5)

    assert decision == Final(type=failure.wire_type, message="it broke")


@pytest.mark.parametrize("failure", [f for f in Failure if f.fault == "item"])
def test_the_items_own_fault_is_final_at_once(failure: Failure) -> None:
    """No second attempt is made for what can never work."""
    decision = decide(EngineError(failure, "no"), Tries().after(failure), most_attempts=5, jitter=0)
    assert isinstance(decision, Final)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_back_off_is_bounded(failures: int, jitter: float) -> None:
    """It is positive and never above the most; what the engine asks for is respected."""
    assert 0 < backoff_s(failures, jitter=jitter) <= MOST_S
    error = EngineError(Failure.OVERLOADED, "later", retry_after_s=77)
    assert decide(error, Tries(endpoint=1), most_attempts=5, jitter=jitter) == Again(wait_s=77)


attempts = st.lists(st.tuples(st.booleans(), st.integers(0, 5 * SECOND)), max_size=300)


@given(attempts)
def test_retries_that_fail_are_a_tenth_of_all_attempts_and_a_small_floor(attempts: list[tuple[bool, int]]) -> None:
    """However long an engine is sick, and whatever the rhythm."""
    budget, now_us, retries, seen = RetryBudget(at_us=0), 0, 0, 0
    for is_retry, wait_us in attempts:
        now_us += wait_us
        budget = budget.at(now_us)
        if is_retry and not budget.allows:
            continue
        budget = budget.attempted(is_retry=is_retry)
        retries, seen = retries + is_retry, seen + 1
        assert budget.tokens <= RETRY_MOST
        assert retries <= RETRY_FLOOR + RETRY_SHARE * seen + RETRY_FLOOR_A_SECOND * now_us / SECOND + 1e-6


def test_retries_that_succeed_cost_nothing() -> None:
    """After an outage everything that waited is done at once, a few at a time."""
    budget = RetryBudget(at_us=0)
    for _ in range(1000):
        assert budget.allows
        budget = budget.attempted(is_retry=True).succeeded(is_retry=True)


def test_a_sick_engine_is_asked_again_after_a_while() -> None:
    """A budget that is used up fills again to its floor, and no further."""
    budget = RetryBudget(at_us=0)
    while budget.allows:
        budget = budget.attempted(is_retry=True)
    assert not budget.at(0).allows
    assert budget.at(SECOND).allows
    assert budget.at(3600 * SECOND).tokens == RETRY_FLOOR
