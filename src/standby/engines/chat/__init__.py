"""Any engine with `/v1/chat/completions`.

`engine` is the endpoint, `connection` the way to it, `failures` what its refusals mean, `recognise` who it says it is
(`told`: in its own pages), `probe` and `trials` what it turns out to do, `signals` its metrics, `counting` its
tokenizer. How long it may take stands beside this room, in `engines.patience`, since Messages servers share it.
"""

from standby.engines.chat.engine import Chat
from standby.engines.chat.resolve import resolve_name

__all__ = ["Chat", "resolve_name"]
