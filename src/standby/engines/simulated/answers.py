"""What the simulator says: an answer made from the request, the seed and the script alone. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from standby.emulation.cue import Cue
from standby.engines.simulated.instances import instance_of
from standby.engines.simulated.lorem import WORDS, choices_for, words_for
from standby.engines.simulated.prompts import Prompt, last_text, system_text
from standby.engines.simulated.thinking import is_shown, signature_of, thinking_tokens
from standby.engines.simulated.tokens import pieces_of
from standby.errors import invalid
from standby.ids import base62
from standby.wire.messages import (
    ContentBlock,
    ContentBlockDelta,
    ContentBlockStart,
    Event,
    InputJsonDelta,
    Message,
    MessageParams,
    OutputDetails,
    SignatureDelta,
    StopReason,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    Tool,
    ToolChoiceAny,
    ToolChoiceNone,
    ToolChoiceTool,
    ToolUseBlock,
    Usage,
    events_of,
)

JSON_PIECE = 4
"""Characters of a token of JSON."""
LONGEST = 16_384
"""Most tokens that are said only because a script wants `max_tokens` to be reached."""
REFUSED = {"type": "refusal", "category": None, "explanation": "The script refuses this request."}

_encode = msgspec.json.Encoder().encode
_PLACE = re.compile(r"\{(model|prompt|system|custom_id|input_tokens)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How the simulator answers."""

    answer: str
    """The setting `simulator.answer`."""
    tokens: int
    seed: bytes


@dataclass(slots=True, kw_only=True)
class Part:
    """One block of an answer and the tokens that it is made of; thinking has no tool, text has no signature."""

    pieces: list[str]
    is_thinking: bool = False
    tool: str = ""
    input: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer before its request was admitted: all but what the prompt cost."""

    parts: list[Part]
    content: list[ContentBlock]
    stop_reason: StopReason
    stop_sequence: str | None
    stop_details: dict[str, Any] | None
    tokens: int
    thinking_tokens: int

    def message(self, id_: str, model: str, usage: Usage) -> Message:
        """Return it as a message of `model`; `usage` says what the prompt cost."""
        details = OutputDetails(thinking_tokens=self.thinking_tokens) if self.thinking_tokens else None
        return Message(
            id=id_,
            model=model,
            content=self.content,
            stop_reason=self.stop_reason,
            stop_sequence=self.stop_sequence,
            stop_details=self.stop_details,
            usage=msgspec.structs.replace(usage, output_tokens=self.tokens, output_tokens_details=details),
        )


def answer_to(params: MessageParams, prompt: Prompt, *, cue: Cue, manner: Manner, custom_id: str, room: int) -> Answer:
    """Make the answer; raises `InvalidParams` for a schema without instances, or a cue that does not fit the request.

    `room` is how many tokens the model's context has left after the prompt.
    """
    source = _Source(params, prompt, cue, manner, custom_id)
    parts = source.parts()
    stop = _stop_among(parts, params.stop_sequences or ())
    reason: StopReason = "tool_use" if any(part.tool for part in parts) else "end_turn"
    if stop is not None:
        reason = "stop_sequence"
    if _cut(parts, min(params.max_tokens, room)) or params.max_tokens == 0:
        reason, stop = "max_tokens" if params.max_tokens <= room else "model_context_window_exceeded", None
    if cue.stop and params.max_tokens:
        reason, stop = cast("StopReason", cue.stop), _scripted_stop(params, cue)
    parts = [part for part in parts if part.pieces or part.tool]
    return Answer(
        parts=parts,
        content=[_block(part, prompt, number, params, manner.seed) for number, part in enumerate(parts)],
        stop_reason=reason,
        stop_sequence=stop,
        stop_details=REFUSED if reason == "refusal" else None,
        tokens=sum(len(part.pieces) for part in parts),
        thinking_tokens=sum(len(part.pieces) for part in parts if part.is_thinking),
    )


def events(message: Message, answer: Answer) -> Iterator[tuple[int, Event]]:
    """Take the message apart token by token; each event comes with the number of tokens that are out by then."""
    done = end = 0
    for event in events_of(message):
        if isinstance(event, ContentBlockStart):
            end = done + len(answer.parts[event.index].pieces)
        if isinstance(event, ContentBlockDelta) and not isinstance(event.delta, SignatureDelta):
            for piece in answer.parts[event.index].pieces:
                done += 1
                yield done, ContentBlockDelta(index=event.index, delta=_delta(event.delta, piece))
            continue
        if not isinstance(event, ContentBlockStart):
            done = end  # thinking that is not shown takes its time too
        yield done, event


def stopped(pieces: list[str], stops: Iterable[str]) -> tuple[list[str], str | None]:
    """Cut the pieces before the stop sequence that is complete first; of several, the one that begins first."""
    text = ""
    for number, piece in enumerate(pieces):
        text += piece
        hits = [(place, stop) for stop in stops if (place := text.find(stop)) >= 0]
        if hits:
            place, stop = min(hits)
            return _shortened(pieces[: number + 1], place), stop
    return pieces, None


class _Source:
    """Where the parts of one answer come from."""

    def __init__(self, params: MessageParams, prompt: Prompt, cue: Cue, manner: Manner, custom_id: str) -> None:
        self._params = params
        self._prompt = prompt
        self._cue = cue
        self._manner = manner
        self._custom_id = custom_id
        self._choices = choices_for(prompt.text, manner.seed)

    def parts(self) -> list[Part]:
        """Thinking, then text, then calls."""
        tools = self._called()
        parts = [Part(pieces=self._words(count), is_thinking=True)] if (count := thinking_tokens(self._params)) else []
        if self._cue.text is not None or not tools:
            parts.append(Part(pieces=self._text()))
        return parts + [self._call(tool, number) for number, tool in enumerate(tools)]

    def _text(self) -> list[str]:
        if self._cue.text is not None:
            return pieces_of(self._cue.text)
        if self._cue.stop == "refusal":
            return []
        schema = _schema(self._params)
        if schema is not None:
            return _chopped(_encode(instance_of(schema, self._choices, WORDS)).decode())
        if self._manner.answer == "echo":
            return pieces_of(last_text(self._params))
        if self._manner.answer != "lorem":
            return pieces_of(_PLACE.sub(self._filled, self._manner.answer))
        wants_most = self._cue.stop == "max_tokens"
        return self._words(min(self._params.max_tokens, LONGEST) if wants_most else self._manner.tokens)

    def _filled(self, place: re.Match[str]) -> str:
        match place[1]:
            case "model":
                return self._params.model
            case "prompt":
                return last_text(self._params)
            case "system":
                return system_text(self._params)
            case "custom_id":
                return self._custom_id
            case _:
                return str(self._prompt.tokens)

    def _words(self, count: int) -> list[str]:
        return words_for(self._prompt.text, self._manner.seed, count)

    def _called(self) -> list[Tool]:
        """Return the tools that are called: what the script wants, or one if one must be."""
        named = [tool for tool in self._params.tools or () if tool.name]
        if self._cue.tool:
            return self._scripted(named)
        if self._cue.stop == "tool_use" or isinstance(self._params.tool_choice, ToolChoiceAny):
            return [self._any(named)]
        if isinstance(self._params.tool_choice, ToolChoiceTool):
            return [self._tool(named, self._params.tool_choice.name)]
        return []

    def _scripted(self, named: list[Tool]) -> list[Tool]:
        if isinstance(self._params.tool_choice, ToolChoiceNone):
            raise invalid("tool_choice: the simulator's script calls a tool, and none may be called")
        called = [self._tool(named, name.strip()) for name in self._cue.tool.split(",")]
        is_one = getattr(self._params.tool_choice, "disable_parallel_tool_use", None)
        return called[:1] if is_one else called

    def _any(self, named: list[Tool]) -> Tool:
        if not named:
            raise invalid("tools: the simulator is to call a tool, and the request has none")
        return next((tool for tool in named if tool.is_custom), named[0])

    def _tool(self, named: list[Tool], name: str) -> Tool:
        found = next((tool for tool in named if tool.name == name), None)
        if found is None:
            raise invalid("tools: the simulator's script calls a tool that the request does not have")
        return found

    def _call(self, tool: Tool, number: int) -> Part:
        if self._cue.input is not None and number == 0:
            value = self._cue.input
        else:
            value = instance_of(tool.input_schema, self._choices, WORDS) if tool.input_schema else {}
        return Part(pieces=_chopped(_encode(value).decode()), tool=tool.name or "", input=value)


def _schema(params: MessageParams) -> dict[str, Any] | None:
    """Return the schema that the text must fit."""
    if params.output_config is not None and params.output_config.format is not None:
        return params.output_config.format.schema
    schema = params.output_format.get("schema") if params.output_format else None
    return schema if isinstance(schema, dict) else None


def _stop_among(parts: list[Part], stops: Iterable[str]) -> str | None:
    """Cut the parts before the first stop sequence in a text; thinking and calls have none."""
    for number, part in enumerate(parts):
        if stops and not part.is_thinking and not part.tool:
            part.pieces, stop = stopped(part.pieces, stops)
            if stop is not None:
                del parts[number + 1 :]
                return stop
    return None


def _cut(parts: list[Part], most: int) -> bool:
    """Cut the parts after `most` tokens; True if something was lost."""
    left = most
    for number, part in enumerate(parts):
        if len(part.pieces) > left:
            # as the service does: a call that is cut short has no input that could be read
            part.pieces, part.input = part.pieces[:left], {}
            del parts[number + (1 if left else 0) :]
            return True
        left -= len(part.pieces)
    return False


def _scripted_stop(params: MessageParams, cue: Cue) -> str | None:
    if cue.stop != "stop_sequence":
        return None
    if not params.stop_sequences:
        raise invalid("stop_sequences: the simulator's script ends with one, and the request has none")
    return params.stop_sequences[0]


def _block(part: Part, prompt: Prompt, number: int, params: MessageParams, seed: bytes) -> ContentBlock:
    text = "".join(part.pieces)
    if part.tool:
        digest = hashlib.blake2b(prompt.text, key=seed, salt=number.to_bytes(8, "big"), digest_size=16).digest()
        return ToolUseBlock(id=f"toolu_01{base62(int.from_bytes(digest, 'big'))}", name=part.tool, input=part.input)
    if part.is_thinking:
        return ThinkingBlock(thinking=text if is_shown(params) else "", signature=signature_of(text, seed))
    return TextBlock(text=text)


def _delta(whole: object, piece: str) -> TextDelta | ThinkingDelta | InputJsonDelta:
    if isinstance(whole, TextDelta):
        return TextDelta(text=piece)
    return ThinkingDelta(thinking=piece) if isinstance(whole, ThinkingDelta) else InputJsonDelta(partial_json=piece)


def _chopped(text: str) -> list[str]:
    return [text[start : start + JSON_PIECE] for start in range(0, len(text), JSON_PIECE)]


def _shortened(pieces: list[str], length: int) -> list[str]:
    kept: list[str] = []
    for piece in pieces:
        if length <= 0:
            break
        kept.append(piece[:length])
        length -= len(piece)
    return kept
