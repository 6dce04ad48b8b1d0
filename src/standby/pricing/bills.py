"""From an answer to its bill: what it used, priced three ways."""

from __future__ import annotations

from typing import Any

from standby.pricing.book import PriceBook
from standby.pricing.rates import Price
from standby.records import Bill, Tokens
from standby.wire.messages import Message, Usage, tokens_of


def bill_of(message: Message, book: PriceBook, *, now_us: int, is_batch: bool) -> Bill:
    """Bill one request that succeeded, at the prices of the day."""
    tokens = tokens_of(message.usage)
    price = book.price(message.model, now_us)
    if price is None:
        return Bill(model=message.model, requests=1, tokens=tokens, unpriced=1)
    extras = _extras(message.usage)
    plain_pico, batch_pico = price.without_cache(tokens, **extras)
    return Bill(
        model=message.model,
        requests=1,
        tokens=tokens,
        plain_pico=plain_pico,
        batch_pico=batch_pico,
        charge_pico=price.charge(tokens, is_batch=is_batch, **extras),
    )


def estimate_of(
    book: PriceBook, model: str, *, prompt_tokens: int, output_tokens: int, now_us: int, is_batch: bool
) -> int:
    """Say what a request is expected to cost without a cache, in pico-dollars; 0 if nobody knows the price."""
    price = book.price(model, now_us)
    if price is None:
        return 0
    return price.charge(Tokens(input=prompt_tokens, output=output_tokens), is_batch=is_batch)


def charge_of(usage: Usage, price: Price, *, is_batch: bool) -> int:
    """Price what one request used, in pico-dollars."""
    return price.charge(tokens_of(usage), is_batch=is_batch, **_extras(usage))


def _extras(usage: Usage) -> dict[str, Any]:
    return {
        "geo": usage.inference_geo,
        "searches": (usage.server_tool_use or {}).get("web_search_requests", 0),
    }
