"""`standby prices`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from standby.cli.flags import settings_from, with_settings

if TYPE_CHECKING:
    from standby.pricing.book import PriceBook
    from standby.pricing.rates import Price, Rate


@click.group()
def prices() -> None:
    """Show what models cost, and fetch newer prices of Claude."""


@prices.command("show")
@with_settings
@click.argument("models", nargs=-1, metavar="[MODEL]...")
def show_prices(config_file: Path | None, data: str | None, models: tuple[str, ...]) -> None:
    """Show today's prices, dollars a million tokens: of these models, or of your own and all of Claude."""
    from standby.cli.tables import show
    from standby.pricing.book import open_book

    settings = settings_from(config_file, store__data=data)
    book = open_book(settings.prices, Path(settings.store.data))
    show(
        ("model", "input", "5m write", "1h write", "read", "output", "batch", "source", "checked"),
        [_line(name, book) for name in models or book.models()],
    )


def _line(name: str, book: PriceBook) -> tuple[str, ...]:
    price = book.price(name, time.time_ns() // 1000)
    if price is None:
        return (name, *["unknown"] * 5, "", "", "")
    steps = "".join(f", more above {tier.above:,}" for tier in price.standard.tiers)
    return (name, *_columns(price.standard.base), _batch(price) + steps, price.source, price.checked.isoformat())


def _batch(price: Price) -> str:
    if not price.standard.base.input:
        return "free"
    share = price.batch.base.input / price.standard.base.input
    return f"{share:.0%}" + (" (assumed)" if price.is_batch_assumed else "")


def _columns(rate: Rate) -> list[str]:
    from dataclasses import astuple

    return [f"{pico / 1e6:.6f}".rstrip("0").rstrip(".") for pico in astuple(rate)]


@prices.command("update")
@with_settings
@click.option("--url", metavar="URL", help="Where to fetch from; without it where genai-prices publishes.")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A document fetched by other means.",
)
def update(config_file: Path | None, data: str | None, url: str | None, file: Path | None) -> None:
    """Fetch newer prices of Claude into the data folder, and say what changed.

    Nothing else ever fetches prices. A server uses them from its next start on. What was charged before stays as it
    was charged.
    """
    from standby.folder import made
    from standby.pricing.update import URL, changes, fetch, keep, load_published

    if url and file:
        raise click.UsageError("--url and --file exclude each other")
    folder = made(Path(settings_from(config_file, store__data=data).store.data))
    before = load_published(folder)
    document = file.read_bytes() if file else asyncio.run(fetch(url or URL))
    changed = changes(before, keep(folder, document))
    for model, (old, new) in changed.items():
        click.echo(f"{model}: {_short(old)} -> {_short(new)}")
    click.echo(f"{len(changed)} models changed; a running server uses the new prices after a restart.", err=True)


def _short(price: Price | None) -> str:
    return "unknown" if price is None else "/".join(_columns(price.standard.base))
