"""`standby run` and its single steps: submit, watch, collect, retry, cancel, list, report."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from standby.cli.help import Headed
from standby.cli.workload_estimate import bind, show_job
from standby.cli.workload_events import finished, tell, watched
from standby.cli.workload_flags import (
    ATTACH,
    BUDGET,
    EVENTS,
    OUTPUT,
    PACE,
    PAGE,
    PROMPT,
    ROWS,
    SHOWN,
    attached_of,
    flags,
    pace_of,
    spec_of,
)
from standby.cli.workload_jobs import JOB, opened_job, place_of, row_of
from standby.cli.workload_leave import at_work, guarded
from standby.cli.workload_nightly import nightly
from standby.cli.workload_shown import conclude

if TYPE_CHECKING:
    from standby.workload.jobfile import JobFile
    from standby.workload.service import Service

workload_command = functools.partial(click.command, cls=Headed)
"""A command whose flags stand under headings."""


@workload_command(
    examples=(
        "standby run reviews.parquet -m claude-haiku-4-5 \\",
        '  -p "Label this review: {{ text }}" -o labels.parquet',
        "standby run --sql \"select id, body from 'mail/*.csv'\" --id id \\",
        "  -m claude-haiku-4-5 -p @prompt.md --schema label.json -o labels.csv",
        "standby run requests.jsonl -o results.jsonl",
    )
)
@flags(ROWS, PROMPT, OUTPUT, ATTACH, BUDGET, PACE, PAGE, SHOWN, EVENTS)
@guarded
def run(**given: Any) -> int:
    """Answer every row: submit, wait, collect, join, report.

    FILE is JSONL, CSV, TSV, Parquet or Excel, or `-`; or JSONL of ready requests,
    Claude's (custom_id, params) or OpenAI's (custom_id, method, url, body), which
    need no prompt. The same command again goes on where it was.
    """
    from standby.workload import steps

    spec, attached, pace = spec_of(given), attached_of(given["attach"]), pace_of(given)
    with _started(spec, given) as (job, service), watched(given) as say:
        steps.prepare_job(job, attached=attached, pace=pace)
        bind(job, service, given)
        report = steps.run_job(job, service, pace=pace, attached=attached, say=say, wait_s=given["wait_s"])
    return finished(report, given)


@workload_command(
    examples=(
        "standby submit reviews.parquet -m claude-haiku-4-5 \\",
        '  -p "Label this review: {{ text }}" -o labels.parquet',
        "standby watch labels.parquet",
    )
)
@flags(ROWS, PROMPT, OUTPUT, ATTACH, BUDGET, PACE, SHOWN, EVENTS)
@guarded
def submit(**given: Any) -> int:
    """Submit every row and return; `standby watch` goes on.

    Takes what `standby run` takes.
    """
    from standby.workload import steps
    from standby.workload.report import report_of

    spec, pace = spec_of(given), pace_of(given)
    with _started(spec, given) as (job, service), watched(given) as say:
        steps.prepare_job(job, attached=attached_of(given["attach"]), pace=pace)
        bind(job, service, given)
        steps.submit_job(job, service, pace=pace, say=say)
        report = report_of(job, steps.prices_of(job))
    if given["as_jsonl"]:
        tell("report", report=report)
    elif given["as_json"]:
        click.echo(json.dumps(report, indent=2))
    else:
        sent = [part["batch_id"] for part in report["parts"] if part["batch_id"]]
        click.echo(f"{report['rows']:,} rows in {len(sent)} batches: {', '.join(sent)}")
        click.echo(f"Go on with: standby watch {given['output']}")
    return 0


@workload_command(
    examples=(
        "standby estimate reviews.parquet -m claude-haiku-4-5 \\",
        '  -s @rules.md -p "Label this review: {{ text }}" --cache 1h',
    )
)
@flags(ROWS, PROMPT, ATTACH, SHOWN)
@guarded
def estimate(**given: Any) -> int:
    """Say what a workload would cost; sends no batch.

    In real time, in a batch, in a batch with a cache. Prompts are counted in a
    sample, by the service. How long answers will be is not known before: each cost
    is told for no answers and for answers that take all of --max-tokens.
    """
    import tempfile

    from standby.workload import connected, opened_job, steps

    with tempfile.TemporaryDirectory(prefix="standby-") as folder:
        spec = spec_of({**given, "output": str(Path(folder) / "estimate.parquet")})
        service = connected(given["base_url"])
        with opened_job(spec, endpoint=service.endpoint) as job:
            steps.prepare_job(job, attached=attached_of(given["attach"]))
            show_job(job, service, as_json=given["as_json"])
    return 0


@workload_command()
@JOB
@flags(ATTACH, PACE, PAGE, SHOWN, EVENTS)
@guarded
def watch(job: str | None, **given: Any) -> int:
    """Wait for a job, collect its answers, write its output.

    OUTPUT is what the job writes; without it the only job that is open is meant.
    """
    return _go_on(job, given)


@workload_command()
@JOB
@click.option("--gone", is_flag=True, help="Believe that batches are gone which the service does not know.")
@flags(OUTPUT, ATTACH, PACE, PAGE, SHOWN, EVENTS)
@guarded
def collect(job: str | None, **given: Any) -> int:
    """Collect and write what has ended by now, without waiting for the rest.

    OUTPUT is what the job writes; without it the only job that is open is meant.
    -o writes the answers elsewhere too.
    """
    from standby.workload import steps
    from standby.workload.report import report_of

    with opened_job(job, given) as (opened, service, _), watched(given) as say:
        if given["gone"]:
            opened.note(gone="1")
        steps.runner(opened, service, pace=pace_of(given), say=say).run_once()
        steps.write_job(opened, attached=attached_of(given["attach"]), output=given["output"])
        report = report_of(opened, steps.prices_of(opened))
    return finished(report, given)


@workload_command()
@JOB
@flags(ATTACH, PACE, PAGE, SHOWN, EVENTS)
@guarded
def retry(job: str | None, **given: Any) -> int:
    """Try rows again that failed for a reason that passes.

    As often again as --retries says. OUTPUT is what the job writes; without it the
    only job that is open, or the only one there is.
    """
    return _go_on(job, given, is_retry=True)


@workload_command()
@JOB
@click.option("--unproven", is_flag=True, help="Also batches of which only the size says that they are the job's.")
@flags(ATTACH)
@guarded
def cancel(job: str | None, *, unproven: bool, **given: Any) -> int:
    """End the running batches of a job; what is finished is kept, and charged.

    OUTPUT is what the job writes; without it the only job that is open is meant.
    """
    from standby.workload import steps

    with opened_job(job, given) as (opened, service, name):
        count = steps.cancel_job(opened, service, unproven=unproven)
        left = [] if unproven else steps.unproven_of(opened)
    if left:
        click.echo(
            f"Not canceled: {', '.join(left)}. The create was not answered, and only the size says that it is this "
            "job's. If nothing else of yours makes batches there, add --unproven."
        )
    if count:
        batches = "One batch is" if count == 1 else f"{count:,} batches are"
        click.echo(f"{batches} being canceled; collect what is finished with: standby watch --retries 0 {name}")
    elif not left:
        click.echo("No batch is running.")
    return 0


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@guarded
def list_jobs(*, as_json: bool) -> int:
    """List the jobs of this user, the newest first."""
    from standby.cli.tables import show
    from standby.workload.register import remembered

    rows = [row_of(folder) for folder in remembered()]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif rows:
        shown = [(r["output"], r["state"], f"{r['rows']:,}", f"{r['succeeded']:,}", f"{r['failed']:,}") for r in rows]
        show(("output", "state", "rows", "succeeded", "failed"), shown)
    else:
        click.echo("There are no jobs.", err=True)
    return 0


@workload_command()
@JOB
@click.option(
    "--html", "page", metavar="FILE", help="Write it as one HTML page with charts; it asks no network either."
)
@flags(SHOWN)
@guarded
def report(job: str | None, *, page: str | None, as_json: bool) -> int:
    """Say what became of a job, and what it cost; asks no network.

    OUTPUT is what the job writes; without it the only job that is open, or the only
    one there is. A job that is being worked on is told of as it is now.
    """
    from standby.workload import steps
    from standby.workload.jobfile import looked_at
    from standby.workload.report import report_of

    with looked_at(place_of(job, is_open=False)) as found:
        summed = report_of(found, steps.prices_of(found))
    return conclude(summed, as_json=as_json, page=page)


def _go_on(job: str | None, given: dict[str, Any], *, is_retry: bool = False) -> int:
    from standby.workload import steps

    attached, pace = attached_of(given["attach"]), pace_of(given)
    with opened_job(job, given, is_open=not is_retry) as (opened, service, _), watched(given) as say:
        if is_retry:
            opened.ask_again(given["retries"])
        found = steps.run_job(opened, service, pace=pace, attached=attached, say=say, wait_s=given["wait_s"])
    return finished(found, given)


@contextlib.contextmanager
def _started(spec: Any, given: dict[str, Any]) -> Iterator[tuple[JobFile, Service]]:
    from standby.workload import connected, folder_of, opened_job, register

    is_table = not Path(spec.output).is_absolute()
    folder = register.table_place(spec.output) if is_table else folder_of(spec.output)
    service = connected(given["base_url"])
    with opened_job(spec, endpoint=service.endpoint, folder=folder) as job:
        register.remember(job.folder)
        with at_work(given["output"], job):
            yield job, service


COMMANDS: tuple[click.Command, ...] = (
    run,
    submit,
    estimate,
    nightly,
    watch,
    collect,
    retry,
    cancel,
    list_jobs,
    report,
)
__all__ = ["COMMANDS"]
