"""Which item starts next, and what the dispatcher remembers of those that did."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence

import pytest

from standby.config import EngineSettings, SimulatorSettings, WorkerSettings
from standby.engines.base import Model
from standby.engines.pool import Pool
from standby.engines.simulated import Simulated
from standby.records import SECOND, BatchId, LeasedRun, Load, PlanEntry, Rules, Tokens, WorkspaceId
from standby.scheduler.control import Control
from standby.scheduler.dispatch import MOST_LOOKS, Dispatcher
from standby.scheduler.flight import Flight
from standby.scheduler.gates import Want
from standby.scheduler.held import HeldRun, Queued, Settled
from standby.scheduler.outlook import Waits
from standby.scheduler.policy import Claim
from standby.states import Outcome

NOW_US = 1_800_000_000 * SECOND
BATCH = BatchId("msgbatch_1")
SLOTS = 4


class Site(Simulated):
    """A simulator of one model."""

    def __init__(self, model: str, profile: str) -> None:
        """Serve it."""
        super().__init__(SimulatorSettings(profile=profile, slots=SLOTS))
        self.model = model

    async def models(self) -> list[Model]:
        """One."""
        return [Model(id=self.model, display_name="", created_us=0, max_input_tokens=0, max_output_tokens=0)]


class Told(Control):
    """Admits what a test says, at any endpoint."""

    most = SLOTS
    over = 0

    def allowed(self, name: str, load: Load) -> int:
        """As many as that."""
        return self.most

    def surplus(self, name: str) -> int:
        """As many as that give way."""
        return self.over

    def takes_prompt(self, name: str, unread: int, prompt_tokens: int) -> bool:
        """Any prompt may be sent."""
        return True


class Desk:
    """A dispatcher over a real pool, with batches in hand."""

    def __init__(self, pool: Pool) -> None:
        """Begin with nothing in hand."""
        self.control = Told(pool, WorkerSettings(), clock=lambda: NOW_US)
        self.dispatcher = Dispatcher(self.control, clock=lambda: NOW_US)
        self.held: dict[BatchId, list[HeldRun]] = {BATCH: []}
        self.claims = {BATCH: _claim()}
        self.flights: list[Flight] = []

    def hold(self, number: int, models: Sequence[str], *, epoch: int = 1, group: int = 0, shared: int = 0) -> HeldRun:
        """Take a run in hand."""
        count = len(models)
        held = HeldRun(lease=_lease(number, count, epoch), queue=deque(), left=count)
        held.fill(deque(_queued(number * 1000 + place, model, group, shared) for place, model in enumerate(models)))
        self.held[BATCH].append(held)
        self.dispatcher.learn(held, array("L", [shared] * count), array("L", [group] * count))
        return held

    def start_all(self) -> list[Flight]:
        """Start what may start in one pass."""
        self.dispatcher.begin_pass()
        started = []
        while (flight := self.dispatcher.next(self.held, self.claims)) is not None:
            started.append(flight)
        self.flights += started
        return started

    def end(self, flight: Flight) -> None:
        """Let an attempt succeed."""
        self.dispatcher.ended(
            flight,
            Settled(item=flight.item.entry.item, outcome=Outcome.SUCCEEDED, row=b"{}", tokens=Tokens(output=5)),
        )


def _claim() -> Claim:
    return Claim(
        batch_id=BATCH,
        workspace_id=WorkspaceId("wrkspc_1"),
        created_us=NOW_US,
        expires_us=NOW_US + 3600 * SECOND,
        size=2000,
        left_items=2000,
        left_cost=2000,
    )


def _lease(number: int, count: int, epoch: int) -> LeasedRun:
    return LeasedRun(
        batch_id=BATCH,
        workspace_id=WorkspaceId("wrkspc_1"),
        number=number,
        first=number * 1000,
        count=count,
        epoch=epoch,
        until_us=NOW_US + 30 * SECOND,
        expires_us=NOW_US + 3600 * SECOND,
        rules=Rules(),
        finished=frozenset(),
    )


def _queued(index: int, model: str, group: int, shared: int) -> Queued:
    entry = PlanEntry(
        item=index, offset=0, length=400, crc=0, custom_id=f"i{index}", shared=shared, group=group, cost=100
    )
    want = Want(batch_id=BATCH, index=index, group=group, shared=shared, prompt_tokens=500, model=model)
    return Queued(entry=entry, want=want, params=b"{}")


async def _desk(*models: str, profile: str = "vllm") -> Desk:
    named = [(f"engine{number}", Site(model, profile)) for number, model in enumerate(models)]
    pool = Pool(named, [EngineSettings() for _ in named], clock=lambda: NOW_US)
    await pool.start()
    for model in models:
        await pool.resolve(model)
    return Desk(pool)


async def test_items_of_a_model_without_room_hide_no_others() -> None:
    """However many items wait in front for a full endpoint, those behind start at the other one."""
    desk = await _desk("full", "free")
    for number in range(4):
        desk.hold(number, ["full"] * (MOST_LOOKS // 2))
    desk.hold(4, ["free"] * 20)
    started = [start.item.model for start in desk.start_all()]
    assert sorted(started) == ["free"] * SLOTS + ["full"] * SLOTS


async def test_items_out_of_the_order_of_the_plan_are_all_looked_at() -> None:
    """In a queue sorted by length, one that must wait keeps none of a lower place from starting."""
    desk = await _desk("full", "free")
    held = desk.hold(0, ["free"] * 3 + ["full"] * (SLOTS + 3))
    held.fill(deque(reversed(held.queue)))
    assert sum(start.item.model == "free" for start in desk.start_all()) == 3


async def test_those_that_are_being_stopped_count_until_they_are_over() -> None:
    """An engine that is slow to let go of items makes no others give way."""
    desk = await _desk("one")
    desk.hold(0, ["one"] * SLOTS)
    for flight in desk.start_all():
        flight.sent()
    desk.control.over = 2
    stopped = list(desk.dispatcher.surplus())
    assert stopped == desk.flights[:1:-1]
    for flight in stopped:
        flight.item.was_yielded = True
        flight.stop()
    assert not list(desk.dispatcher.surplus())
    desk.end(stopped[0])
    desk.control.over = 1
    assert not list(desk.dispatcher.surplus())
    desk.end(stopped[1])
    assert len(list(desk.dispatcher.surplus())) == 1


async def test_items_that_no_endpoint_has_yet_give_way_to_nobody() -> None:
    """The newest wait in the pool for room: stopping them would free no seat, so the newest that has one goes."""
    desk = await _desk("one")
    desk.hold(0, ["one"] * SLOTS)
    first, second, *_ = desk.start_all()
    desk.control.over = 1
    assert not list(desk.dispatcher.surplus())
    first.sent()
    second.sent()
    assert list(desk.dispatcher.surplus()) == [second]


async def test_what_nothing_is_served_for_is_said() -> None:
    """No endpoint is up, or live requests have all of it, or it takes nothing for another reason."""
    one = Site("one", "vllm")
    pool = Pool([("one", one)], [EngineSettings()], clock=lambda: NOW_US)
    desk = Desk(pool)
    claims = desk.claims.values()
    assert desk.dispatcher.judge(claims)[BATCH].waits is Waits.AWAY
    await pool.start()
    assert desk.dispatcher.judge(claims)[BATCH].waits is Waits.SUPPLY
    desk.control.most = 0
    with pool.endpoints[0].turn(live=True, deadline_us=None):
        assert desk.dispatcher.judge(claims)[BATCH].waits is Waits.LIVE


async def test_an_answer_that_came_whole_warms_its_prefix() -> None:
    """Where nobody tells of tokens, the group of an item that succeeded waits for no second first one."""
    desk = await _desk("one", profile="sglang")
    desk.hold(0, ["one"] * 4, group=1, shared=400)
    assert len(desk.start_all()) == 1
    desk.end(desk.flights[0])
    assert len(desk.start_all()) == 3


async def test_a_first_token_lets_the_group_in_and_what_ends_leaves_nothing() -> None:
    """Tokens that are told of warm the prefix, too; after the last attempt all books are empty."""
    desk = await _desk("one", profile="sglang")
    held = desk.hold(0, ["one"] * 4, group=1, shared=400)
    desk.start_all()
    desk.flights[0].tokens(1)
    assert len(desk.start_all()) == 3
    for flight in desk.flights:
        desk.end(flight)
    desk.dispatcher.forget(held, is_last=True)
    assert not list(desk.dispatcher.flights())
    assert not desk.dispatcher._unread.total()
    assert desk.dispatcher.gates.is_empty


def test_an_answer_is_judged_by_its_own_pace() -> None:
    """Once some tokens are out, how long it goes on follows from them and not from those of others."""
    held = HeldRun(lease=_lease(0, 1, 1), queue=deque(), left=1)
    flight = Flight(
        held=held,
        item=_queued(0, "one", 0, 0),
        place=None,  # type: ignore[arg-type]
        cost=1,
        expected=100,
        begun_us=NOW_US,
        first=lambda flight: setattr(flight, "first_us", NOW_US),
    )
    assert flight.remaining_s(NOW_US, 0.5) == 50
    flight.tokens(1)
    flight.tokens(49)
    assert flight.remaining_s(NOW_US + 5 * SECOND, 0.5) == pytest.approx(5.0)
    flight.tokens(100)
    assert flight.remaining_s(NOW_US + 5 * SECOND, 0.5) == 0
