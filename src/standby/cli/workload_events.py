"""`--jsonl`: what happens to a workload as lines of JSON on standard output, for programs that watch one.

Each line has `schema`, `event` and `at`. Events: `progress` when something changed, and last one of `report`, `error`
and `stopped`. Keys may be added at any time; a meaning that changes makes another `schema`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from standby.cli.workload_progress import progress
from standby.cli.workload_shown import FAILED_ROWS, conclude

SCHEMA = 1


def tell(event: str, **facts: Any) -> None:
    """Write one event."""
    click.echo(json.dumps({"schema": SCHEMA, "event": event, "at": datetime.now(UTC).isoformat(), **facts}))


class Changes:
    """Tells of a view only what a reader does not know yet."""

    def __init__(self) -> None:
        """Begin with nothing told."""
        self._last: dict[str, Any] = {}

    def __call__(self, view: Any) -> None:
        """Take a `runner.View`."""
        found = dataclasses.asdict(view)
        if found != self._last:
            self._last = found
            tell("progress", **found)


@contextlib.contextmanager
def watched(given: Mapping[str, Any]) -> Iterator[Callable[[Any], None]]:
    """Show a job while it runs, to a person or to a program."""
    if given["as_jsonl"]:
        yield Changes()
        return
    with progress() as say:
        yield say


def finished(report: dict[str, Any], given: Mapping[str, Any]) -> int:
    """Tell what became of a job, as was asked; return the exit code."""
    if not given["as_jsonl"]:
        return conclude(report, as_json=given["as_json"], page=given.get("page"))
    if given.get("page"):
        from pathlib import Path

        from standby.workload.page import write_page

        write_page(report, Path(given["page"]))
    tell("report", report=report)
    return FAILED_ROWS if report["failed"] else 0
