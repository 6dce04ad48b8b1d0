"""Results on their way: what a broken connection, a dead process or a power cut leaves, the next one takes up."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from standby import workload
from standby.testing import Emulator
from standby.workload import collect
from standby.workload.collect import Tries
from standby.workload.faults import LocalState, Refused, Unavailable
from standby.workload.jobfile import JobFile, Part
from standby.workload.service import Seen
from standby.workload.states import PartState
from tests.harness import call
from tests.workload.conftest import creates, quick
from tests.workload.proxy import NO_TROUBLE, Proxy, Request
from tests.workload.virtual import World, job_of

ROWS = 40
ONCE = Tries(times=1, first_pause_s=0, wait=lambda _: None)
OFTEN = Tries(times=6, first_pause_s=0, wait=lambda _: None)


@pytest.fixture
def service(standby_emulator: Emulator) -> workload.Service:
    """The emulator, which packs nothing, so that it is known what came before a connection broke."""
    return workload.Service(standby_emulator.client(default_headers={"Accept-Encoding": "identity"}))


@contextlib.contextmanager
def ended(
    emulator: Emulator, service: workload.Service, folder: Path, rows: int = ROWS
) -> Iterator[tuple[JobFile, Part, Seen]]:
    """Open a job whose only batch has ended and was not read yet."""
    with job_of(service, folder, rows) as job:
        workload.submit_job(job, service, pace=quick())
        emulator.settle()
        part = job.move(job.parts()[0], PartState.ENDED)
        batch = service.retrieve(str(part.batch_id))
        assert batch is not None
        yield job, part, batch


def statuses(emulator: Emulator) -> list[int]:
    """List the answers to downloads: 200 is from the start, 206 from the middle."""
    return [one.status for one in emulator.requests if one.operation == "results"]


def test_the_next_process_takes_it_up(standby_emulator: Emulator, service: workload.Service, tmp_path: Path) -> None:
    """A download that broke in one process goes on in the next from where it broke."""
    standby_emulator.fault("results=cut_inside:25+times:1")
    with ended(standby_emulator, service, tmp_path) as (job, part, batch):
        with pytest.raises(Unavailable):
            collect.download(service, job, part, batch, ONCE)
        half = job.results(1).with_suffix(".new").stat().st_size
        assert (half > 0, job.part(1).fetched) == (True, half + len_of_half_a_line(job))
        found = collect.download(service, job, job.part(1), batch, ONCE)
        assert (found.missing, found.lines) == (0, ROWS)
        assert statuses(standby_emulator) == [200, 206]
        assert World(standby_emulator).run(job, service)["succeeded"] == ROWS


def len_of_half_a_line(job: JobFile) -> int:
    """Say how much was cut off behind the last whole line."""
    return job.part(1).fetched - job.results(1).with_suffix(".new").stat().st_size


def test_packed_results_are_taken_up_too(standby_emulator: Emulator, tmp_path: Path) -> None:
    """Their tag is that of the packed bytes; what lies on disk is not packed, and is asked for as such."""
    standby_emulator.fault("results=cut_inside:380+times:1")
    service = workload.Service(standby_emulator.client())
    with ended(standby_emulator, service, tmp_path, 400) as (job, part, batch):
        with pytest.raises(Unavailable):
            collect.download(service, job, part, batch, ONCE)
        assert job.part(1).fetched > 0
        assert collect.download(service, job, job.part(1), batch, ONCE).missing == 0
        assert statuses(standby_emulator) == [200, 206]
        assert len(job.results(1).read_bytes().splitlines()) == 400


def test_what_was_not_synced_is_not_trusted(
    standby_emulator: Emulator, service: workload.Service, tmp_path: Path
) -> None:
    """After a power cut there may be anything behind what is known to be on disk."""
    standby_emulator.fault("results=cut:25+times:1")
    with ended(standby_emulator, service, tmp_path) as (job, part, batch):
        with pytest.raises(Unavailable):
            collect.download(service, job, part, batch, ONCE)
        with job.results(1).with_suffix(".new").open("ab") as file:
            file.write(b"\0" * 3000)
        assert collect.download(service, job, job.part(1), batch, ONCE).missing == 0
        assert b"\0" not in job.results(1).read_bytes()
        assert statuses(standby_emulator) == [200, 206]


@pytest.mark.parametrize("etag", ['"of-other-bytes"', None])
def test_other_bytes_or_no_ranges_begin_anew(
    standby_emulator: Emulator, service: workload.Service, tmp_path: Path, etag: str | None
) -> None:
    """If the results are not those that were begun, or the service names none, all is read from the start."""
    standby_emulator.fault("results=cut:25+times:1")
    with ended(standby_emulator, service, tmp_path) as (job, part, batch):
        with pytest.raises(Unavailable):
            collect.download(service, job, part, batch, ONCE)
        job.change(part, etag=etag)
        assert collect.download(service, job, job.part(1), batch, ONCE).missing == 0
        assert statuses(standby_emulator) == [200, 200]
        assert len(job.results(1).read_bytes().splitlines()) == ROWS


def test_a_process_that_died_with_all_of_it_reads_nothing(
    standby_emulator: Emulator, service: workload.Service, tmp_path: Path
) -> None:
    """All bytes were there, only their name was not: the next process gives it."""
    with ended(standby_emulator, service, tmp_path) as (job, part, batch):
        collect.download(service, job, part, batch, ONCE)
        job.results(1).replace(job.results(1).with_suffix(".new"))
        assert collect.download(service, job, job.part(1), batch, ONCE).missing == 0
        assert statuses(standby_emulator) == [200]


@pytest.mark.parametrize("trouble", ["at_a_line", "crlf", "shuffled", "doubled", "foreign", "blank", "garbage"])
def test_a_body_that_is_strange_is_read_right(
    standby_emulator: Emulator, service: workload.Service, tmp_path: Path, trouble: str
) -> None:
    """Cut at the end of a line, with other line ends, in another order, with rows twice, foreign or broken."""
    left = [trouble]

    def choose(request: Request) -> str:
        return left.pop() if left and request.operation == "results" else NO_TROUBLE

    with Proxy(standby_emulator.url, choose) as proxy:
        there = workload.Service(standby_emulator.client(base_url=proxy.url))
        with job_of(there, tmp_path, ROWS) as job:
            report = World(standby_emulator).run(job, there)
    assert report["succeeded"] == ROWS
    assert len(creates(standby_emulator)) == 1


def test_a_body_that_stays_short_names_its_rows_and_retry_reads_again(
    standby_emulator: Emulator, tmp_path: Path
) -> None:
    """Rows that never come are missing in the end; asked again, they are read for nothing before they are sent."""
    is_short = [True]

    def choose(request: Request) -> str:
        return "at_a_line" if is_short[0] and request.operation == "results" and not _ranges(request) else NO_TROUBLE

    with Proxy(standby_emulator.url, lambda request: _no_ranges(choose, request)) as proxy:
        there = workload.Service(standby_emulator.client(base_url=proxy.url))
        with job_of(there, tmp_path, ROWS) as job:
            report = World(standby_emulator).run(job, there)
            assert 0 < report["failed"]["missing"] < ROWS
            is_short[0] = False
            job.ask_again(1)
            report = World(standby_emulator).run(job, there)
            assert (report["succeeded"], report["failed"]) == (ROWS, {})
    (batch,) = creates(standby_emulator)
    cost = call(standby_emulator.url, "GET", f"/standby/v1/batches/{batch}/cost").ok()
    assert report["cost"]["charged_pico"] == cost["cost_pico"]


def _ranges(request: Request) -> bool:
    return any(name.lower() == "range" for name, _ in request.headers)


def _no_ranges(choose: object, request: Request) -> str:
    """Take ranges away from a request, as a service without them would."""
    request.headers[:] = [(name, value) for name, value in request.headers if name.lower() != "range"]
    return choose(request)  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize("trouble", ["emptied", "page"])
def test_a_body_without_a_row_is_no_result(standby_emulator: Emulator, tmp_path: Path, trouble: str) -> None:
    """Nothing is taken for missing because nothing came; the batch stays to be read."""
    with Proxy(standby_emulator.url, lambda one: trouble if one.operation == "results" else NO_TROUBLE) as proxy:
        there = workload.Service(standby_emulator.client(base_url=proxy.url))
        with job_of(there, tmp_path, 3) as job:
            with pytest.raises(Unavailable, match="no row that can be read"):
                World().run(job, there)
            assert [part.state for part in job.parts()] == [PartState.ENDED]


def test_a_full_disk_is_named(standby_emulator: Emulator, service: workload.Service, tmp_path: Path) -> None:
    """What the system says is passed on, with the exit code of local files; the batch is kept for later."""
    with ended(standby_emulator, service, tmp_path) as (job, part, batch):
        job.results(1).with_suffix(".new").mkdir()
        with pytest.raises(LocalState, match=r"part-0001\.new: .*; the same command goes on later") as caught:
            collect.download(service, job, part, batch, ONCE)
        assert caught.value.code == 8
        job.results(1).with_suffix(".new").rmdir()
        assert collect.download(service, job, part, batch, OFTEN).missing == 0


def test_a_results_url_of_another_origin_ends_the_command_and_loses_nothing(
    standby_emulator: Emulator, tmp_path: Path
) -> None:
    """The key is not sent there; once the server says where it is, the same command collects."""
    wrong = ["elsewhere"]
    with Proxy(
        standby_emulator.url, lambda one: wrong[0] if wrong and one.operation == "retrieve" else NO_TROUBLE
    ) as proxy:
        there = workload.Service(standby_emulator.client(base_url=proxy.url))
        with job_of(there, tmp_path, 3) as job:
            with pytest.raises(Refused, match="lie on another server"):
                World(standby_emulator).run(job, there)
            wrong.clear()
            assert World(standby_emulator).run(job, there)["succeeded"] == 3
