"""What became of a workload, on the terminal."""

from __future__ import annotations

import json
from typing import Any

import click

FAILED_ROWS = 6
MAX_FAILURES = 12


def conclude(report: dict[str, Any], *, as_json: bool) -> int:
    """Print a report, as tables or as JSON; return the exit code."""
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _show(report)
    return FAILED_ROWS if report["failed"] else 0


def _show(report: dict[str, Any]) -> None:
    from standby.cli.tables import show
    from standby.pricing.rates import dollars

    click.echo(f"{report['succeeded']:,} of {report['rows']:,} rows are answered: {report['output']}")
    failures = sorted(report["failed"].items(), key=lambda pair: -pair[1])[:MAX_FAILURES]
    if report["open"]:
        failures.append(("still open", report["open"]))
    if failures:
        show(("not answered", "rows"), [(cause, f"{count:,}") for cause, count in failures])
    cost, tokens = report["cost"], report["tokens"]
    if cost["charged_pico"] is None:
        click.echo("cost: unknown, no price is known for this model")
    else:
        lines = [("in real time", "real_time_pico"), ("in a batch", "batch_without_cache_pico")]
        lines += [("with the cache: charged", "charged_pico"), ("saved by the batch", "saved_by_batch_pico")]
        lines += [("saved by the cache", "saved_by_cache_pico")]
        show(("", "cost"), [(name, dollars(cost[key])) for name, key in lines])
        if cost["unpriced_answers"]:
            click.echo(f"{cost['unpriced_answers']:,} answers have no known price and are not in these sums.")
    prompt = tokens["input"] + tokens["cache_read"] + tokens["cache_write_5m"] + tokens["cache_write_1h"]
    click.echo(f"{prompt:,} prompt tokens, {tokens['output']:,} answer tokens")
    if report["read_share"]:
        click.echo(f"{report['read_share']:.1%} of the prompt tokens came out of a cache.")
    odd = sum(part["foreign_rows"] + part["duplicate_rows"] for part in report["parts"])
    if odd:
        click.echo(f"{odd:,} result rows belonged to no row of this job, or came twice; they were left out.")
