"""What keeps an answer to a schema: `response_format`, or a grammar of ours. Pure; raises `InvalidParams`.

An engine that is asked to think gets `response_format` in any case: it knows where its thinking ends and the answer
begins, and a grammar would hold from the first token on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from standby.errors import invalid
from standby.wire.chat.calls import call_schema
from standby.wire.chat.dialect import Dialect
from standby.wire.chat.thinking import asks_for_thinking
from standby.wire.chat.tools import names_of
from standby.wire.grammar.compile import language_of
from standby.wire.grammar.counting import exact_grammar
from standby.wire.grammar.merging import Unsupported
from standby.wire.messages import MessageParams


def keep_to_answer(schema: dict[str, Any], params: MessageParams, dialect: Dialect, *, place: str) -> dict[str, Any]:
    """Write the field that keeps the answer to a schema, which stands at `place` in the request."""
    if not _takes_grammar(params, dialect):
        return _response_format("answer", schema)
    return schema_fields(schema, dialect, name="answer", place=place)


def schema_fields(schema: dict[str, Any], dialect: Dialect, *, name: str, place: str = "") -> dict[str, Any]:
    """Write the field that keeps text to a schema from its first token on."""
    if not dialect.grammar:
        return _response_format(name, schema)
    return {"grammar": _compiled(exact_grammar, schema, place)}


def keep_to_call(params: MessageParams, dialect: Dialect) -> dict[str, Any]:
    """Write the field that makes the answer one call of a tool that may be called."""
    schema = call_schema(params)
    if not _takes_grammar(params, dialect):
        return _response_format("call", schema)
    for number, tool in enumerate(params.tools or ()):
        if tool.name in names_of(params):
            _compiled(language_of, tool.input_schema or {}, f"tools.{number}.input_schema")
    return schema_fields(schema, dialect, name="call", place="tools")


def _takes_grammar(params: MessageParams, dialect: Dialect) -> bool:
    return dialect.grammar and not (dialect.thinking is not None and asks_for_thinking(params))


def _compiled(compiler: Callable[[bytes], Any], schema: dict[str, Any], place: str) -> Any:
    try:
        return compiler(msgspec.json.encode(schema))
    except Unsupported as fault:
        raise invalid(f"{place}{fault}") from None


def _response_format(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    json_schema = {"name": name, "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}
