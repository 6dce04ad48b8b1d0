"""Several endpoints as one: who is chosen, who is tried next, what fills up, what is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from standby.config import EngineSettings
from standby.engines.base import NO_CONTEXT, CacheProfile, Context, EngineProfile, Model, Signals
from standby.engines.chat.resolve import resolve_name
from standby.engines.pool import Pool
from standby.engines.pool_meters import EndpointMeters
from standby.errors import ApiError, EngineError, Failure, InvalidParams, invalid
from standby.records import SECOND, Load, Rules
from standby.scheduler.admission import FixedWindow
from standby.wire.messages import (
    CountParams,
    Event,
    Message,
    MessageParams,
    TextBlock,
    Usage,
    accumulate,
    decode_count_params,
    decode_params,
    events_of,
)
from tests.engines.asking import Told


class Clerk:
    """An engine in a test's hands: it answers with its own name, fails as told, and waits while its gate is shut."""

    def __init__(self, name: str, *models: str, slots: int = 4, aliases: tuple[str, ...] = (), **more: Any) -> None:
        """Be up."""
        self.name = name
        self.aliases = aliases
        self.listed = [
            Model(id=one, display_name=one, created_us=place, max_input_tokens=100, max_output_tokens=50, **more)
            for place, one in enumerate(models)
        ]
        self.slots = slots
        self.is_up = True
        self.fault: Exception | None = None
        self.fault_after = 0
        self.contexts: list[Context] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[MessageParams | CountParams] = []
        self.left = 0
        self.closed = False
        self.told: Signals | None = None
        self.reuse: tuple[int, int] | None = None
        """What it tells of a prompt."""

    @property
    def profile(self) -> EngineProfile:
        """Something of its own."""
        cache = CacheProfile.SHARED_AT_ONCE if self.slots > 4 else CacheProfile.PER_SLOT
        return EngineProfile(name=self.name, slots=self.slots, cache=cache, yields_to_live=self.slots > 4)

    async def start(self) -> None:
        """Fail if told to."""
        if isinstance(self.fault, OSError):
            raise self.fault

    async def close(self) -> None:
        """Close."""
        self.closed = True

    def ready(self) -> bool:
        """What the test says."""
        return self.is_up

    async def generate(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = False,
        context: Context = NO_CONTEXT,
    ) -> Message:
        """Answer."""
        async with aclosing(self.stream(params, deadline_us=deadline_us, live=live, context=context)) as events:
            return accumulate([event async for event in events])

    async def stream(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = True,
        context: Context = NO_CONTEXT,
    ) -> AsyncGenerator[Event, None]:
        """Answer in events."""
        self.asked.append(params)
        self.contexts.append(context)
        try:
            for number, event in enumerate(events_of(self._message(params.model))):
                if self.fault is not None and number >= self.fault_after:
                    raise self.fault
                await self.gate.wait()
                yield event
            if self.reuse is not None and context.watch is not None:
                context.watch.prompt(*self.reuse)
        except (GeneratorExit, asyncio.CancelledError):
            self.left += 1
            raise

    async def count_tokens(self, params: CountParams) -> int:
        """Count something."""
        self.asked.append(params)
        if self.fault is not None:
            raise self.fault
        return 7

    async def models(self) -> list[Model]:
        """List."""
        if not self.is_up:
            raise EngineError(Failure.UNREACHABLE, "down")
        return self.listed

    async def resolve(self, model: str) -> str:
        """Resolve."""
        return resolve_name(model, self.listed, self.aliases)

    def load(self) -> Load:
        """Nothing of its own."""
        return Load(slots=self.slots)

    async def signals(self) -> Signals | None:
        """What the test says."""
        return self.told

    def _message(self, model: str) -> Message:
        return Message(
            id="msg_1",
            model=model,
            content=[TextBlock(text=self.name)],
            stop_reason="end_turn",
            usage=Usage(input_tokens=1, output_tokens=1),
        )


class Watch:
    """A clock that a test sets."""

    now_us = 1_000 * SECOND

    def __call__(self) -> int:
        """Read it."""
        return self.now_us


def pool_of(*clerks: Clerk, **settings: Any) -> Pool:
    """Make a pool, with one slot of each endpoint kept for live requests."""
    return Pool(
        [(clerk.name, clerk) for clerk in clerks],
        [EngineSettings(**settings) for _ in clerks],
        clock=settings.pop("clock", None) or Watch(),
        most_batch=lambda _, load: FixedWindow(window=0, live_slots=1).allowed(load),
    )


def watched(*clerks: Clerk, **settings: Any) -> tuple[Pool, Watch, CollectorRegistry]:
    """Make a pool with a clock and a registry to look at."""
    watch, registry = Watch(), CollectorRegistry()
    own = [EngineSettings(**settings) for _ in clerks]
    named = [(clerk.name, clerk) for clerk in clerks]
    return Pool(named, own, clock=watch, meters=EndpointMeters(registry)), watch, registry


def ask(model: str = "a") -> MessageParams:
    """Make params."""
    body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    return decode_params(msgspec.json.encode(body), rules=Rules(), batch=False)


def count(model: str = "a") -> CountParams:
    """Make the params of a count."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    return decode_count_params(msgspec.json.encode(body), rules=Rules())


def said(message: Message) -> str:
    """Return who answered."""
    return "".join(block.text for block in message.content if isinstance(block, TextBlock))


async def until(holds: Any) -> None:
    """Let others run until it holds."""
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never happened")


async def test_each_model_runs_where_it_is_served() -> None:
    """By its exact id, whatever the aliases of endpoints before it say; the reply names that id."""
    pool = pool_of(Clerk("one", "a", aliases=("*",)), Clerk("two", "b"))
    assert [said(await pool.generate(ask(model))) for model in ("a", "b", "c")] == ["one", "two", "one"]
    assert (await pool.generate(ask("c"))).model == "a"
    assert await pool.resolve("b") == "b"


async def test_aliases_count_in_the_order_of_the_endpoints() -> None:
    """The first endpoint that has one decides, and every endpoint that serves that model may answer."""
    one, two = Clerk("one", "a", aliases=("claude-*",)), Clerk("two", "b", "a", aliases=("claude-*=b",))
    pool = pool_of(one, two)
    one.gate.clear()
    first = asyncio.create_task(pool.generate(ask("claude-x")))
    await until(lambda: one.asked)
    assert said(await pool.generate(ask("claude-x"))) == "two"
    one.gate.set()
    assert said(await first) == "one"
    assert {params.model for params in one.asked + two.asked} == {"a"}


async def test_a_name_that_nobody_serves_is_refused() -> None:
    """404 in the contract's words, once every endpoint said what it serves."""
    with pytest.raises(InvalidParams) as caught:
        await pool_of(Clerk("one", "a"), Clerk("two", "b")).generate(ask("c"))
    assert (caught.value.status, caught.value.message) == (404, "model: c")


async def test_a_name_is_not_refused_while_an_endpoint_was_never_up() -> None:
    """It may be the one that serves it: the request can be tried again."""
    late = Clerk("late", "c")
    late.is_up = False
    pool = pool_of(Clerk("one", "a"), late)
    with pytest.raises(EngineError) as caught:
        await pool.resolve("c")
    assert caught.value.failure is Failure.UNREACHABLE
    late.is_up = True
    assert said(await pool.generate(ask("c"))) == "late"


async def test_the_endpoint_with_the_most_room_is_taken() -> None:
    """By what is in flight a slot: of 12 requests, 8 slots take twice as many as 4."""
    small, large = Clerk("small", "a", slots=4), Clerk("large", "a", slots=8)
    pool = pool_of(small, large)
    small.gate.clear()
    large.gate.clear()
    tasks = [asyncio.create_task(pool.generate(ask(), live=True)) for _ in range(12)]
    await until(lambda: len(small.asked) + len(large.asked) == 12)
    assert (len(small.asked), len(large.asked)) == (4, 8)
    assert pool.load() == Load(live=12, batch=0, slots=12, waiting=0)
    small.gate.set()
    large.gate.set()
    await asyncio.gather(*tasks)
    assert pool.load() == Load(slots=12)


@pytest.mark.parametrize("failure", [Failure.UNREACHABLE, Failure.OVERLOADED])
@pytest.mark.parametrize("live", [True, False])
async def test_what_one_endpoint_cannot_take_goes_to_the_next(failure: Failure, *, live: bool) -> None:
    """Live or batch, whole or as events."""
    one, two = Clerk("one", "a"), Clerk("two", "a")
    one.fault = EngineError(failure, "not now")
    pool = pool_of(one, two)
    assert said(await pool.generate(ask(), live=live)) == "two"
    assert said(accumulate([event async for event in pool.stream(ask(), live=live)])) == "two"
    assert len(one.asked) == 2
    assert await pool.count_tokens(count()) == 7


async def test_nothing_is_said_twice() -> None:
    """After the first event a failure is a failure; no other endpoint is asked."""
    one, two = Clerk("one", "a"), Clerk("two", "a")
    one.fault, one.fault_after = EngineError(Failure.UNREACHABLE, "gone"), 2
    events = pool_of(one, two).stream(ask())
    await anext(events)
    await anext(events)
    with pytest.raises(EngineError, match="gone"):
        await anext(events)
    assert not two.asked


@pytest.mark.parametrize("fault", [EngineError(Failure.BROKEN, "broke"), EngineError(Failure.TIMEOUT, "slow")])
async def test_what_may_be_the_requests_fault_is_not_tried_elsewhere(fault: EngineError) -> None:
    """A request that breaks engines breaks one of them only."""
    one, two = Clerk("one", "a"), Clerk("two", "a")
    one.fault = fault
    with pytest.raises(EngineError):
        await pool_of(one, two).generate(ask())
    assert not two.asked


async def test_if_all_fail_the_last_failure_is_told() -> None:
    """With what it said about when to come back."""
    one, two = Clerk("one", "a"), Clerk("two", "a")
    one.fault = EngineError(Failure.UNREACHABLE, "gone")
    two.fault = EngineError(Failure.OVERLOADED, "busy", retry_after_s=7)
    with pytest.raises(EngineError, match="busy") as caught:
        await pool_of(one, two).generate(ask())
    assert caught.value.retry_after_s == 7


async def test_batch_items_leave_the_live_slots_of_each_endpoint_free() -> None:
    """3 of 4 slots: more items for this model wait here, in no engine's queue, and the other endpoint stays empty."""
    one, two = Clerk("one", "a"), Clerk("two", "b")
    pool = pool_of(one, two)
    one.gate.clear()
    tasks = [asyncio.create_task(pool.generate(ask())) for _ in range(5)]
    await until(lambda: pool.load().waiting == 2)
    assert (len(one.asked), len(two.asked)) == (3, 0)
    live = asyncio.create_task(pool.generate(ask(), live=True))
    await until(lambda: len(one.asked) == 4)
    one.gate.set()
    assert {said(answer) for answer in await asyncio.gather(*tasks, live)} == {"one"}


async def test_an_item_that_waits_for_room_can_be_cancelled() -> None:
    """It leaves nothing behind."""
    one = Clerk("one", "a", slots=2)
    pool = pool_of(one)
    one.gate.clear()
    tasks = [asyncio.create_task(pool.generate(ask())) for _ in range(2)]
    await until(lambda: pool.load().waiting == 1)
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    assert (pool.load().waiting, len(one.asked)) == (0, 1)
    one.gate.set()
    await tasks[0]


async def test_an_endpoint_that_is_down_gets_nothing_until_it_is_back() -> None:
    """A request for its model can be tried again, and the pool is ready while one is."""
    one, two = Clerk("one", "a"), Clerk("two", "b")
    pool = pool_of(one, two)
    await pool.generate(ask("b"))
    two.is_up = False
    assert pool.ready()
    assert pool.load().slots == 4
    with pytest.raises(EngineError) as caught:
        await pool.generate(ask("b"))
    assert caught.value.failure is Failure.UNREACHABLE
    assert [model.id for model in await pool.models()] == ["a", "b"]
    one.is_up = False
    assert not pool.ready()
    two.is_up = True
    assert pool.ready()
    assert said(await pool.generate(ask("b"))) == "two"


async def test_the_breaker_shuts_an_endpoint_that_fails_in_a_row_and_tries_it_once_later() -> None:
    """Five failures, no work for five seconds, then one request alone; when that answers, all."""
    one = Clerk("one", "a")
    pool, watch, registry = watched(one)
    one.fault = EngineError(Failure.BROKEN, "broke")
    for _ in range(5):
        with pytest.raises(EngineError, match="broke"):
            await pool.generate(ask())
    with pytest.raises(EngineError, match="nobody who serves this model is up") as caught:
        await pool.generate(ask(), live=True)
    assert (caught.value.failure, caught.value.retry_after_s) == (Failure.UNREACHABLE, 5)
    assert len(one.asked) == 5
    assert not pool.ready()
    assert b'standby_endpoint_state{endpoint="one",state="open"} 1.0' in generate_latest(registry)

    watch.now_us += 5 * SECOND
    one.fault = None
    one.gate.clear()
    trial = asyncio.create_task(pool.generate(ask(), live=True))
    await until(lambda: len(one.asked) == 6)
    with pytest.raises(EngineError, match="nobody"):
        await pool.generate(ask(), live=True)
    one.gate.set()
    await trial
    assert said(await pool.generate(ask())) == "one"
    told = generate_latest(registry).decode()
    assert 'standby_endpoint_attempts_total{endpoint="one",result="broken"} 5.0' in told
    assert 'standby_endpoint_attempts_total{endpoint="one",result="ok"} 2.0' in told
    assert 'standby_endpoint_state{endpoint="one",state="closed"} 1.0' in told


async def test_a_stream_that_begins_ends_the_trial() -> None:
    """Others need not wait until a long answer is over."""
    one = Clerk("one", "a")
    pool, watch, _ = watched(one, breaker_failures=1)
    one.fault = EngineError(Failure.BROKEN, "broke")
    with pytest.raises(EngineError):
        await pool.generate(ask())
    watch.now_us += 5 * SECOND
    one.fault = None
    async with aclosing(pool.stream(ask())) as events:
        await anext(events)
        assert said(await pool.generate(ask())) == "one"
    assert one.left == 1


async def test_refusals_and_own_deadlines_are_no_failures_of_the_endpoint() -> None:
    """However many requests are wrong or late, it goes on getting work."""
    one = Clerk("one", "a")
    pool, watch, _ = watched(one, breaker_failures=1)
    one.fault = invalid("no")
    with pytest.raises(ApiError):
        await pool.generate(ask())
    one.fault = EngineError(Failure.TIMEOUT, "the deadline passed")
    with pytest.raises(EngineError, match="deadline"):
        await pool.generate(ask(), deadline_us=watch.now_us)
    one.fault = None
    assert said(await pool.generate(ask())) == "one"


async def test_an_endpoint_that_asks_for_time_rests() -> None:
    """After `retry-after: 30` the other endpoint takes everything for 30 seconds."""
    one, two = Clerk("one", "a"), Clerk("two", "a")
    pool, watch, _ = watched(one, two)
    one.fault = EngineError(Failure.OVERLOADED, "busy", retry_after_s=30)
    for _ in range(3):
        assert said(await pool.generate(ask(), live=True)) == "two"
    assert len(one.asked) == 1
    watch.now_us += 30 * SECOND
    one.fault = None
    assert said(await pool.generate(ask(), live=True)) == "one"


async def test_an_endpoint_that_comes_back_begins_anew() -> None:
    """What it did before it went away is not held against it."""
    one = Clerk("one", "a")
    pool, _, _ = watched(one, breaker_failures=1)
    one.fault = EngineError(Failure.BROKEN, "broke")
    with pytest.raises(EngineError):
        await pool.generate(ask())
    assert not pool.ready()
    one.is_up = False
    assert not pool.ready()
    one.is_up, one.fault = True, None
    assert pool.ready()
    assert said(await pool.generate(ask())) == "one"


async def test_a_closed_stream_stops_the_work_in_the_engine() -> None:
    """And gives the place back."""
    one = Clerk("one", "a")
    pool, _, registry = watched(one)
    events = pool.stream(ask())
    await anext(events)
    assert pool.load().live == 1
    await events.aclose()
    assert (one.left, pool.load().live) == (1, 0)
    assert 'result="left"} 1.0' in generate_latest(registry).decode()


async def test_what_an_endpoint_reused_is_counted_as_far_as_it_makes_sense() -> None:
    """And passed on; of an endpoint that does not tell there are no numbers at all."""
    one, two, told = Clerk("one", "a"), Clerk("two", "b"), Told()
    pool, _, registry = watched(one, two)
    for one.reuse in ((100, 60), (50, 80), (-5, 3), (40, -1)):
        await pool.generate(ask(), context=Context(watch=told))
    await pool.generate(ask("b"), context=Context(watch=told))
    assert told.prompts == [(100, 60), (50, 50), (0, 0), (40, 0)]
    text = generate_latest(registry).decode()
    assert 'standby_endpoint_prompt_tokens_total{endpoint="one"} 190.0' in text
    assert 'standby_endpoint_reused_tokens_total{endpoint="one"} 110.0' in text
    assert 'tokens_total{endpoint="two"}' not in text


async def test_models_are_merged_newest_first() -> None:
    """One that several serve stands there once, with what all of them can do."""
    small = Clerk("small", "old", "a", features=frozenset({"thinking"}))
    large = Clerk("large", "a", "new", "newest", slots=8, features=frozenset({"thinking", "image_input"}))
    small.listed[1] = Model(
        id="a",
        display_name="a",
        created_us=1,
        max_input_tokens=0,
        max_output_tokens=20,
        features=frozenset({"image_input"}),
    )
    models = await pool_of(small, large).models()
    assert [model.id for model in models] == ["newest", "a", "new", "old"]
    shared = models[1]
    assert (shared.max_input_tokens, shared.max_output_tokens) == (100, 20)
    assert shared.features == {"image_input"}


async def test_profiles_and_signals_are_merged() -> None:
    """Slots are added, the weakest cache is declared, numbers that nobody tells stay untold."""
    one, two = Clerk("one", "a"), Clerk("two", "b", slots=8)
    pool = pool_of(one, two)
    assert pool.profile == EngineProfile(name="one+two", slots=12, cache=CacheProfile.PER_SLOT, yields_to_live=False)
    assert await pool.signals() is None
    one.told = Signals(running=2, kv_used=0.5)
    two.told = Signals(running=1, kv_used=0.75, waiting=4)
    assert await pool.signals() == Signals(running=3, kv_used=0.75, waiting=4)


async def test_one_that_cannot_start_does_not_stop_the_others() -> None:
    """All that fail stop the start; closing closes every one."""
    one, two = Clerk("one", "a"), Clerk("two", "b")
    one.fault = OSError("no")
    pool = pool_of(one, two)
    await pool.start()
    two.fault = OSError("neither")
    with pytest.raises(OSError, match="no"):
        await pool.start()
    await pool.close()
    assert one.closed
    assert two.closed


async def test_the_endpoint_that_is_wished_for_is_taken_while_it_has_room() -> None:
    """Though another has less in flight; when it is full the item goes elsewhere, without its slot."""
    one, two = Clerk("one", "a", slots=3), Clerk("two", "a", slots=3)
    pool = pool_of(one, two)
    two.gate.clear()
    tasks = [asyncio.create_task(pool.generate(ask(), context=Context(at="two", slot=1))) for _ in range(3)]
    await until(lambda: len(one.asked) == 1)
    assert len(two.asked) == 2
    two.gate.set()
    assert [said(await task) for task in tasks] == ["two", "two", "one"]
    assert [context.slot for context in two.contexts + one.contexts] == [1, 1, None]


async def test_a_pool_tells_its_rooms_apart() -> None:
    """By name, what they serve as far as it is known, and what they refused since the last look."""
    one, two = Clerk("one", "a"), Clerk("two", "b")
    pool = pool_of(one, two)
    first, second = pool.rooms()
    assert (first.name, second.name) == ("one", "two")
    assert first.takes("b")
    await pool.generate(ask("b"))
    assert (first.takes("b"), second.takes("b")) == (False, True)
    two.fault = EngineError(Failure.OVERLOADED, "not now")
    with pytest.raises(EngineError):
        await pool.generate(ask("b"), live=True)
    assert (first.take_rejected(), second.take_rejected(), second.take_rejected()) == (0, 1, 0)
