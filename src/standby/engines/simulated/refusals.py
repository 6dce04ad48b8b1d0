"""What a model of Claude does not take, refused as the service does. Pure.

Names that the catalogue does not know, `simulated` among them, take everything.
"""

from __future__ import annotations

from standby.errors import invalid
from standby.wire.claude import Claude, find
from standby.wire.messages import MessageParams, TextParam, ToolChoiceAny, ToolChoiceTool


def check_taken(params: MessageParams) -> None:
    """Raise `InvalidParams` if the model of this request does not take what it asks for."""
    claude = find(params.model)
    if claude is None:
        return
    if not claude.prefill and _is_prefilled(params):
        raise invalid(
            "This model does not support assistant message prefill. The conversation must end with a user message."
        )
    _check_thinking(params, claude)
    if not claude.forced_tools and isinstance(params.tool_choice, ToolChoiceAny | ToolChoiceTool):
        raise invalid("tool_choice: This model does not support choices that force tool use.")
    if not claude.effort and params.output_config is not None and params.output_config.effort is not None:
        raise invalid("output_config.effort: This model does not support the effort parameter.")
    if not claude.sampling:
        _check_sampling(params)


def _is_prefilled(params: MessageParams) -> bool:
    """Whether the last turn begins the answer; one that ends with a call or a result of the service's goes on."""
    last = params.messages[-1]
    if last.role != "assistant":
        return False
    return isinstance(last.content, str) or not last.content or isinstance(last.content[-1], TextParam)


def _check_thinking(params: MessageParams, claude: Claude) -> None:
    if params.thinking is None:
        return
    type_ = str(type(params.thinking).__struct_config__.tag)
    if type_ in claude.thinking:
        return
    if type_ == "enabled":
        raise invalid(
            '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and'
            ' "output_config.effort" to control thinking behavior.'
        )
    taken = ", ".join(f'"thinking.type.{one}"' for one in sorted(claude.thinking))
    raise invalid(f'"thinking.type.{type_}" is not supported for this model. It takes {taken}.')


def _check_sampling(params: MessageParams) -> None:
    """Refuse whatever is not the default."""
    for name, value, default in (("temperature", params.temperature, 1), ("top_p", params.top_p, 1)):
        if value not in {None, default}:
            raise invalid(f"`{name}` is deprecated for this model.")
    if params.top_k:
        raise invalid("`top_k` is deprecated for this model.")
