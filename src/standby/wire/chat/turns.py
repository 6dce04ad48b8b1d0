"""The conversation as chat messages. Pure; raises `InvalidParams`.

Consecutive turns of one role become one. In a turn of the assistant thinking comes first, then all its text,
then its calls. Results of tools become `tool` messages, right behind the calls that they answer; what else the
user says in that turn follows in order. A `tool` message takes text only: an image in a result follows in the
user's message, under a line that names the call. An error begins with `Error: `.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from standby.errors import invalid
from standby.wire.chat.calls import as_result, as_text
from standby.wire.chat.dialect import GENERIC, Dialect
from standby.wire.chat.parts import BETWEEN, Part, content_of, parts_of, text_part
from standby.wire.chat.tools import mode_of
from standby.wire.messages import (
    PromptParams,
    RedactedThinkingParam,
    TextParam,
    ThinkingParam,
    ToolResultParam,
    ToolUseParam,
)

ERROR = "Error: "
"""Begins the text of a result with `is_error`."""
Message = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class _Turn:
    """Consecutive turns of one role: blocks, each with its path."""

    role: str
    blocks: list[tuple[str, Any]] = field(default_factory=list)


def chat_turns(params: PromptParams, dialect: Dialect = GENERIC, *, before: str = "", after: str = "") -> list[Message]:
    """Write system and turns; `before` and `after` stand around the system prompt."""
    writer = _Writer(params, dialect)
    lead, turns = _split(params, dialect)
    system = BETWEEN.join(text for text in (before, lead, after) if text)
    if system:
        writer.messages.append({"role": "system", "content": system})
    for turn in turns:
        writer.write(turn)
    return writer.messages


def _split(params: PromptParams, dialect: Dialect) -> tuple[str, list[_Turn]]:
    """Return the system prompt, with `system` turns at the beginning, and the other turns."""
    lead = [params.system] if isinstance(params.system, str) else [block.text for block in params.system or ()]
    turns: list[_Turn] = []
    for number, turn in enumerate(params.messages):
        at = f"messages.{number}"
        blocks = list(_blocks(turn.content, f"{at}.content"))
        if turn.role == "system" and not turns:
            lead += [_only_text(block, path) for path, block in blocks]
            continue
        if turn.role == "system" and not dialect.system_anywhere:
            raise invalid(f"{at}.role: the engine behind this model takes `system` only before all other turns")
        if not turns or turns[-1].role != turn.role:
            turns.append(_Turn(role=turn.role))
        turns[-1].blocks += blocks
    return BETWEEN.join(text for text in lead if text), turns


def _blocks(content: str | Iterable[Any], at: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(content, str):
        yield from ((f"{at}.{number}", block) for number, block in enumerate(content))
    elif content:
        yield at, TextParam(text=content)


def _only_text(block: Any, at: str) -> str:
    if not isinstance(block, TextParam):
        raise invalid(f"{at}: only text may stand in `system` messages")
    return block.text


class _Writer:
    """Writes turns, with what must be known of the turns before."""

    def __init__(self, params: PromptParams, dialect: Dialect) -> None:
        self.messages: list[Message] = []
        self._dialect = dialect
        self._mode = mode_of(params, dialect)
        self._names: dict[str, str] = {}
        """Names of the tools that were called, by the id of the call."""
        self._after_calls = 0
        """Where results of the last calls go."""

    def write(self, turn: _Turn) -> None:
        if turn.role == "assistant":
            self._assistant(turn)
        elif turn.role == "user":
            self._user(turn)
        else:
            text = BETWEEN.join(_only_text(block, at) for at, block in turn.blocks)
            self.messages.append({"role": "system", "content": text})

    def _assistant(self, turn: _Turn) -> None:
        parts: list[Part] = []
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        for at, block in turn.blocks:
            match block:
                case ThinkingParam():
                    thoughts.append(block.thinking)
                case RedactedThinkingParam():
                    pass  # made by another model, readable by none but it: what the API itself does on such a change
                case ToolUseParam():
                    _check_call(block, at, self._mode)
                    self._names[block.id] = block.name
                    if self._mode == "native":
                        calls.append(_call(block))
                    else:
                        parts.append(text_part(as_text(block.name, block.input)))
                case _:
                    parts += parts_of(block, at, self._dialect)
        message: Message = {"role": "assistant", "content": content_of(parts) or ("" if not calls else None)}
        if self._dialect.thinking_back and any(thoughts):
            message[self._dialect.thinking_back] = BETWEEN.join(thoughts)
        if calls:
            message["tool_calls"] = calls
        self.messages.append(message)
        self._after_calls = len(self.messages)

    def _user(self, turn: _Turn) -> None:
        parts: list[Part] = []
        for at, block in turn.blocks:
            if not isinstance(block, ToolResultParam):
                parts += parts_of(block, at, self._dialect)
                continue
            found = list(self._result(block, at))
            text = content_of(part for part in found if part["type"] == "text")
            text = ERROR + str(text) if block.is_error else str(text)
            more = [part for part in found if part["type"] != "text"]
            if self._mode == "native":
                self._tool_message(block, text)
                parts += [text_part(f"From the result of {block.tool_use_id}:"), *more] if more else []
            else:
                parts += [text_part(as_result(self._names.get(block.tool_use_id, ""), text)), *more]
        if parts:
            self.messages.append({"role": "user", "content": content_of(parts)})

    def _tool_message(self, block: ToolResultParam, text: str) -> None:
        message = {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}
        self.messages.insert(self._after_calls, message)
        self._after_calls += 1

    def _result(self, block: ToolResultParam, at: str) -> Iterator[Part]:
        _check_result(block, at, self._mode)
        for path, inner in _blocks(block.content or (), f"{at}.content"):
            yield from parts_of(inner, path, self._dialect)


def _check_call(block: ToolUseParam, at: str, mode: str) -> None:
    if mode == "off":
        raise invalid(f"{at}.type: the engine behind this model does not support tools")
    if block.caller is not None and block.caller.get("type") != "direct":
        raise invalid(f"{at}.caller: the engine behind this model calls tools directly only")
    if block.toolset_name is not None:
        raise invalid(f"{at}.toolset_name: the engine behind this model does not support toolsets")


def _check_result(block: ToolResultParam, at: str, mode: str) -> None:
    if mode == "off":
        raise invalid(f"{at}.type: the engine behind this model does not support tools")
    if block.toolset_name is not None:
        raise invalid(f"{at}.toolset_name: the engine behind this model does not support toolsets")


def _call(block: ToolUseParam) -> dict[str, Any]:
    arguments = msgspec.json.encode(block.input).decode()
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}
