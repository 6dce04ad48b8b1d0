"""Which item starts next, and where: policy says whose turn it is, gates where, admission whether at all.

No I/O. A pass looks at every item at most once: what cannot start now is not asked again before the next pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from standby.engines.base import Room
from standby.pricing.bills import estimate_of
from standby.pricing.book import PriceBook
from standby.pricing.rates import prompt_of
from standby.records import SECOND, BatchId, Clock, EndpointView, WorkspaceId
from standby.scheduler.control import Control
from standby.scheduler.flight import Flight
from standby.scheduler.gates import Gates, Place, RoomView, Want
from standby.scheduler.held import HeldRun, Queued, Settled, cost_of, expected_cost
from standby.scheduler.lengths import Lengths
from standby.scheduler.outlook import Outlook, Waits
from standby.scheduler.plan import RUN_BYTES
from standby.scheduler.policy import Claim, Policy
from standby.scheduler.quota import Quota, Token
from standby.scheduler.retry import RetryBudgets

YIELD_BELOW = 400
"""Tokens of an answer beyond which it is not thrown away for live traffic."""
AWAY = "it is away"
MOST_HELD = 32
"""Runs that one worker holds, of 256 items and 2 MB at most; more of small ones, where seats would stay empty."""
MOST_LOOKS = 512
"""Items of one batch that are looked at in a pass before it is left for the next."""


@dataclass(frozen=True, slots=True)
class Purse:
    """What workspaces may spend, and what items will probably cost."""

    quota: Quota
    prices: PriceBook

    def is_limited(self, workspace_id: WorkspaceId) -> bool:
        """Whether a workspace has a limit at all."""
        return not self.quota.limit(workspace_id).is_none

    def reserve(self, workspace_id: WorkspaceId, want: Want, output_tokens: int, now_us: int) -> Token | None:
        """Reserve what an item will probably cost; None if that is more than is left."""
        estimate_pico = estimate_of(
            self.prices,
            want.model,
            prompt_tokens=want.prompt_tokens,
            output_tokens=output_tokens,
            now_us=now_us,
            is_batch=True,
        )
        return self.quota.reserve(workspace_id, estimate_pico, now_us)


@dataclass(slots=True)
class _Pass:
    """What was found out in one pass."""

    now_us: int
    rooms: Sequence[Room] = ()
    """Those that are up."""
    closed: set[BatchId] = field(default_factory=set)
    looked: dict[HeldRun, tuple[int, int, int]] = field(default_factory=dict)
    """How many items at the front of a queue were looked at, and between which places of the plan none can start."""
    spent: dict[WorkspaceId, bool] = field(default_factory=dict)
    """Whether a workspace may start nothing more."""
    views: dict[str, list[RoomView]] = field(default_factory=dict)
    """By model."""
    allowed: dict[str, int] = field(default_factory=dict)
    """By endpoint: nothing changes it while nobody else has the loop."""
    is_saving: bool = False
    """Whether an item that failed waits until more retries may be made."""


class Dispatcher:
    """What one worker knows of endpoints, turns, prefixes and lengths."""

    def __init__(self, control: Control, *, clock: Clock, purse: Purse | None = None) -> None:
        """Begin with nothing in flight; without a `purse` nobody's spending is limited."""
        self.policy = Policy()
        self.gates = Gates()
        self.lengths = Lengths()
        self.budgets = RetryBudgets()
        self.control = control
        self.purse = purse or Purse(Quota(), PriceBook())
        self._clock = clock
        self._flights: dict[str, dict[Flight, None]] = {}
        self._unread: Counter[str] = Counter()
        self._pass = _Pass(0)
        self._resume = 0
        self._ready: set[str] = set()

    def rooms(self) -> Sequence[Room]:
        """Return the endpoints that are up."""
        return [room for room in self.control.rooms() if room.is_ready()]

    def allowed(self) -> int:
        """Return how many batch items may be in flight at all endpoints together."""
        return sum(self.control.allowed(room.name, room.load()) for room in self.rooms())

    def has_room(self, model: str) -> bool:
        """Whether an item for this model could be started now, as far as endpoints are concerned."""
        for view in self._views(model):  # noqa: SIM110 - asked for every item: a generator takes twice as long
            if view.takes and view.free > 0:
                return True
        return False

    def has_any_room(self) -> bool:
        """Whether any item could be started now, as far as endpoints are concerned."""
        for room in self._pass.rooms:  # noqa: SIM110 - as above
            if self._in_flight(room.name) < self._allowed(room):
                return True
        return False

    def begin_pass(self) -> None:
        """Look at everything anew."""
        self._pass = _Pass(self._clock(), self.rooms())
        ready = {room.name for room in self._pass.rooms}
        for name in self._ready - ready:
            self.gates.lost(name)
        self._ready = ready
        for room in self._pass.rooms:
            self.gates.taken_over(room.name, room.take_taken_over())

    def learn(self, held: HeldRun, shared: Sequence[int], groups: Sequence[int]) -> None:
        """Take a run's place in the prefix tree of its batch."""
        self.gates.learn(held.lease.batch_id, held.lease.first, shared, groups)

    def forget(self, held: HeldRun, *, is_last: bool) -> None:
        """Forget a run, and its batch with the last one."""
        self.gates.forget(held.lease.batch_id, held.lease.first)
        if is_last:
            self.policy.forget(held.lease.batch_id)

    def next(self, held: Mapping[BatchId, list[HeldRun]], claims: Mapping[BatchId, Claim]) -> Flight | None:
        """Choose the item that starts next, and book its attempt, which begins at once; None if none can."""
        now = self._pass
        while self.has_any_room():
            waiting = [
                claims[batch_id]
                for batch_id, runs in held.items()
                if batch_id not in now.closed
                and any(run.queue for run in runs)
                and not self.is_spent(claims[batch_id].workspace_id)
            ]
            chosen = self.policy.turn(waiting, now.now_us) if waiting else None
            if chosen is None:
                return None
            flight = self._in_batch(held[chosen])
            if flight is not None:
                self._book(flight, claims[chosen])
                return flight
            now.closed.add(chosen)
        return None

    def is_blocked(self, held: Iterable[HeldRun]) -> bool:
        """Whether, after a pass that started nothing, there is room that no item at hand may take."""
        return self.has_any_room() and any(run.queue for run in held)

    @property
    def is_saving(self) -> bool:
        """Whether an item that failed waits only until more retries may be made."""
        return self._pass.is_saving

    def is_spent(self, workspace_id: WorkspaceId) -> bool:
        """Whether nothing more may start for a workspace in this pass."""
        spent = self._pass.spent
        if workspace_id not in spent:
            spent[workspace_id] = self.purse.quota.is_spent(workspace_id, self._pass.now_us)
        return spent[workspace_id]

    def began(self, flight: Flight) -> None:
        """Take note of a first token."""
        flight.first_us = self._clock()
        fresh = flight.item.want.prompt_tokens - flight.item.want.shared
        self._unread[flight.endpoint] -= fresh
        self.control.was_read(flight.endpoint, fresh, (flight.first_us - flight.begun_us) / SECOND)
        self.gates.first_token(flight.item.want, flight.place)

    def ended(self, flight: Flight, settled: Settled | None) -> None:
        """Take note that an attempt is over; `settled` if it is the item's last."""
        endpoint, want, lease = flight.endpoint, flight.item.want, flight.held.lease
        self._flights.get(endpoint, {}).pop(flight, None)
        self._unread[endpoint] -= flight.unread
        if settled is not None and settled.tokens.output and not flight.out:
            self.gates.first_token(want, flight.place)  # it came whole: nobody told of its tokens
        self.gates.ended(want, flight.place)
        now_us, actual, took_us = self._clock(), 0, 0
        if settled is not None and settled.tokens.output:
            tokens = settled.tokens
            # what the engine did, not what is billed: reads are billed only up to the client's own breakpoints
            reused = max(tokens.read, settled.reuse.reused)
            actual = cost_of(prompt_of(tokens) - reused, reused, tokens.output)
            took_us = now_us - flight.begun_us
            self.lengths.saw(lease.batch_id, want.group, flight.item.max_tokens, tokens.output)
            self.control.produced(endpoint, tokens.output)
        elif flight.out:
            # nothing came of it; what its engine did is known only as the tokens that were seen
            actual = expected_cost(want, flight.out)
        self.policy.settled(
            lease.batch_id, lease.workspace_id, flight.cost, actual, took_us=took_us, is_done=settled is not None
        )
        if actual:
            self.policy.served(actual, now_us)

    def judge(self, claims: Collection[Claim]) -> Mapping[BatchId, Outlook]:
        """Say what is to be expected of all batches, and let deadlines that are in danger raise admission's floor."""
        outlooks = self.policy.outlook(list(claims), self._clock(), self._lack())
        self.control.push = self.policy.push
        return outlooks

    def _lack(self) -> Waits:
        """Say why nothing would be served, if nothing is."""
        rooms = self.rooms()
        if not rooms:
            return Waits.AWAY
        loads = [(room, room.load()) for room in rooms]
        is_closed = all(self.control.allowed(room.name, load) <= load.batch for room, load in loads)
        return Waits.LIVE if is_closed and any(load.live for _, load in loads) else Waits.SUPPLY

    def surplus(self) -> Iterator[Flight]:
        """Yield the attempts that live traffic wants stopped: the newest, once an item, with little lost.

        Only those that an endpoint has: one that still waits in the pool takes nothing from anybody.
        """
        for room in self.rooms():
            excess = self.control.surplus(room.name)
            flights = self._flights.get(room.name, {})
            if excess <= 0 or not flights:
                continue
            # those that are being stopped take their places until their engine has let go of them
            excess -= sum(flight.is_stopping for flight in flights if flight.is_sent)
            for flight in list(reversed(flights)):
                if excess <= 0:
                    break
                if not flight.may_yield or flight.out >= YIELD_BELOW:
                    continue
                excess -= 1
                self.control.wasted(room.name, flight.out)
                yield flight

    def flights(self) -> Iterator[Flight]:
        """Yield all attempts under way."""
        return (flight for flights in self._flights.values() for flight in flights)

    def endpoints(self) -> tuple[EndpointView, ...]:
        """Return what is to be said of each endpoint, those that are away included."""
        return tuple(self._seen(room) for room in self.control.rooms())

    def gap_s(self, endpoint: str) -> float | None:
        """Return the time between two tokens at an endpoint."""
        for room in self.rooms():
            if room.name == endpoint:
                return room.gap_s(now_us=self._clock())
        return None

    def expected(self, item: Queued) -> int:
        """Return how many tokens the item's answer will probably have."""
        return self.lengths.expected(item.want.batch_id, item.want.group, item.max_tokens)

    def _seen(self, room: Room) -> EndpointView:
        load, controller = room.load(), self.control.controller(room.name)
        return EndpointView(
            name=room.name,
            engine=room.profile.name,
            cache=room.profile.cache,
            is_ready=room.is_ready(),
            slots=load.slots,
            live=load.live,
            batch=load.batch,
            most_batch=self.control.allowed(room.name, load) if room.is_ready() else 0,
            gap_s=room.gap_s(now_us=self._clock()),
            target_gap_s=controller.state().get("target_s"),
            why=controller.why(load) if room.is_ready() else AWAY,
        )

    def _book(self, flight: Flight, claim: Claim) -> None:
        item, endpoint = flight.item, flight.endpoint
        self.policy.started(claim, flight.cost)
        self.gates.started(item.want, flight.place)
        self.budgets.attempted(item.model, self._pass.now_us, is_retry=item.is_retry)
        self._flights.setdefault(endpoint, {})[flight] = None
        self._unread[endpoint] += flight.unread
        self.control.sent(endpoint, flight.unread)
        for views in self._pass.views.values():
            for view in views:
                if view.name == endpoint:
                    view.free -= 1

    def _in_batch(self, runs: Sequence[HeldRun]) -> Flight | None:
        now, looks = self._pass, MOST_LOOKS
        for held in runs:
            if held.is_lost or not any(count and self.has_room(model) for model, count in held.models.items()):
                continue
            number, low, high = now.looked.get(held, (0, 0, 0))
            while number < len(held.queue) and looks:
                item = held.queue[number]
                if self.has_room(item.model) and (item.is_retry or not low <= item.want.index < high):
                    place = self._place_of(held, item)
                    if place is not None:
                        now.looked[held] = (number, low, high)
                        return self._start(held, number, place)
                    low, high = item.want.index, self._resume
                    looks -= 1
                number += 1
            now.looked[held] = (number, low, high)
        return None

    def _start(self, held: HeldRun, number: int, place: Place) -> Flight | None:
        """Take an item out of its queue, unless what it may cost is more than its workspace has left."""
        item, workspace_id = held.queue[number], held.lease.workspace_id
        expected = self.expected(item)
        token = None
        if self.purse.is_limited(workspace_id):
            token = self.purse.reserve(workspace_id, item.want, expected, self._pass.now_us)
            if token is None:
                self._pass.spent[workspace_id] = True
                return None
        return Flight(
            held=held,
            item=held.take(number),
            place=place,
            cost=expected_cost(item.want, expected),
            token=token,
            expected=expected,
            begun_us=self._pass.now_us,
            first=self.began,
        )

    def _place_of(self, held: HeldRun, item: Queued) -> Place | None:
        want, now = item.want, self._pass
        self._resume = want.index + 1
        if item.is_retry and not self.budgets.allows(item.model, now.now_us):
            now.is_saving = True
            return None
        place = self.gates.place(want, self._views(item.model), now.now_us, held.waiting[want.group])
        if place is None:
            self._resume = self.gates.resume_at(want)
            return None
        prompt = want.prompt_tokens - want.shared
        return place if self.control.takes_prompt(place.endpoint, self._unread[place.endpoint], prompt) else None

    def _views(self, model: str) -> list[RoomView]:
        found = self._pass.views.get(model)
        if found is None:
            found = self._pass.views[model] = [self._view(room, model) for room in self._pass.rooms]
        return found

    def _view(self, room: Room, model: str) -> RoomView:
        profile = room.profile
        return RoomView(
            name=room.name,
            cache=profile.cache,
            slots=profile.slots,
            free=self._allowed(room) - self._in_flight(room.name),
            kv_tokens=profile.kv_tokens,
            takes=room.takes(model),
            kept=self.control.kept(room.name),
            taken=room.busy_live(),
            reading=room.reading_live(),
        )

    def _allowed(self, room: Room) -> int:
        found = self._pass.allowed.get(room.name)
        if found is None:
            found = self._pass.allowed[room.name] = self.control.allowed(room.name, room.load())
        return found

    def _in_flight(self, endpoint: str) -> int:
        return len(self._flights.get(endpoint, ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class InHand:
    """All runs that a worker holds."""

    runs: int
    left: int
    """Items without a result in them."""
    size: int
    """Bytes of the items that were read."""

    def is_full(self, most: int, window: int) -> bool:
        """Whether that is enough to hold: runs of a small batch have so few items that many do not fill a window."""
        return self.runs >= most and (self.left >= 2 * window or self.size >= MOST_HELD * RUN_BYTES)


def may_lease(*, queued: int, is_unserved: bool, held: InHand, window: int, is_stuck: bool = False) -> bool:
    """Say whether one more run of a batch should be leased.

    It should while the items of it at hand (`queued`) would not fill the window, so that its turn is not cut short,
    and fewer than `MOST_HELD` runs are `held`, or too few items. While some cannot be started (`is_stuck`: their
    endpoint is full or down), half of that is kept for batches that nobody works on (`is_unserved`); those may have
    twice as many.
    """
    if is_unserved:
        return held.runs < 2 * MOST_HELD
    is_full = held.is_full(MOST_HELD // 2, window // 2) if is_stuck else held.is_full(MOST_HELD, window)
    return queued < window and not is_full
