"""A workload that runs again and again, from a timer: each run answers the rows that are new, and adds them.

A run that was broken off is finished first. What a run does, in the order in which it is written down:

1. all rows are read and rendered; those whose key and request are known are left out;
2. the others become the rows of a run, in a folder of its own, and the ledger knows that run;
3. they are an ordinary job in that folder, which goes on wherever it was;
4. its answers are merged into the output, by key;
5. the ledger remembers them, and closes the run.

A crash between 4 and 5 merges again, which changes nothing; one before 2 leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from standby.pricing.rates import DOLLAR, dollars
from standby.workload import jobfile, native, nightly_ledger, nightly_merge, register, steps, tables
from standby.workload.estimate import Estimate
from standby.workload.faults import BadInput, LocalState, OverBudget
from standby.workload.jobfile import Item, JobFile, folder_of
from standby.workload.nightly_file import Nightly
from standby.workload.nightly_ledger import End, Ledger, Look, Run
from standby.workload.outcomes import AGAIN, STOPS_THE_LINE
from standby.workload.prepare import check_schema
from standby.workload.prompts import Prompts
from standby.workload.report import report_of
from standby.workload.runner import Pace, Say, silent
from standby.workload.service import Service
from standby.workload.spec import Source, Spec
from standby.workload.states import PartState

KEPT_RUNS = 3
"""Folders of runs that stay for a look at them; the ledger keeps the reports of all."""
PASSES = AGAIN | STOPS_THE_LINE | {"missing", "canceled"}
"""Causes with which a row is sent again by the next run."""
HASH_BYTES = 16
AtWork = Callable[[JobFile], contextlib.AbstractContextManager[None]]
"""Holds the job of a run while it is worked on, such as to know how far it was when a signal came."""
FLYING = frozenset({PartState.SENDING, PartState.SUBMITTED, PartState.ENDED, PartState.COLLECTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would do now."""

    look: Look
    estimate: Estimate | None
    """None if nothing is to be sent."""
    budget_pico: int | None
    spent_pico: int
    """In this month, so far."""


def place_of(nightly: Nightly) -> Path:
    """Name the folder of the ledger: beside the output, or beside the file where the output is a table."""
    where = nightly.file.absolute().with_name(nightly.spec.output) if nightly.is_table else Path(nightly.spec.output)
    return where.with_name(where.name + nightly_ledger.SUFFIX)


@contextlib.contextmanager
def opened(nightly: Nightly) -> Iterator[Ledger]:
    """Open the ledger of a workload. `LocalState` if another run holds it, or if it does not fit the file any more."""
    with nightly_ledger.opened(place_of(nightly)) as ledger:
        _check(nightly, ledger)
        yield ledger


def _alone(job: JobFile) -> contextlib.AbstractContextManager[None]:
    del job
    return contextlib.nullcontext()


def run(
    nightly: Nightly,
    ledger: Ledger,
    service: Service,
    *,
    pace: Pace,
    say: Say = silent,
    at_work: AtWork = _alone,
    is_failed_again: bool = False,
) -> Iterator[Run]:
    """Finish the run that was broken off, if there is one, then answer what is new; yield each run when it is over.

    One with nothing to send is over at once; it is not remembered. Rows without a good answer are known too, unless
    they failed for a reason that passes, or `is_failed_again`.
    """
    before = ledger.open_run()
    if before is not None:
        yield _gone_on(nightly, ledger, before, service, pace=pace, say=say, at_work=at_work)
    with _looked(nightly, ledger, is_failed_again=is_failed_again) as (look, rows):
        if not look.fresh:
            yield Run(number=0, began=_now(), ended=_now(), look=look, cost_pico=0, report={})
            return
        began = _begun(nightly, ledger, look, rows)
    with _job(nightly, ledger, began, service) as job, at_work(job):
        steps.prepare_job(job, attached=nightly.attached, pace=pace)
        _hold(nightly, ledger, job, service)
        yield _finished(nightly, ledger, began, job, service, pace=pace, say=say)


def plan(nightly: Nightly, service: Callable[[], Service], *, is_failed_again: bool = False) -> Plan:
    """Say what a run would send now and what that could cost; sends no batch, remembers nothing."""
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="standby-")))
        folder = place_of(nightly)
        ledger = stack.enter_context(nightly_ledger.opened(folder if folder.exists() else scratch / "ledger"))
        _check(nightly, ledger)
        look, rows = stack.enter_context(_looked(nightly, ledger, is_failed_again=is_failed_again))
        spent = ledger.spent_pico(_now()[:7])
        budget = _budget(nightly, ledger)[0]
        if not look.fresh:
            return Plan(look=look, estimate=None, budget_pico=budget, spent_pico=spent)
        fresh = scratch / f"fresh{rows.suffix}"
        nightly_merge.picked(rows, ledger.flags(), fresh)
        spec = _spec_of_run(nightly, scratch, fresh)
        connected = service()
        with steps.opened_job(spec, endpoint=connected.endpoint) as job:
            steps.prepare_job(job)
            found = steps.estimate_job(job, connected)
        return Plan(look=look, estimate=found, budget_pico=budget, spent_pico=spent)


# -- what is new


@contextlib.contextmanager
def _looked(nightly: Nightly, ledger: Ledger, *, is_failed_again: bool) -> Iterator[tuple[Look, Path]]:
    """Read all rows and hold them against the ledger; yields what was found and the rows as they were read."""
    scratch = ledger.folder / "look"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    try:
        source, spec = nightly.spec.source, nightly.spec
        check_schema(spec)
        if source.kind == "native":
            rows = Path(source.where)
            asked = _asked_by_lines(rows, spec)
        else:
            rows = scratch / "all.parquet"
            tables.freeze(source, rows, attached=nightly.attached)
            asked = _asked_by_rows(rows, spec, scratch)
        yield ledger.compare(asked, is_failed_again=is_failed_again), rows
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _asked_by_lines(rows: Path, spec: Spec) -> Iterator[tuple[str, bytes]]:
    lines = native.lines_of(rows, max_tokens=spec.max_tokens)
    for key, params in itertools.islice(lines, spec.source.limit):
        yield key, asked_of(params)


def _asked_by_rows(rows: Path, spec: Spec, scratch: Path) -> Iterator[tuple[str, bytes]]:
    columns = tables.columns_of(rows, scratch=scratch)
    if spec.id_column not in columns:
        raise BadInput(f"id: there is no column {spec.id_column!r}; there are {', '.join(sorted(columns))}")
    prompts = Prompts(spec, list(columns))
    for number, row in enumerate(tables.rows_of(rows, scratch=scratch), start=1):
        yield str(row[spec.id_column]), asked_of(prompts.params(row, number=number))


def asked_of(params: dict[str, Any] | msgspec.Raw) -> bytes:
    """Hash what is asked of a model: equal for equal requests, in every release."""
    text = bytes(params) if isinstance(params, msgspec.Raw) else msgspec.json.encode(params)
    return hashlib.blake2b(text, digest_size=HASH_BYTES).digest()


def _begun(nightly: Nightly, ledger: Ledger, look: Look, rows: Path) -> Run:
    """Put the new rows into the folder of a run; only then the ledger knows it."""
    place = ledger.place(ledger.next_number())
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    nightly_merge.picked(rows, ledger.flags(), _fresh(place, nightly))
    return ledger.begin(look, now=_now())


# -- one run


def _gone_on(
    nightly: Nightly, ledger: Ledger, run: Run, service: Service, *, pace: Pace, say: Say, at_work: AtWork
) -> Run:
    """Finish a run that was broken off.

    If none of its batches is under way, it is closed as it is when it had sent nothing, or when the file asks for
    something else by now: rows that were not answered are new again.
    """
    place = ledger.place(run.number)
    spec = _spec_of_run(nightly, place, _fresh(place, nightly))
    folder = folder_of(spec.output)
    if not (folder / "job.sqlite").exists():
        return ledger.close(run, [], cost_pico=0, report={}, now=_now())
    with jobfile.opened(folder) as job, at_work(job):
        states = {part.state for part in job.parts()}
        is_same = job.meta("spec", "") != "" and job.spec.fingerprint == spec.fingerprint
        if not states & FLYING and (states <= {PartState.READY} or not is_same):
            return _closed(nightly, ledger, run, job)
        return _finished(nightly, ledger, run, job, service, pace=pace, say=say)


@contextlib.contextmanager
def _job(nightly: Nightly, ledger: Ledger, run: Run, service: Service) -> Iterator[JobFile]:
    place = ledger.place(run.number)
    spec = _spec_of_run(nightly, place, _fresh(place, nightly))
    with steps.opened_job(spec, endpoint=service.endpoint) as job:
        register.remember(job.folder)
        yield job


def _finished(
    nightly: Nightly, ledger: Ledger, run: Run, job: JobFile, service: Service, *, pace: Pace, say: Say
) -> Run:
    steps.run_job(job, service, pace=pace, say=say, wait_s=nightly.wait_s)
    return _closed(nightly, ledger, run, job)


def _closed(nightly: Nightly, ledger: Ledger, run: Run, job: JobFile) -> Run:
    """Merge what was answered, and remember it."""
    is_any = any(item.outcome is not None for item in job.items())
    if is_any:
        answers = Path(job.spec.output)
        steps.write_job(job)
        complete = answers.with_name(f"complete{answers.suffix}")
        nightly_merge.picked(answers, (item.outcome is not None for item in job.items()), complete)
        output = nightly.spec.output
        nightly_merge.merge(complete, output, nightly.key, attached=nightly.attached, scratch=job.folder)
        complete.unlink()
    report = {**report_of(job, steps.prices_of(job)), "output": nightly.spec.output} if is_any else {}
    cost = report["cost"]["charged_pico"] if report else 0
    ends = (End(number=item.number, is_good=is_settled(item)) for item in job.items())
    closed = ledger.close(run, ends, cost_pico=cost, report=report, now=_now())
    _tidy(ledger, run.number)
    return closed


def is_settled(item: Item) -> bool | None:
    """Say whether a row has a good answer; None if it has to be sent again, because what kept it from one passes."""
    if item.outcome is None or item.cause in PASSES:
        return None
    return item.outcome == "succeeded" and not item.cause


def _tidy(ledger: Ledger, last: int) -> None:
    for number in range(last - KEPT_RUNS, 0, -1):
        place = ledger.place(number)
        if not place.exists():
            return
        shutil.rmtree(place, ignore_errors=True)


def _fresh(place: Path, nightly: Nightly) -> Path:
    return place / ("fresh.jsonl" if nightly.spec.source.kind == "native" else "fresh.parquet")


def _spec_of_run(nightly: Nightly, place: Path, fresh: Path) -> Spec:
    """Make the workload of one run: its own rows, its own output."""
    source = Source(kind="native" if nightly.spec.source.kind == "native" else "file", where=str(fresh))
    output = place / nightly_merge.answers_name(nightly.spec.output, nightly.attached)
    return msgspec.structs.replace(nightly.spec, source=source, output=str(output))


# -- money


def _hold(nightly: Nightly, ledger: Ledger, job: JobFile, service: Service) -> None:
    """Hold a run to what may be spent; `OverBudget` if it could cost more, and then nothing was sent."""
    budget, name = _budget(nightly, ledger)
    if budget is None:
        return
    try:
        steps.bind_budget(job, steps.estimate_job(job, service), budget)
    except OverBudget as error:
        raise OverBudget(f"{nightly.file.name}: {str(error).replace('--max-cost', name)}") from None


def _budget(nightly: Nightly, ledger: Ledger) -> tuple[int | None, str]:
    """Find the smaller of both bounds, and what to call it."""
    bounds: list[tuple[int, str]] = []
    if nightly.budget.run is not None:
        bounds.append((int(nightly.budget.run * DOLLAR), "budget.run"))
    if nightly.budget.month is not None:
        month = int(nightly.budget.month * DOLLAR)
        left = max(0, month - ledger.spent_pico(_now()[:7]))
        bounds.append((left, f"what is left of budget.month ({dollars(month)})"))
    return min(bounds) if bounds else (None, "")


# -- the ledger and the file


def _check(nightly: Nightly, ledger: Ledger) -> None:
    """Refuse to go on where rows would be named otherwise than before, or answers would get lost."""
    spec, key = nightly.spec, nightly.key
    known = ledger.meta("id")
    if known and known != key:
        raise LocalState(
            f"{nightly.file.name}: id: rows were named by {known!r} before; set it back, choose another output, or "
            f"delete {ledger.folder} to answer all rows again"
        )
    there = nightly_merge.has_key(spec.output, key, nightly.attached, scratch=ledger.folder)
    if there is None and ledger.count():
        raise LocalState(
            f"{spec.output} is gone, with the answers to {ledger.count():,} rows; put it back, or delete "
            f"{ledger.folder} to answer all rows again"
        )
    if there is False:
        raise LocalState(f"{spec.output}: has no column {key!r}, so answers cannot be added; choose another output")
    if not known:
        ledger.note(id=key)


def _now() -> str:
    return datetime.now(UTC).isoformat()
