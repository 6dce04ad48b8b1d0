"""A Messages request as the body of `/v1/chat/completions`. Pure.

What an engine cannot express raises `InvalidParams` that names the field; nothing is dropped silently. What follows
changes no answer that was promised, and has no effect here, by decision:

* `cache_control`: engines cache by themselves; what was read comes back in usage (`reply.usage_of`, contract 9).
* `thinking: adaptive` and `between_tools` on an engine that cannot think: as much as needed is none.
* `output_config.effort` where `Dialect.efforts` is empty, and `thinking.budget_tokens` where `Dialect.budget` is:
  wishes, not limits; `max_tokens` limits.
* Thinking of earlier turns where `Dialect.thinking_back` is empty, `redacted_thinking` always: only the model that made
  it can read it, and the API itself leaves it out for another one. `signature` has no meaning for engines.
* `metadata.user_id` where an engine takes no `user`; `user_profile_id`, `billing_policy`, `fallback_credit_token`,
  `service_tier`, `betas`: accounts of the service, not of an engine. `inference_geo: global`: asks for nothing.
* `diagnostics`: the answer's `diagnostics` is null, which says that there are none.
* `citations` on text of earlier turns: notes about the text, which itself is sent. `eager_input_streaming` on a tool.
* `speed: standard`, `stream`: engines are always asked to stream.
"""

from __future__ import annotations

from typing import Any

from standby.errors import invalid
from standby.wire.chat.calls import describe_choice, describe_tools
from standby.wire.chat.dialect import GENERIC, Dialect
from standby.wire.chat.parts import BETWEEN
from standby.wire.chat.schemas import keep_to_answer, keep_to_call
from standby.wire.chat.thinking import asks_for_thinking, thinking_fields
from standby.wire.chat.tools import check_tools, is_forced, mode_of, tool_fields
from standby.wire.chat.turns import chat_turns
from standby.wire.messages import JsonFormat, MessageParams, PromptParams, ToolChoiceNone

__all__ = ["BETWEEN", "chat_body", "chat_prompt", "chat_turns", "sends_stops"]


def chat_body(
    params: MessageParams, *, model: str, dialect: Dialect, live: bool, temperature: float | None = None
) -> dict[str, Any]:
    """Write the body of `/v1/chat/completions`, always streaming; raises `InvalidParams`."""
    _refuse(params)
    body: dict[str, Any] = {
        "model": model,
        **chat_prompt(params, dialect=dialect),
        dialect.max_tokens: max(1, params.max_tokens),
        "stream": True,
        **dialect.extra,
        **_sampling(params, dialect, temperature),
        **_format(params, dialect),
    }
    if sends_stops(params, dialect):
        body["stop"] = params.stop_sequences
    if dialect.user and params.metadata is not None and params.metadata.user_id:
        body["user"] = params.metadata.user_id
    if dialect.priorities is not None:
        body["priority"] = dialect.priorities[0 if live else 1]
    return body


def chat_prompt(params: PromptParams, *, dialect: Dialect = GENERIC) -> dict[str, Any]:
    """Write what makes the prompt, for engines that count tokens of `messages` with `tools` and template settings."""
    _refuse_prompt(params)
    check_tools(params, dialect)
    is_native = mode_of(params, dialect) == "native"
    before, after = ("", "") if is_native else (describe_tools(params), describe_choice(params))
    turns = chat_turns(params, dialect, before=before, after=after)
    prefilled = _drop_empty_prefill(turns)
    if prefilled and dialect.prefill is None:
        last = len(params.messages) - 1
        raise invalid(f"messages.{last}.role: the engine behind this model cannot go on with a last `assistant` turn")
    return {
        "messages": turns,
        **(tool_fields(params, dialect) if is_native else {}),
        **thinking_fields(params, dialect, prefilled=prefilled),
        **(dialect.prefill or {} if prefilled else {}),
    }


def _drop_empty_prefill(turns: list[dict[str, Any]]) -> bool:
    """Say whether the answer is begun already; nothing said is no beginning."""
    if turns and turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()
    return bool(turns) and turns[-1]["role"] == "assistant"


def sends_stops(params: MessageParams, dialect: Dialect) -> bool:
    """Whether the engine looks for stop sequences; if not, we find them in the text.

    It must be able to name the one that hit, and must not find them in calls or in thinking, where they do not count.
    """
    return bool(params.stop_sequences) and dialect.says_stop and not params.tools and not asks_for_thinking(params)


def _sampling(params: MessageParams, dialect: Dialect, default: float | None) -> dict[str, Any]:
    temperature = default if params.temperature is None else params.temperature
    given: dict[str, Any] = {"temperature": temperature, "top_p": params.top_p}
    if params.top_k is not None:
        if not dialect.top_k:
            raise invalid("top_k: the engine behind this model does not take it")
        given["top_k"] = params.top_k or None
    return {name: value for name, value in given.items() if value is not None}


def _format(params: MessageParams, dialect: Dialect) -> dict[str, Any]:
    schema = _asked_schema(params)
    place = "output_format" if params.output_format else "output_config.format"
    if params.tools and mode_of(params, dialect) == "schema":
        if is_forced(params):
            return keep_to_call(params, dialect)
        if schema is not None and not isinstance(params.tool_choice, ToolChoiceNone):
            raise invalid(f"{place}: the engine behind this model cannot keep to it while it may call tools")
    return {} if schema is None else keep_to_answer(schema, params, dialect, place=f"{place}.schema")


def _asked_schema(params: MessageParams) -> dict[str, Any] | None:
    form = params.output_config.format if params.output_config else None
    return form.schema if isinstance(form, JsonFormat) else (params.output_format or {}).get("schema")


def _refuse(params: MessageParams) -> None:
    for name in ("container", "fallbacks", "thread"):
        if getattr(params, name) is not None:
            raise invalid(f"{name}: the engine behind this model does not support it")
    if params.inference_geo not in {None, "global"}:
        raise invalid("inference_geo: the engine behind this model cannot promise where it runs")


def _refuse_prompt(params: PromptParams) -> None:
    if params.speed == "fast":
        raise invalid("speed: the engine behind this model does not support `fast`")
    for name in ("compaction", "context_management", "mcp_servers"):
        if getattr(params, name) is not None:
            raise invalid(f"{name}: the engine behind this model does not support it")
    if params.output_config is not None and params.output_config.task_budget is not None:
        raise invalid("output_config.task_budget: the engine behind this model does not support it")
    if params.output_format is not None and params.output_format.get("type") != "json_schema":
        raise invalid("output_format.type: must be `json_schema`")
