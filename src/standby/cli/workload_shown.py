"""What became of a workload: on the terminal, as JSON, as a page."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import click

FAILED_ROWS = 6
MOST_CAUSES = 12
MOST_DEAREST = 3
MOST_KEY = 40


def conclude(report: dict[str, Any], *, as_json: bool, page: str | None = None) -> int:
    """Print a report, as text or as JSON, and draw it as an HTML page if a file is named; return the exit code."""
    if page:
        from standby.workload.page import write_page

        write_page(report, Path(page))
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _show(report)
        if page:
            click.echo(f"The report as a page: {page}")
    return FAILED_ROWS if report["failed"] else 0


def _show(report: dict[str, Any]) -> None:
    from standby.cli.tables import say
    from standby.workload.sentences import answered_words, cost_words, length_words, time_words

    written = f" They are in {near(report['output'])}" if report["written_at"] else ""
    say(f"{answered_words(report)}{written}")
    if report["rows"] and not report["is_done"]:
        say(f"Go on with: standby watch {near(report['output'])}")
    _failures(report)
    if report["answers"]:
        click.echo()
        _cost(report["cost"])
        for sentence in cost_words(report):
            say(sentence)
        click.echo()
        say(_tokens(report))
    elif report["time"]["seconds"]:
        click.echo()
    if report["answer_tokens"] is not None:
        say(length_words(report["answer_tokens"]))
    for sentence in time_words(report):
        say(sentence)
    _dearest(report["dearest"])
    _odd(report["parts"])


def _failures(report: dict[str, Any]) -> None:
    from standby.cli.tables import say, show
    from standby.workload.words import short

    failures, output = report["failures"], report["output"]
    rows = [
        (one["cause"], f"{one['rows']:,}", "\n".join(filter(None, (one["why"], one["todo"]))))
        for one in failures[:MOST_CAUSES]
    ]
    rows += [(f"{len(failures) - MOST_CAUSES} more", "", "see --json")] if len(failures) > MOST_CAUSES else []
    rows += [("still open", f"{report['open']:,}", "not sent, or running")] if report["open"] else []
    if not rows:
        return
    click.echo()
    shown = [(cause, count, todo.replace(shlex.quote(output), near(output))) for cause, count, todo in rows]
    show(("not answered", "rows", "why, and what to do"), shown, right={1})
    for one in failures[:MOST_CAUSES]:
        if one["first"]["words"]:
            first = one["first"]
            say(f"For example row {first['row']:,} ({short(first['key'], MOST_KEY)}), {one['cause']}: {first['words']}")


def _cost(cost: dict[str, Any]) -> None:
    from standby.cli.tables import show
    from standby.pricing.rates import dollars
    from standby.workload.words import percent

    if cost["charged_pico"] is None:
        return
    real, charged = cost["real_time_pico"], cost["charged_pico"]
    lines = [("in real time", real), ("in a batch", cost["batch_without_cache_pico"])]
    lines = (
        [*lines, ("in a batch with the cache: charged", charged)]
        if cost["saved_by_cache_pico"]
        else [lines[0], ("in a batch: charged", charged)]
    )
    rows = [(name, dollars(pico), percent(pico / real) if real else "") for name, pico in lines]
    show(("cost", "", "of real time"), rows, right={1, 2})


def _tokens(report: dict[str, Any]) -> str:
    from standby.workload.words import percent

    tokens = report["tokens"]
    prompt = tokens["input"] + tokens["cache_read"] + tokens["cache_write_5m"] + tokens["cache_write_1h"]
    read = f" ({percent(report['read_share'])} of them read from a cache)" if report["read_share"] else ""
    return f"{prompt:,} prompt tokens{read}, {tokens['output']:,} answer tokens."


def _dearest(dearest: list[dict[str, Any]]) -> None:
    """Name the rows that cost most, unless all cost the same."""
    from standby.cli.tables import say
    from standby.pricing.rates import dollars
    from standby.workload.words import short

    if len(dearest) < 2:
        return
    named = [f"{short(one['key'], MOST_KEY)} ({dollars(one['charged_pico'])})" for one in dearest[:MOST_DEAREST]]
    say(f"Dearest rows: {', '.join(named)}.")


def _odd(parts: list[dict[str, Any]]) -> None:
    from standby.cli.tables import say
    from standby.workload.words import counted

    odd = sum(part["foreign_rows"] + part["duplicate_rows"] for part in parts)
    if odd:
        say(f"{counted(odd, 'result')} came twice or belonged to no row of this job, and were left out.")


def near(path: str) -> str:
    """Write a path as one would type it here, quoted for a shell."""
    here = os.path.relpath(path) if Path(path).is_absolute() else path
    return shlex.quote(path if here.startswith("..") else here)
