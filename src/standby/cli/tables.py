"""Tables for people: narrow on a terminal, whole lines in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 400


def show(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> None:
    """Print rows under their columns; `right` are the places, from 0, of those that hold figures."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at in right else "left")
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def say(text: str, *, err: bool = False) -> None:
    """Print a text, on standard error if `err`: broken between words on a terminal, one line in a pipe."""
    console = _console(err=err)
    if not err:
        console.print(text, soft_wrap=not console.is_terminal)
        return
    with console.capture() as written:
        console.print(text, soft_wrap=not console.is_terminal)
    sys.stderr.write(written.get())  # which moves above progress that is shown at the time


def _console(*, err: bool = False) -> Console:
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False, stderr=err)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def moment(us: int | None) -> str:
    """Write a time in UTC to the second; empty if there is none."""
    from datetime import UTC, datetime

    return "" if us is None else datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
