"""From an answer to its bill: what it used, priced three ways."""

from __future__ import annotations

from standby.pricing.book import PriceBook
from standby.pricing.rates import Price, prompt_of
from standby.records import Bill, Tokens
from standby.wire.messages import Message, tokens_of


def bill_of(message: Message, book: PriceBook, *, now_us: int, is_batch: bool) -> Bill:
    """Bill one request that succeeded, at the prices of the day."""
    tokens = tokens_of(message.usage)
    price = book.price(message.model, now_us)
    if price is None:
        return Bill(model=message.model, requests=1, tokens=tokens, unpriced=1)
    return Bill(model=message.model, requests=1, tokens=tokens, **_sums(message, price, tokens, is_batch=is_batch))


def _sums(message: Message, price: Price, tokens: Tokens, *, is_batch: bool) -> dict[str, int]:
    plain = Tokens(input=prompt_of(tokens), output=tokens.output)
    geo = message.usage.inference_geo
    searches = (message.usage.server_tool_use or {}).get("web_search_requests", 0)
    return {
        "plain_pico": price.charge(plain, is_batch=False, geo=geo, searches=searches),
        "batch_pico": price.charge(plain, is_batch=True, geo=geo, searches=searches),
        "charge_pico": price.charge(tokens, is_batch=is_batch, geo=geo, searches=searches),
    }
