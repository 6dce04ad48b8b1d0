from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.config import SimulatorSettings
from standby.engines.base import CacheProfile, Context
from standby.engines.simulated import Simulated
from standby.errors import EngineError, Failure, InvalidParams
from standby.records import SECOND
from standby.wire.messages import ContentBlockDelta, Message, MessageStart, Usage, accumulate
from tests.engines.asking import Told, prompt_tokens
from tests.engines.simulating import Held, ask, finish, started
from tests.engines.suite import is_idle, text_of, until

STEPPED = ["vllm", "sglang", "llamacpp"]
ENGINES = [*STEPPED, "remote"]
LONG = "lake " * 1500


@dataclass
class Bench:
    """An engine of a profile on a clock that stands still."""

    profile: str
    more: dict[str, Any] = field(default_factory=dict)
    clock: Held = field(default_factory=Held)

    def __post_init__(self) -> None:
        """Build it."""
        made = SimulatorSettings(**{"profile": self.profile, "slots": 4, "answer_tokens": 8, **self.more})
        self.engine = Simulated(made, clock=self.clock)
        self.first: dict[str, float] = {}
        self.done: dict[str, float] = {}
        self.answers: dict[str, Message] = {}
        self.prompts: dict[str, int] = {}
        self.reused: dict[str, int] = {}

    async def stream(self, name: str, text: str, *, live: bool = False, slot: int | None = None, **more: Any) -> None:
        """Ask, and note when the first and the last token came."""
        events = []
        told = Told()
        async for event in self.engine.stream(ask(text, **more), live=live, context=Context(watch=told, slot=slot)):
            events.append(event)
            if isinstance(event, MessageStart):
                self.first[name] = self.clock.passed_s
        self.done[name] = self.clock.passed_s
        self.answers[name] = accumulate(events)
        self.prompts[name], self.reused[name] = told.prompts[0]

    def usage(self, name: str) -> Usage:
        """Return what a request used."""
        return self.answers[name].usage

    def start(self, name: str, text: str, **more: Any) -> asyncio.Task[None]:
        """Ask in the background."""
        return asyncio.create_task(self.stream(name, text, **more))

    async def let_pass(self, seconds: float) -> None:
        """Let time pass, a millisecond at a time."""
        due_us = self.clock() + int(seconds * SECOND)
        await finish(self.clock, asyncio.create_task(self.clock.sleep_until(due_us)), step_s=0.001)

    async def all(self, *tasks: asyncio.Task[None]) -> None:
        """Let the time pass that these take, a millisecond at a time."""
        await finish(self.clock, *tasks, step_s=0.001)
        for task in tasks:
            task.result()


async def bench(profile: str, **more: Any) -> Bench:
    """Start one."""
    made = Bench(profile, more)
    await started(made.engine)
    return made


@pytest.mark.parametrize("profile", ENGINES)
async def test_an_answer_is_the_same_on_every_engine(profile: str) -> None:
    """Profiles differ in time and usage, never in what is said."""
    it = await bench(profile)
    await it.all(it.start("one", "Hello"), it.start("two", LONG))
    claude = await started(Simulated(SimulatorSettings(answer_tokens=8)))
    for name, text in (("one", "Hello"), ("two", LONG)):
        assert text_of(it.answers[name]) == text_of(await claude.generate(ask(text)))
    assert is_idle(it.engine)


@pytest.mark.parametrize("profile", STEPPED)
async def test_company_makes_everybody_slower(profile: str) -> None:
    """A step takes longer the more requests it works on, so tokens come further apart."""
    alone, crowd = await bench(profile, slots=32, answer_tokens=20), await bench(profile, slots=32, answer_tokens=20)
    await alone.all(alone.start("one", "1"))
    await crowd.all(*(crowd.start(str(n), str(n)) for n in range(32)))
    assert crowd.done["0"] > alone.done["one"] * 1.2


@pytest.mark.parametrize("profile", STEPPED)
async def test_a_request_alone_goes_at_the_speeds_that_were_set(profile: str) -> None:
    """Prefill and decode speeds are those of a request without company."""
    it = await bench(profile, prefill_tokens_s=1000, decode_tokens_s=10, answer_tokens=10)
    await it.all(it.start("one", LONG))
    prompt = it.usage("one").input_tokens
    assert it.first["one"] == pytest.approx(prompt / 1000, abs=0.25)
    assert it.done["one"] - it.first["one"] == pytest.approx(9 / 10, rel=0.05)


async def test_on_vllm_a_live_request_waits_while_batches_hold_every_seat() -> None:
    """Priority orders the waiting queue only: nobody who runs is put off for want of a seat, but the next is live."""
    it = await bench("vllm", answer_tokens=50)
    held = [it.start(f"batch {n}", f"b{n}") for n in range(4)]
    await until(lambda: it.engine.load().batch == 4)
    late = [it.start("late batch", "late"), it.start("live", "now", live=True)]
    await until(lambda: it.engine.load().waiting == 2)
    await it.all(*held, *late)
    assert it.first["live"] >= min(it.done[f"batch {n}"] for n in range(4))
    assert it.first["live"] <= it.first["late batch"]


async def test_on_vllm_batches_beside_a_free_seat_cost_a_live_request_little() -> None:
    """With a seat kept free a live request begins with the next step."""
    it = await bench("vllm", answer_tokens=50)
    held = [it.start(f"batch {n}", f"b{n}") for n in range(3)]
    await until(lambda: it.engine.load().batch == 3)
    await it.all(it.start("live", "now", live=True))
    assert it.first["live"] < 0.05
    await it.all(*held)


async def test_sglang_takes_the_seat_of_a_batch_for_a_live_request() -> None:
    """The youngest batch request is put off, and its answer is complete and the same in the end."""
    it = await bench("sglang", answer_tokens=50)
    held = [it.start(f"batch {n}", f"b{n}") for n in range(4)]
    await until(lambda: it.engine.load().batch == 4)
    await it.let_pass(0.1)
    live = it.start("live", "now", live=True)
    await it.all(*held, live)
    assert it.first["live"] < 0.15
    last = max(it.done, key=it.done.__getitem__)
    assert last == "batch 3"
    assert it.usage(last).output_tokens == 50
    assert "sglang:num_retracted_reqs" in it.engine.metrics_text()


async def test_sglang_does_not_put_live_requests_off() -> None:
    """Among equals the first to come stays."""
    it = await bench("sglang", slots=1)
    first = it.start("first", "1", live=True)
    await until(lambda: it.engine.load().live == 1)
    await it.all(first, it.start("second", "2", live=True), it.start("third", "3"))
    assert it.done["first"] <= it.first["second"] <= it.done["second"] <= it.first["third"]


async def test_llamacpp_serves_in_the_order_of_arrival() -> None:
    """It knows no priorities: a live request waits behind batch requests that came before."""
    it = await bench("llamacpp", slots=1)
    tasks = []
    for number, (name, live) in enumerate([("one", False), ("two", False), ("live", True)]):
        tasks.append(it.start(name, name, live=live))
        await until(partial(waits, it.engine, number))
    await it.all(*tasks)
    assert it.done["one"] <= it.first["two"] <= it.done["two"] <= it.first["live"]


@pytest.mark.parametrize("slot", [0, 1])
async def test_llamacpp_reads_prompts_slot_after_slot(slot: int) -> None:
    """What came later to an earlier slot is read before the rest of a long prompt, to a later slot behind it."""
    it = await bench("llamacpp", slots=2)
    long = it.start("long", LONG * 4, slot=1 - slot)
    await it.let_pass(0.1)
    await it.all(long, it.start("short", "1", live=True, slot=slot))
    assert (it.first["short"] < it.first["long"]) is (slot == 0)


async def test_a_remote_api_refuses_what_is_too_much_at_once() -> None:
    """Over its limit it answers 429 with a time to come again, and lets nobody wait."""
    it = await bench("remote", slots=2)
    held = [it.start(str(n), str(n)) for n in range(2)]
    await until(lambda: it.engine.load().batch == 2)
    with pytest.raises(EngineError) as caught:
        await it.engine.generate(ask())
    assert caught.value.failure is Failure.OVERLOADED
    assert caught.value.retry_after_s
    await it.all(*held)


async def test_a_remote_api_gives_everybody_the_same_time() -> None:
    """Company makes no request slower."""
    it = await bench("remote")
    await it.all(*(it.start(str(n), str(n)) for n in range(4)))
    assert len(set(it.done.values())) == 1


def waits(engine: Simulated, number: int) -> bool:
    """Say whether so many wait."""
    return engine.load().waiting == number


def shared(number: int) -> str:
    """Make a prompt whose beginning is that of the others."""
    return f"{LONG} {number}"


async def test_on_vllm_requests_that_arrive_together_share_their_prefix() -> None:
    """Blocks can be reused as soon as their request is scheduled: one computes, the others wait for nothing."""
    it = await bench("vllm")
    await it.all(*(it.start(str(n), shared(n)) for n in range(4)))
    cached = [it.reused[str(n)] for n in range(4)]
    assert cached[0] == 0
    assert min(cached[1:]) > 1400


@pytest.mark.parametrize("profile", ["sglang", "remote"])
async def test_where_a_prefix_is_shared_after_the_first_token_one_should_go_first(profile: str) -> None:
    """Together all compute the same prefix; behind a leader they read it, begin sooner, and all are done sooner."""
    together, led = await bench(profile), await bench(profile)
    await together.all(*(together.start(str(n), shared(n)) for n in range(4)))
    assert [together.reused[str(n)] for n in range(4)] == [0] * 4

    await led.all(led.start("0", shared(0)))
    began = led.clock.passed_s
    await led.all(*(led.start(str(n), shared(n)) for n in range(1, 4)))
    assert min(led.reused[str(n)] for n in range(1, 4)) > 1000
    assert max(led.first[str(n)] for n in range(1, 4)) - began < 0.7 * max(together.first.values())


async def test_llamacpp_reuses_a_prompt_only_in_the_slot_that_had_it() -> None:
    """One after the other they all find the slot; at once, each slot computes the prefix for itself."""
    it = await bench("llamacpp", slots=2)
    for name in ("1", "2", "3"):
        await it.all(it.start(name, shared(int(name))))
    assert it.reused["1"] == 0
    assert min(it.reused[name] for name in ("2", "3")) > 1400
    other = await bench("llamacpp", slots=2)
    await other.all(*(other.start(str(n), shared(n)) for n in range(4)))
    cached = [other.reused[str(n)] for n in range(4)]
    assert cached[:2] == [0, 0]
    assert min(cached[2:]) > 1400


async def test_llamacpp_forgets_a_prefix_that_another_took_the_slot_of() -> None:
    """With more prefixes than slots, taken in turn, nothing is ever reused."""
    it = await bench("llamacpp", slots=2)
    for name in ("lake", "land", "ship", "lake ", "land ", "ship "):
        await it.all(it.start(name, name.strip() * 300))
    assert all(it.reused[name] < 20 for name in it.answers)


@pytest.mark.parametrize("profile", ENGINES)
async def test_usage_shows_only_what_was_marked_of_what_was_reused(profile: str) -> None:
    """Whoever watches is told what was reused; whoever asked reads of it up to the breakpoint, or nothing."""
    it = await bench(profile)
    marked = [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}]
    for name, system in (("first", LONG), ("plain", LONG), ("marked", marked)):
        await it.all(it.start(name, name, system=system))
    plain, whole = it.usage("plain"), it.usage("marked")
    assert (plain.input_tokens, plain.cache_read_input_tokens) == (it.prompts["plain"], 0)
    assert 1400 < it.reused["plain"] < it.prompts["plain"]
    assert 1400 < whole.cache_read_input_tokens <= it.reused["marked"]
    assert prompt_tokens(whole) == it.prompts["marked"]


async def test_a_small_cache_keeps_what_was_used_last() -> None:
    """What nobody used for longest makes room, from its end on; a prefix that comes again in time stays."""
    it = await bench("vllm", kv_tokens=4000)
    texts = {"a": "lake " * 1500, "b": "land " * 1500, "c": "ship " * 1500}
    for number, name in enumerate("abacab"):
        await it.all(it.start(f"{number}{name}", texts[name]))
    cached = {name: reused > 1400 for name, reused in it.reused.items()}
    assert cached == {"0a": False, "1b": False, "2a": True, "3c": False, "4a": True, "5b": False}
    assert 0 < it.reused["5b"] < 1400


async def test_cached_tokens_come_sooner() -> None:
    """The time to the first token is that of the tokens that were not there."""
    it = await bench("vllm", prefill_tokens_s=1000)
    await it.all(it.start("cold", shared(1)))
    began = it.clock.passed_s
    await it.all(it.start("warm", shared(2)))
    assert it.first["warm"] - began < it.first["cold"] / 5


async def test_a_full_cache_puts_the_youngest_off() -> None:
    """When answers outgrow the cache, somebody loses the seat for a while, and all answers are complete."""
    it = await bench("vllm", kv_tokens=400, answer_tokens=80)
    await it.all(*(it.start(str(n), f"{n} " + "word " * 30) for n in range(4)))
    assert {answer.usage.output_tokens for answer in it.answers.values()} == {80}
    assert "vllm:num_preemptions_total" in it.engine.metrics_text()
    signals = await it.engine.signals()
    assert signals is not None
    assert (signals.running, signals.waiting, signals.kv_used) == (0, 0, 0)
    assert signals.output_tokens == 4 * 80


@pytest.mark.parametrize("profile", STEPPED)
async def test_what_never_fits_is_the_requests_own_fault(profile: str) -> None:
    """A prompt that exceeds the cache is refused at once, instead of waiting for ever."""
    it = await bench(profile, kv_tokens=1000)
    with pytest.raises(InvalidParams, match="prompt is too long"):
        await it.engine.generate(ask(LONG))
    assert is_idle(it.engine)


@pytest.mark.parametrize("profile", STEPPED)
async def test_the_time_of_a_request_ends_in_the_queue_and_in_the_seat(profile: str) -> None:
    """Both the one who waits and the one who works fail when their time is over, and leave their place."""
    it = await bench(profile, slots=1, answer_tokens=2000, kv_tokens=10_000)
    due = it.clock() + SECOND // 2
    tasks = [asyncio.create_task(it.engine.generate(ask(str(n), max_tokens=2000), deadline_us=due)) for n in range(2)]
    await until(lambda: it.engine.load().waiting == 1)
    await finish(it.clock, *tasks)
    assert it.clock.passed_s < 1
    errors = [task.exception() for task in tasks]
    assert [error.failure for error in errors if isinstance(error, EngineError)] == [Failure.TIMEOUT] * 2
    assert is_idle(it.engine)
    with pytest.raises(EngineError):
        await it.engine.generate(ask(), deadline_us=it.clock())


@pytest.mark.parametrize("profile", ENGINES)
async def test_a_client_that_leaves_frees_its_seat(profile: str) -> None:
    """Cancelled while it waits, while its prompt is read, and between two tokens."""
    it = await bench(profile, slots=2, answer_tokens=100)
    events = it.engine.stream(ask("a stream"))
    pull = asyncio.ensure_future(anext(events))
    tasks = [asyncio.create_task(it.engine.generate(ask(LONG)))]
    if profile != "remote":
        tasks.append(asyncio.create_task(it.engine.generate(ask("waits"))))
        await until(lambda: it.engine.load().waiting == 1)
    await finish(it.clock, pull, step_s=0.001)
    for task in tasks:
        task.cancel()
    await events.aclose()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert is_idle(it.engine)
    await it.all(it.start("after", "after"))
    assert it.usage("after").output_tokens == 100


@pytest.mark.parametrize("profile", STEPPED)
async def test_tokens_come_step_by_step(profile: str) -> None:
    """A stream shows the engine's steps: pieces come one at a time, at equal distances when nothing else runs."""
    it = await bench(profile)
    seen: list[float] = []

    async def read() -> None:
        stream = it.engine.stream(ask())
        seen.extend([it.clock.passed_s async for event in stream if isinstance(event, ContentBlockDelta)])

    await it.all(asyncio.create_task(read()))
    gaps = [after - before for before, after in pairwise(seen)]
    assert len(gaps) == 7
    assert max(gaps) - min(gaps) <= 0.0011
    assert min(gaps) > 0.005


async def test_a_jump_of_the_clock_is_caught_up() -> None:
    """Whoever moves the clock by an hour finds all answers that an hour is enough for."""
    it = await bench("vllm", answer_tokens=200)
    tasks = [it.start(str(n), str(n)) for n in range(12)]
    await until(lambda: it.engine.load().batch == 4)
    it.clock.advance(3600 * SECOND)
    async with asyncio.timeout(30):
        await asyncio.gather(*tasks)
    assert len(it.answers) == 12


def test_profiles_declare_what_they_are() -> None:
    """What the scheduler reads of an engine: its cache, its seats, and whether it yields by itself."""
    declared = {name: Simulated(SimulatorSettings(profile=name, slots=7)).profile for name in ENGINES}
    assert {name: profile.cache for name, profile in declared.items()} == {
        "vllm": CacheProfile.SHARED_AT_ONCE,
        "sglang": CacheProfile.SHARED_AFTER_FIRST_TOKEN,
        "llamacpp": CacheProfile.PER_SLOT,
        "remote": CacheProfile.SHARED_AFTER_FIRST_TOKEN,
    }
    assert {profile.slots for profile in declared.values()} == {7}
    assert [name for name, profile in declared.items() if profile.yields_to_live] == ["sglang"]


Arrival = tuple[int, bool, int, int]
"""Milliseconds after the one before, live, prefix, tokens of the answer."""
ARRIVALS = st.lists(
    st.tuples(st.integers(0, 60), st.booleans(), st.integers(0, 2), st.integers(1, 30)), min_size=1, max_size=10
)


async def trace(profile: str, arrivals: list[Arrival]) -> list[tuple[str, float, float, Usage, int]]:
    """Run some requests and write down what happened when."""
    it = await bench(profile, slots=2, kv_tokens=900)
    tasks = []
    for number, (wait_ms, live, prefix, tokens) in enumerate(arrivals):
        await it.let_pass(wait_ms / 1000)
        text = f"{prefix} " * (200 * (prefix > 0)) + str(number)
        tasks.append(it.start(str(number), text, live=live, max_tokens=tokens))
    await finish(it.clock, *tasks, step_s=0.001)
    assert is_idle(it.engine)
    for task, (_, _, _, tokens) in zip(tasks, arrivals, strict=True):
        error = task.exception()
        assert error is None or (profile == "remote" and isinstance(error, EngineError))
        assert error is not None or it.usage(task_name(tasks, task)).output_tokens == min(tokens, 8)
    return [(name, it.first[name], at, it.usage(name), it.reused[name]) for name, at in it.done.items()]


def task_name(tasks: list[asyncio.Task[None]], task: asyncio.Task[None]) -> str:
    """Return the name that a request was started with."""
    return str(tasks.index(task))


@pytest.mark.parametrize("profile", ENGINES)
@given(arrivals=ARRIVALS)
@settings(max_examples=15, deadline=None)
def test_the_same_arrivals_make_the_same_trace(profile: str, arrivals: list[Arrival]) -> None:
    """Times, order and reuse depend on what arrives when, and on nothing else; everybody is answered in the end."""
    assert asyncio.run(trace(profile, arrivals)) == asyncio.run(trace(profile, arrivals))
