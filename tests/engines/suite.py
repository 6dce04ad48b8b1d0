"""What every engine must do. A test module subclasses `EngineSuite` and says how its engine is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from standby.engines.base import Engine
from standby.errors import EngineError, Failure, InvalidParams
from standby.records import Rules
from standby.wire.messages import (
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    CountParams,
    Event,
    Message,
    MessageDelta,
    MessageParams,
    MessageStart,
    MessageStop,
    TextBlock,
    accumulate,
    decode_count_params,
    decode_params,
)

PROMPT = "Write one short sentence about the sea."
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "size": {"type": "integer"}},
    "required": ["city", "size"],
    "additionalProperties": False,
}


class EngineSuite:
    """Subclass as `TestX(EngineSuite)` with the fixture `engine` (started; closed afterwards) and `model`."""

    model = "simulated"
    """A model name that the engine serves."""

    @pytest.fixture
    def engine(self) -> Engine:
        """Make, start and close the engine under test."""
        raise NotImplementedError

    def ask(self, text: str = PROMPT, **more: Any) -> MessageParams:
        """Make params; greedy, so that engines repeat themselves."""
        body = {"model": self.model, "max_tokens": 16, "messages": [{"role": "user", "content": text}], **more}
        body.setdefault("temperature", 0)
        return decode_params(msgspec.json.encode(body), rules=Rules(), batch=False)

    def count(self, text: str = PROMPT, **more: Any) -> CountParams:
        """Make the params of a token count."""
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], **more}
        return decode_count_params(msgspec.json.encode(body), rules=Rules())

    async def test_it_is_ready_once_started(self, engine: Engine) -> None:
        """A started engine says that it is ready, within a bound."""
        await until(engine.ready)

    async def test_an_answer_is_a_complete_message(self, engine: Engine) -> None:
        """An answer has text, a reason for its end, and the resolved model's name."""
        message = await engine.generate(self.ask())
        assert message.id.startswith("msg_")
        assert message.model == await engine.resolve(self.model)
        assert message.stop_reason in {"end_turn", "max_tokens"}
        assert message.stop_sequence is None
        assert text_of(message)

    async def test_input_tokens_add_up_to_the_count(self, engine: Engine) -> None:
        """Input, cache writes and cache reads together are what count_tokens says."""
        usage = (await engine.generate(self.ask())).usage
        total = usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens
        assert total == await engine.count_tokens(self.count())

    async def test_a_longer_prompt_counts_more(self, engine: Engine) -> None:
        """System text and messages both add to the count."""
        short = await engine.count_tokens(self.count())
        longer = await engine.count_tokens(self.count(PROMPT * 5))
        with_system = await engine.count_tokens(self.count(system="You are a sailor who says little."))
        assert 0 < short < longer
        assert short < with_system

    async def test_max_tokens_is_kept(self, engine: Engine) -> None:
        """No answer has more tokens than it may, and a cut one says so."""
        message = await engine.generate(self.ask(max_tokens=3))
        assert message.usage.output_tokens <= 3
        assert message.stop_reason in {"max_tokens", "end_turn"}
        assert message.stop_reason == "max_tokens" or message.usage.output_tokens < 3

    async def test_a_stop_sequence_ends_the_answer_before_it(self, engine: Engine) -> None:
        """The text ends before the sequence, and the message names the one that hit."""
        whole = text_of(await engine.generate(self.ask()))
        stop = whole[len(whole) // 2 :][:3]
        message = await engine.generate(self.ask(stop_sequences=["\u241e never \u241e", stop]))
        assert message.stop_reason == "stop_sequence"
        assert message.stop_sequence == stop
        assert text_of(message) == whole[: whole.index(stop)]

    async def test_a_stream_is_well_formed(self, engine: Engine) -> None:
        """Events come in the order of the contract and every block is opened and closed."""
        events = [event async for event in engine.stream(self.ask())]
        check_order(events)
        start = events[0]
        assert isinstance(start, MessageStart)
        assert start.message.content == []
        assert start.message.stop_reason is None

    async def test_a_stream_says_the_same_as_an_answer(self, engine: Engine) -> None:
        """The events add up to the message that `generate` gives."""
        message = await engine.generate(self.ask())
        streamed = accumulate([event async for event in engine.stream(self.ask())])
        assert streamed.content == message.content
        assert streamed.stop_reason == message.stop_reason
        assert streamed.usage.output_tokens == message.usage.output_tokens
        assert streamed.model == message.model

    async def test_a_stream_stops_at_a_stop_sequence(self, engine: Engine) -> None:
        """No piece of the stop sequence is sent."""
        whole = text_of(await engine.generate(self.ask()))
        stop = whole[len(whole) // 2 :][:3]
        streamed = accumulate([event async for event in engine.stream(self.ask(stop_sequences=[stop]))])
        assert streamed.stop_sequence == stop
        assert text_of(streamed) == whole[: whole.index(stop)]

    async def test_json_is_answered_where_a_schema_is_asked_for(self, engine: Engine) -> None:
        """With `output_config.format` the text is JSON that fits the schema."""
        form = {"format": {"type": "json_schema", "schema": SCHEMA}}
        message = await engine.generate(self.ask("Name a city.", output_config=form, max_tokens=64))
        answer = msgspec.json.decode(text_of(message))
        assert set(answer) == {"city", "size"}
        assert isinstance(answer["city"], str)
        assert isinstance(answer["size"], int)

    async def test_several_turns_and_blocks_are_answered(self, engine: Engine) -> None:
        """Earlier turns, blocks and system blocks are part of the prompt."""
        turns = [
            {"role": "user", "content": [{"type": "text", "text": "My name is Ada."}]},
            {"role": "assistant", "content": "Hello Ada."},
            {"role": "user", "content": [{"type": "text", "text": "Who"}, {"type": "text", "text": "am I?"}]},
        ]
        message = await engine.generate(self.ask(messages=turns, system=[{"type": "text", "text": "Be brief."}]))
        assert message.usage.input_tokens > await engine.count_tokens(self.count("am I?"))

    async def test_an_unknown_model_is_refused(self, engine: Engine) -> None:
        """A name that nobody serves is the request's own fault, 404."""
        with pytest.raises(InvalidParams) as caught:
            await engine.resolve("nobody-serves-this")
        assert (caught.value.status, caught.value.message) == (404, "model: nobody-serves-this")

    async def test_its_models_are_listed_newest_first(self, engine: Engine) -> None:
        """What a name resolves to is in the list."""
        models = await engine.models()
        assert await engine.resolve(self.model) in {model.id for model in models}
        assert all(before.created_us >= after.created_us for before, after in pairwise(models))
        assert all(model.max_output_tokens > 0 and model.max_input_tokens > 0 for model in models)

    async def test_more_requests_than_slots_are_all_answered(self, engine: Engine) -> None:
        """Whoever finds no slot waits and is answered in the end."""
        size = min(engine.profile.slots * 2 + 1, 40)
        answers = await asyncio.gather(*(engine.generate(self.ask(f"{n} {PROMPT}", max_tokens=2)) for n in range(size)))
        assert all(answer.usage.output_tokens <= 2 for answer in answers)
        assert is_idle(engine)

    @pytest.mark.parametrize("live", [True, False])
    async def test_work_shows_in_the_load(self, engine: Engine, *, live: bool) -> None:
        """A request counts as live or batch from its first event until it ends or its stream is closed."""
        events = engine.stream(self.ask(), live=live)
        await anext(events)
        load = engine.load()
        assert (load.live, load.batch) == ((1, 0) if live else (0, 1))
        await close(events)
        await until(lambda: is_idle(engine))

    async def test_a_cancelled_request_leaves_nothing_behind(self, engine: Engine) -> None:
        """Cancelling a generate frees its slot and the engine answers the next one."""
        task = asyncio.create_task(engine.generate(self.ask(max_tokens=64)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: is_idle(engine))
        assert text_of(await engine.generate(self.ask()))

    async def test_a_deadline_that_is_over_fails_the_attempt(self, engine: Engine) -> None:
        """A request whose time is over is not answered late."""
        with pytest.raises(EngineError) as caught:
            await engine.generate(self.ask(), deadline_us=1)
        assert caught.value.failure is Failure.TIMEOUT
        assert is_idle(engine)

    async def test_after_its_close_it_answers_nothing(self, engine: Engine) -> None:
        """A closed engine is not ready and fails at once, retriably."""
        await engine.close()
        assert not engine.ready()
        with pytest.raises(EngineError) as caught:
            await engine.generate(self.ask())
        assert caught.value.failure.retriable


def text_of(message: Message) -> str:
    """Join the text of a message."""
    return "".join(block.text for block in message.content if isinstance(block, TextBlock))


def is_idle(engine: Engine) -> bool:
    """Say whether nothing runs or waits."""
    load = engine.load()
    return (load.live, load.batch, load.waiting) == (0, 0, 0)


async def until(condition: Callable[[], bool], *, bound_s: float = 60) -> None:
    """Poll until the condition holds."""
    async with asyncio.timeout(bound_s):
        while not condition():  # noqa: ASYNC110 - engines have no event to wait for, only a load to look at
            await asyncio.sleep(0.005)


async def close(events: AsyncIterator[Event]) -> None:
    """Close a stream as a client does that hangs up."""
    await events.aclose()  # type: ignore[attr-defined]


def check_order(events: list[Event]) -> None:
    """Check the grammar of contract 3.5."""
    kinds = [type(event) for event in events]
    assert kinds[0] is MessageStart
    assert kinds[-2:] == [MessageDelta, MessageStop]
    inner = kinds[1:-2]
    is_open = False
    for event in events[1:-2]:
        if isinstance(event, ContentBlockStart):
            assert not is_open
            is_open = True
        elif isinstance(event, ContentBlockStop):
            assert is_open
            is_open = False
        else:
            assert is_open
            assert isinstance(event, ContentBlockDelta)
    assert not is_open
    starts = [event.index for event in events if isinstance(event, ContentBlockStart)]
    assert starts == list(range(len(starts)))
    assert set(inner) <= {ContentBlockStart, ContentBlockDelta, ContentBlockStop}
