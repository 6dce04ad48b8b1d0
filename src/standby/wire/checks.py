"""What a body must keep beyond its shape (contract 2.7.3, 3.1, 3.3 and 9.1). Pure; raises `InvalidParams`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from standby.errors import invalid
from standby.records import Rules
from standby.wire.params import (
    BETA_FIELDS,
    BETA_MESSAGE_FIELDS,
    Base64Source,
    BetaBlock,
    CacheControl,
    ContentParam,
    CountParams,
    DocumentParam,
    ImageParam,
    MessageParams,
    PromptParams,
    RedactedThinkingParam,
    TextParam,
    ThinkingEnabled,
    ThinkingParam,
    Tool,
    ToolChoiceAny,
    ToolChoiceTool,
    ToolResultParam,
    ToolUseParam,
    Turn,
)

NO_SAMPLING_VERSION = "2026-10-21"
MAX_MESSAGES = 100_000
MAX_MARKERS = 4
MIN_BUDGET = 1024
MAX_MODEL_NAME = 256
_CLIP = 64

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_SERVER_TOOL = re.compile(
    r"(bash|code_execution|browser_toolset|memory|computer_toolset|computer|text_editor|web_search|web_fetch"
    r"|tool_search_tool_bm25|tool_search_tool_regex|mcp_toolset|advisor)(_\d{8})?"
)
_NAMELESS_TOOL = re.compile(r"(browser_toolset|computer_toolset|mcp_toolset).*")
_CUSTOM_FIELDS = frozenset(
    {
        "name",
        "type",
        "description",
        "input_schema",
        "cache_control",
        "strict",
        "defer_loading",
        "allowed_callers",
        "eager_input_streaming",
        "input_examples",
    }
)
_SERVER_FIELDS = tuple(name for name in Tool.__struct_fields__ if name not in _CUSTOM_FIELDS)
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")


def check_message(params: MessageParams, *, rules: Rules, batch: bool, beta: bool) -> None:
    """Check the body of a create, or the params of an item."""
    if batch:
        _check_batch(params, rules)
    _check_prompt(params, rules, beta=beta)
    _check_lengths(params, batch=batch)
    if rules.version == NO_SAMPLING_VERSION:
        _refuse_sampling(params)
    _check_sampling(params)
    if params.stop_sequences:
        _check_stops(params.stop_sequences)
    if not beta:
        _refuse_beta(params, BETA_MESSAGE_FIELDS)


def check_count(params: CountParams, *, rules: Rules, beta: bool) -> None:
    """Check the body of a token count."""
    _check_prompt(params, rules, beta=beta)
    if not beta:
        _refuse_beta(params, BETA_FIELDS)


def _check_batch(params: MessageParams, rules: Rules) -> None:
    if params.stream:
        raise invalid("`stream=True` is not supported in the Message Batches API")
    if params.speed == "fast":
        raise invalid("`speed` is not supported in the Message Batches API")
    if rules.user_profile_id and params.user_profile_id not in {None, rules.user_profile_id}:
        raise invalid("user_profile_id: does not match the anthropic-user-profile-id header of the batch")
    if params.billing_policy and params.billing_policy.get("bill_to") == "user_profile":
        raise invalid("billing_policy.bill_to: `user_profile` is not supported in the Message Batches API")


def _check_lengths(params: MessageParams, *, batch: bool) -> None:
    least = 1 if batch else 0
    if params.max_tokens < least:
        raise invalid(f"max_tokens: must be greater than or equal to {least}")
    if params.max_tokens == 0:
        _check_warming(params)
    if isinstance(params.thinking, ThinkingEnabled) and params.max_tokens <= params.thinking.budget_tokens:
        raise invalid("`max_tokens` must be greater than `thinking.budget_tokens`.")


def _check_warming(params: MessageParams) -> None:
    """`max_tokens: 0` fills the cache and answers nothing (contract 9.1, rule 13)."""
    if params.stream:
        raise invalid("max_tokens: must be greater than or equal to 1 with `stream`")
    if isinstance(params.thinking, ThinkingEnabled):
        raise invalid("max_tokens: must be greater than or equal to 1 when thinking is enabled")
    if params.output_config is not None and params.output_config.format is not None:
        raise invalid("max_tokens: must be greater than or equal to 1 with `output_config.format`")
    if isinstance(params.tool_choice, (ToolChoiceAny, ToolChoiceTool)):
        raise invalid("max_tokens: must be greater than or equal to 1 when tool_choice forces tool use")


def _refuse_sampling(params: MessageParams) -> None:
    for name, value in (("temperature", params.temperature), ("top_p", params.top_p), ("top_k", params.top_k)):
        if value is not None:
            raise invalid(f"{name}: is not supported with anthropic-version {NO_SAMPLING_VERSION}")


def _check_sampling(params: MessageParams) -> None:
    if params.temperature is not None and not 0 <= params.temperature <= 1:
        raise invalid("temperature: range: 0..1")
    if params.top_p is not None and not 0 <= params.top_p <= 1:
        raise invalid("top_p: range: 0..1")
    if params.top_k is not None and params.top_k < 0:
        raise invalid("top_k: must be greater than or equal to 0")
    if isinstance(params.thinking, ThinkingEnabled) and params.temperature not in {None, 1}:
        raise invalid("`temperature` may only be set to 1 when thinking is enabled.")


def _check_stops(stops: list[str]) -> None:
    for stop in stops:
        if not stop.strip():
            raise invalid("stop_sequences: each stop sequence must contain non-whitespace")


def _refuse_beta(params: PromptParams, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(params, name) is not None:
            raise invalid(f"{name}: Extra inputs are not permitted")
    if getattr(params.thinking, "block_binding", None) is not None:
        raise invalid("thinking.block_binding: Extra inputs are not permitted")
    if params.output_config is not None and params.output_config.task_budget is not None:
        raise invalid("output_config.task_budget: Extra inputs are not permitted")


def _check_prompt(params: PromptParams, rules: Rules, *, beta: bool) -> None:
    if not params.model:
        raise invalid("model: String should have at least 1 character")
    if len(params.model) > MAX_MODEL_NAME:
        raise invalid(f"model: String should have at most {MAX_MODEL_NAME} characters")
    _check_turns(params.messages, strict=rules.version == NO_SAMPLING_VERSION, beta=beta)
    if params.tools:
        _check_tools(params.tools)
    if isinstance(params.system, list):
        for block in params.system:
            if not block.text:
                raise invalid("system: text content blocks must be non-empty")
    if isinstance(params.thinking, ThinkingEnabled) and params.thinking.budget_tokens < MIN_BUDGET:
        raise invalid(f"thinking.enabled.budget_tokens: Input should be greater than or equal to {MIN_BUDGET}")
    if params.tool_choice is not None:
        _check_choice(params)
    _check_markers(params)


def _check_turns(turns: list[Turn], *, strict: bool, beta: bool) -> None:
    if not turns:
        raise invalid("messages: at least one message is required")
    if len(turns) > MAX_MESSAGES:
        raise invalid(f"messages: List should have at most {MAX_MESSAGES} items after validation, not {len(turns)}")
    last = len(turns) - 1
    has_tools = False
    for number, turn in enumerate(turns):
        if not turn.content and not (number == last and turn.role == "assistant"):
            raise invalid(
                f"messages.{number}: all messages must have non-empty content except for the optional final assistant "
                "message"
            )
        if isinstance(turn.content, list):
            has_tools |= _check_blocks(number, turn, turn.content, strict=strict, beta=beta)
    if has_tools:
        _check_pairs(turns)


def _check_blocks(number: int, turn: Turn, blocks: list[ContentParam], *, strict: bool, beta: bool) -> bool:
    has_tools = False
    for place, block in enumerate(blocks):
        match block:
            case TextParam():
                if not block.text:
                    raise invalid("messages: text content blocks must be non-empty")
                if strict and block.citations and turn.role == "user":
                    raise invalid(f"messages.{number}.content.{place}.citations: must be empty in user messages")
                continue
            case ToolUseParam() | ToolResultParam():
                has_tools = True
        path = f"messages.{number}.content.{place}"
        if not beta and isinstance(block, BetaBlock):
            raise invalid(f"{path}.type: Input tag found using 'type' does not match any of the expected tags")
        _check_role(path, turn.role, block, strict=strict)
    return has_tools


def _check_role(path: str, role: str, block: ContentParam, *, strict: bool) -> None:
    tag = type(block).__struct_config__.tag
    if role == "system" and not isinstance(block, BetaBlock):
        raise invalid(f"{path}: `{tag}` blocks are not allowed in `system` messages")
    match block:
        case ToolUseParam() | ThinkingParam() | RedactedThinkingParam() if role != "assistant":
            raise invalid(f"{path}: `{tag}` blocks can only be in `assistant` messages")
        case ToolResultParam() if role != "user":
            raise invalid(f"{path}: `{tag}` blocks can only be in `user` messages")
        case DocumentParam() if strict and role == "assistant":
            raise invalid(f"{path}: `document` blocks are not allowed in `assistant` messages")
        case ImageParam(source=Base64Source(media_type=media_type)) if media_type not in _IMAGE_TYPES:
            raise invalid(
                f"{path}.source.media_type: Input should be 'image/jpeg', 'image/png', 'image/gif' or 'image/webp'"
            )
        case DocumentParam(source=Base64Source(media_type=media_type)) if media_type != "application/pdf":
            raise invalid(f"{path}.source.media_type: Input should be 'application/pdf'")
        case _:
            return


def _check_pairs(turns: list[Turn]) -> None:
    """Every call has its result in the next turn; consecutive turns of one role count as one."""
    seen: set[str] = set()
    open_calls: dict[str, int] = {}
    answered: set[str] = set()
    before = ""
    for number, turn in enumerate(turns):
        if turn.role == "assistant" and before != "assistant":
            _refuse_open(open_calls, answered)
            open_calls, answered = {}, set()
        before = turn.role if turn.role != "system" else before
        for place, block in enumerate(turn.content if isinstance(turn.content, list) else ()):
            path = f"messages.{number}.content.{place}"
            if isinstance(block, ToolUseParam):
                if block.id in seen:
                    raise invalid(f"{path}: `tool_use` ids must be unique")
                seen.add(block.id)
                open_calls[block.id] = number
            elif isinstance(block, ToolResultParam):
                _answer(path, block.tool_use_id, open_calls, answered)
    _refuse_open(open_calls, answered)


def _answer(path: str, call: str, open_calls: dict[str, int], answered: set[str]) -> None:
    if call not in open_calls:
        raise invalid(
            f"{path}: unexpected `tool_use_id` found in `tool_result` blocks: {call[:_CLIP]}. Each `tool_result` block "
            "must have a corresponding `tool_use` block in the previous message."
        )
    if call in answered:
        raise invalid(
            f"{path}: each tool_use must have a single result. Found multiple `tool_result` blocks with id: "
            f"{call[:_CLIP]}"
        )
    answered.add(call)


def _refuse_open(open_calls: dict[str, int], answered: set[str]) -> None:
    missing = [call for call in open_calls if call not in answered]
    if missing:
        names = ", ".join(call[:_CLIP] for call in missing[:16])
        raise invalid(
            f"messages.{open_calls[missing[0]]}: `tool_use` ids were found without `tool_result` blocks immediately "
            f"after: {names}. Each `tool_use` block must have a corresponding `tool_result` block in the next message."
        )


def _check_tools(tools: list[Tool]) -> None:
    names: set[str] = set()
    for number, tool in enumerate(tools):
        path = f"tools.{number}"
        if tool.is_custom:
            _check_custom(path, tool)
        elif not _SERVER_TOOL.fullmatch(tool.type or ""):
            raise invalid(f"{path}: Input tag found using 'type' does not match any of the expected tags")
        if tool.name is None:
            if tool.is_custom or not _NAMELESS_TOOL.fullmatch(tool.type or ""):
                raise invalid(f"{path}.name: Field required")
            continue
        if not _TOOL_NAME.fullmatch(tool.name):
            raise invalid(f"{path}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
        if tool.name in names:
            raise invalid("tools: Tool names must be unique.")
        names.add(tool.name)


def _check_custom(path: str, tool: Tool) -> None:
    if tool.input_schema is None:
        raise invalid(f"{path}.input_schema: Field required")
    kind = tool.input_schema.get("type")
    if kind != "object":
        reason = "Field required" if kind is None else "Input should be 'object'"
        raise invalid(f"{path}.input_schema.type: {reason}")
    for name in _SERVER_FIELDS:
        if getattr(tool, name) is not None:
            raise invalid(f"{path}.{name}: Extra inputs are not permitted")


def _check_choice(params: PromptParams) -> None:
    choice = params.tool_choice
    if not isinstance(choice, (ToolChoiceAny, ToolChoiceTool)):
        return
    if not params.tools:
        raise invalid("tool_choice: Tool choice may only be specified while providing tools.")
    if isinstance(choice, ToolChoiceTool) and all(
        tool.name != choice.name for tool in params.tools if tool.name is not None
    ):
        raise invalid(f"Tool '{choice.name[:_CLIP]}' not found in provided tools")
    if isinstance(params.thinking, ThinkingEnabled):
        raise invalid("Thinking may not be enabled when tool_choice forces tool use.")


def _check_markers(params: PromptParams) -> None:
    """Check the cache breakpoints (contract 9.1, rules 3, 4 and 8)."""
    markers: list[tuple[str, str]] = [(path, control.ttl) for path, control in markers_of(params)]
    if params.cache_control is not None:
        markers = _with_automatic(params, params.cache_control, markers)
    if len(markers) > MAX_MARKERS:
        raise invalid(f"A maximum of {MAX_MARKERS} blocks with cache_control may be provided. Found {len(markers)}.")
    short = False
    for path, ttl in markers:
        if ttl == "1h" and short:
            prefix = f"{path}." if path else ""
            raise invalid(
                f"{prefix}cache_control.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' "
                "cache_control block. Note that blocks are processed in the following order: `tools`, `system`, "
                "`messages`."
            )
        short |= ttl == "5m"


def _with_automatic(
    params: PromptParams, control: CacheControl, markers: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Add the breakpoint that the top-level `cache_control` puts on the last block that can carry one, if any can."""
    for last in _from_the_end(params):
        if last is None:
            return [*markers, ("", control.ttl)]
        if last.ttl != control.ttl:
            raise invalid("cache_control.ttl: differs from the cache_control of the last block, which it would mark")
        break
    return markers


def _from_the_end(params: PromptParams) -> Iterator[CacheControl | None]:
    """Walk the blocks that can carry a breakpoint, the last one first, each with the one that it carries."""
    for turn in reversed(params.messages):
        if isinstance(turn.content, str):
            if turn.content:
                yield None
            continue
        for block in reversed(turn.content):
            if hasattr(block, "cache_control"):
                yield block.cache_control
    if isinstance(params.system, str):
        if params.system:
            yield None
    else:
        yield from (text.cache_control for text in reversed(params.system or ()))
    yield from (tool.cache_control for tool in reversed(params.tools or ()))


def markers_of(params: PromptParams) -> Iterator[tuple[str, CacheControl]]:
    """Walk the explicit cache breakpoints in the order of the prompt, each with the path of its block."""
    for number, tool in enumerate(params.tools or ()):
        if tool.cache_control is not None:
            yield f"tools.{number}", tool.cache_control
    if isinstance(params.system, list):
        for number, block in enumerate(params.system):
            if block.cache_control is not None:
                yield f"system.{number}", block.cache_control
    for number, turn in enumerate(params.messages):
        if isinstance(turn.content, list):
            yield from _markers_of_turn(number, turn.content)


def _markers_of_turn(number: int, blocks: list[ContentParam]) -> Iterator[tuple[str, CacheControl]]:
    for place, block in enumerate(blocks):
        if isinstance(block, ToolResultParam) and isinstance(block.content, list):
            for inner, part in enumerate(block.content):
                if part.cache_control is not None:
                    yield f"messages.{number}.content.{place}.content.{inner}", part.cache_control
        control: CacheControl | None = getattr(block, "cache_control", None)
        if control is not None:
            yield f"messages.{number}.content.{place}", control
