"""`standby top`: what a server's scheduler is doing, as it happens."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from standby.errors import StandbyError

if TYPE_CHECKING:
    from rich.console import RenderableType

URL = "http://127.0.0.1:8378"
WITHIN_S = 10.0
MOST_BATCHES = 20


@click.command()
@click.option("--url", default=URL, show_default=True, envvar="ANTHROPIC_BASE_URL", help="Where the server listens.")
@click.option("--api-key", envvar="ANTHROPIC_API_KEY", default="", help="Key of the workspace whose batches are shown.")
@click.option("--every", default=1.0, show_default=True, metavar="SECONDS", help="How often to look.")
@click.option("--once", is_flag=True, help="Print what is so now, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a look instead of tables.")
def top(*, url: str, api_key: str, every: float, once: bool, as_json: bool) -> None:
    """Watch endpoints and batches: what live requests leave to batches, how fast those go, when each will end.

    Ends with Ctrl-C.
    """
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url: must begin with http:// or https://, not {url!r}")
    if every <= 0:
        raise click.UsageError("--every: must be more than 0")
    looks = _looks(url.rstrip("/"), api_key, every, once=once)
    if as_json:
        for look in looks:
            click.echo(json.dumps(look))
            sys.stdout.flush()
        return
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if once or not console.is_terminal:
        for look in looks:
            console.print(picture(look))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for look in looks:
            live.update(picture(look), refresh=True)


def picture(look: dict[str, Any]) -> RenderableType:
    """Draw one look: a line for all, a table of endpoints, a table of batches."""
    from rich.console import Group
    from rich.text import Text

    seen = look["scheduler"]
    rate = seen["cost_tokens_per_s"]
    head = (
        f"{seen['batches']} batches with work left · {seen['in_flight']} items in flight"
        f" · {'-' if rate is None else f'{rate:,.0f}'} cost tokens/s · pressure {seen['pressure']:.2f}"
    )
    return Group(Text(head), _endpoints(seen["endpoints"]), _batches(look["batches"]))


def _endpoints(endpoints: list[dict[str, Any]]) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, justify in (
        ("endpoint", "left"),
        ("engine", "left"),
        ("live", "right"),
        ("batch", "right"),
        ("of", "right"),
        ("slots", "right"),
        ("token every", "right"),
        ("target", "right"),
        ("because", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for one in endpoints:
        table.add_row(
            one["name"] or "-",
            one["engine"] if one["is_ready"] else "away",
            str(one["live_in_flight"]),
            str(one["batch_in_flight"]),
            str(one["most_batch"]),
            str(one["slots"]),
            _ms(one["inter_token_ms"]),
            _ms(one["target_inter_token_ms"]),
            one["why"],
        )
    return table


def _batches(batches: list[dict[str, Any]]) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("batch", "done", "of", "items/s", "ends in", "reuse", "bound", ""):
        table.add_column(name, justify="left" if name in {"batch", ""} else "right")
    for one in batches:
        counts = one["request_counts"]
        reuse = one["reuse"]
        table.add_row(
            one["id"],
            f"{one['size'] - counts['processing']:,}",
            f"{one['size']:,}",
            _number(one.get("recent_items_per_s", one["items_per_s"])),
            _ends(one),
            _share(reuse["engine_share"]),
            _share(reuse["bound"]),
            one.get("waits", one["processing_status"]),
        )
    return table


def _ends(one: dict[str, Any]) -> str:
    likely, ends = one["eta_s"], one.get("eta_range_s")
    if likely is None:
        return "-"
    return _time(likely) if ends is None else f"{_time(likely)} ({_time(ends[0])}-{_time(ends[1])})"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _looks(url: str, api_key: str, every: float, *, once: bool) -> Iterator[dict[str, Any]]:
    while True:
        yield _look(url, api_key)
        if once:
            return
        time.sleep(every)


def _look(url: str, api_key: str) -> dict[str, Any]:
    listed = _get(url, f"/v1/messages/batches?limit={MOST_BATCHES}", api_key)["data"]
    going = [batch["id"] for batch in listed if batch["processing_status"] != "ended"]
    return {
        "scheduler": _get(url, "/standby/v1/scheduler", api_key),
        "batches": [_get(url, f"/standby/v1/batches/{batch_id}", api_key) for batch_id in going],
    }


def _get(url: str, path: str, api_key: str) -> Any:
    headers = {"anthropic-version": "2023-06-01", "x-api-key": api_key or "none"}
    request = urllib.request.Request(url + path, headers=headers)  # noqa: S310 - see `top`
    try:
        with urllib.request.urlopen(request, timeout=WITHIN_S) as answer:  # noqa: S310 - see `top`
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise StandbyError(f"{url}{path}: {error.code} {_message_of(error)}") from error
    except (OSError, ValueError) as error:
        raise StandbyError(f"{url}: no Standby server answers there ({error})") from error


def _message_of(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return error.reason
