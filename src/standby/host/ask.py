"""What a client of the host asks for: the body of `/v1/chat/completions`, checked field by field.

Nothing is dropped silently: a field that this host does not know is a fault that names it.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from standby.wire.grammar.compile import language_of
from standby.wire.grammar.language import Language
from standby.wire.grammar.merging import Unsupported

T = TypeVar("T")
LIVE = 0
BATCH = 10
"""Priorities as vLLM has them: lower is sooner. Everything from 1 on is batch work."""


class Bad(Exception):
    """The request can never run: a 4xx with a code."""

    def __init__(self, message: str, *, code: str = "invalid_request") -> None:
        """Keep the words and the code."""
        super().__init__(message)
        self.message = message
        self.code = code


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all that a client sends."""


class TextPart(_Body, tag="text", tag_field="type", frozen=True, kw_only=True):
    """Text."""

    text: str


class Turn(_Body, frozen=True, kw_only=True):
    """One message of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """All its text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class StreamOptions(_Body, frozen=True, kw_only=True):
    """What a stream carries beside text; `continuous_usage_stats` puts usage on every chunk (as vLLM has it)."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class JsonSchema(_Body, frozen=True, kw_only=True):
    """The schema of a structured answer."""

    schema: dict[str, Any]
    name: str = ""
    description: str = ""
    strict: bool | None = None


class ResponseFormat(_Body, frozen=True, kw_only=True):
    """How the answer must look."""

    type: Literal["text", "json_schema"]
    json_schema: JsonSchema | None = None


class PromptBody(_Body, frozen=True, kw_only=True):
    """The prompt's part of a body; also the body of `/count_tokens`."""

    messages: list[Turn]
    model: str = ""


class ChatBody(PromptBody, frozen=True, kw_only=True):
    """The body of `/v1/chat/completions`."""

    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    priority: int = LIVE
    n: Literal[1] = 1
    user: str | None = None


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are chosen; temperature 0 means the most likely one."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    ignore_eos: bool = False


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request that may run."""

    turns: tuple[Turn, ...]
    model: str
    max_tokens: int | None
    """None means: until the context is full."""
    sampling: Sampling
    stop: tuple[str, ...]
    language: Language | None
    """What the answer must be; None is plain text."""
    live: bool
    stream: bool
    usage_at_end: bool
    usage_always: bool


_chat = msgspec.json.Decoder(ChatBody)
_prompt = msgspec.json.Decoder(PromptBody)


def read_ask(body: bytes) -> Ask:
    """Read the body of `/v1/chat/completions`; raises `Bad`."""
    chat = _decode(_chat, body)
    _check_turns(chat.messages)
    limit = chat.max_completion_tokens if chat.max_completion_tokens is not None else chat.max_tokens
    if limit is not None and limit < 1:
        raise Bad("max_tokens: must be at least 1")
    options = chat.stream_options or StreamOptions()
    return Ask(
        turns=tuple(chat.messages),
        model=chat.model,
        max_tokens=limit,
        sampling=_sampling(chat),
        stop=_stop(chat.stop),
        language=_language(chat.response_format),
        live=chat.priority <= LIVE,
        stream=chat.stream,
        usage_at_end=options.include_usage or options.continuous_usage_stats,
        usage_always=options.continuous_usage_stats,
    )


def read_prompt(body: bytes) -> PromptBody:
    """Read the body of `/count_tokens`: `messages` and perhaps `model`; raises `Bad`."""
    prompt = _decode(_prompt, body)
    _check_turns(prompt.messages)
    return prompt


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Bad(str(error)) from None


def _check_turns(turns: list[Turn]) -> None:
    if not turns:
        raise Bad("messages: needs at least one message")
    for number, turn in enumerate(turns):
        if turn.role == "system" and number:
            raise Bad(f"messages[{number}].role: a system message must be the first one")


def _sampling(chat: ChatBody) -> Sampling:
    given = {
        "temperature": _within(chat.temperature, 0.0, 2.0, "temperature"),
        "top_p": _within(chat.top_p, 0.0, 1.0, "top_p"),
        "top_k": _within(chat.top_k, -1, 1_000_000, "top_k"),
        "seed": _within(chat.seed, 0, 2**63 - 1, "seed"),
    }
    kept: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return Sampling(**kept, ignore_eos=chat.ignore_eos)


def _within(value: float | None, low: float, high: float, name: str) -> float | None:
    if value is not None and not low <= value <= high:
        raise Bad(f"{name}: must be between {low} and {high}")
    return value


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    found = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in found:
        raise Bad("stop: a stop string must not be empty")
    return found


def _language(form: ResponseFormat | None) -> Language | None:
    if form is None or form.type == "text":
        return None
    if form.json_schema is None:
        raise Bad("response_format.json_schema: is missing")
    try:
        return language_of(msgspec.json.encode(form.json_schema.schema))
    except Unsupported as fault:
        raise Bad(f"response_format.json_schema.schema{fault}", code="invalid_schema") from None
