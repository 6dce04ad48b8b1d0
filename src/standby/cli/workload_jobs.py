"""Which job a command means."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from standby.cli import offers
from standby.cli.offers import name_of

if TYPE_CHECKING:
    from standby.workload.jobfile import JobFile
    from standby.workload.service import Service

MOST_NAMED = 5
JOB: Callable[[Any], Any] = click.argument("job", required=False, metavar="[OUTPUT]", shell_complete=offers.jobs)


def place_of(name: str | None, *, is_open: bool = True) -> Path:
    """Name the folder of a job; without a name that of the only one that is open, or else of the only one.

    `is_open` says that no other will do. `LocalState` if there is none, or more than one.
    """
    from standby.workload import register
    from standby.workload.faults import LocalState

    if name:
        return register.place_of(name)
    known = list(register.remembered())
    found = [folder for folder in known if _is_open(folder)]
    if not found and not is_open:
        found = known
    if len(found) == 1:
        return found[0]
    if not found:
        raise LocalState("no job is open; name the output of one, or see `standby list`")
    names = ", ".join(name_of(folder) for folder in found[:MOST_NAMED])
    more = ", …" if len(found) > MOST_NAMED else ""
    raise LocalState(f"{len(found)} jobs could be meant; name the output of one: {names}{more}")


def row_of(folder: Path) -> dict[str, Any]:
    """Sum a job up in a line of `standby list`."""
    from standby.workload.faults import LocalState
    from standby.workload.jobfile import looked_at
    from standby.workload.report import brief_of

    try:
        with looked_at(folder) as job:
            found = brief_of(job)
    except LocalState as error:
        return {"output": name_of(folder), "state": str(error), "rows": 0, "succeeded": 0, "failed": 0}
    state = "done" if found["is_done"] else "open" if found["rows"] else "not prepared"
    failed = sum(found["failed"].values())
    return {**{key: found[key] for key in ("output", "rows", "succeeded")}, "failed": failed, "state": state}


@contextlib.contextmanager
def opened_job(
    name: str | None, given: dict[str, Any], *, is_open: bool = True
) -> Iterator[tuple[JobFile, Service, str]]:
    """Open a job and the service that it runs on; yields its name too."""
    from standby.cli.workload_leave import at_work
    from standby.workload import connected, opened, steps

    folder = place_of(name, is_open=is_open)
    with opened(folder) as job:
        service = connected(given["base_url"])
        steps.check_endpoint(job, service.endpoint)
        with at_work(name or name_of(folder), job):
            yield job, service, name or name_of(folder)


def _is_open(folder: Path) -> bool:
    return bool(row_of(folder)["state"] != "done")
