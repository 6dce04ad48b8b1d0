"""`standby savings`: what it would save to move a job to batches."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from standby.cli.flags import settings_from, with_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from standby.config import Settings
    from standby.pricing.book import PriceBook
    from standby.pricing.rates import Price
    from standby.pricing.savings import Comparison, Hindsight, Job, Outlook
    from standby.records import Bill

MODELS = ("claude-haiku-4-5", "claude-sonnet-5-5", "claude-opus-5-5")
HITS = "30%-98%"
"""The range that the service publishes for batches (contract 9.3)."""


class Share(click.ParamType[Fraction]):
    """A share: `0.8` or `80%`."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Fraction:
        """Read it exactly."""
        if isinstance(value, Fraction):
            return value
        try:
            found = Fraction(value[:-1]) / 100 if value.endswith("%") else Fraction(value)
        except (ValueError, ZeroDivisionError):
            self.fail(f"{value!r} is no share such as 0.8 or 80%", param, ctx)
        if not 0 <= found <= 1:
            self.fail(f"{value} is not between 0 and 1", param, ctx)
        return found


class Shares(click.ParamType[tuple[Fraction, Fraction]]):
    """One share, or a range of them: `30%-98%`."""

    name = "range"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Fraction, Fraction]:
        """Read both ends."""
        if isinstance(value, tuple):
            return value
        low, _, high = value.partition("-")
        ends = (Share().convert(low, param, ctx), Share().convert(high or low, param, ctx))
        if ends[0] > ends[1]:
            self.fail(f"{value}: the low end stands first", param, ctx)
        return ends


@click.command()
@with_settings
@click.option("--requests", type=click.IntRange(min=1), metavar="NUMBER", help="Requests a night.")
@click.option(
    "--input", "input_tokens", type=click.IntRange(min=0), metavar="TOKENS", help="Prompt tokens of a request."
)
@click.option(
    "--output", "output_tokens", type=click.IntRange(min=0), metavar="TOKENS", help="Output tokens of a request."
)
@click.option(
    "--cacheable",
    type=Share(),
    default="0",
    metavar="SHARE",
    help="Part of the prompt that all share, such as 0.8 or 80%.",
)
@click.option(
    "--hits", type=Shares(), default=HITS, show_default=True, metavar="RANGE", help="Cache hits to reckon with."
)
@click.option("--ttl", type=click.Choice(["5m", "1h"]), default="1h", show_default=True, help="Lifetime of the cache.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="May be given several times.")
@click.option(
    "--log",
    "log_file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Past requests instead: JSON Lines of Messages or results; - is standard input.",
)
@click.option(
    "--ledger", "from_ledger", is_flag=True, help="Live requests of this server instead, as they were charged."
)
@click.option("--since", metavar="DAY", help="With --ledger: the first day, 2026-11-22 or 30d; without it all of them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, money in pico-dollars.")
@click.option(
    "--xlsx",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write a workbook with live formulas.",
)
def savings(
    *,
    config_file: Path | None,
    data: str | None,
    requests: int | None,
    input_tokens: int | None,
    output_tokens: int | None,
    cacheable: Fraction,
    hits: tuple[Fraction, Fraction],
    ttl: str,
    models: tuple[str, ...],
    log_file: Path | None,
    from_ledger: bool,
    since: str | None,
    as_json: bool,
    xlsx: Path | None,
) -> None:
    """Say what it would save to move a job to batches: a night, a month, a year.

    Either describe a night (--requests, --input, --output), or give a --log of requests that were made, or ask this
    server's own --ledger. Prices are
    those of today; a model whose price nobody knows is named, never reckoned as 0.
    """
    book = _book(config_file, data)
    if log_file is not None or from_ledger:
        flag = "--log" if log_file is not None else "--ledger"
        if xlsx is not None or requests is not None or (log_file is not None and from_ledger):
            raise click.UsageError(f"{flag} stands alone: it needs no --requests, and the past makes no --xlsx")
        settings = settings_from(config_file, store__data=data)
        found = _past(book, log_file) if log_file is not None else _ledger(book, settings, since)
        _tell_hindsight(found, as_json=as_json)
        return
    for flag, value in (("--requests", requests), ("--input", input_tokens), ("--output", output_tokens)):
        if value is None:
            raise click.UsageError(f"{flag} is missing; describe a night, or give a --log")
    job = _job(requests or 0, input_tokens or 0, output_tokens or 0, cacheable)
    _from_job(book, job, models or MODELS, hits, ttl, as_json=as_json, xlsx=xlsx)


def _book(config_file: Path | None, data: str | None) -> PriceBook:
    from standby.pricing.book import open_book

    settings = settings_from(config_file, store__data=data)
    return open_book(settings.prices, Path(settings.store.data))


def _job(requests: int, input_tokens: int, output_tokens: int, cacheable: Fraction) -> Job:
    from standby.pricing.savings import Job

    shared = int(input_tokens * cacheable)
    return Job(requests=requests, shared_tokens=shared, fresh_tokens=input_tokens - shared, output_tokens=output_tokens)


def _from_job(
    book: PriceBook,
    job: Job,
    models: tuple[str, ...],
    hits: tuple[Fraction, Fraction],
    ttl: Any,
    *,
    as_json: bool,
    xlsx: Path | None,
) -> None:
    from standby.pricing.savings import outlook

    prices = _prices(book, models)
    found = [outlook(job, price, hits=hits, ttl=ttl) for price in prices]
    if xlsx is not None:
        from standby.pricing.workbook import write_workbook

        write_workbook(xlsx, job, prices, hits=(float(hits[0]), float(hits[1])), ttl=ttl)
        click.echo(f"{xlsx}: written", err=True)
    if as_json:
        click.echo(json.dumps([_plain(each) for each in found], indent=2))
    else:
        _show_outlook(found, job, hits)


def _prices(book: PriceBook, models: tuple[str, ...]) -> list[Price]:
    import time

    found = {model: book.price(model, time.time_ns() // 1000) for model in models}
    for model, price in found.items():
        if price is None:
            raise click.UsageError(
                f'--model {model}: nobody knows its price; give it in the settings: [prices."{model}"]'
            )
    return [price for price in found.values() if price is not None]


def _show_outlook(found: list[Outlook], job: Job, hits: tuple[Fraction, Fraction]) -> None:
    from standby.cli.tables import show
    from standby.pricing.rates import dollars
    from standby.pricing.savings import NIGHTS_A_MONTH, NIGHTS_A_YEAR

    low, high = (f"{float(rate):.0%}" for rate in hits)
    show(
        ("model", "standard", "batch", f"+ cache, {low} hits", f"+ cache, {high} hits", "saved", "a month", "a year"),
        [
            (
                each.model,
                dollars(each.high.standard),
                dollars(each.high.batch),
                dollars(each.low.batch_and_cache),
                dollars(each.high.batch_and_cache),
                _saved(each.high),
                dollars(_difference(each.high) * NIGHTS_A_MONTH),
                dollars(_difference(each.high) * NIGHTS_A_YEAR),
            )
            for each in found
        ],
    )
    click.echo(f"\nA night of {job.requests:,} requests. Saved, a month and a year: at {high} hits, {_nights()}.")
    if job.shared_tokens:
        click.echo("A cached prefix pays from this share of hits on:")
        show(
            ("model", "5-minute writes", "1-hour writes"),
            [(each.model, _share(each.break_even_5m), _share(each.break_even_1h)) for each in found],
        )
    for each in found:
        assumed = "; no batch price is published, half is assumed" if each.price.is_batch_assumed else ""
        click.echo(f"{each.model}: {each.price.source}, checked {each.price.checked}{assumed}", err=True)


def _nights() -> str:
    from standby.pricing.savings import NIGHTS_A_MONTH, NIGHTS_A_YEAR

    return f"{NIGHTS_A_MONTH} and {NIGHTS_A_YEAR} nights"


def _difference(found: Comparison) -> int:
    return found.standard - found.batch_and_cache


def _saved(found: Comparison) -> str:
    return f"{_difference(found) / found.standard:.0%}" if found.standard else "0%"


def _share(found: Fraction | None) -> str:
    return "never" if found is None else f"{float(found):.1%}"


def _plain(each: Outlook) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "model": each.model,
        "source": each.price.source,
        "checked": each.price.checked.isoformat(),
        "is_batch_assumed": each.price.is_batch_assumed,
        "low": asdict(each.low),
        "high": asdict(each.high),
        "break_even_5m": None if each.break_even_5m is None else float(each.break_even_5m),
        "break_even_1h": None if each.break_even_1h is None else float(each.break_even_1h),
    }


def _past(book: PriceBook, file: Path) -> list[Hindsight]:
    from standby.pricing.log import read_log
    from standby.pricing.savings import look_back

    with click.open_file(str(file), "rb") as lines:
        found = list(look_back(read_log(lines, name=str(file)), _today(book)))
    if not found:
        raise click.ClickException(f"{file}: holds no request that succeeded")
    return found


def _ledger(book: PriceBook, settings: Settings, since: str | None) -> list[Hindsight]:
    import asyncio
    import time

    from standby.api.money import day_of
    from standby.errors import InvalidParams
    from standby.pricing.savings import look_at_bills

    try:
        since_day = day_of("since", since, now_us=time.time_ns() // 1000)
    except InvalidParams as error:
        raise click.UsageError(f"--{error.message}") from None
    found = list(look_at_bills(asyncio.run(_live_bills(settings, since_day)), _today(book)))
    if not found:
        raise click.ClickException("this server has answered no live request that succeeded")
    return found


async def _live_bills(settings: Settings, since_day: int | None) -> list[Bill]:
    from dataclasses import replace

    from standby.cli.stores import store_of
    from standby.store.base import By

    async with store_of(settings) as store:
        rows = await store.usage(by=(By.MODEL, By.KIND), since_day=since_day)
    return [replace(row.bill, model=row.model or "") for row in rows if row.kind == "live"]


def _today(book: PriceBook) -> Callable[[str], Price | None]:
    import time

    now_us = time.time_ns() // 1000
    return lambda model: book.price(model, now_us)


def _tell_hindsight(found: list[Hindsight], *, as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        _show_hindsight(found)


def _show_hindsight(found: list[Hindsight]) -> None:
    from standby.cli.tables import show

    show(
        ("model", "requests", "in", "written", "read", "out", "as it was", "in batches", "saved"),
        [
            (
                each.model,
                f"{each.requests:,}",
                f"{each.tokens.input:,}",
                f"{each.tokens.write_5m + each.tokens.write_1h:,}",
                f"{each.tokens.read:,}",
                f"{each.tokens.output:,}",
                _known(each.standard),
                _known(each.batch),
                _known(None if each.standard is None or each.batch is None else each.standard - each.batch),
            )
            for each in found
        ],
    )
    unknown = [each.model for each in found if each.standard is None]
    if unknown:
        click.echo(f'Prices unknown: {", ".join(unknown)}. Give them in the settings: [prices."NAME"].', err=True)


def _known(pico: int | None) -> str:
    from standby.pricing.rates import dollars

    return "unknown" if pico is None else dollars(pico)
