"""What an engine writes: text, its end, its shape."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import pytest

from standby.engines.base import Engine
from standby.wire.messages import MessageStart, accumulate
from tests.engines.asking import (
    Asking,
    assistant,
    check_order,
    closed,
    collect,
    fits,
    prompt_tokens,
    text_of,
    user,
)
from tests.engines.features import Feature, shows

SCHEMAS: dict[str, dict[str, Any]] = {
    "flat": closed(city={"type": "string"}, size={"type": "integer"}),
    "nested": closed(place=closed(kind={"enum": ["city", "village"]}, coastal={"type": "boolean"}), ok={"const": True}),
    "list": closed(colours={"type": "array", "items": {"type": "string", "enum": ["red", "blue"]}, "maxItems": 3}),
    "enum beyond ASCII": closed(word={"type": "string", "enum": ["naïve 你好 🙂"]}),
}
GREETING = "Grüße aus Köln, 你好 🙂🙂 - and \u201cquotes\u201d, \\ and \t too"


class Texts(Asking):
    """Text in its ways."""

    stops: ClassVar[tuple[str, ...]] = ("\u241e never \u241e",)
    """Sequences that never hit, beside the one that does."""

    @shows(Feature.TEXT)
    async def test_an_answer_is_a_complete_message(self, engine: Engine) -> None:
        """An answer has text, a reason for its end, and the resolved model's name."""
        message = await engine.generate(self.ask())
        assert message.id.startswith("msg_")
        assert message.model == await engine.resolve(self.model)
        assert message.stop_reason in {"end_turn", "max_tokens"}
        assert message.stop_sequence is None
        assert text_of(message)

    @shows(Feature.TEXT)
    async def test_a_stream_is_well_formed(self, engine: Engine) -> None:
        """Events come in the order of the contract and every block is opened and closed."""
        events = await collect(engine.stream(self.ask()))
        check_order(events)
        start = events[0]
        assert isinstance(start, MessageStart)
        assert start.message.content == []
        assert start.message.stop_reason is None

    @shows(Feature.TEXT)
    async def test_a_stream_says_the_same_as_an_answer(self, engine: Engine) -> None:
        """The events add up to the message that `generate` gives."""
        message = await engine.generate(self.ask())
        streamed = accumulate(await collect(engine.stream(self.ask())))
        assert streamed.content == message.content
        assert streamed.stop_reason == message.stop_reason
        assert streamed.usage.output_tokens == message.usage.output_tokens
        assert streamed.model == message.model

    @shows(Feature.MAX_TOKENS)
    @pytest.mark.parametrize("most", [1, 3])
    async def test_max_tokens_is_kept(self, engine: Engine, most: int) -> None:
        """No answer has more tokens than it may, and a cut one says so."""
        message = await engine.generate(self.ask(max_tokens=most))
        assert message.usage.output_tokens <= most
        assert message.stop_reason in {"max_tokens", "end_turn"}
        assert message.stop_reason == "max_tokens" or message.usage.output_tokens < most

    @shows(Feature.STOP)
    async def test_a_stop_sequence_ends_the_answer_before_it(self, engine: Engine) -> None:
        """The text ends before the sequence, and the message names the one that hit."""
        whole = text_of(await self.settled(engine))
        stop = whole[len(whole) // 2 :][:3]
        message = await engine.generate(self.ask(stop_sequences=[*self.stops, stop]))
        assert message.stop_reason == "stop_sequence"
        assert message.stop_sequence == stop
        assert text_of(message) == whole[: whole.index(stop)]

    @shows(Feature.STOP)
    async def test_a_stream_stops_at_a_stop_sequence(self, engine: Engine) -> None:
        """No piece of the stop sequence is sent, however many tokens it is made of."""
        whole = text_of(await self.settled(engine))
        stop = whole[len(whole) // 2 - 5 :][:12]
        streamed = accumulate(await collect(engine.stream(self.ask(stop_sequences=[stop]))))
        assert streamed.stop_sequence == stop
        assert text_of(streamed) == whole[: whole.index(stop)]

    @shows(Feature.STOP)
    async def test_of_several_stop_sequences_the_first_in_the_text_ends_it(self, engine: Engine) -> None:
        """Their order in the request does not matter."""
        whole = text_of(await self.settled(engine))
        early, late = whole[len(whole) // 3 :][:4], whole[len(whole) * 2 // 3 :][:4]
        message = await engine.generate(self.ask(stop_sequences=[late, early]))
        hit = min((early, late), key=whole.index)
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", hit)
        assert text_of(message) == whole[: whole.index(hit)]

    @shows(Feature.SAMPLING)
    async def test_a_narrow_top_p_takes_the_likeliest_token(self, engine: Engine) -> None:
        """Sampling parameters reach the engine: with `top_p` near 0, temperature 1 is as good as greedy."""
        greedy = await self.settled(engine, max_tokens=8)
        narrow = await engine.generate(self.ask(max_tokens=8, temperature=1, top_p=0.001))
        assert text_of(narrow) == text_of(greedy)

    @shows(Feature.TOP_K)
    async def test_a_top_k_of_1_takes_the_likeliest_token(self, engine: Engine) -> None:
        """The same by `top_k`."""
        greedy = await self.settled(engine, max_tokens=8)
        narrow = await engine.generate(self.ask(max_tokens=8, temperature=1, top_k=1))
        assert text_of(narrow) == text_of(greedy)

    @shows(Feature.SCHEMA)
    @pytest.mark.parametrize("name", list(SCHEMAS))
    async def test_json_is_answered_where_a_schema_is_asked_for(self, engine: Engine, name: str) -> None:
        """With `output_config.format` the text is JSON that fits the schema."""
        form = {"format": {"type": "json_schema", "schema": SCHEMAS[name]}}
        message = await engine.generate(self.ask("Name a city.", output_config=form, max_tokens=96))
        assert message.stop_reason == "end_turn"
        assert fits(msgspec.json.decode(text_of(message)), SCHEMAS[name])

    @shows(Feature.SCHEMA)
    async def test_a_streamed_answer_fits_its_schema(self, engine: Engine) -> None:
        """Streamed, the text is the same JSON."""
        form = {"format": {"type": "json_schema", "schema": SCHEMAS["nested"]}}
        streamed = accumulate(await collect(engine.stream(self.ask("A town?", output_config=form, max_tokens=96))))
        assert fits(msgspec.json.decode(text_of(streamed)), SCHEMAS["nested"])

    @shows(Feature.UNICODE)
    async def test_text_beyond_ascii_comes_back_whole(self, engine: Engine) -> None:
        """Characters that are several tokens, or several units of UTF-16, are not broken by a stream."""
        schema = closed(word={"type": "string", "enum": [GREETING]})
        form = {"format": {"type": "json_schema", "schema": schema}}
        streamed = accumulate(
            await collect(engine.stream(self.ask(GREETING, output_config=form, max_tokens=128, system=GREETING)))
        )
        assert msgspec.json.decode(text_of(streamed)) == {"word": GREETING}

    @shows(Feature.UNICODE)
    async def test_text_beyond_ascii_is_counted_as_it_is_charged(self, engine: Engine) -> None:
        """Nothing is lost on the way in."""
        usage = (await engine.generate(self.ask(GREETING))).usage
        assert prompt_tokens(usage) == await engine.count_tokens(self.count(GREETING))

    @shows(Feature.PREFILL)
    async def test_it_goes_on_with_an_assistant_turn(self, engine: Engine) -> None:
        """A last assistant turn is the beginning of the answer and not repeated in it."""
        turns = [user("Count to ten."), assistant("One, two,")]
        message = await engine.generate(self.ask(messages=turns))
        assert text_of(message)
        assert not text_of(message).startswith("One, two,")
        assert prompt_tokens(message.usage) > 0
