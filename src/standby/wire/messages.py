"""Messages as bytes: bodies are read here, answers are written here, everything else is imported from here."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from standby.errors import InvalidParams, invalid
from standby.records import Rules
from standby.wire.checks import check_count, check_message
from standby.wire.events import (
    Accumulator,
    CitationsDelta,
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    Delta,
    Ending,
    EndUsage,
    ErrorEvent,
    ErrorInfo,
    Event,
    InputJsonDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    OtherDelta,
    Ping,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
    accumulate,
    closing,
    events_of,
    final_usage,
    opening,
)
from standby.wire.params import (
    AdvisorToolResultParam,
    Base64Source,
    BashCodeExecutionToolResultParam,
    BrowserStateParam,
    CacheControl,
    CodeExecutionToolResultParam,
    CompactionParam,
    ContainerUploadParam,
    ContentParam,
    ContentSource,
    CountParams,
    DocumentParam,
    FallbackParam,
    FileSource,
    ImageParam,
    JsonFormat,
    McpToolListingParam,
    McpToolResultParam,
    McpToolUseParam,
    MessageParams,
    Metadata,
    OutputConfig,
    PromptParams,
    RedactedThinkingParam,
    SearchResultParam,
    ServerToolResultParam,
    ServerToolUseParam,
    TextEditorCodeExecutionToolResultParam,
    TextParam,
    TextSource,
    Thinking,
    ThinkingAdaptive,
    ThinkingBetweenTools,
    ThinkingDisabled,
    ThinkingEnabled,
    ThinkingParam,
    Tool,
    ToolAdditionParam,
    ToolChoice,
    ToolChoiceAny,
    ToolChoiceAuto,
    ToolChoiceNone,
    ToolChoiceTool,
    ToolReferenceParam,
    ToolRemovalParam,
    ToolResultContent,
    ToolResultParam,
    ToolSearchToolResultParam,
    ToolUseParam,
    Turn,
    UrlSource,
    WebFetchToolResultParam,
    WebSearchToolResultParam,
)
from standby.wire.reply import (
    CacheCreation,
    ContentBlock,
    Message,
    OtherBlock,
    OutputDetails,
    RedactedThinkingBlock,
    ServiceTier,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    Usage,
    encode_message,
    tokens_of,
)

__all__ = [
    "Accumulator",
    "AdvisorToolResultParam",
    "Base64Source",
    "BashCodeExecutionToolResultParam",
    "BrowserStateParam",
    "CacheControl",
    "CacheCreation",
    "CitationsDelta",
    "CodeExecutionToolResultParam",
    "CompactionParam",
    "ContainerUploadParam",
    "ContentBlock",
    "ContentBlockDelta",
    "ContentBlockStart",
    "ContentBlockStop",
    "ContentParam",
    "ContentSource",
    "CountParams",
    "Delta",
    "DocumentParam",
    "EndUsage",
    "Ending",
    "ErrorEvent",
    "ErrorInfo",
    "Event",
    "FallbackParam",
    "FileSource",
    "ImageParam",
    "InputJsonDelta",
    "JsonFormat",
    "McpToolListingParam",
    "McpToolResultParam",
    "McpToolUseParam",
    "Message",
    "MessageDelta",
    "MessageParams",
    "MessageStart",
    "MessageStop",
    "Metadata",
    "OtherBlock",
    "OtherDelta",
    "OutputConfig",
    "OutputDetails",
    "Ping",
    "PromptParams",
    "RedactedThinkingBlock",
    "RedactedThinkingParam",
    "SearchResultParam",
    "ServerToolResultParam",
    "ServerToolUseParam",
    "ServiceTier",
    "SignatureDelta",
    "StopReason",
    "TextBlock",
    "TextDelta",
    "TextEditorCodeExecutionToolResultParam",
    "TextParam",
    "TextSource",
    "Thinking",
    "ThinkingAdaptive",
    "ThinkingBetweenTools",
    "ThinkingBlock",
    "ThinkingDelta",
    "ThinkingDisabled",
    "ThinkingEnabled",
    "ThinkingParam",
    "Tool",
    "ToolAdditionParam",
    "ToolChoice",
    "ToolChoiceAny",
    "ToolChoiceAuto",
    "ToolChoiceNone",
    "ToolChoiceTool",
    "ToolReferenceParam",
    "ToolRemovalParam",
    "ToolResultContent",
    "ToolResultParam",
    "ToolSearchToolResultParam",
    "ToolUseBlock",
    "ToolUseParam",
    "Turn",
    "UrlSource",
    "Usage",
    "WebFetchToolResultParam",
    "WebSearchToolResultParam",
    "accumulate",
    "check_cap",
    "closing",
    "decode_count_params",
    "decode_params",
    "encode_message",
    "encode_params",
    "events_of",
    "final_usage",
    "opening",
    "tokens_of",
]

MAX_DEPTH = 200
_CLIP = 100

_message_decoder = msgspec.json.Decoder(MessageParams)
_count_decoder = msgspec.json.Decoder(CountParams)
_encoder = msgspec.json.Encoder()
_Params = TypeVar("_Params", MessageParams, CountParams)


def decode_params(raw: bytes, *, rules: Rules, batch: bool, beta: bool = False) -> MessageParams:
    """Read and check the body of a create, or `params` of an item; raises `InvalidParams` and nothing else.

    `rules` are those of the create call (contract 7.6). Beta parameters are taken if `beta` is set (the path
    said `?beta=true`) or if `rules` has any beta. What the rules name stands in the params afterwards (`betas`,
    `user_profile_id`), for an engine that passes them on.
    """
    params = _decode(_message_decoder, raw)
    check_message(params, rules=rules, batch=batch, beta=beta or bool(rules.betas))
    if rules.user_profile_id and not params.user_profile_id:
        params = replace(params, user_profile_id=rules.user_profile_id)
    return _with_betas(params, rules)


def decode_count_params(raw: bytes, *, rules: Rules, beta: bool = False) -> CountParams:
    """Read and check the body of a token count; raises `InvalidParams` and nothing else."""
    params = _decode(_count_decoder, raw)
    check_count(params, rules=rules, beta=beta or bool(rules.betas))
    return _with_betas(params, rules)


def encode_params(params: PromptParams) -> bytes:
    """Write params as JSON, defaults left out."""
    return _encoder.encode(params)


def check_cap(params: MessageParams, model_id: str, cap: int) -> None:
    """Refuse `max_tokens` above what the model can answer (contract 2.7.3); 0 is a cap that nobody told."""
    if params.max_tokens > cap > 0:
        raise invalid(
            f"max_tokens: {params.max_tokens} > {cap}, which is the maximum allowed number of output tokens "
            f"for {model_id}"
        )


def _with_betas(params: _Params, rules: Rules) -> _Params:
    if not rules.betas:
        return params
    return replace(params, betas=list(dict.fromkeys((*rules.betas, *(params.betas or ())))))


def _decode(decoder: msgspec.json.Decoder[_Params], raw: bytes) -> _Params:
    try:
        _check_depth(raw)
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _syntax_fault(raw) or _translated(str(error)) from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _no_json(error) from None


def _syntax_fault(raw: bytes) -> InvalidParams | None:
    """Look behind the place of the first fault: text that is no JSON at all is refused as such."""
    try:
        msgspec.json.decode(raw)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return _no_json(error)
    return None


def _no_json(error: Exception) -> InvalidParams:
    reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return invalid(f"The request body is not valid JSON: {reason}")


def _check_depth(raw: bytes) -> None:
    """Keep schemas and tool inputs shallow enough for whoever walks them later; `RecursionError` if not."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return
    level = [msgspec.json.decode(raw)]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent) if isinstance(child, (dict, list))]
        if not level:
            return
    raise RecursionError


def _children(parent: object) -> list[object]:
    if isinstance(parent, dict):
        return list(parent.values())
    return parent if isinstance(parent, list) else []


_AT = re.compile(r"^(?P<fault>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_FIELD = re.compile(r"^Object (?P<kind>missing required|contains unknown) field `(?P<name>.*)`$", re.DOTALL)
_EXPECTED = re.compile(r"^Expected `(?P<expected>[^`]*)`")
_WORDS = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "array": "list",
    "object": "dictionary",
}
_CHOICES = {
    "role": "'user', 'assistant' or 'system'",
    "ttl": "'5m' or '1h'",
    "effort": "'low', 'medium', 'high', 'xhigh' or 'max'",
    "speed": "'standard' or 'fast'",
    "service_tier": "'auto' or 'standard_only'",
    "display": "'summarized' or 'omitted'",
    "media_type": "'text/plain'",
}
_ONLY_TYPE = {"cache_control": "ephemeral", "format": "json_schema"}


def _translated(text: str) -> InvalidParams:
    """Turn the decoder's words into those of the contract; values that the client sent are not repeated."""
    match = _AT.match(text)
    fault, path = (match["fault"], _dotted(match["path"] or "")) if match else (text, "")
    field = _FIELD.match(fault)
    if field is not None:
        name = field["name"][:_CLIP]
        reason = "Field required" if field["kind"] == "missing required" else "Extra inputs are not permitted"
        return invalid(f"{path}.{name}: {reason}" if path else f"{name}: {reason}")
    return invalid(f"{path}: {_reason(fault, path)}" if path else _reason(fault, path))


def _dotted(path: str) -> str:
    return path.replace("[...]", "").replace("[", ".").replace("]", "").lstrip(".")


def _reason(fault: str, path: str) -> str:
    expected = _EXPECTED.match(fault)
    if expected is not None:
        kinds = [_WORDS.get(kind, kind) for kind in expected["expected"].split(" | ") if kind != "null"]
        return f"Input should be a valid {' or '.join(kinds)}"
    parent, _, last = path.rpartition(".")
    if last in _CHOICES:
        return f"Input should be {_CHOICES[last]}"
    if last == "type" and parent.rpartition(".")[2] in _ONLY_TYPE:
        return f"Input should be '{_ONLY_TYPE[parent.rpartition('.')[2]]}'"
    if last == "type":
        return "Input tag found using 'type' does not match any of the expected tags"
    if "out of range" in fault:
        return "Number is out of range"
    return "Input is not valid"
