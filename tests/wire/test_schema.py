"""Our params against the types of the official SDK: a key that a client can send must not surprise us."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from anthropic.types import ContentBlockParam, ToolUnionParam, message_count_tokens_params, message_create_params
from anthropic.types.beta import message_count_tokens_params as beta_count
from anthropic.types.beta import message_create_params as beta_create
from anthropic.types.beta.beta_content_block_param import BetaContentBlockParam
from anthropic.types.beta.beta_tool_union_param import BetaToolUnionParam

from standby.wire.messages import ContentParam, CountParams, MessageParams, Tool, ToolResultParam

HEADERS = {"betas", "user_profile_id", "workspace_id"}
BY_TAG = {struct.__struct_config__.tag: struct for struct in get_args(ContentParam)}


def typed_dicts(union: Any) -> list[Any]:
    """List the members of a union that a client can write by hand."""
    return [member for member in get_args(union) if hasattr(member, "__required_keys__")]


def tag_of(block: Any) -> str:
    """Read the literal of `type`."""
    (tag,) = get_args(get_type_hints(block)["type"])
    return str(tag)


@pytest.mark.parametrize(
    ("sdk", "ours"),
    [
        (message_create_params.MessageCreateParamsNonStreaming, MessageParams),
        (beta_create.MessageCreateParamsNonStreaming, MessageParams),
        (message_count_tokens_params.MessageCountTokensParams, CountParams),
        (beta_count.MessageCountTokensParams, CountParams),
    ],
)
def test_every_parameter_of_the_sdk_is_known(sdk: Any, ours: type[msgspec.Struct]) -> None:
    """No parameter that the newest SDK can send is an extra input, but for those that travel as headers."""
    assert set(sdk.__annotations__) - HEADERS <= set(ours.__struct_fields__)


@pytest.mark.parametrize("block", [*typed_dicts(ContentBlockParam), *typed_dicts(BetaContentBlockParam)])
def test_every_content_block_of_the_sdk_is_known(block: Any) -> None:
    """Each kind of block has a type of ours with all its keys."""
    ours = BY_TAG[tag_of(block)]
    assert set(get_type_hints(block)) - {"type"} <= set(ours.__struct_encode_fields__)


@pytest.mark.parametrize("tool", [*typed_dicts(ToolUnionParam), *typed_dicts(BetaToolUnionParam)])
def test_every_tool_of_the_sdk_is_known(tool: Any) -> None:
    """Each kind of tool can be written with the keys of ours."""
    assert set(get_type_hints(tool)) <= set(Tool.__struct_fields__)


def test_a_result_may_hold_what_the_sdk_lets_it_hold() -> None:
    """The blocks inside a tool result are known as well."""
    hints = get_type_hints(next(one for one in typed_dicts(ContentBlockParam) if tag_of(one) == "tool_result"))
    inner = next(iter(part for part in get_args(hints["content"]) if part is not str))
    theirs = {tag_of(block) for block in typed_dicts(get_args(inner)[0])}
    lists = [part for part in get_args(get_type_hints(ToolResultParam)["content"]) if part not in {str, type(None)}]
    ours = {struct.__struct_config__.tag for struct in get_args(get_args(lists[0])[0])}
    assert theirs
    assert theirs <= ours
