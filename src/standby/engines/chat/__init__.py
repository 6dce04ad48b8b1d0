"""Any engine with `/v1/chat/completions`.

`engine` is the endpoint, `connection` the way to it, `failures` what its refusals mean, `patience` how long it may
take, `recognise` who it says it is (`told`: in its own pages), `probe` and `trials` what it turns out to do, `signals`
its metrics, `counting` its tokenizer.
"""

from standby.engines.chat.engine import Chat
from standby.engines.chat.resolve import resolve_name

__all__ = ["Chat", "resolve_name"]
