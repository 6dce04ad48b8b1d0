from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version as version_of
from itertools import pairwise
from typing import Any, ClassVar

import pytest

from standby.config import SimulatorSettings
from standby.engines.base import Engine
from standby.engines.simulated import ALIASES, Simulated
from standby.engines.simulated.answers import stopped
from standby.engines.simulated.slots import Slots
from standby.errors import EngineError, Failure, InvalidParams
from standby.records import SECOND, Load
from standby.wire.messages import ContentBlockDelta, MessageParams, MessageStart, ToolUseBlock, accumulate
from tests.engines.features import Feature, Lack
from tests.engines.simulating import Held, ask, count, finish, started
from tests.engines.suite import EngineSuite, is_idle, text_of, until

WEATHER = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}


LACKS = {
    Feature.FIELDS: Lack(why="it takes all that the API takes"),
}


class TestSimulated(EngineSuite):
    """At once."""

    cacheable = 800
    lacks: ClassVar[Mapping[Feature, Lack]] = {
        **LACKS,
        Feature.PRIORITY: Lack(why="it takes no time, so that nobody waits", is_by_chance=True),
    }

    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        """Take no time."""
        engine = Simulated(SimulatorSettings())
        await engine.start()
        yield engine
        await engine.close()


class TestSlowSimulated(EngineSuite):
    """In the time of its tokens, with few slots."""

    key = "simulated"
    title = "simulator"
    cacheable = 800
    lacks: ClassVar[Mapping[Feature, Lack]] = LACKS

    @staticmethod
    def version() -> str:
        """It comes with Standby."""
        return f"standby {version_of('standby')}"

    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        """Take a little time."""
        engine = Simulated(SimulatorSettings(prefill_tokens_s=2_000_000, decode_tokens_s=1_000, slots=2))
        await engine.start()
        yield engine
        await engine.close()


@pytest.fixture
async def engine() -> Simulated:
    """Take no time."""
    return await started(Simulated(SimulatorSettings()))


async def test_the_same_request_gets_the_same_answer(engine: Simulated) -> None:
    """Answers depend on the prompt, the model and the seed, and on nothing else."""
    other = await started(Simulated(SimulatorSettings(seed=7)))
    first, again = await engine.generate(ask()), await engine.generate(ask(temperature=0.5))
    assert first.content == again.content
    assert first.id != again.id
    assert text_of(first) != text_of(await engine.generate(ask("Hello!")))
    assert text_of(first) != text_of(await engine.generate(ask(model="claude-haiku-5-5")))
    assert text_of(first) != text_of(await other.generate(ask()))


async def test_a_shorter_answer_is_the_beginning_of_the_longer_one(engine: Simulated) -> None:
    """`max_tokens` cuts the answer and changes nothing before the cut."""
    whole = await engine.generate(ask())
    cut = await engine.generate(ask(max_tokens=5))
    assert (whole.stop_reason, whole.usage.output_tokens) == ("end_turn", 24)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 5)
    assert text_of(whole).startswith(text_of(cut) + " ")


async def test_cache_breakpoints_do_not_change_the_answer(engine: Simulated) -> None:
    """Caching never changes the reply text (contract 9.1, rule 14)."""
    plain = [{"role": "user", "content": [{"type": "text", "text": "Hi", "citations": []}]}]
    marker = {"type": "ephemeral", "ttl": "1h"}
    marked = [{"role": "user", "content": [{"type": "text", "text": "Hi", "citations": [], "cache_control": marker}]}]
    one, other = await engine.generate(ask(messages=plain)), await engine.generate(ask(messages=marked))
    assert one.content == other.content
    assert one.usage == other.usage


async def test_warming_answers_nothing(engine: Simulated) -> None:
    """`max_tokens: 0` gives empty content and `max_tokens` as the reason (contract 9.1, rule 13)."""
    message = await engine.generate(ask(max_tokens=0))
    assert (message.content, message.stop_reason, message.usage.output_tokens) == ([], "max_tokens", 0)


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
async def test_a_forced_tool_is_called(engine: Simulated, choice: dict[str, Any]) -> None:
    """The answer is one call whose input fits the tool's schema, streamed or not."""
    params = ask(tools=[WEATHER], tool_choice=choice)
    message = await engine.generate(params)
    (block,) = message.content
    assert isinstance(block, ToolUseBlock)
    assert (block.name, message.stop_reason) == ("weather", "tool_use")
    assert isinstance(block.input["place"], str)
    streamed = accumulate([event async for event in engine.stream(params)])
    assert isinstance(streamed.content[0], ToolUseBlock)
    assert streamed.content[0].input == block.input


async def test_every_name_of_claude_is_served(engine: Simulated) -> None:
    """Aliases get their full name; listed names and names of tomorrow keep theirs; retired models are not there."""
    assert await engine.resolve("claude-sonnet-5") == "claude-sonnet-5"
    assert await engine.resolve("claude-of-tomorrow") == "claude-of-tomorrow"
    with pytest.raises(InvalidParams, match="model: claude-3-5-haiku-latest") as caught:
        await engine.resolve("claude-3-5-haiku-latest")
    assert (caught.value.status, caught.value.type) == (404, "not_found_error")
    listed = {model.id for model in await engine.models()}
    assert {await engine.resolve(name) for name in ("claude-opus-4-5", "simulated")} <= listed
    assert {await engine.resolve(alias) for alias in ALIASES} == set(ALIASES.values())
    with pytest.raises(InvalidParams, match="model: llama"):
        await engine.generate(ask(model="llama"))


async def test_images_count_the_same_whatever_their_size(engine: Simulated) -> None:
    """The bytes of an image are no text."""

    def picture(size: int) -> MessageParams:
        source = {"type": "base64", "media_type": "image/png", "data": "A" * size}
        return ask(messages=[{"role": "user", "content": [{"type": "image", "source": source}]}])

    small, large = [(await engine.generate(picture(size))).usage.input_tokens for size in (400, 400_000)]
    assert small == large > 1_500


async def test_faults_are_asked_for_with_the_number_of_the_attempt(engine: Simulated) -> None:
    """A test scripts failures per attempt at a prompt; the simulator raises what it gets."""
    asked: list[int] = []

    def fault(params: MessageParams, attempt: int) -> EngineError | None:
        asked.append(attempt)
        return EngineError(Failure.OVERLOADED, "busy", retry_after_s=2) if attempt < 3 else None

    engine.fault = fault
    for _ in range(2):
        with pytest.raises(EngineError, match="busy"):
            await engine.generate(ask())
    assert text_of(await engine.generate(ask()))
    with pytest.raises(EngineError, match="busy"):
        await anext(engine.stream(ask("another prompt")))
    assert asked == [1, 2, 3, 1]
    assert is_idle(engine)


async def test_it_takes_the_time_of_its_tokens() -> None:
    """A request lasts prompt tokens by prefill speed plus answer tokens by decode speed."""
    clock = Held()
    engine = await started(Simulated(SimulatorSettings(prefill_tokens_s=100, decode_tokens_s=10), clock=clock))
    task = asyncio.create_task(engine.generate(ask()))
    await finish(clock, task, step_s=0.01)
    usage = task.result().usage
    assert clock.passed_s == pytest.approx(usage.input_tokens / 100 + usage.output_tokens / 10, abs=0.011)


async def test_a_stream_comes_at_the_pace_of_its_tokens() -> None:
    """The prompt's time before the first event, a token's time before each piece."""
    clock = Held()
    engine = await started(Simulated(SimulatorSettings(prefill_tokens_s=100, decode_tokens_s=10), clock=clock))
    seen: list[float] = []

    async def read() -> None:
        timed = (MessageStart, ContentBlockDelta)
        seen.extend([clock.passed_s async for event in engine.stream(ask()) if isinstance(event, timed)])

    await finish(clock, asyncio.create_task(read()), step_s=0.01)
    gaps = [after - before for before, after in pairwise(seen)]
    prompt = (await engine.count_tokens(count())) / 100
    assert seen[0] == pytest.approx(prompt + 0.1, abs=0.011)
    assert gaps[0] == 0
    assert gaps[1:] == [pytest.approx(0.1, abs=0.011)] * 23


async def test_live_requests_pass_batch_requests_when_slots_are_full() -> None:
    """The next free slot goes to a live request, even if a batch request has waited longer."""
    clock = Held()
    engine = await started(Simulated(SimulatorSettings(slots=1, decode_tokens_s=10), clock=clock))
    order: list[str] = []

    async def work(name: str, *, live: bool) -> None:
        await engine.generate(ask(name), live=live, deadline_us=clock() + 3600 * SECOND)
        order.append(name)

    first = asyncio.create_task(work("running", live=False))
    await until(lambda: engine.load().batch == 1)
    late = [asyncio.create_task(work("batch", live=False)), asyncio.create_task(work("live", live=True))]
    await until(lambda: engine.load().waiting == 2)
    await finish(clock, first, *late)
    assert order == ["running", "live", "batch"]
    assert is_idle(engine)


async def test_waiting_ends_with_the_deadline() -> None:
    """A request that never gets a slot fails when its time is over, and is no longer waiting."""
    clock = Held()
    engine = await started(Simulated(SimulatorSettings(slots=1, decode_tokens_s=1), clock=clock))
    holder = asyncio.create_task(engine.generate(ask()))
    await until(lambda: engine.load().batch == 1)
    waiter = asyncio.create_task(engine.generate(ask(), deadline_us=clock() + 1000))
    await until(lambda: engine.load().waiting == 1)
    clock.advance(1000)
    with pytest.raises(EngineError) as caught:
        await waiter
    assert caught.value.failure is Failure.TIMEOUT
    assert engine.load().waiting == 0
    await finish(clock, holder)


async def test_an_answer_that_would_be_late_is_not_given() -> None:
    """The attempt ends at the deadline, not when the answer would be ready."""
    clock = Held()
    engine = await started(Simulated(SimulatorSettings(decode_tokens_s=0.001), clock=clock))
    task = asyncio.create_task(engine.generate(ask(), deadline_us=clock() + 1000))
    await until(lambda: engine.load().batch == 1)
    clock.advance(1000)
    with pytest.raises(EngineError) as caught:
        await task
    assert caught.value.failure is Failure.TIMEOUT
    assert is_idle(engine)


async def test_a_cancelled_wait_takes_no_slot() -> None:
    """Who is cancelled while waiting leaves the queue, and the next one gets the slot."""
    slots = Slots(1)
    await slots.take(live=False)
    leaver, stayer = (asyncio.create_task(slots.take(live=False)) for _ in range(2))
    await until(lambda: slots.load().waiting == 2)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    slots.give(live=False)
    await stayer
    assert slots.load() == Load(batch=1, slots=1)


async def test_a_wait_cancelled_at_the_handover_gives_the_slot_back() -> None:
    """A slot that was just handed to a cancelled request goes on to the next one."""
    slots = Slots(1)
    await slots.take(live=True)
    leaver, stayer = (asyncio.create_task(slots.take(live=False)) for _ in range(2))
    await until(lambda: slots.load().waiting == 2)
    slots.give(live=True)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    await stayer
    assert slots.load() == Load(batch=1, slots=1)


async def test_a_slot_is_not_handed_to_one_that_has_just_left() -> None:
    """A wait that was cancelled in this very turn of the loop is passed over."""
    slots = Slots(1)
    await slots.take(live=True)
    leaver, stayer = (asyncio.create_task(slots.take(live=False)) for _ in range(2))
    await until(lambda: slots.load().waiting == 2)
    leaver.cancel()
    slots.give(live=True)
    await asyncio.gather(leaver, return_exceptions=True)
    await stayer
    assert slots.load() == Load(batch=1, slots=1)


@pytest.mark.parametrize(
    ("stops", "kept", "hit"),
    [
        (["c d"], "a b ", "c d"),
        (["e", "b c"], "a ", "b c"),
        (["b c d", "c"], "a b ", "c"),
        (["a"], "", "a"),
        (["x"], "a b c d e", None),
    ],
)
def test_the_stop_sequence_that_is_complete_first_wins(stops: list[str], kept: str, hit: str | None) -> None:
    """A longer sequence that begins earlier but ends later does not count."""
    pieces, stop = stopped(["a", " b", " c", " d", " e"], stops)
    assert ("".join(pieces), stop) == (kept, hit)
