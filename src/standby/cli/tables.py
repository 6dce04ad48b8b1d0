"""Tables for people: narrow on a terminal, whole lines in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

PIPE_WIDTH = 400


def show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their columns."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(table)


def moment(us: int | None) -> str:
    """Write a time in UTC to the second; empty if there is none."""
    from datetime import UTC, datetime

    return "" if us is None else datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
