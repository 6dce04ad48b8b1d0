"""Any engine that speaks the Messages API: the Claude API itself, llama.cpp, vLLM, gateways, another Standby."""

from standby.engines.messages.detect import Either
from standby.engines.messages.engine import Messages

__all__ = ["Either", "Messages"]
