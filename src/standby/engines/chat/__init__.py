"""Any engine with `/v1/chat/completions`."""

from standby.engines.chat.engine import Chat, resolve_name

__all__ = ["Chat", "resolve_name"]
