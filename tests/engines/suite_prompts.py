"""What an engine reads: turns, system, media, long prompts, and what it counts and caches of them."""

from __future__ import annotations

import base64
import secrets
import struct
import zlib
from typing import Any, ClassVar

import pytest

from standby.engines.base import Context, Engine
from standby.wire.messages import ThinkingBlock
from tests.engines.asking import PROMPT, Asking, Told, assistant, lines, prompt_tokens, text_of, user
from tests.engines.features import Feature, refused, shows

MARKER = {"type": "ephemeral"}
UNUSUAL: dict[str, Any] = {
    "container": "container_1",
    "speed": "fast",
    "inference_geo": "us",
}
"""Fields that only the Claude API itself can honour."""


class Prompts(Asking):
    """Prompts in their ways."""

    unusual: ClassVar[tuple[str, ...]] = tuple(UNUSUAL)
    """Of these, those that the engine does not take."""

    @shows(Feature.TURNS)
    async def test_several_turns_and_blocks_are_answered(self, engine: Engine) -> None:
        """Earlier turns, blocks and system blocks are part of the prompt."""
        blocks = [{"type": "text", "text": "Who"}, {"type": "text", "text": "am I?"}]
        turns = [user([{"type": "text", "text": "My name is Ada."}]), assistant("Hello Ada."), user(blocks)]
        message = await engine.generate(self.ask(messages=turns, system=[{"type": "text", "text": "Be brief."}]))
        assert prompt_tokens(message.usage) > await engine.count_tokens(self.count("am I?"))

    @shows(Feature.TURNS)
    async def test_consecutive_turns_of_one_role_are_all_read(self, engine: Engine) -> None:
        """Each adds to the prompt, whatever the model's template thinks of it."""
        turns = [user("First."), user(lines(8)), assistant("Yes."), assistant(lines(8)), user("And now?")]
        message = await engine.generate(self.ask(messages=turns))
        assert text_of(message)
        tokens = prompt_tokens(message.usage)
        assert tokens == await engine.count_tokens(self.count(messages=turns))
        for gone in (1, 3):
            fewer = [turn for number, turn in enumerate(turns) if number != gone]
            assert await engine.count_tokens(self.count(messages=fewer)) < tokens - 30

    @shows(Feature.SYSTEM)
    async def test_system_text_is_read(self, engine: Engine) -> None:
        """As a string and as blocks it adds to the prompt."""
        bare = await engine.count_tokens(self.count())
        as_text = await engine.count_tokens(self.count(system=lines(12)))
        blocks = [{"type": "text", "text": lines(12)}, {"type": "text", "text": lines(12)}]
        as_blocks = await engine.count_tokens(self.count(system=blocks))
        assert bare + 50 < as_text < as_blocks - 50
        message = await engine.generate(self.ask(system=blocks))
        assert text_of(message)
        assert prompt_tokens(message.usage) == as_blocks

    @shows(Feature.COUNT)
    async def test_input_tokens_add_up_to_the_count(self, engine: Engine) -> None:
        """Input, cache writes and cache reads together are what count_tokens says."""
        usage = (await engine.generate(self.ask())).usage
        assert prompt_tokens(usage) == await engine.count_tokens(self.count())

    @shows(Feature.COUNT)
    async def test_a_longer_prompt_counts_more(self, engine: Engine) -> None:
        """Every word of a message adds to the count."""
        assert 0 < await engine.count_tokens(self.count()) < await engine.count_tokens(self.count(PROMPT * 5))

    @shows(Feature.DOCUMENTS)
    async def test_a_text_document_is_read(self, engine: Engine) -> None:
        """Its text, its title and its context are part of the prompt."""
        source = {"type": "text", "media_type": "text/plain", "data": lines(12)}
        document = {"type": "document", "source": source, "title": "Harbour", "context": "A log."}
        content = [document, {"type": "text", "text": "Sum it up."}]
        message = await engine.generate(self.ask(messages=[user(content)]))
        assert text_of(message)
        assert prompt_tokens(message.usage) > 50 + await engine.count_tokens(self.count("Sum it up."))

    @shows(Feature.IMAGES)
    async def test_an_image_is_read(self, engine: Engine) -> None:
        """It adds to the prompt of a model that sees."""
        source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png(28)).decode()}
        content = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
        message = await engine.generate(self.ask(messages=[user(content)]))
        assert prompt_tokens(message.usage) > await engine.count_tokens(self.count("What is it?"))

    @shows(Feature.THINKING)
    async def test_thinking_is_answered_as_blocks(self, engine: Engine) -> None:
        """A model that thinks says so before its text."""
        thinking = {"type": "enabled", "budget_tokens": 1024}
        message = await engine.generate(self.ask(thinking=thinking, temperature=None, max_tokens=1200))
        assert isinstance(message.content[0], ThinkingBlock)

    @shows(Feature.FIELDS)
    @pytest.mark.parametrize("name", list(UNUSUAL))
    async def test_what_cannot_be_expressed_is_refused(self, engine: Engine, name: str) -> None:
        """Nothing is dropped silently: the refusal begins with the field."""
        with refused(name):
            await engine.generate(self.ask(**{name: UNUSUAL[name]}))

    @shows(Feature.FIELDS)
    async def test_a_refused_block_is_named_by_its_place(self, engine: Engine) -> None:
        """A PDF in the second block of the third turn is found there."""
        pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQK"}
        content = [{"type": "text", "text": "Look."}, {"type": "document", "source": pdf}]
        with refused("messages.2.content.1"):
            await engine.generate(self.ask(messages=[user("Hi."), assistant("Hello."), user(content)]))

    @shows(Feature.CONTEXT)
    async def test_a_prompt_at_the_edge_is_answered(self, engine: Engine) -> None:
        """It uses up what is left of the context, and says that the context ended it."""
        most = await self.context(engine)
        text = await self.fill(engine, most - 8)
        tokens = await engine.count_tokens(self.count(text))
        assert most - 24 <= tokens < most
        message = await engine.generate(self.ask(text, max_tokens=64))
        assert prompt_tokens(message.usage) == tokens
        assert message.usage.output_tokens <= most - tokens + 1
        assert message.stop_reason in {"model_context_window_exceeded", "end_turn"}

    @shows(Feature.CONTEXT)
    async def test_a_prompt_that_is_too_long_is_refused(self, engine: Engine) -> None:
        """In the API's words, so that clients know it; and the next one is answered."""
        most = await self.context(engine)
        text = await self.fill(engine, most + 40)
        with refused("prompt is too long"):
            await engine.generate(self.ask(text))
        assert text_of(await engine.generate(self.ask()))

    @shows(Feature.CACHE_READS)
    async def test_a_marked_prefix_is_read_from_the_cache_the_second_time(self, engine: Engine) -> None:
        """The second time some of it is `cache_read_input_tokens`, as a watch is told; the sum is the same."""
        text = lines(self.cacheable, first=f"Number {secrets.token_hex(4)}. ")
        system = [{"type": "text", "text": text, "cache_control": MARKER}]
        asked, told = self.ask(system=system, max_tokens=2), Told()
        first, second = [(await engine.generate(asked, context=Context(watch=told))).usage for _ in range(2)]
        assert first.cache_read_input_tokens < prompt_tokens(first) // 2
        assert second.cache_read_input_tokens > prompt_tokens(second) // 2
        assert prompt_tokens(first) == prompt_tokens(second)
        prompt, reused = told.prompts[-1]
        assert (prompt, reused >= second.cache_read_input_tokens) == (prompt_tokens(second), True)

    @shows(Feature.COUNT)
    async def test_without_a_marker_all_tokens_are_input(self, engine: Engine) -> None:
        """What an engine caches by itself is no cache read of the API."""
        for _ in range(2):
            usage = (await engine.generate(self.ask(system=lines(12)))).usage
            assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (0, 0)

    async def context(self, engine: Engine) -> int:
        """Ask how many tokens fit."""
        served = await engine.resolve(self.model)
        most = next(model.max_input_tokens for model in await engine.models() if model.id == served)
        assert most > 0
        return most

    async def fill(self, engine: Engine, tokens: int) -> str:
        """Make a text that counts about so many tokens with its template, at most that many."""
        few, more = [await engine.count_tokens(self.count("river " * n)) for n in (100, 1100)]
        words = (tokens - few) * 1000 // (more - few) + 100
        return "river " * words


def png(size: int) -> bytes:
    """Make a red square."""
    rows = b"".join(b"\0" + b"\xff\0\0" * size for _ in range(size))
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
