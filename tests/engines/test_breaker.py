"""The breaker alone: a day of one endpoint in a few steps."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.engines.breaker import MOST_PAUSE_US, Breaker, BreakerState
from standby.records import SECOND

NEW = Breaker(most_failures=3, first_pause_us=5 * SECOND)
steps = st.lists(
    st.tuples(st.sampled_from(["send", "succeed", "fail", "leave", "rest", "return"]), st.integers(0, 90 * SECOND)),
    max_size=60,
)


def fail(breaker: Breaker, times: int, *, now_us: int = 0) -> Breaker:
    """Send and fail some times."""
    for _ in range(times):
        is_trial = breaker.is_trial(now_us)
        breaker = breaker.sent(is_trial=is_trial).failed(now_us, is_trial=is_trial)
    return breaker


def ended(breaker: Breaker, how: str, now_us: int, *, is_trial: bool) -> Breaker:
    """End a request."""
    if how == "fail":
        return breaker.failed(now_us, is_trial=is_trial)
    return breaker.succeeded(is_trial=is_trial) if how == "succeed" else breaker.left(is_trial=is_trial)


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    """Two failures, a success and two failures leave it closed; a third opens it."""
    breaker = fail(fail(NEW, 2).succeeded(is_trial=False), 2)
    assert breaker.state(0) is BreakerState.CLOSED
    assert fail(breaker, 1).state(0) is BreakerState.OPEN
    assert not fail(breaker, 1).allows(0)


def test_after_its_pause_one_trial_decides() -> None:
    """Half open it allows one request; whether that one answers closes it or opens it for longer."""
    opened = fail(NEW, 3)
    at = 5 * SECOND
    assert opened.wait_us(0) == at
    assert opened.state(at - 1) is BreakerState.OPEN
    assert opened.is_trial(at)
    tried = opened.sent(is_trial=True)
    assert not tried.allows(at)
    assert tried.succeeded(is_trial=True).state(at) is BreakerState.CLOSED
    assert tried.failed(at, is_trial=True).wait_us(at) == 10 * SECOND


def test_a_trial_that_nobody_waited_for_is_made_again() -> None:
    """A client that leaves does not leave the endpoint shut."""
    at = 5 * SECOND
    assert fail(NEW, 3).sent(is_trial=True).left(is_trial=True).allows(at)


def test_pauses_double_up_to_a_minute() -> None:
    """5, 10, 20, 40, then 60 seconds, however long it stays down."""
    breaker, now_us, pauses = fail(NEW, 3), 0, []
    for _ in range(50):
        pauses.append(breaker.wait_us(now_us))
        now_us += pauses[-1]
        breaker = fail(breaker, 1, now_us=now_us)
    assert [pause // SECOND for pause in pauses[:6]] == [5, 10, 20, 40, 60, 60]
    assert all(one <= other <= MOST_PAUSE_US for one, other in pairwise(pauses))


def test_requests_from_before_change_nothing_while_it_is_open() -> None:
    """What was in flight when it opened neither closes it nor makes the pause longer."""
    opened = fail(NEW, 3)
    assert opened.failed(SECOND, is_trial=False) == opened
    assert opened.succeeded(is_trial=False).state(SECOND) is BreakerState.OPEN


def test_an_endpoint_that_asks_for_time_gets_it_up_to_a_minute() -> None:
    """It allows nothing until then and stays closed; a shorter wish later does not shorten it."""
    breaker = NEW.rested(0, 20 * SECOND).rested(0, SECOND)
    assert not breaker.allows(20 * SECOND - 1)
    assert breaker.allows(20 * SECOND)
    assert breaker.state(0) is BreakerState.CLOSED
    assert NEW.rested(0, 3600 * SECOND).wait_us(0) == MOST_PAUSE_US


def test_one_that_comes_back_is_tried_at_once() -> None:
    """By one request; how often it failed before still counts for the next pause."""
    back = fail(NEW, 3).came_back(SECOND)
    assert back.state(SECOND) is BreakerState.HALF_OPEN
    assert fail(back, 1, now_us=SECOND).wait_us(SECOND) == 10 * SECOND
    assert NEW.came_back(SECOND) == NEW


@pytest.mark.parametrize("failures", [1, 1000])
def test_zero_never_opens(failures: int) -> None:
    """`breaker_failures = 0` switches it off."""
    assert fail(Breaker(most_failures=0, first_pause_us=1), failures).allows(0)


@given(steps)
def test_whatever_happens_it_is_never_shut_for_ever(steps: list[tuple[str, int]]) -> None:
    """At most one trial is out, waits are at most a minute, and once all trials ended it allows work after its wait."""
    breaker, now_us, trials, plain = NEW, 0, 0, 0
    for what, wait_us in steps:
        now_us += wait_us
        if what == "send" and breaker.allows(now_us):
            is_trial = breaker.is_trial(now_us)
            breaker = breaker.sent(is_trial=is_trial)
            trials, plain = trials + is_trial, plain + (not is_trial)
        elif what in {"succeed", "fail", "leave"} and trials + plain:
            is_trial = trials > 0
            trials, plain = (trials - 1, plain) if is_trial else (trials, plain - 1)
            breaker = ended(breaker, what, now_us, is_trial=is_trial)
        elif what == "rest":
            breaker = breaker.rested(now_us, wait_us)
        elif what == "return":
            breaker = breaker.came_back(now_us)
        assert trials <= 1
        assert breaker.wait_us(now_us) <= MOST_PAUSE_US
        assert breaker.allows(now_us + breaker.wait_us(now_us)) or trials == 1
