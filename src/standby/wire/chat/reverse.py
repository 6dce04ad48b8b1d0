"""The way back: a chat-completions request as Messages params, and a Message as a chat completion. Pure.

`params -> chat -> params` gives the params back in a normal form, and the same chat request from there on:

* `system` is one string; turns of one role are one turn; text alone is a string, neighbouring texts are one block,
  two line ends between them; a block of another kind (a document, a search result) is the text that it became;
* in a turn of the assistant thinking comes first, then text, then calls; thinking is signed by us;
* in a turn of the user the results of tools come first, each as a string, images in them after all results;
* thinking is `disabled` or `adaptive`; a result whose text begins with `Error: ` is an error;
* fields without a counterpart are gone: `cache_control`, what `request.py` lists as without effect, and
  `stop_sequences` where we look for them instead of the engine.

A request field that the Messages API cannot express raises `InvalidParams` that names it. Without effect by decision:
`stream`, `stream_options`, `store`, `metadata`, `service_tier`, `prompt_cache_key`, `prediction`, `seed` (best effort
by its definition), `detail` of an image, and every field whose value asks for nothing (`n: 1`, penalties of 0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from standby.errors import InvalidParams, invalid
from standby.wire.chat.thinking import signature_of
from standby.wire.chat.turns import ERROR

__all__ = ["params_of"]

Block = dict[str, Any]
_HINTS = frozenset(
    {
        *("stream", "stream_options", "store", "metadata", "service_tier", "prompt_cache_key"),
        *("prompt_cache_retention", "prediction", "seed"),
    }
)
_NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "continue_final_message": (True,),
    "add_generation_prompt": (False,),
}
"""Values that ask for nothing, or for what the Messages API does anyhow; others of these fields cannot be expressed."""
_SAME = {"model": "model", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k"}
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_TAKEN = frozenset(
    {
        *("messages", "max_tokens", "max_completion_tokens", "stop", "tools", "tool_choice", "response_format"),
        *("user", "safety_identifier", "reasoning_effort", "chat_template_kwargs"),
    }
)


def params_of(body: Mapping[str, Any], *, max_tokens: int | None = None) -> dict[str, Any]:
    """Turn the body of `/v1/chat/completions` into params, as plain JSON values; raises `InvalidParams`.

    `max_tokens` is for requests that set none, for the Messages API wants a limit.
    """
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in given.items():
        _check_field(name, value)
    limit = given.get("max_completion_tokens", given.get("max_tokens", max_tokens))
    if limit is None:
        raise invalid("max_tokens: Field required")
    system, turns = _turns(_list(given.get("messages"), "messages"))
    found: dict[str, Any] = {name: given[theirs] for name, theirs in _SAME.items() if theirs in given}
    found |= {"max_tokens": limit, "messages": turns}
    if system:
        found["system"] = system
    if "stop" in given:
        found["stop_sequences"] = [given["stop"]] if isinstance(given["stop"], str) else given["stop"]
    if user := given.get("user") or given.get("safety_identifier"):
        found["metadata"] = {"user_id": user}
    return found | _tools(given) | _output_config(given) | _thinking(given)


def _check_field(name: str, value: Any) -> None:
    if name in _TAKEN or name in _SAME or name in _HINTS or value in _NOTHING.get(name, ()):
        return
    if name == "parallel_tool_calls" and value is False:
        return
    raise _inexpressible(name)


def _inexpressible(at: str) -> InvalidParams:
    return invalid(f"{at}: cannot be expressed in the Messages API")


def _turns(messages: list[Any]) -> tuple[str, list[dict[str, Any]]]:
    """Return the system prompt and the turns."""
    lead: list[str] = []
    turns: list[dict[str, Any]] = []
    behind_results = False
    for number, given in enumerate(messages):
        at = f"messages.{number}"
        message = _object(given, at)
        role = message.get("role")
        if role not in _ROLES:
            raise _inexpressible(f"{at}.role")
        blocks = _ROLES[role](message, at)
        if role in {"system", "developer"} and not turns:
            lead.append(_string(blocks, at))
        elif role in {"tool", "user"} and behind_results:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": _OWN_ROLES.get(role, role), "content": blocks})
        behind_results = role == "tool"
    for turn in turns:
        turn["content"] = _plain(turn["content"])
    return "\n\n".join(text for text in lead if text), turns


def _said(message: dict[str, Any], at: str) -> list[Block]:
    _only(message, {"role", "content"}, at)
    return _blocks(message.get("content"), f"{at}.content")


def _answered(message: dict[str, Any], at: str) -> list[Block]:
    _only(message, {"role", "content", "tool_calls", "refusal", "reasoning", "reasoning_content"}, at)
    blocks = []
    if thought := message.get("reasoning_content") or message.get("reasoning"):
        blocks.append({"type": "thinking", "thinking": thought, "signature": signature_of(thought)})
    blocks += _blocks(message.get("content"), f"{at}.content")
    if message.get("refusal"):
        blocks.append({"type": "text", "text": message["refusal"]})
    calls = _list(message.get("tool_calls") or [], f"{at}.tool_calls")
    return [*blocks, *(_call(call, f"{at}.tool_calls.{number}") for number, call in enumerate(calls))]


def _resulted(message: dict[str, Any], at: str) -> list[Block]:
    _only(message, {"role", "content", "tool_call_id"}, at)
    text = _string(_blocks(message.get("content"), f"{at}.content"), f"{at}.content")
    result: Block = {"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": text}
    if text.startswith(ERROR):
        result |= {"content": text.removeprefix(ERROR), "is_error": True}
    return [result]


_ROLES: dict[Any, Callable[[dict[str, Any], str], list[Block]]] = {
    "system": _said,
    "developer": _said,
    "user": _said,
    "assistant": _answered,
    "tool": _resulted,
}


_OWN_ROLES: dict[Any, str] = {"tool": "user", "developer": "system"}


def _call(given: Any, at: str) -> Block:
    call = _object(given, at)
    function = _object(call.get("function"), f"{at}.function")
    try:
        arguments = msgspec.json.decode(function.get("arguments") or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, TypeError, RecursionError):
        raise invalid(f"{at}.function.arguments: must be a JSON object") from None
    return {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": arguments}


def _blocks(content: Any, at: str) -> list[Block]:
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [_part(_object(part, f"{at}.{number}"), f"{at}.{number}") for number, part in enumerate(_list(content, at))]


def _part(part: dict[str, Any], at: str) -> Block:
    match part:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "refusal", "refusal": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return {"type": "image", "source": _data(url) or {"type": "url", "url": url}}
        case {"type": "file", "file": {"file_data": str(url), **more}} if source := _data(url):
            title = {"title": more["filename"]} if more.get("filename") else {}
            return {"type": "document", "source": source, **title}
        case _:
            raise _inexpressible(f"{at}.type")


def _data(url: str) -> dict[str, Any] | None:
    """Read a `data:` URL in base 64; None if it is another one."""
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not head.endswith(";base64") or not comma:
        return None
    return {"type": "base64", "media_type": head.removeprefix("data:").removesuffix(";base64"), "data": data}


def _plain(blocks: list[Block]) -> Any:
    return blocks[0]["text"] if len(blocks) == 1 and blocks[0]["type"] == "text" else blocks or ""


def _tools(given: dict[str, Any]) -> dict[str, Any]:
    if "tools" not in given:
        return {}
    tools = [_tool(tool, f"tools.{number}") for number, tool in enumerate(_list(given["tools"], "tools"))]
    choice = _choice(given.get("tool_choice"))
    if given.get("parallel_tool_calls") is False and choice != {"type": "none"}:
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    return {"tools": tools} | ({} if choice is None else {"tool_choice": choice})


def _tool(given: Any, at: str) -> dict[str, Any]:
    tool = _object(given, at)
    if tool.get("type") != "function":
        raise _inexpressible(f"{at}.type")
    function = _object(tool.get("function"), f"{at}.function")
    found = {"name": function.get("name"), "input_schema": function.get("parameters") or {"type": "object"}}
    return found | {name: function[name] for name in ("description", "strict") if function.get(name) is not None}


def _choice(choice: Any) -> dict[str, Any] | None:
    match choice:
        case None:
            return None
        case "auto" | "none":
            return {"type": choice}
        case "required":
            return {"type": "any"}
        case {"type": "function", "function": {"name": str(name)}}:
            return {"type": "tool", "name": name}
        case _:
            raise _inexpressible("tool_choice")


def _output_config(given: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    match given.get("response_format"):
        case None | {"type": "text"}:
            pass
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            config["format"] = {"type": "json_schema", "schema": schema}
        case _:
            raise _inexpressible("response_format")
    effort = given.get("reasoning_effort")
    if effort is not None and effort != "none":
        if effort not in _EFFORTS:
            raise _inexpressible("reasoning_effort")
        config["effort"] = _EFFORTS[effort]
    return {"output_config": config} if config else {}


def _thinking(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("reasoning_effort") == "none":
        return {"thinking": {"type": "disabled"}}
    switches = _object(given.get("chat_template_kwargs") or {}, "chat_template_kwargs")
    _only(switches, {"enable_thinking", "thinking"}, "chat_template_kwargs")
    if not switches:
        return {}
    return {"thinking": {"type": "adaptive" if any(switches.values()) else "disabled"}}


def _only(given: dict[str, Any], names: Iterable[str], at: str) -> None:
    for name, value in given.items():
        if name not in names and value is not None and value != []:
            raise _inexpressible(f"{at}.{name}")


def _string(blocks: list[Block], at: str) -> str:
    if any(block["type"] != "text" for block in blocks):
        raise _inexpressible(at)
    return "\n\n".join(block["text"] for block in blocks)


def _object(given: Any, at: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise invalid(f"{at}: Input should be a valid dictionary")
    return given


def _list(given: Any, at: str) -> list[Any]:
    if not isinstance(given, list):
        raise invalid(f"{at}: Input should be a valid list")
    return given
