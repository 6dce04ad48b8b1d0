"""The content of an answer while it arrives: one block open at a time, in the order of their first pieces. Pure.

Engines may send pieces of several calls in turns. The first block that is not complete is the one that is open;
pieces of later ones wait. The input of a call is sent when it is whole, so that whoever reads it reads JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from standby.errors import EngineError, Failure
from standby.ids import random_id
from standby.wire.chat.chunks import CallDelta
from standby.wire.chat.thinking import signature_of
from standby.wire.messages import (
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    Delta,
    Event,
    InputJsonDelta,
    SignatureDelta,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
)


@dataclass(slots=True, kw_only=True)
class _Block:
    kind: Literal["text", "thinking", "call"]
    said: list[str] = field(default_factory=list)
    sent: int = 0
    """How many pieces were sent."""
    index: int | None = None
    """The engine's number of a call."""
    id: str = ""
    """The engine's id of a call."""
    name: str = ""

    @property
    def text(self) -> str:
        return "".join(self.said)


class Blocks:
    """Turns pieces of an answer into events."""

    def __init__(
        self, *, may_call: Callable[[str], bool], is_taken: Callable[[str], bool], single: bool, omits_thinking: bool
    ) -> None:
        """Begin an answer.

        `may_call` says whether a tool of that name may be called, `is_taken` whether an earlier call has that id;
        with `single` only the first call counts; with `omits_thinking` thinking blocks have a signature and no text.
        """
        self._may_call = may_call
        self._is_taken = is_taken
        self._single = single
        self._omits_thinking = omits_thinking
        self._blocks: list[_Block] = []
        self._ids: set[str] = set()
        self._at = 0
        """The block that is open, or opens next."""
        self._opened = 0
        """How many blocks were opened: the index of the next one."""
        self._is_open = False

    @property
    def has_calls(self) -> bool:
        """Whether a tool was called."""
        return any(block.kind == "call" for block in self._blocks)

    @property
    def is_empty(self) -> bool:
        """Whether nothing came."""
        return not self._blocks

    def text(self, text: str) -> list[Event]:
        """Take more text."""
        return self._take("text", text)

    def thinking(self, text: str) -> list[Event]:
        """Take more thinking."""
        return self._take("thinking", text)

    def call(self, delta: CallDelta) -> list[Event]:
        """Take more of a call; raises `EngineError` if its tool was not offered."""
        block = self._called(delta)
        if block is None:
            return []
        if delta.name and not block.name:
            if not self._may_call(delta.name):
                raise EngineError(Failure.BROKEN, "the engine called a tool that it may not call")
            block.name = delta.name
        if delta.arguments:
            block.said.append(delta.arguments)
        return self._advance()

    def end(self, *, cut: bool) -> list[Event]:
        """End the answer; `cut` says that it was cut short, so that the last call need not be whole."""
        events: list[Event] = []
        while self._at < len(self._blocks):
            block = self._blocks[self._at]
            is_nameless = block.kind == "call" and not block.name
            if is_nameless and not cut:
                raise EngineError(Failure.BROKEN, "the engine called a tool without a name")
            if is_nameless or (_is_blank(block) and len(self._blocks) > 1):
                self._at += 1
                continue
            events += self._go_on(block)
            events += self._close(block, cut=cut)
        return events

    def _take(self, kind: Literal["text", "thinking"], text: str) -> list[Event]:
        if not text:
            return []
        if not self._blocks or self._blocks[-1].kind != kind:
            self._blocks.append(_Block(kind=kind))
        self._blocks[-1].said.append(text)
        return self._advance()

    def _called(self, delta: CallDelta) -> _Block | None:
        """Find the call that this belongs to, or begin one; None if no further call counts."""
        calls = [block for block in self._blocks if block.kind == "call"]
        if delta.index is None:
            found = calls[-1] if calls and not (delta.name or delta.id) else None
            found = found or next((block for block in calls if delta.id and block.id == delta.id), None)
        else:
            found = next((block for block in reversed(calls) if block.index == delta.index), None)
            if found is not None and _is_another(found, delta):
                found = None
        if found is None and calls and self._single:
            return None
        if found is None:
            found = _Block(kind="call", index=delta.index)
            self._blocks.append(found)
        found.id = found.id or delta.id
        return found

    def _advance(self) -> list[Event]:
        events: list[Event] = []
        while self._at < len(self._blocks):
            block, is_last = self._blocks[self._at], self._at == len(self._blocks) - 1
            if _is_blank(block):
                if is_last:
                    break
                self._at += 1
                continue
            if block.kind == "call" and not block.name:
                break
            events += self._go_on(block)
            if is_last or (block.kind == "call" and _input(block.text) is None):
                break
            events += self._close(block, cut=False)
        return events

    def _go_on(self, block: _Block) -> list[Event]:
        """Open the block if it is not, and send what came of it."""
        events: list[Event] = []
        if not self._is_open:
            self._is_open = True
            events.append(ContentBlockStart(index=self._opened, content_block=self._start(block)))
        if block.kind == "call":
            return events
        text, block.sent = "".join(block.said[block.sent :]), len(block.said)
        if block.kind == "text":
            events += self._delta(TextDelta(text=text)) if text else []
        elif text and not self._omits_thinking:
            events += self._delta(ThinkingDelta(thinking=text))
        return events

    def _close(self, block: _Block, *, cut: bool) -> list[Event]:
        events: list[Event] = []
        if block.kind == "thinking":
            events += self._delta(SignatureDelta(signature=signature_of(block.text)))
        elif block.kind == "call":
            found = _input(block.text) if block.text.strip() else {}
            if found is None and not cut:
                raise EngineError(Failure.BROKEN, "the engine called a tool with an input that is no JSON object")
            events += self._delta(InputJsonDelta(partial_json=block.text)) if found else []
        events.append(ContentBlockStop(index=self._opened))
        self._opened, self._at, self._is_open = self._opened + 1, self._at + 1, False
        return events

    def _start(self, block: _Block) -> TextBlock | ThinkingBlock | ToolUseBlock:
        if block.kind == "text":
            return TextBlock(text="")
        if block.kind == "thinking":
            return ThinkingBlock(thinking="")
        return ToolUseBlock(id=self._id(block.id), name=block.name, input={})

    def _id(self, given: str) -> str:
        """Keep the engine's id, or make one if it has none or names two calls the same."""
        found = given if given and given not in self._ids and not self._is_taken(given) else random_id("toolu")
        self._ids.add(found)
        return found

    def _delta(self, delta: Delta) -> list[Event]:
        return [ContentBlockDelta(index=self._opened, delta=delta)]


def _is_another(block: _Block, delta: CallDelta) -> bool:
    """Whether this begins another call under the same number: some engines number all their calls 0."""
    if not delta.name or not block.name:
        return False
    if delta.id and block.id:
        return delta.id != block.id
    return bool(delta.arguments) and _input(block.text) is not None


def _is_blank(block: _Block) -> bool:
    """Whether it is white space between other blocks, so far."""
    return block.kind == "text" and not block.sent and not block.text.strip()


def _input(text: str) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(text.encode(), type=dict[str, Any])
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
