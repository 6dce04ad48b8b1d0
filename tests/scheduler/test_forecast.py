from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.records import DAY, HOUR, SECOND
from standby.scheduler.forecast import Supply

MINUTE = 60 * SECOND
MONDAY = 1_767_571_200 * SECOND


def work(supply: Supply, from_us: int, until_us: int, rate: float, *, left: int = 1000, every_us: int = MINUTE) -> None:
    """Let it harvest at a rate, in cost tokens a second, looked at every minute."""
    for now_us in range(from_us, until_us, every_us):
        supply.watch(now_us, left_items=left, enough=64)
        supply.served(rate * every_us / SECOND)
    supply.watch(until_us, left_items=left, enough=64)


def test_nothing_is_forecast_before_anything_was_served() -> None:
    """An unknown supply is not a supply of nothing."""
    supply = Supply()
    supply.watch(MONDAY, left_items=1000, enough=64)
    supply.watch(MONDAY + 5 * MINUTE, left_items=1000, enough=64)

    assert supply.rate is None
    assert supply.forecast(MONDAY + 5 * MINUTE, MONDAY + DAY) is None


def test_the_rate_of_work_is_what_is_expected_of_the_next_hours() -> None:
    """Likely: as now. To rely on: less, the more so in hours never seen. At most: the best that was seen."""
    supply = Supply()
    work(supply, MONDAY, MONDAY + HOUR, 100.0)
    now_us = MONDAY + HOUR
    forecast = supply.forecast(now_us, now_us + 10 * HOUR)

    assert supply.rate == pytest.approx(100.0)
    assert forecast is not None
    assert forecast.mid.supply(now_us + 10 * HOUR) == pytest.approx(100.0 * 36_000, rel=0.01)
    assert forecast.low.supply(now_us + 10 * HOUR) < 0.5 * forecast.mid.supply(now_us + 10 * HOUR)
    assert forecast.high.supply(now_us + 10 * HOUR) >= forecast.mid.supply(now_us + 10 * HOUR)
    assert forecast.mid.when(100.0 * 7200) == pytest.approx(now_us + 2 * HOUR, abs=MINUTE)


def test_idle_endpoints_are_not_slow_ones() -> None:
    """Time in which nothing waited, and time that nobody watched, says nothing."""
    supply = Supply()
    work(supply, MONDAY, MONDAY + HOUR, 100.0)
    for now_us in range(MONDAY + HOUR, MONDAY + 3 * HOUR, MINUTE):
        supply.watch(now_us, left_items=0, enough=64)
    supply.watch(MONDAY + 9 * HOUR, left_items=1000, enough=64)
    supply.watch(MONDAY + 12 * HOUR, left_items=1000, enough=64)

    assert supply.rate == pytest.approx(100.0)


def test_a_few_items_do_not_make_endpoints_look_slow() -> None:
    """A batch smaller than the window cannot fill the endpoints; it may still show that they are faster."""
    supply = Supply()
    work(supply, MONDAY, MONDAY + HOUR, 100.0)
    work(supply, MONDAY + HOUR, MONDAY + 2 * HOUR, 3.0, left=5)
    assert supply.rate == pytest.approx(100.0)

    work(supply, MONDAY + 2 * HOUR, MONDAY + 4 * HOUR, 300.0, left=5)
    assert supply.rate == pytest.approx(300.0, rel=0.05)


def test_an_outage_ends_what_can_be_relied_on_but_not_what_could_come() -> None:
    """After an hour of nothing the low forecast is nothing, the high one as before."""
    supply = Supply()
    work(supply, MONDAY, MONDAY + 2 * HOUR, 100.0)
    work(supply, MONDAY + 2 * HOUR, MONDAY + 4 * HOUR, 0.0)
    now_us = MONDAY + 4 * HOUR
    forecast = supply.forecast(now_us, now_us + 10 * HOUR)

    assert forecast is not None
    assert forecast.low.supply(now_us + 10 * HOUR) < 0.01 * 100 * 36_000
    assert forecast.high.supply(now_us + 10 * HOUR) > 0.8 * 100 * 36_000


def test_hours_of_the_day_are_remembered() -> None:
    """A day of live traffic takes three quarters: on the third morning the afternoon is expected to be slow."""
    supply = Supply()
    for day in range(2):
        begin_us = MONDAY + day * DAY
        work(supply, begin_us, begin_us + 12 * HOUR, 100.0, every_us=5 * MINUTE)
        work(supply, begin_us + 12 * HOUR, begin_us + DAY, 25.0, every_us=5 * MINUTE)
    now_us = MONDAY + 2 * DAY + 6 * HOUR
    work(supply, MONDAY + 2 * DAY, now_us, 100.0, every_us=5 * MINUTE)
    forecast = supply.forecast(now_us, now_us + 18 * HOUR)

    assert forecast is not None
    assert forecast.mid.supply(now_us + 6 * HOUR) == pytest.approx(100.0 * 6 * 3600, rel=0.05)
    until_us = now_us + 18 * HOUR
    expected = (100.0 * 6 + 25.0 * 12) * 3600
    assert forecast.mid.supply(until_us) == pytest.approx(expected, rel=0.1)
    assert forecast.low.supply(until_us) <= forecast.mid.supply(until_us)


def test_weeks_are_remembered_and_the_bad_ones_relied_on() -> None:
    """The 25th percentile of the same hour of eight weeks; four weeks gave 40, four gave 100."""
    supply = Supply()
    for week in range(8):
        begin_us = MONDAY + week * 7 * DAY
        work(supply, begin_us, begin_us + HOUR, 100.0 if week % 2 else 40.0, every_us=5 * MINUTE)
        work(supply, begin_us + HOUR, begin_us + 2 * HOUR, 70.0, every_us=5 * MINUTE)
    now_us = MONDAY + 8 * 7 * DAY - 30 * MINUTE
    forecast = supply.forecast(now_us, now_us + 2 * HOUR)

    assert forecast is not None
    first_us, end_us = now_us + 30 * MINUTE, now_us + 90 * MINUTE
    low, mid, high = (
        band.supply(end_us) - band.supply(first_us) for band in (forecast.low, forecast.mid, forecast.high)
    )
    assert low == pytest.approx(40.0 * 3600, rel=0.05)
    assert high == pytest.approx(100.0 * 3600, rel=0.05)
    assert low <= mid <= high


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 200), st.integers(1, 3600)), min_size=1, max_size=50),
    st.floats(0, 1e9),
)
def test_forecasts_are_ordered_and_never_fall(steps: list[tuple[float, int, int]], amount: float) -> None:
    """Low, middle and high stay in order; supply grows with time, and `when` is where supply reaches the amount."""
    supply, now_us = Supply(), MONDAY
    for cost, left, seconds in steps:
        supply.watch(now_us, left_items=left, enough=64)
        supply.served(cost)
        now_us += seconds * SECOND
    forecast = supply.forecast(now_us, now_us + DAY)
    if forecast is None:
        return

    for hours in range(24):
        at_us = now_us + hours * HOUR
        low, mid, high = (band.supply(at_us) for band in (forecast.low, forecast.mid, forecast.high))
        assert 0 <= low <= mid * (1 + 1e-9)
        assert mid <= high * (1 + 1e-9)
        assert mid <= forecast.mid.supply(at_us + HOUR)
    at = forecast.mid.when(amount)
    if at is not None and amount > 0:
        assert forecast.mid.supply(at) == pytest.approx(amount, rel=1e-3, abs=forecast.mid.supply(now_us + SECOND) + 1)
