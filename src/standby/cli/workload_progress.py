"""A running workload, on the terminal: one line that moves there, a line for each change elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def progress() -> Iterator[Callable[[Any], None]]:
    """Show one line that moves on a terminal, and a line for each change elsewhere; always on standard error."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("preparing", total=None)

        def say(view: Any) -> None:
            bar.update(task, description=_words(view), completed=view.done, total=view.items or None)

        yield say


class _Lines:
    """Progress where no terminal is: a line when something changed."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, view: Any) -> None:
        words = _words(view)
        if words != self._last:
            print(words, file=sys.stderr, flush=True)
        self._last = words


def _words(view: Any) -> str:
    parts = ", ".join(f"{count} {state}" for state, count in sorted(view.parts.items()))
    again = f", round {view.round + 1}" if view.round else ""
    return view.note or f"parts: {parts}{again}"
