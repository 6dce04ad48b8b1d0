"""`standby nightly FILE`, or `standby FILE.toml`: a workload from a timer, which answers what is new."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from standby.cli.help import Headed
from standby.cli.workload_estimate import show_estimate
from standby.cli.workload_events import tell, watched
from standby.cli.workload_flags import EVENTS, flags
from standby.cli.workload_leave import at_work, guarded
from standby.cli.workload_shown import FAILED_ROWS, conclude

if TYPE_CHECKING:
    from standby.workload.nightly import Plan
    from standby.workload.nightly_file import Nightly
    from standby.workload.nightly_ledger import Look, Run

TOML = click.Path(exists=True, dir_okay=False, path_type=Path)
FLAGS = (
    click.argument("file", type=TOML, metavar="FILE.toml"),
    click.option("--dry-run", is_flag=True, help="Say how many rows are new and what they could cost; send nothing."),
    click.option("--failed", is_flag=True, help="Send rows again too that failed and would not be sent otherwise."),
    click.option("--history", is_flag=True, help="List the runs so far, the newest first; asks no network."),
    click.option("--base-url", metavar="URL", help="Address of the service; otherwise as the file or the SDK says."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON, money in pico-dollars."),
    *EVENTS,
)


@click.command(cls=Headed, examples=("standby nightly labels.toml --dry-run", "standby labels.toml"))
@flags(FLAGS)
@guarded
def nightly(file: Path, **given: Any) -> int:
    """Answer what is new since the last run, and add it to the output.

    For cron and timers. FILE.toml is a workload; `standby FILE.toml` is the same.
    Rows whose id and request were answered before are not sent again; a run that
    was broken off is finished first. With nothing new it costs nothing, and says so.
    """
    from standby.workload import nightly_file

    with contextlib.chdir(file.absolute().parent):
        found = nightly_file.load(Path(file.name).absolute())
        if given["history"]:
            return _history(found, as_json=given["as_json"])
        if given["dry_run"]:
            return _dry_run(found, given)
        return _run(found, given)


def _run(found: Nightly, given: dict[str, Any]) -> int:
    from standby.workload import connected, nightly
    from standby.workload.runner import Pace

    pace = Pace(
        first_poll_s=found.pace.poll,
        settle_s=found.pace.settle,
        retries=found.pace.retries,
        is_more_room=found.pace.more_room,
    )
    with nightly.opened(found) as ledger:
        service = connected(given["base_url"] or found.base_url)
        with watched(given) as say:
            runs = list(
                nightly.run(
                    found,
                    ledger,
                    service,
                    pace=pace,
                    say=say,
                    at_work=lambda job: at_work(job.spec.output, job),
                    is_failed_again=given["failed"],
                )
            )
    if given["as_jsonl"]:
        tell("report", output=found.spec.output, runs=[_json(run) for run in runs])
        return max(FAILED_ROWS if run.report.get("failed") else 0 for run in runs)
    return _conclude(found, runs, as_json=given["as_json"])


def _conclude(found: Nightly, runs: list[Run], *, as_json: bool) -> int:
    code = 0
    if as_json:
        click.echo(
            json.dumps({"schema": 1, "output": found.spec.output, "runs": [_json(run) for run in runs]}, indent=2)
        )
    for run in runs:
        code = max(code, FAILED_ROWS if run.report.get("failed") else 0)
        if as_json:
            continue
        if not run.look.fresh:
            click.echo(
                f"No new rows: {run.look.read:,} were answered before. Nothing was sent, and nothing is charged."
            )
        else:
            click.echo(f"Run {run.number}: {_words(run.look)}.")
            if run.report:
                conclude(run.report, as_json=False)
            if not run.report or run.report["open"]:
                click.echo("It was broken off; rows that were not sent are new again.")
    return code


def _dry_run(found: Nightly, given: dict[str, Any]) -> int:
    from standby.pricing.rates import dollars
    from standby.workload import connected, nightly

    plan = nightly.plan(found, lambda: connected(given["base_url"] or found.base_url), is_failed_again=given["failed"])
    if given["as_json"]:
        click.echo(json.dumps(_plan(plan), indent=2))
        return 0
    if plan.estimate is None:
        click.echo(f"No new rows: {plan.look.read:,} were answered before. Nothing would be sent.")
        return 0
    click.echo(f"{_words(plan.look)} would be sent.")
    show_estimate(plan.estimate, as_json=False)
    if plan.budget_pico is not None:
        click.echo(f"May be spent now: {dollars(plan.budget_pico)}; this month so far: {dollars(plan.spent_pico)}")
    return 0


def _history(found: Nightly, *, as_json: bool) -> int:
    from standby.cli.tables import show
    from standby.pricing.rates import dollars
    from standby.workload import nightly

    with nightly.opened(found) as ledger:
        runs = ledger.runs()
    if as_json:
        click.echo(json.dumps({"schema": 1, "runs": [_json(run) for run in runs]}, indent=2))
        return 0
    if not runs:
        click.echo("There were no runs.", err=True)
        return 0
    shown = [
        (
            str(run.number),
            run.began[:19].replace("T", " ") + "Z",
            "goes on" if run.ended is None else "done",
            f"{run.look.read:,}",
            f"{run.look.fresh:,}",
            f"{run.report.get('succeeded', 0):,}",
            f"{sum(run.report.get('failed', {}).values()):,}",
            "" if run.ended is None else "unknown" if run.cost_pico is None else dollars(run.cost_pico),
        )
        for run in runs
    ]
    show(("run", "began", "state", "rows", "sent", "answered", "failed", "cost"), shown)
    return 0


def _words(look: Look) -> str:
    """Say what of all rows is sent."""
    kinds = ((look.new, "new"), (look.changed, "changed"), (look.failed_before, "failed before"))
    told = ", ".join(f"{count:,} {name}" for count, name in kinds if count)
    return f"{told} of {look.read:,} rows"


def _json(run: Run) -> dict[str, Any]:
    return dataclasses.asdict(run) | {"look": _look(run.look)}


def _look(look: Look) -> dict[str, int]:
    return {**dataclasses.asdict(look), "sent": look.fresh}


def _plan(plan: Plan) -> dict[str, Any]:
    estimate = dataclasses.asdict(plan.estimate) if plan.estimate is not None else None
    money = {"budget_pico": plan.budget_pico, "spent_this_month_pico": plan.spent_pico}
    return {"schema": 1, "rows": _look(plan.look), "estimate": estimate, **money}
