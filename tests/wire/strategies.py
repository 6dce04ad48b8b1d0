"""Messages of any shape, for properties."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from standby.wire.messages import (
    CacheCreation,
    ContentBlock,
    Message,
    OutputDetails,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    Usage,
)

any_json: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text(), any_json, max_size=4)
counts = st.integers(0, 10**9)
citations = st.fixed_dictionaries(
    {
        "type": st.just("char_location"),
        "cited_text": st.text(),
        "document_index": counts,
        "document_title": st.none() | st.text(),
        "start_char_index": counts,
        "end_char_index": counts,
    }
)

blocks: st.SearchStrategy[ContentBlock] = st.one_of(
    st.builds(TextBlock, text=st.text(), citations=st.none() | st.lists(citations, max_size=2)),
    st.builds(ThinkingBlock, thinking=st.text(), signature=st.text()),
    st.builds(RedactedThinkingBlock, data=st.text()),
    st.builds(ToolUseBlock, id=st.text(), name=st.text(), input=json_objects),
)

usages = st.builds(
    Usage,
    input_tokens=counts,
    cache_creation_input_tokens=counts,
    cache_read_input_tokens=counts,
    cache_creation=st.builds(CacheCreation, ephemeral_5m_input_tokens=counts, ephemeral_1h_input_tokens=counts),
    output_tokens=counts,
    service_tier=st.sampled_from([None, "standard", "batch"]),
    inference_geo=st.none() | st.text(),
    output_tokens_details=st.none() | st.builds(OutputDetails, thinking_tokens=counts),
)

messages = st.builds(
    Message,
    id=st.text(),
    model=st.text(),
    content=st.lists(blocks, max_size=4),
    stop_reason=st.sampled_from(["end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal"]),
    stop_sequence=st.none() | st.text(),
    usage=usages,
)


def divided(message: Message) -> Message:
    """Return the message with cache writes that add up, as an engine tells them."""
    by_lifetime = message.usage.cache_creation
    written = by_lifetime.ephemeral_5m_input_tokens + by_lifetime.ephemeral_1h_input_tokens
    usage = msgspec.structs.replace(message.usage, cache_creation_input_tokens=written)
    return msgspec.structs.replace(message, usage=usage)
