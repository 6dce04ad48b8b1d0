"""A whole workload in one call, for programs that have rows and want answers.

    report = workload.run(rows, "labels.parquet", model="claude-haiku-4-5", prompt="Label this review: {{ text }}")
    for row in workload.answered("labels.parquet"):
        print(row["text"], row["answer"])

It is the job of `standby run`, on disk beside its output: the same call again goes on where it was.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack

import msgspec

from standby.pricing.rates import DOLLAR
from standby.workload import answers as written
from standby.workload import jobfile, register, steps, tables
from standby.workload.faults import LocalState
from standby.workload.jobfile import JobFile, folder_of
from standby.workload.preflight import preflight
from standby.workload.rows import AsyncRows, Rows, spooled, spooled_async
from standby.workload.runner import Pace, Say, View, silent
from standby.workload.service import Service, connected
from standby.workload.spec import Cache, Source, Spec
from standby.workload.states import PartState
from standby.workload.survey import survey

T = TypeVar("T")
Output = str | os.PathLike[str]
AT_ONCE = 500
"""Rows that an asynchronous iterator reads in one go."""


class Asked(TypedDict, total=False):
    """What is asked of the rows, and how; the fields of `Spec`, and what does not make a job another one."""

    model: str
    prompt: str
    system: str
    max_tokens: int
    attachments: Sequence[str]
    """Templates of paths or URLs of images and PDFs."""
    schema: dict[str, Any] | type
    """A JSON Schema, or a pydantic model."""
    params: Mapping[str, Any]
    """Any other parameter of a Messages request."""
    id_column: str
    cache: Cache
    attached: Mapping[str, str]
    """Addresses of databases by name, for a query and for an output `NAME.TABLE`."""
    max_cost: float | str | Decimal
    """Dollars: sends nothing if it could cost more, and holds all parts and tries to it."""
    service: Service
    """Where to; by default what the official SDK finds."""
    pace: Pace
    wait_s: float
    """Raise `WaitOver` after so many seconds; the batches run on."""


class Detached(Exception):
    """The program does not wait any more. The job stays as it is; never leaves the room."""


def run(rows: Rows | Source | Output, output: Output, *, say: Say = silent, **asked: Unpack[Asked]) -> dict[str, Any]:
    """Answer every row and write the output; return the report. The same call again goes on where it was.

    Args:
        rows: any iterable of mappings, dataclasses, pydantic models, named tuples or texts; a file; or a `Source`.
            An iterable is read once, whole, before anything is sent.
        output: a file whose name says its form, or `NAME.TABLE` of an attached database.
        say: hears how far the job is, about every second while it waits.
        asked: prompt, model and the like; see `Asked`.

    Raises:
        WorkloadError: what keeps it from being done, each with an exit code; see `faults`. Rows without a good answer
            are no error: the report counts them.
    """
    place = _place(output, asked)
    return _run(_source(rows, place), output, asked, place=place, say=say, wait=None)


async def arun(
    rows: Rows | AsyncRows | Source | Output, output: Output, *, say: Say = silent, **asked: Unpack[Asked]
) -> dict[str, Any]:
    """Do what `run` does, without holding up the event loop; rows may be asynchronous.

    If it is canceled, the job is let go as soon as the request at hand has its answer; its batches run on, and the same
    call again goes on with it. `say` is called in the event loop.
    """
    place, loop = _place(output, asked), asyncio.get_running_loop()
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Detached

    def wait(seconds: float) -> None:
        if stop.wait(seconds):
            raise Detached

    def tell(view: View) -> None:
        check()
        loop.call_soon_threadsafe(say, view)

    def work() -> dict[str, Any]:
        source = _source(rows, place, check=check) if given is None else given
        return _run(source, output, asked, place=place, say=tell, wait=wait)

    given: Source | None = None
    if isinstance(rows, AsyncIterable):
        given = Source(kind="rows", where=await spooled_async(rows, place))
    return await _in_thread(work, stop)


def answered(output: Output, *, folder: Path | None = None) -> Generator[dict[str, Any], None, None]:
    """Walk over the rows of a job that was written, each joined to its answer, in their order; memory does not grow.

    Numbers, texts and booleans are themselves, nested values what JSON makes of them, anything else a text.
    `LocalState` if there is no such job.
    """
    place = folder or register.place_of(os.fspath(output))
    with jobfile.opened(place) as job:
        path = job.folder / f"answers-{os.getpid()}.parquet"
        try:
            written.write(job, str(path), attached={}, price_of=steps.prices_of(job))
            yield from tables.rows_of(path, scratch=job.folder)
        finally:
            path.unlink(missing_ok=True)


async def aanswered(output: Output, *, folder: Path | None = None) -> AsyncIterator[dict[str, Any]]:
    """Do the same without holding up the event loop."""
    rows, loop = answered(output, folder=folder), asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="standby-answers") as pool:
        try:
            while batch := await loop.run_in_executor(pool, lambda: list(itertools.islice(rows, AT_ONCE))):
                for row in batch:
                    yield row
        finally:
            pool.submit(rows.close).result()


async def _in_thread(work: Callable[[], T], stop: threading.Event) -> T:
    """Run in a thread of its own; when canceled, ask it to stop, and wait until it has let go of the job."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="standby-workload")
    try:
        done = asyncio.get_running_loop().run_in_executor(pool, work)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([done])
            if not done.cancelled():
                done.exception()  # heard: nobody asks for it any more
            raise
    finally:
        pool.shutdown(wait=False)


def _run(
    source: Source,
    output: Output,
    asked: Asked,
    *,
    place: Path,
    say: Say,
    wait: Callable[[float], None] | None,
) -> dict[str, Any]:
    service = copy.copy(asked.get("service") or connected())  # it is bound to this job, and others may run beside it
    pace = asked.get("pace") or Pace()
    spec, attached = _spec(source, output, asked), asked.get("attached") or {}
    _check_rows(place, spec)
    with steps.opened_job(spec, endpoint=service.endpoint, folder=place) as job:
        register.remember(job.folder)
        steps.prepare_job(job, attached=attached, pace=pace)
        _forget_given(job.folder)
        _bind(job, service, asked)
        return steps.run_job(job, service, pace=pace, attached=attached, say=say, wait_s=asked.get("wait_s"), wait=wait)


def _place(output: Output, asked: Asked) -> Path:
    name = os.fspath(output)
    return register.table_place(name) if tables.is_table(name, asked.get("attached") or {}) else folder_of(name)


def _source(rows: Any, place: Path, *, check: Callable[[], None] = lambda: None) -> Source:
    if isinstance(rows, Source):
        return rows
    if isinstance(rows, (str, os.PathLike)):
        return Source(kind="file", where=str(Path(rows).absolute()))
    return Source(kind="rows", where=spooled(rows, place, check=check))


def _spec(source: Source, output: Output, asked: Asked) -> Spec:
    name, schema = os.fspath(output), asked.get("schema")
    if not isinstance(schema, dict | None):
        schema = schema.model_json_schema()  # type: ignore[attr-defined]
    return Spec(
        source=source,
        output=name if tables.is_table(name, asked.get("attached") or {}) else str(Path(name).absolute()),
        model=asked.get("model", ""),
        max_tokens=asked.get("max_tokens", 1024),
        system=asked.get("system", ""),
        prompt=asked.get("prompt", ""),
        attachments=tuple(asked.get("attachments") or ()),
        schema=schema,
        params=dict(asked.get("params") or {}),
        id_column=asked.get("id_column", ""),
        cache=asked.get("cache", "off"),
    )


def _check_rows(place: Path, spec: Spec) -> None:
    """Say it plainly if the job there is this one, but for its rows."""
    if spec.source.kind != "rows" or not (place / "job.sqlite").exists():
        return
    with jobfile.opened(place) as job:
        before = job.spec if job.meta("spec", "") else spec
    if before != spec and msgspec.structs.replace(before, source=spec.source) == spec:
        for path in place.glob("given-*.parquet"):
            path.unlink()
        raise LocalState(
            f"{place}: the rows are not those that this job began with; give it the same rows in the same order, "
            "choose another output, or delete that folder"
        )


def _forget_given(place: Path) -> None:
    """Delete the rows as they were given: by now they are those of the job."""
    for path in place.glob("given-*.parquet"):
        path.unlink()


def _bind(job: JobFile, service: Service, asked: Asked) -> None:
    """Look at the models before the first part is sent, and hold the job to its budget."""
    if not any(part.state is not PartState.READY or part.round for part in job.parts()):
        preflight(survey(job), service)
    if (most := asked.get("max_cost")) is not None:
        budget = int(Decimal(str(most)) * DOLLAR)
        if job.meta("worst_pico", ""):
            job.note(budget_pico=str(budget))
        else:
            steps.bind_budget(job, steps.estimate_job(job, service), budget)
