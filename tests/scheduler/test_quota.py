from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from standby.records import DAY, WorkspaceId
from standby.scheduler.quota import Quota, SpendLimit, Token, day_of, next_day_us, next_month_us

ONE = WorkspaceId("wrkspc_one")
TWO = WorkspaceId("wrkspc_two")
START_US = int(datetime(2026, 1, 30, 23, 0, tzinfo=UTC).timestamp()) * 1_000_000
HOUR_US = DAY // 24


def read(quota: Quota, *, day_pico: int = 0, month_pico: int | None = None, now_us: int = START_US) -> None:
    """Let the quota read a ledger with these sums."""
    quota.saw_spent(ONE, day_of(now_us), day_pico, day_pico if month_pico is None else month_pico)


@given(st.datetimes(datetime(1971, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001 - UTC is added
def test_days_and_months_turn_as_in_the_calendar(moment: datetime) -> None:
    """The next day and the next month begin at the midnights that the calendar has."""
    now_us = int(moment.timestamp()) * 1_000_000
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    month = (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)
    assert next_day_us(now_us) == int((midnight + timedelta(days=1)).timestamp()) * 1_000_000
    assert next_month_us(now_us) == int(month.timestamp()) * 1_000_000


def test_without_a_limit_all_is_allowed() -> None:
    """Nobody needs the ledger where nothing is limited."""
    assert Quota().allows(ONE, 10**18, START_US)


def test_before_the_ledger_was_read_nothing_starts() -> None:
    """A limit holds from the first moment on, although nobody knows yet what was spent."""
    quota = Quota(SpendLimit(day_pico=100))
    assert quota.reserve(ONE, 1, START_US) is None
    assert quota.is_spent(ONE, START_US)
    assert quota.limited() == [ONE]
    read(quota)
    assert quota.reserve(ONE, 1, START_US) is not None


def test_what_is_in_flight_holds_the_rest_back() -> None:
    """Estimates of what runs count, so many at once do not all pass."""
    quota = Quota(SpendLimit(day_pico=100))
    read(quota, day_pico=50)
    assert [quota.reserve(ONE, 20, START_US) is not None for _ in range(4)] == [True, True, False, False]
    assert quota.standing(ONE, START_US).left_pico == 10
    assert not quota.is_spent(ONE, START_US)


def test_an_estimate_beyond_what_is_left_stops_nobody() -> None:
    """Alone a request may start while anything is left; the second has to wait for its charge."""
    quota = Quota(SpendLimit(day_pico=100))
    read(quota, day_pico=99)
    token = quota.reserve(ONE, 1000, START_US)
    assert token is not None
    assert not quota.allows(ONE, 0, START_US)
    quota.settle(token, 1)
    assert quota.standing(ONE, START_US).reached == ("day",)


def test_a_raised_limit_opens_at_once() -> None:
    """A workspace's own limit stands before that of all, and 0 there means none."""
    quota = Quota(SpendLimit(day_pico=100))
    read(quota, day_pico=100)
    assert not quota.allows(ONE, 1, START_US)
    quota.set_limits({ONE: SpendLimit(day_pico=101)})
    assert quota.allows(ONE, 1, START_US)
    quota.set_limits({ONE: SpendLimit()})
    assert quota.allows(ONE, 10**15, START_US)


def test_access_comes_back_when_all_that_is_reached_begins_anew() -> None:
    """With the month's limit reached, a new day does not help."""
    quota = Quota(SpendLimit(day_pico=10, month_pico=100))
    read(quota, day_pico=10, month_pico=100)
    standing = quota.standing(ONE, START_US)
    assert standing.reached == ("day", "month")
    assert standing.access_us(START_US) == next_month_us(START_US)
    assert not quota.allows(ONE, 1, next_day_us(START_US))
    assert quota.allows(ONE, 1, next_month_us(START_US))


def test_a_slow_reading_misses_no_charge() -> None:
    """What was settled while the ledger was being read is not taken for read."""
    quota = Quota(SpendLimit(day_pico=100))
    read(quota)
    tokens = [quota.reserve(ONE, 10, START_US) for _ in range(2)]
    assert tokens[0] is not None
    assert tokens[1] is not None
    quota.settle(tokens[0], 10)
    mark = quota.mark()
    quota.settle(tokens[1], 10)
    quota.saw_spent(ONE, day_of(START_US), 10, 10, mark=mark)
    assert quota.standing(ONE, START_US).day_pico == 20


@dataclass(slots=True)
class Flight:
    """One reservation of the model: whose, at what estimate."""

    workspace: WorkspaceId
    estimate: int


class Spending(RuleBasedStateMachine):
    """Quota against a ledger that is a list, through crashes, slow readings, and turns of day and month."""

    @initialize(day=st.integers(0, 2000), month=st.integers(0, 6000))
    def begin(self, day: int, month: int) -> None:
        """Start a server on an empty ledger."""
        self.now_us = START_US
        self.limit = SpendLimit(day_pico=day, month_pico=month)
        self.ledger: list[tuple[WorkspaceId, int, int]] = []
        self.restart()

    def restart(self) -> None:
        """Begin with nothing in memory; read the ledger as the shell does at its start."""
        self.quota = Quota(self.limit)
        self.flights: dict[Token, Flight] = {}
        self.reading: tuple[int, int, dict[WorkspaceId, tuple[int, int]]] | None = None
        self.unread = dict.fromkeys((ONE, TWO), 0)
        self.read_now()

    def spent(self, workspace: WorkspaceId) -> tuple[int, int]:
        """Add the ledger up: the day, and the month."""
        today = datetime.fromtimestamp(self.now_us / 1e6, tz=UTC)
        days = [
            (datetime.fromtimestamp(at / 1e6, tz=UTC), pico) for owner, at, pico in self.ledger if owner == workspace
        ]
        return (
            sum(pico for day, pico in days if day.date() == today.date()),
            sum(pico for day, pico in days if (day.year, day.month) == (today.year, today.month)),
        )

    @rule(workspace=st.sampled_from((ONE, TWO)), estimate=st.integers(0, 300))
    def reserve(self, workspace: WorkspaceId, estimate: int) -> None:
        """A reservation is given exactly if it is allowed, and only while no limit is reached."""
        allowed = self.quota.allows(workspace, estimate, self.now_us)
        token = self.quota.reserve(workspace, estimate, self.now_us)
        assert (token is not None) == allowed
        day, month = self.spent(workspace)
        in_flight = sum(flight.estimate for flight in self.flights.values() if flight.workspace == workspace)
        for limit, spent in ((self.limit.day_pico, day), (self.limit.month_pico, month)):
            if token is not None and limit:
                assert spent < limit
                assert not in_flight or spent + in_flight + estimate <= limit
        if token is None:
            assert any(
                limit and spent + self.unread[workspace] + (in_flight + estimate if in_flight else 0) >= limit
                for limit, spent in ((self.limit.day_pico, day), (self.limit.month_pico, month))
            )
        else:
            self.flights[token] = Flight(workspace, estimate)

    @rule(data=st.data(), charge=st.integers(0, 400))
    def settle(self, data: st.DataObject, charge: int) -> None:
        """A result is committed with its charge, then its reservation is settled, twice for good measure."""
        if self.flights:
            token = data.draw(st.sampled_from(sorted(self.flights)))
            workspace = self.flights.pop(token).workspace
            self.ledger.append((workspace, self.now_us, charge))
            self.unread[workspace] += charge
            self.quota.settle(token, charge)
            self.quota.settle(token, charge)
            self.quota.release(token)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """An attempt fails: its reservation is given back, and settling it afterwards charges nothing."""
        if self.flights:
            token = data.draw(st.sampled_from(sorted(self.flights)))
            del self.flights[token]
            self.quota.release(token)
            self.quota.settle(token, 1_000_000)

    @rule()
    def read_now(self) -> None:
        """The shell reads the ledger; what it saw is exact."""
        self.begin_reading()
        self.end_reading()

    @rule()
    def begin_reading(self) -> None:
        """A reading begins: it sees the ledger as it is now."""
        sums = {workspace: self.spent(workspace) for workspace in (ONE, TWO)}
        self.reading = (self.quota.mark(), day_of(self.now_us), sums)
        self.before_reading = dict(self.unread)

    @rule()
    def end_reading(self) -> None:
        """The reading arrives, perhaps much later, perhaps on another day."""
        if self.reading is not None:
            mark, day, sums = self.reading
            for workspace, (day_pico, month_pico) in sums.items():
                self.quota.saw_spent(workspace, day, day_pico, month_pico, mark=mark)
                self.unread[workspace] -= self.before_reading[workspace]
            self.reading = None

    @rule(hours=st.integers(1, 20))
    def wait(self, hours: int) -> None:
        """Time passes, over midnight and into the next month."""
        self.now_us += hours * HOUR_US

    @rule()
    def crash(self) -> None:
        """The process dies and starts again: reservations are gone, the ledger stands."""
        self.restart()

    @invariant()
    def nothing_is_missed(self) -> None:
        """Sums are never below the ledger, and above it at most by what was settled since the last reading began."""
        for workspace in (ONE, TWO):
            standing = self.quota.standing(workspace, self.now_us)
            day, month = self.spent(workspace)
            assert day <= standing.day_pico <= day + self.unread[workspace]
            assert month <= standing.month_pico <= month + self.unread[workspace]

    @invariant()
    def reservations_are_what_is_in_flight(self) -> None:
        """Neither below zero nor left behind."""
        for workspace in (ONE, TWO):
            flights = [flight.estimate for flight in self.flights.values() if flight.workspace == workspace]
            standing = self.quota.standing(workspace, self.now_us)
            assert standing.reserved_pico == sum(flights)
            assert standing.left_pico is None or standing.left_pico >= 0


TestSpending = Spending.TestCase
TestSpending.settings = settings(max_examples=60, stateful_step_count=30)
