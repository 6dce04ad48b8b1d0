"""`standby run` and its single steps: submit, watch, collect, retry, cancel, list, report."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from standby.cli.workload_estimate import bind, show_job
from standby.cli.workload_flags import (
    ATTACH,
    BUDGET,
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
from standby.cli.workload_leave import at_work, guarded
from standby.cli.workload_nightly import nightly
from standby.cli.workload_progress import progress
from standby.cli.workload_shown import conclude

if TYPE_CHECKING:
    from standby.workload.jobfile import JobFile
    from standby.workload.service import Service

JOB = click.argument("job", metavar="OUTPUT")


@click.command()
@flags(ROWS, PROMPT, OUTPUT, ATTACH, BUDGET, PACE, PAGE, SHOWN)
@guarded
def run(**given: Any) -> int:
    """Answer every row: submit, wait, collect, join, report.

    FILE is JSONL, CSV, TSV, Parquet or Excel, or `-`; or JSONL of ready requests, Claude's (custom_id, params) or
    OpenAI's (custom_id, method, url, body), which need no prompt. The same command again goes on where it was.
    """
    from standby.workload import steps

    spec, attached, pace = spec_of(given), attached_of(given["attach"]), pace_of(given)
    with _started(spec, given) as (job, service), progress() as say:
        say.now("reading rows")
        steps.prepare_job(job, attached=attached, pace=pace)
        say.now("counting tokens")
        bind(job, service, given)
        report = steps.run_job(job, service, pace=pace, attached=attached, say=say, wait_s=given["wait_s"])
    return conclude(report, as_json=given["as_json"], page=given["page"])


@click.command()
@flags(ROWS, PROMPT, OUTPUT, ATTACH, BUDGET, PACE, SHOWN)
@guarded
def submit(**given: Any) -> int:
    """Submit every row and return; `standby watch OUTPUT` goes on."""
    from standby.workload import steps
    from standby.workload.report import report_of

    spec, pace = spec_of(given), pace_of(given)
    with _started(spec, given) as (job, service), progress() as say:
        say.now("reading rows")
        steps.prepare_job(job, attached=attached_of(given["attach"]), pace=pace)
        say.now("counting tokens")
        bind(job, service, given)
        steps.submit_job(job, service, pace=pace, say=say)
        report = report_of(job, steps.prices_of(job))
    if given["as_json"]:
        click.echo(json.dumps(report, indent=2))
    else:
        sent = [part["batch_id"] for part in report["parts"] if part["batch_id"]]
        click.echo(f"{report['rows']:,} rows in {len(sent)} batches: {', '.join(sent)}")
        click.echo(f"Go on with: standby watch {given['output']}")
    return 0


@click.command()
@flags(ROWS, PROMPT, ATTACH, SHOWN)
@guarded
def estimate(**given: Any) -> int:
    """Say what a workload would cost: in real time, in a batch, in a batch with a cache. Sends no batch.

    Prompts are counted in a sample, by the service. How long answers will be is not known before: each cost is told
    for no answers and for answers that take all of --max-tokens.
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


@click.command()
@JOB
@flags(ATTACH, PACE, PAGE, SHOWN)
@guarded
def watch(job: str, **given: Any) -> int:
    """Wait for a job that was submitted, collect its answers, write its output."""
    from standby.workload import steps

    with _opened(job, given) as (opened, service), progress() as say:
        attached = attached_of(given["attach"])
        report = steps.run_job(opened, service, pace=pace_of(given), attached=attached, say=say, wait_s=given["wait_s"])
    return conclude(report, as_json=given["as_json"], page=given["page"])


@click.command()
@JOB
@flags(OUTPUT, ATTACH, PACE, PAGE, SHOWN)
@guarded
def collect(job: str, **given: Any) -> int:
    """Collect what has ended by now and write it, without waiting for the rest; -o writes it elsewhere too."""
    from standby.workload import steps
    from standby.workload.report import report_of

    with _opened(job, given) as (opened, service):
        runner = steps.runner(opened, service, pace=pace_of(given))
        runner.run_once()
        steps.write_job(opened, attached=attached_of(given["attach"]), output=given["output"])
        report = report_of(opened, steps.prices_of(opened))
    return conclude(report, as_json=given["as_json"], page=given["page"])


@click.command()
@JOB
@flags(ATTACH, PACE, PAGE, SHOWN)
@guarded
def retry(job: str, **given: Any) -> int:
    """Try rows again that failed for a reason that passes, as often again as --retries says."""
    from standby.workload import steps

    with _opened(job, given) as (opened, service), progress() as say:
        opened.ask_again(given["retries"])
        attached = attached_of(given["attach"])
        report = steps.run_job(opened, service, pace=pace_of(given), attached=attached, say=say, wait_s=given["wait_s"])
    return conclude(report, as_json=given["as_json"], page=given["page"])


@click.command()
@JOB
@flags(ATTACH)
@guarded
def cancel(job: str, **given: Any) -> int:
    """End the running batches of a job; what is finished is kept, and is charged."""
    from standby.workload import steps

    with _opened(job, given) as (opened, service):
        count = steps.cancel_job(opened, service)
    click.echo(f"{count} batches are being canceled; collect what is finished with: standby watch --retries 0 {job}")
    return 0


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@guarded
def list_jobs(*, as_json: bool) -> int:
    """List the jobs of this user, the newest first."""
    from standby.cli.tables import show
    from standby.workload.faults import LocalState
    from standby.workload.register import remembered

    rows = []
    for folder in remembered():
        try:
            rows.append(_row(folder))
        except LocalState as error:
            rows.append({"output": str(folder), "state": str(error), "rows": 0, "succeeded": 0, "failed": 0})
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif rows:
        shown = [(r["output"], r["state"], f"{r['rows']:,}", f"{r['succeeded']:,}", f"{r['failed']:,}") for r in rows]
        show(("output", "state", "rows", "succeeded", "failed"), shown)
    else:
        click.echo("There are no jobs.", err=True)
    return 0


@click.command()
@JOB
@click.option(
    "--html", "page", metavar="FILE", help="Write it as one HTML page with charts; it asks no network either."
)
@flags(SHOWN)
@guarded
def report(job: str, *, page: str | None, as_json: bool) -> int:
    """Say what became of a job, and what it cost; asks no network."""
    from standby.workload import opened, register, steps
    from standby.workload.report import report_of

    with opened(register.place_of(job)) as found:
        summed = report_of(found, steps.prices_of(found))
    return conclude(summed, as_json=as_json, page=page)


def _row(folder: Path) -> dict[str, Any]:
    from standby.workload import opened
    from standby.workload.report import brief_of

    with opened(folder) as job:
        found = brief_of(job)
    state = "done" if found["is_done"] else "open" if found["rows"] else "not prepared"
    failed = sum(found["failed"].values())
    return {**{key: found[key] for key in ("output", "rows", "succeeded")}, "failed": failed, "state": state}


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


@contextlib.contextmanager
def _opened(name: str, given: dict[str, Any]) -> Iterator[tuple[JobFile, Service]]:
    from standby.workload import connected, opened, register, steps

    with opened(register.place_of(name)) as job:
        service = connected(given["base_url"])
        steps.check_endpoint(job, service.endpoint)
        with at_work(name, job):
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
