"""The steps of a workload as functions: what the command line does, for programs.

from standby import workload

with workload.opened_job(spec) as job:
    workload.prepare_job(job)
    report = workload.run_job(job, workload.connected())
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from standby.pricing.rates import dollars
from standby.workload import answers, history, jobfile
from standby.workload.binding import Binding
from standby.workload.costs import PriceOf, prices_at
from standby.workload.estimate import Estimate, estimate
from standby.workload.faults import LocalState, OverBudget
from standby.workload.jobfile import JobFile, Part, folder_of
from standby.workload.names import new_tag
from standby.workload.prepare import prepare
from standby.workload.report import report_of
from standby.workload.runner import Pace, Runner, Say, silent
from standby.workload.service import Service
from standby.workload.spec import Spec
from standby.workload.states import PartState

Wait = Callable[[float], None]


@contextlib.contextmanager
def opened_job(spec: Spec, *, endpoint: str, folder: Path | None = None) -> Iterator[JobFile]:
    """Open the job of a workload, as far as it is; `LocalState` if it is another workload's or service's."""
    place = folder or folder_of(spec.output)
    with jobfile.created(place, spec, tag=new_tag(), endpoint=endpoint, now=datetime.now(UTC).isoformat()) as job:
        check_endpoint(job, endpoint)
        yield job


def check_endpoint(job: JobFile, endpoint: str) -> None:
    """Refuse to go on elsewhere: the batches of a job are known only where they were made."""
    if job.meta("endpoint") != endpoint:
        raise LocalState(
            f"{job.folder}: the job runs on {job.meta('endpoint')}, and this is {endpoint}; "
            "set ANTHROPIC_BASE_URL back, or choose another output"
        )


def prepare_job(job: JobFile, *, attached: Mapping[str, str] | None = None, pace: Pace | None = None) -> None:
    """Read the rows and write the bodies; sends nothing."""
    pace = pace or Pace()
    prepare(job, attached=attached or {}, limits=pace.limits, canary=pace.canary)


def estimate_job(job: JobFile, service: Service) -> Estimate:
    """Say what a prepared job will cost; counts the prompts of a sample, sends no batch."""
    return estimate(job, service, prices_of(job))


def bind_budget(job: JobFile, found: Estimate, budget_pico: int) -> None:
    """Refuse a job that could cost more, and hold it to that across parts and tries. `OverBudget` says how much."""
    if found.worst_pico is None:
        raise OverBudget(f"--max-cost cannot be kept: {'; '.join(found.unknown)}. Leave it out to go on")
    if found.worst_pico > budget_pico:
        raise OverBudget(
            f"it could cost {dollars(found.worst_pico)} if every answer took all of --max-tokens, "
            f"and --max-cost is {dollars(budget_pico)}; nothing was sent"
        )
    job.note(budget_pico=str(budget_pico), worst_pico=str(found.worst_pico))


def run_job(
    job: JobFile,
    service: Service,
    *,
    pace: Pace | None = None,
    attached: Mapping[str, str] | None = None,
    say: Say = silent,
    wait_s: float | None = None,
    wait: Wait | None = None,
) -> dict[str, Any]:
    """Submit, wait, collect, try again, write the output; return the report. Goes on where it was.

    `wait` sleeps for so many seconds; it may raise to let go of the job, which goes on another time.
    """
    check_endpoint(job, service.endpoint)
    if not (job.meta("written", "") and is_done(job)):
        driver = runner(job, service, pace=pace, say=say, wait=wait)
        driver.run(wait_s=wait_s)
        driver.tell("writing the answers")
        write_job(job, attached=attached)
    return report_of(job, prices_of(job))


def submit_job(job: JobFile, service: Service, *, pace: Pace | None = None, say: Say = silent) -> None:
    """Send every part that was not sent, and return; what waits for room in the queue is waited for."""
    waiting = {PartState.READY, PartState.SENDING}
    runner(job, service, pace=pace, say=say).run(until=lambda: all(p.state not in waiting for p in job.parts()))


def write_job(job: JobFile, *, attached: Mapping[str, str] | None = None, output: str | None = None) -> int:
    """Write the output from what was collected; return its rows."""
    count = answers.write(job, output or job.spec.output, attached=attached or {}, price_of=prices_of(job))
    job.note(written=datetime.now(UTC).isoformat())
    history.remember(job)
    return count


def cancel_job(job: JobFile, service: Service, *, unproven: bool = False) -> int:
    """Ask for the end of the batches that run; return how many. What is finished is kept and collected as always.

    A batch that was only found by its size may be another program's (`unproven_of`); it is left alone unless asked for.
    """
    service.bind(Binding(job))
    canceled = [str(part.batch_id) for part in _running(job) if unproven or part.is_ours]
    for batch_id in canceled:
        service.cancel(batch_id)
    return len(canceled)


def unproven_of(job: JobFile) -> list[str]:
    """Name the running batches of which only the size says that they are this job's: their creates were not answered.

    Their results will tell.
    """
    return [str(part.batch_id) for part in _running(job) if not part.is_ours]


def _running(job: JobFile) -> list[Part]:
    return [part for part in job.parts() if part.state is PartState.SUBMITTED and part.batch_id]


def is_done(job: JobFile) -> bool:
    """Whether every part is."""
    parts = job.parts()
    return bool(parts) and all(part.state is PartState.DONE for part in parts)


def prices_of(job: JobFile) -> PriceOf:
    """Take prices of the day on which the job began."""
    return prices_at(job.meta("created"))


def runner(
    job: JobFile, service: Service, *, pace: Pace | None = None, say: Say = silent, wait: Wait | None = None
) -> Runner:
    """Make the loop of a job."""
    check_endpoint(job, service.endpoint)
    service.bind(Binding(job))
    return Runner(job, service, pace or Pace(), say=say, wait=wait or time.sleep)
