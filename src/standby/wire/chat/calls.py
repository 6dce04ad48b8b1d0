"""Tool calls on engines that do not make them valid: a convention in plain text, and a JSON Schema that forces it.

The convention, one for everything: tools are described in the system prompt inside `<tools>`, one JSON object a line;
a call is `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, a result `<tool_response name="…">…</tool_response>`.
It is what many open models were trained on.

Where a call is demanded (`tool_choice` any or tool), the whole answer is the JSON object of one call, kept to a schema
by the engine. Where it is not, the model writes text, and calls inside it are found by `CallFinder`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from standby.wire.chat.tools import description_of, is_forced, is_single
from standby.wire.messages import PromptParams, Tool, ToolChoiceNone, ToolChoiceTool

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_CALL = '<tool_call>{"name": "NAME", "arguments": {…}}</tool_call>'
_NAME = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that the model made."""

    name: str
    input: dict[str, Any]


def as_text(name: str, arguments: dict[str, Any]) -> str:
    """Write a call of an earlier turn."""
    return f"{OPEN}{msgspec.json.encode({'name': name, 'arguments': arguments}).decode()}{CLOSE}"


def as_result(name: str, text: str) -> str:
    """Write the result of a call."""
    return f'<tool_response name="{name}">\n{text}\n</tool_response>'


def describe_tools(params: PromptParams) -> str:
    """Write what comes before the system prompt: the same for every request with these tools, so that it is cached."""
    if not params.tools:
        return ""
    lines = [msgspec.json.encode(_described(tool)).decode() for tool in params.tools]
    return "\n".join(["You have these tools, each with the JSON Schema of its input:", "<tools>", *lines, "</tools>"])


def describe_choice(params: PromptParams) -> str:
    """Write what comes after it: how to call, and whether to."""
    if not params.tools:
        return ""
    if isinstance(params.tool_choice, ToolChoiceNone):
        return "Do not call a tool in this answer."
    if is_forced(params):
        return (
            'Answer with one call of a tool and nothing else, as JSON: {"name": "NAME", "arguments": {…}}, '
            "where the arguments fit the schema of the tool's input."
        )
    often = "Call one tool at most." if is_single(params) else "You may call several tools, one after another."
    return (
        f"To call a tool, write {_CALL}, where the arguments fit the schema of the tool's input; its result comes in "
        f"the next turn. {often} Answer without a call if no tool helps."
    )


def _described(tool: Tool) -> dict[str, Any]:
    described = {"name": tool.name, "description": description_of(tool), "input_schema": tool.input_schema}
    return {key: value for key, value in described.items() if value}


def call_schema(params: PromptParams) -> dict[str, Any]:
    """Return the schema of one call of any tool that may be called."""
    chosen = params.tool_choice.name if isinstance(params.tool_choice, ToolChoiceTool) else None
    shared: dict[str, Any] = {}
    calls = [
        _one_call(number, tool, shared)
        for number, tool in enumerate(params.tools or ())
        if chosen is None or tool.name == chosen
    ]
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {**schema, "$defs": shared} if shared else schema


def _one_call(number: int, tool: Tool, shared: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "name": {"const": tool.name},
            "arguments": _rooted(tool.input_schema or {}, f"t{number}", shared),
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _rooted(schema: dict[str, Any], key: str, shared: dict[str, Any]) -> dict[str, Any]:
    """Move a schema from the root of its document to a place inside; its references follow.

    Its definitions go to `shared`; so does all of it if something refers to it, or to a place inside it.
    """
    moved = _Moved(key)
    inner = {name: value for name, value in schema.items() if name not in {"$schema", "$id"}}
    definitions = {name: inner.pop(name) for name in ("$defs", "definitions") if isinstance(inner.get(name), dict)}
    body: dict[str, Any] = moved.schema(inner)
    for group, children in definitions.items():
        shared.update({moved.name(group, name): moved.schema(child) for name, child in children.items()})
    if not moved.whole:
        return body
    shared[key] = body
    return {"$ref": f"#/$defs/{key}"}


_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
"""Keywords whose value maps names to schemas."""
_VALUES = frozenset({"const", "enum", "default", "examples", "required"})
"""Keywords whose value is no schema."""
_DEFINITION = re.compile(r"#/(\$defs|definitions)/([^/]+)(.*)", re.DOTALL)


class _Moved:
    """Rewrites references inside a schema that moves to another place."""

    def __init__(self, key: str) -> None:
        self._key = key
        self.whole = False
        """Whether something refers to the schema as a whole, or to a place inside it."""

    def name(self, group: str, name: str) -> str:
        return f"{self._key}_{name}" if group == "$defs" else f"{self._key}d_{name}"

    def schema(self, schema: Any) -> Any:
        if isinstance(schema, list):
            return [self.schema(child) for child in schema]
        if not isinstance(schema, dict):
            return schema
        return {keyword: self._keyword(keyword, value) for keyword, value in schema.items()}

    def _keyword(self, keyword: str, value: Any) -> Any:
        if keyword == "$ref" and isinstance(value, str):
            return self._reference(value)
        if keyword in _VALUES:
            return value
        if keyword in _NAMED and isinstance(value, dict):
            return {name: self.schema(child) for name, child in value.items()}
        return self.schema(value)

    def _reference(self, reference: str) -> str:
        if found := _DEFINITION.fullmatch(reference):
            return f"#/$defs/{self.name(found[1], found[2])}{found[3]}"
        if reference == "#" or reference.startswith("#/"):
            self.whole = True
            return f"#/$defs/{self._key}{reference[1:]}"
        return reference


def read_call(text: str) -> Call | None:
    """Read the JSON object of one call; None if it is none."""
    try:
        found = msgspec.json.decode(text.encode(), type=dict[str, Any])
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    name, arguments = found.get("name"), found.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return Call(name=name, input=arguments)


def read_name(text: str) -> str | None:
    """Read the name out of a call that was cut short."""
    found = _NAME.match(text)
    return str(msgspec.json.decode(found[1])) if found else None


class CallFinder:
    """Finds calls in a stream of text, wherever the pieces are cut.

    What is no valid call of one of the tools stays text, tags included. White space around calls is left out.
    """

    __slots__ = ("_called", "_held", "_names", "_space")

    def __init__(self, names: frozenset[str]) -> None:
        """Begin at the start of the answer; `names` are the tools that may be called."""
        self._names = names
        self._held = ""
        self._space = ""
        """White space that is text only if text follows."""
        self._called = False

    def feed(self, text: str) -> Iterator[str | Call]:
        """Take more text; give what is certain."""
        self._held += text
        while True:
            at = self._held.find(OPEN)
            if at < 0:
                yield from self._text(self._take(len(self._held) - _overlap(self._held)))
                return
            yield from self._text(self._take(at))
            end = self._held.find(CLOSE)
            if end < 0:
                return
            yield from self._call(self._take(end + len(CLOSE)))

    def finish(self) -> Iterator[str | Call]:
        """End the text; give what was held back: a call that lacks nothing but its end tag counts."""
        rest = self._take(len(self._held))
        if rest.startswith(OPEN):
            yield from self._call(rest)
        else:
            yield from self._text(rest)
        if self._space and not self._called:
            yield self._space

    def _take(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text

    def _call(self, text: str) -> Iterator[str | Call]:
        call = read_call(text.removeprefix(OPEN).removesuffix(CLOSE))
        if call is None or call.name not in self._names:
            yield from self._text(text)
            return
        self._space, self._called = "", True
        yield call

    def _text(self, text: str) -> Iterator[str]:
        text = self._space + text
        kept = text.rstrip()
        self._space = text[len(kept) :]
        if kept:
            yield kept


def _overlap(text: str) -> int:
    """Return how much of the end of the text could begin a call."""
    return next((size for size in range(len(OPEN) - 1, 0, -1) if text.endswith(OPEN[:size])), 0)
