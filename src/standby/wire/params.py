"""The body of a Messages create and of a token count, typed (contract 3.1, 3.2 and 4).

A missing key and an explicit `null` mean the same; both read as None. Re-encoding leaves defaults out.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Json = Any
"""Any JSON value: the one place where a type is left open, for schemas, tool inputs and server-tool results."""


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of everything that a client sends: an unknown key is an error."""


class CacheControl(Strict, tag="ephemeral", frozen=True, kw_only=True):
    """A cache breakpoint (contract 9.1)."""

    ttl: Literal["5m", "1h"] = "5m"


class CitationsSwitch(Strict, frozen=True, kw_only=True):
    """Whether a document may be cited."""

    enabled: bool = False


class Base64Source(Strict, tag="base64", frozen=True, kw_only=True):
    """Bytes of an image or a PDF in base 64."""

    data: str
    media_type: str


class UrlSource(Strict, tag="url", frozen=True, kw_only=True):
    """An image or a PDF somewhere else."""

    url: str


class FileSource(Strict, tag="file", frozen=True, kw_only=True):
    """A file that was uploaded before."""

    file_id: str


class TextSource(Strict, tag="text", frozen=True, kw_only=True):
    """A document as plain text."""

    data: str
    media_type: Literal["text/plain"]


class TextParam(Strict, tag="text", frozen=True, kw_only=True):
    """Text."""

    text: str
    cache_control: CacheControl | None = None
    citations: list[dict[str, Json]] | None = None


class ImageParam(Strict, tag="image", frozen=True, kw_only=True):
    """An image."""

    source: Base64Source | UrlSource | FileSource
    cache_control: CacheControl | None = None
    transformations: dict[str, Json] | None = None


class ContentSource(Strict, tag="content", frozen=True, kw_only=True):
    """A document made of blocks."""

    content: str | list[TextParam | ImageParam]


class DocumentParam(Strict, tag="document", frozen=True, kw_only=True):
    """A document."""

    source: Base64Source | TextSource | ContentSource | UrlSource | FileSource
    cache_control: CacheControl | None = None
    citations: CitationsSwitch | None = None
    context: str | None = None
    title: str | None = None


class SearchResultParam(Strict, tag="search_result", frozen=True, kw_only=True):
    """A search result of the client."""

    content: list[TextParam]
    source: str
    title: str
    cache_control: CacheControl | None = None
    citations: CitationsSwitch | None = None


class ThinkingParam(Strict, tag="thinking", frozen=True, kw_only=True):
    """Thinking of an earlier answer, sent back."""

    thinking: str
    signature: str


class RedactedThinkingParam(Strict, tag="redacted_thinking", frozen=True, kw_only=True):
    """Thinking of an earlier answer, not readable."""

    data: str


class ToolUseParam(Strict, tag="tool_use", frozen=True, kw_only=True):
    """A call that the model made."""

    id: str
    name: str
    input: dict[str, Json]
    cache_control: CacheControl | None = None
    caller: dict[str, Json] | None = None
    toolset_name: str | None = None


class ToolReferenceParam(Strict, tag="tool_reference", frozen=True, kw_only=True):
    """A tool found by a tool search."""

    tool_name: str
    cache_control: CacheControl | None = None


class BrowserStateParam(Strict, tag="browser_state", frozen=True, kw_only=True):
    """What a browser shows."""

    tabs: list[dict[str, Json]]
    state_changes: list[dict[str, Json]] | None = None
    cache_control: CacheControl | None = None


ToolResultContent = TextParam | ImageParam | SearchResultParam | DocumentParam | ToolReferenceParam | BrowserStateParam


class ToolResultParam(Strict, tag="tool_result", frozen=True, kw_only=True):
    """What a call gave."""

    tool_use_id: str
    content: str | list[ToolResultContent] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: str | None = None


class ServerToolUseParam(Strict, tag="server_tool_use", frozen=True, kw_only=True):
    """A call of a tool that ran beside the model."""

    id: str
    name: str
    input: dict[str, Json]
    cache_control: CacheControl | None = None
    caller: dict[str, Json] | None = None


class ServerToolResultParam(Strict, frozen=True, kw_only=True):
    """What a server tool gave: opaque here, an engine passes it on or refuses it."""

    tool_use_id: str
    content: dict[str, Json] | list[dict[str, Json]]
    cache_control: CacheControl | None = None
    caller: dict[str, Json] | None = None


class WebSearchToolResultParam(ServerToolResultParam, tag="web_search_tool_result", frozen=True, kw_only=True):
    """Pages found."""


class WebFetchToolResultParam(ServerToolResultParam, tag="web_fetch_tool_result", frozen=True, kw_only=True):
    """A page read."""


class CodeExecutionToolResultParam(ServerToolResultParam, tag="code_execution_tool_result", frozen=True, kw_only=True):
    """A program's output."""


class BashCodeExecutionToolResultParam(
    ServerToolResultParam, tag="bash_code_execution_tool_result", frozen=True, kw_only=True
):
    """A shell command's output."""


class TextEditorCodeExecutionToolResultParam(
    ServerToolResultParam, tag="text_editor_code_execution_tool_result", frozen=True, kw_only=True
):
    """A file viewed or changed."""


class ToolSearchToolResultParam(ServerToolResultParam, tag="tool_search_tool_result", frozen=True, kw_only=True):
    """Tools found."""


class AdvisorToolResultParam(ServerToolResultParam, tag="advisor_tool_result", frozen=True, kw_only=True):
    """What an advisor said (beta)."""


class ContainerUploadParam(Strict, tag="container_upload", frozen=True, kw_only=True):
    """A file for the container of code execution."""

    file_id: str
    cache_control: CacheControl | None = None


class McpToolUseParam(Strict, tag="mcp_tool_use", frozen=True, kw_only=True):
    """A call of an MCP tool (beta)."""

    id: str
    name: str
    server_name: str
    input: dict[str, Json]
    cache_control: CacheControl | None = None


class McpToolResultParam(Strict, tag="mcp_tool_result", frozen=True, kw_only=True):
    """What an MCP tool gave (beta)."""

    tool_use_id: str
    content: str | list[TextParam] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class McpToolListingParam(Strict, tag="mcp_tool_listing", frozen=True, kw_only=True):
    """The tools of an MCP server (beta)."""

    mcp_server_name: str
    tools: list[dict[str, Json]]


class CompactionParam(Strict, tag="compaction", frozen=True, kw_only=True):
    """An earlier part of the conversation, made shorter (beta)."""

    content: str | None = None
    encrypted_content: str | None = None
    signature: str | None = None
    tool_changes: list[dict[str, Json]] | None = None
    cache_control: CacheControl | None = None


class ToolAdditionParam(Strict, tag="tool_addition", frozen=True, kw_only=True):
    """A tool that joins (beta)."""

    tool: dict[str, Json]
    cache_control: CacheControl | None = None


class ToolRemovalParam(Strict, tag="tool_removal", frozen=True, kw_only=True):
    """A tool that leaves (beta)."""

    tool: dict[str, Json]
    cache_control: CacheControl | None = None


class FallbackParam(Strict, tag="fallback", rename={"from_": "from"}, frozen=True, kw_only=True):
    """A change of model in the middle of a conversation (beta)."""

    from_: dict[str, Json]
    to: dict[str, Json]
    trigger: Json = None


BetaBlock = (
    AdvisorToolResultParam
    | McpToolUseParam
    | McpToolResultParam
    | McpToolListingParam
    | CompactionParam
    | ToolAdditionParam
    | ToolRemovalParam
    | FallbackParam
)
ContentParam = (
    TextParam
    | ImageParam
    | DocumentParam
    | SearchResultParam
    | ThinkingParam
    | RedactedThinkingParam
    | ToolUseParam
    | ToolResultParam
    | ServerToolUseParam
    | WebSearchToolResultParam
    | WebFetchToolResultParam
    | CodeExecutionToolResultParam
    | BashCodeExecutionToolResultParam
    | TextEditorCodeExecutionToolResultParam
    | ToolSearchToolResultParam
    | ContainerUploadParam
    | BetaBlock
)


class Turn(Strict, frozen=True, kw_only=True):
    """One entry of `messages`."""

    role: Literal["user", "assistant", "system"]
    content: str | list[ContentParam]


class Tool(Strict, frozen=True, kw_only=True):
    """A tool: a client's (`type` missing or `custom`) or one of the many server tools, told apart by `type`."""

    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Json] | None = None
    cache_control: CacheControl | None = None
    strict: bool | None = None
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None
    eager_input_streaming: bool | None = None
    input_examples: list[dict[str, Json]] | None = None
    configs: dict[str, Json] | None = None
    max_characters: int | None = None
    allowed_domains: list[str] | None = None
    blocked_domains: list[str] | None = None
    max_uses: int | None = None
    user_location: dict[str, Json] | None = None
    citations: dict[str, Json] | None = None
    max_content_tokens: int | None = None
    url_sources: dict[str, Json] | None = None
    use_cache: bool | None = None
    response_inclusion: str | None = None
    display_height_px: int | None = None
    display_width_px: int | None = None
    display_number: int | None = None
    enable_zoom: bool | None = None
    model: str | None = None
    caching: dict[str, Json] | None = None
    max_tokens: int | None = None
    mcp_server_name: str | None = None
    default_config: dict[str, Json] | None = None
    tools: list[dict[str, Json]] | None = None

    @property
    def is_custom(self) -> bool:
        """Whether the client runs it."""
        return self.type is None or self.type == "custom"


class ToolChoiceAuto(Strict, tag="auto", frozen=True, kw_only=True):
    """The model decides."""

    disable_parallel_tool_use: bool | None = None


class ToolChoiceAny(Strict, tag="any", frozen=True, kw_only=True):
    """Some tool must be called."""

    disable_parallel_tool_use: bool | None = None


class ToolChoiceTool(Strict, tag="tool", frozen=True, kw_only=True):
    """This tool must be called."""

    name: str
    disable_parallel_tool_use: bool | None = None


class ToolChoiceNone(Strict, tag="none", frozen=True, kw_only=True):
    """No tool may be called."""


ToolChoice = ToolChoiceAuto | ToolChoiceAny | ToolChoiceTool | ToolChoiceNone


class ThinkingEnabled(Strict, tag="enabled", frozen=True, kw_only=True):
    """Think, within a budget of tokens."""

    budget_tokens: int
    display: Literal["summarized", "omitted"] | None = None
    block_binding: dict[str, Json] | None = None


class ThinkingDisabled(Strict, tag="disabled", frozen=True, kw_only=True):
    """Do not think."""


class ThinkingBetweenTools(Strict, tag="between_tools", frozen=True, kw_only=True):
    """Think between calls of tools only."""


class ThinkingAdaptive(Strict, tag="adaptive", frozen=True, kw_only=True):
    """Think as much as the task needs."""

    display: Literal["summarized", "omitted"] | None = None
    block_binding: dict[str, Json] | None = None


Thinking = ThinkingEnabled | ThinkingDisabled | ThinkingBetweenTools | ThinkingAdaptive


class JsonFormat(Strict, tag="json_schema", frozen=True, kw_only=True):
    """The answer must be JSON that fits `schema`."""

    schema: dict[str, Json]


class OutputConfig(Strict, frozen=True, kw_only=True):
    """How to answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None
    task_budget: dict[str, Json] | None = None


class Metadata(Strict, frozen=True, kw_only=True):
    """Who asks, for the one who looks for abuse."""

    user_id: str | None = None


class PromptParams(Strict, frozen=True, kw_only=True):
    """What a create and a token count share: all that makes the prompt."""

    model: str
    messages: list[Turn]
    system: str | list[TextParam] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    speed: Literal["standard", "fast"] | None = None
    # Beta only (contract 3.2)
    billing_policy: dict[str, Json] | None = None
    compaction: Json = None
    context_management: dict[str, Json] | None = None
    mcp_servers: list[dict[str, Json]] | None = None
    output_format: dict[str, Json] | None = None
    betas: list[str] | None = None


class MessageParams(PromptParams, frozen=True, kw_only=True):
    """The body of `POST /v1/messages`, and `params` of a batch item."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None
    container: str | dict[str, Json] | None = None
    diagnostics: dict[str, Json] | None = None
    inference_geo: str | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    user_profile_id: str | None = None
    # Beta only (contract 3.2)
    fallback_credit_token: Json = None
    fallbacks: Json = None
    thread: Json = None


class CountParams(PromptParams, frozen=True, kw_only=True):
    """The body of `POST /v1/messages/count_tokens`."""


BETA_FIELDS = ("billing_policy", "compaction", "context_management", "mcp_servers", "output_format", "betas")
BETA_MESSAGE_FIELDS = (*BETA_FIELDS, "fallback_credit_token", "fallbacks", "thread")
