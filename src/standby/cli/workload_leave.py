"""How a command on a workload ends: an error is one line and its exit code, a signal says how to go on.

Ctrl-C and SIGTERM may come at any moment. What is on disk is whole then, and what the service has is known there, so
the command stops at once; a second signal does not even wait for files to be closed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from standby.workload.jobfile import JobFile

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
SHOW_CURSOR = "\x1b[?25h"


class Stopped(BaseException):
    """A signal came."""


@dataclass(slots=True)
class Leaving:
    """What is known of the job at hand, for the words after a signal."""

    code: int = 0
    name: str = ""
    running: int = 0
    """Batches that the service works on, or may."""
    sent: int = 0


def guarded(command: Callable[..., int | None]) -> Callable[..., int]:
    """Turn every error of a workload into one line and its exit code; a signal into how to go on."""

    @functools.wraps(command)
    def run(**given: Any) -> int:
        from standby.workload.faults import WorkloadError

        with _heeding() as leaving:
            try:
                return command(**given) or 0
            except BaseException as error:
                if leaving.code:  # whatever a library made of it
                    _say_how_to_go_on(leaving)
                    _tell(given, "stopped", code=leaving.code, batches_running=leaving.running)
                    return leaving.code
                if not isinstance(error, WorkloadError):
                    raise
                click.echo(f"standby: {error}", err=True)
                _tell(given, "error", code=error.code, message=str(error))
                return error.code

    return run


def _tell(given: dict[str, Any], event: str, **facts: Any) -> None:
    from standby.cli.workload_events import tell

    if given.get("as_jsonl"):
        tell(event, **facts)


@contextlib.contextmanager
def at_work(name: str, job: JobFile) -> Iterator[None]:
    """Remember how far a job was when a signal comes; `name` is what the user calls it."""
    try:
        yield
    except BaseException:
        from standby.workload.states import PartState

        with contextlib.suppress(Exception):
            parts = job.parts()
            _LEAVING.name = name
            _LEAVING.sent = sum(part.state is not PartState.READY for part in parts)
            _LEAVING.running = sum(part.state in {PartState.SENDING, PartState.SUBMITTED} for part in parts)
        raise


_LEAVING = Leaving()


def _say_how_to_go_on(leaving: Leaving) -> None:
    if leaving.running:
        batches = "one batch runs on" if leaving.running == 1 else f"{leaving.running:,} batches run on"
        click.echo(f"\nStopped; {batches}. The same command goes on where it was.", err=True)
        name = leaving.name
        click.echo(f"Or: standby watch {name}    (to end what runs: standby cancel {name})", err=True)
    elif leaving.sent:
        click.echo("\nStopped; everything that was sent is back. The same command goes on where it was.", err=True)
    else:
        click.echo("\nStopped before anything was sent. The same command goes on where it was.", err=True)


@contextlib.contextmanager
def _heeding() -> Iterator[Leaving]:
    """Let a first signal raise `Stopped`, and a second one end the process there and then."""
    global _LEAVING  # noqa: PLW0603 - signals are the process's
    _LEAVING = Leaving()

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        if _LEAVING.code:
            _leave_at_once(number)
        _LEAVING.code = CODES[signal.Signals(number)]
        raise Stopped

    try:
        before = {number: signal.signal(number, stop) for number in CODES}
    except ValueError:  # not the main thread: signals are somebody else's
        yield _LEAVING
        return
    try:
        yield _LEAVING
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_at_once(number: int) -> None:
    if sys.stderr.isatty():
        os.write(2, SHOW_CURSOR.encode())
    os._exit(CODES[signal.Signals(number)])
