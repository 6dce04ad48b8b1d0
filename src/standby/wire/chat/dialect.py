"""What kinds of chat-completions engines take and tell beyond the common ground. Pure data.

A dialect says what a thing means there, never what to do with a request: `request.py` and `reply.py` decide that.
Settings and the start-up probe change single fields with `dataclasses.replace`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """What to send so that a model thinks."""

    on: Mapping[str, Any]
    """For `enabled`."""
    adaptive: Mapping[str, Any]
    """For `adaptive`: the model decides."""
    off: Mapping[str, Any]
    """For `disabled`, and for requests that do not ask for thinking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What a kind of engine takes and tells beyond the common ground."""

    name: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every request."""
    max_tokens: str = "max_tokens"
    """The name of that field."""
    says_stop: bool = False
    """Whether the last chunk names the stop string that was found (`stop_reason` or `matched_stop`)."""
    prefill: Mapping[str, Any] | None = None
    """What to send so that it goes on with a last assistant turn; None if it cannot."""
    system_anywhere: bool = False
    """Whether a `system` turn may stand in the middle of a conversation."""
    images: Literal["off", "data", "any"] = "any"
    """Which images it takes: none, those in base 64, or those with a URL as well."""
    files: bool = False
    """Whether it takes PDFs in base 64."""
    tools: Literal["native", "schema", "off"] = "native"
    """Who makes tool calls: the engine, we by a convention and a JSON Schema (`calls.py`), or nobody."""
    forces: bool = True
    """Whether an engine with native tools obeys a `tool_choice` that demands a call; if not, a schema forces it."""
    parallel: bool = True
    """Whether it takes `parallel_tool_calls`; an answer that may have one call never has more in any case."""
    strict: bool = False
    """Whether it enforces `strict` on a tool."""
    forces_by_strict: bool = False
    """Whether a forced call keeps to the tool's schema only if `strict` is asked for as well."""
    grammar: bool = False
    """Whether schemas go as a `grammar` of ours: the engine reads schemas itself, but not all that they say."""
    thinking: Thinking | None = None
    """How to make it think; None if it cannot."""
    thinking_back: Literal["", "reasoning", "reasoning_content"] = ""
    """The field that takes thinking of earlier turns; empty leaves it out."""
    efforts: tuple[str, ...] = ()
    """Values of `reasoning_effort`, from least to most; empty if it takes none."""
    budget: str = ""
    """The field that takes a budget of thinking tokens; empty if there is none."""
    user: bool = True
    """Whether it takes `user`."""
    top_k: bool = True
    pins: bool = False
    """Whether it takes `id_slot`: the slot whose cache has the beginning of the prompt."""
    usage: Literal["always", "end"] = "end"
    """Whether each chunk carries the counts so far, or only the last one all of them."""
    counts: Literal["host", "llamacpp", "vllm", "none"] = "none"
    """How it counts tokens."""
    ranks: tuple[int, int] | None = None
    """What `priority` has to be for live and for batch requests on an engine that takes one; None: there is no such."""
    priorities: tuple[int, int] | None = None
    """What `priority` is sent for live and batch requests; None if none may be sent."""

    def with_priority(self) -> Dialect:
        """Return the dialect of an engine that was seen to take a priority."""
        return replace(self, priorities=self.ranks)


_ALWAYS = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
_AT_END = {"stream_options": {"include_usage": True}}
_EFFORTS = ("low", "medium", "high", "xhigh")


def _template(*, thinks: bool) -> dict[str, Any]:
    """Switch the thinking of a chat template: models read one name or the other and ignore the rest."""
    return {"chat_template_kwargs": {"enable_thinking": thinks, "thinking": thinks}}


_TEMPLATE = Thinking(on=_template(thinks=True), adaptive=_template(thinks=True), off=_template(thinks=False))

HOST = Dialect(
    name="host",
    extra=_ALWAYS,
    says_stop=True,
    prefill={},
    images="off",
    tools="schema",
    usage="always",
    counts="host",
    ranks=(0, 10),
    priorities=(0, 10),
)
"""Our own engine host: lower is sooner, token by token."""
LLAMACPP = Dialect(
    name="llamacpp",
    extra={**_AT_END, "timings_per_token": True, "return_progress": True},
    prefill={},
    tools="schema",
    forces=False,
    grammar=True,
    thinking=_TEMPLATE,
    thinking_back="reasoning_content",
    budget="thinking_budget_tokens",
    pins=True,
    usage="always",
    counts="llamacpp",
)
"""llama.cpp's server: no priority; it does not name the stop string; a forced tool choice is not enforced."""
VLLM = Dialect(
    name="vllm",
    extra=_ALWAYS,
    says_stop=True,
    prefill={"continue_final_message": True, "add_generation_prompt": False},
    strict=True,
    forces_by_strict=True,
    thinking=_TEMPLATE,
    thinking_back="reasoning",
    efforts=_EFFORTS,
    usage="always",
    counts="vllm",
    ranks=(0, 10),
)
"""vLLM: lower is sooner, unset is 0; without `--scheduling-policy priority` others are refused or,
in 0.32, ignored."""
SGLANG = Dialect(
    name="sglang",
    extra=_ALWAYS,
    says_stop=True,
    prefill={"continue_final_message": True},
    strict=True,
    thinking=_TEMPLATE,
    thinking_back="reasoning_content",
    efforts=_EFFORTS,
    usage="always",
    ranks=(10, 0),
)
"""SGLang: higher is sooner unless `--schedule-low-priority-values-first`, and unset ranks below every number: so
`priority` goes with live requests too, or with none."""
OLLAMA = Dialect(
    name="ollama",
    extra=_AT_END,
    images="data",
    forces=False,
    parallel=False,
    thinking=Thinking(on={"reasoning_effort": "high"}, adaptive={}, off={"reasoning_effort": "none"}),
    thinking_back="reasoning",
    efforts=("low", "medium", "high"),
    user=False,
    top_k=False,
)
"""Ollama: no priority, no `tool_choice`, no image by URL."""
OPENAI = Dialect(
    name="openai",
    extra=_AT_END,
    max_tokens="max_completion_tokens",
    system_anywhere=True,
    files=True,
    strict=True,
    thinking=Thinking(on={"reasoning_effort": "medium"}, adaptive={}, off={}),
    efforts=_EFFORTS,
    top_k=False,
)
"""OpenAI itself. A model that always reasons does so in private; `disabled` shows none of it."""
GENERIC = Dialect(name="generic", extra=_AT_END, top_k=False)
"""Whatever says that it speaks chat-completions: only what all have."""

DIALECTS = {
    "standby": HOST,
    "llamacpp": LLAMACPP,
    "vllm": VLLM,
    "sglang": SGLANG,
    "ollama": OLLAMA,
    "openai": OPENAI,
    "generic": GENERIC,
}
"""By the names of the setting `engine.dialect`."""
BY_OWNER = {
    "standby": HOST,
    "llamacpp": LLAMACPP,
    "vllm": VLLM,
    "sglang": SGLANG,
    "library": OLLAMA,
    "openai": OPENAI,
    "system": OPENAI,
    "openai-internal": OPENAI,
}
"""By `owned_by` of the entries of `/v1/models`."""
