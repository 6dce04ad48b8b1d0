"""Bugs that programs like this one had, each by name: the test that shows that this one has it not.

Many have their test where their subject is; `ELSEWHERE` says where, and a test here looks whether it is there.
"""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from standby import workload
from standby.cli import standby
from standby.testing import Emulator
from standby.workload import collect, jobfile
from standby.workload.costs import Cost, prices_at
from standby.workload.elapsed import Elapsed
from standby.workload.faults import BadInput, LocalState, Unavailable
from standby.workload.jobfile import MIGRATIONS, SCHEMA, JobFile
from standby.workload.outcomes import used_of, verdict
from standby.workload.parts import Canary, Limits
from standby.workload.report import report_of
from standby.workload.runner import Pace
from standby.workload.service import Download
from standby.workload.states import FIRST_WAIT_S, PartState, poll_wait_s
from tests.workload.conftest import MODEL, Answer, creates, quick
from tests.workload.virtual import World, job_of

ELSEWHERE = {
    "create retried after it was accepted (SDK default)": "test_faults:test_the_sdks_own_retries_are_off_for_create",
    "the same, many times": "test_proxy:test_a_create_that_is_lost_again_and_again",
    "connection cut at a line boundary": "test_download:test_a_body_that_is_strange_is_read_right",
    "results_url on another origin": "test_download:"
    "test_a_results_url_of_another_origin_ends_the_command_and_loses_nothing",
    "results that cannot be reached": "test_faults:test_results_that_always_break_off_leave_the_job_as_it_is",
    "duplicate, foreign or missing custom_id": "test_faults:test_every_id_is_accounted_for",
    'an expired row must not become ""': "test_faults:test_an_expired_row_is_no_empty_answer",
    "an answer that was cut or refused is no success": "test_run:test_an_answer_that_was_cut_or_refused_is_no_success",
    "credit exhausted arrives typed invalid_request_error": "test_faults:test_an_empty_account_stops_the_line",
    "crash between create and record": "test_kill:test_one_job_dies_in_every_phase_and_is_done_in_the_end",
    "crash in the middle of a download": "test_download:test_the_next_process_takes_it_up",
    "two processes on one job": "test_run:test_two_processes_exclude_each_other",
    "keys of 65 characters and unicode keys": "test_run:test_claude_lines_come_back_as_claude_lines",
    "SIGINT and SIGTERM in every phase": "test_signals:test_at_a_door",
    "sampling parameters under API version 2026-10-21": "test_preflight:"
    "test_sampling_under_the_older_version_depends_on_the_model",
}


@pytest.mark.parametrize("bug", ELSEWHERE)
def test_it_has_its_test_elsewhere(bug: str) -> None:
    """What is said to be shown elsewhere is there."""
    module, _, name = ELSEWHERE[bug].partition(":")
    assert callable(getattr(importlib.import_module(f"tests.workload.{module}"), name))


@contextmanager
def in_pieces(pieces: list[bytes]) -> Iterator[Download]:
    """Let a body arrive in these pieces."""
    yield Download(offset=0, etag=None, pieces=iter(pieces))


def test_crlf_split_across_chunks(service: workload.Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece that ends between the two characters of a line's end makes neither two lines of it nor none."""
    with job_of(service, tmp_path, 3) as job:
        names = [f"{job.tag}-{item.hash.hex()}" for item in job.items()]
        body = b"".join(b'{"custom_id":"%b","result":{"type":"expired"}}\r\n' % name.encode() for name in names)
        pieces = [piece + b"\r" for piece in body.split(b"\r")]
        pieces[-1] = pieces[-1][:-1]
        monkeypatch.setattr(service, "results", lambda *_, **__: in_pieces(pieces))
        part = job.move(job.parts()[0], PartState.SENDING, anchor=None)
        part = job.move(job.move(part, PartState.SUBMITTED, batch_id="b", is_ours=1), PartState.ENDED)
        tries = collect.Tries(times=1, first_pause_s=0, wait=lambda _: None)
        found = collect.download(service, job, part, service_batch(), tries)
        assert (found.lines, found.ours, found.missing, found.others) == (3, 3, 0, 0)


def service_batch() -> Any:
    """Show a batch that has ended, as a service does."""
    times = dict.fromkeys(("created_at", "expires_at", "ended_at"), "2026-11-23T00:00:00Z")
    return workload.service.seen_of(
        {"id": "b", "processing_status": "ended", "request_counts": {"expired": 3}, "results_url": "/x", **times}
    )


@pytest.mark.parametrize("status", ["canceling", "paused_for_lunch"])
def test_canceling_and_what_nobody_knows_are_not_the_end(
    service: workload.Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """Only `ended` is the end."""
    with job_of(service, tmp_path, 3) as job:
        workload.submit_job(job, service, pace=quick())
        shown = service.retrieve(str(job.parts()[0].batch_id))
        assert shown is not None
        fields = {name: getattr(shown, name) for name in shown.__slots__}
        monkeypatch.setattr(service, "retrieve", lambda _: type(shown)(**{**fields, "status": status}))
        assert World().runner(job, service).run_once() is not None
        assert [part.state for part in job.parts()] == [PartState.SUBMITTED]


@pytest.mark.parametrize("reason", ["max_tokens", "refusal", "pause_turn", "model_context_window_exceeded"])
def test_a_schema_row_that_was_cut_or_refused_is_no_success(reason: str) -> None:
    """Even if what came so far happens to be valid."""
    message = {"content": [{"type": "text", "text": "{}"}], "stop_reason": reason, "usage": {"output_tokens": 1}}
    found = verdict({"type": "succeeded", "message": message}, validate=lambda _: True)
    assert (found.outcome, found.cause) == ("succeeded", reason)
    assert found.used is not None


def test_a_state_file_of_the_first_form_loads(service: workload.Service, tmp_path: Path) -> None:
    """A job that the first version began is gone on with by this one."""
    with job_of(service, tmp_path, 3) as job:
        tag, folder = job.tag, job.folder
    with sqlite3.connect(folder / "job.sqlite") as database:
        columns = "number, round, items, bytes, state, anchor, refuted, batch_id, is_ours, created_at, ended_at, "
        columns += "foreign_ids, duplicates"
        kept = {
            "meta": database.execute("SELECT * FROM meta").fetchall(),
            "parts": database.execute(f"SELECT {columns} FROM parts").fetchall(),
            "items": database.execute("SELECT * FROM items").fetchall(),
        }
    database.close()
    for path in folder.glob("job.sqlite*"):
        path.unlink()
    with sqlite3.connect(folder / "job.sqlite") as database:
        database.executescript(f"{SCHEMA} PRAGMA user_version = 1;")
        for table, rows in kept.items():
            database.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
    database.close()
    with workload.opened(folder) as job:
        assert job.tag == tag
        assert workload.run_job(job, service, pace=quick())["succeeded"] == 3


def test_a_state_file_of_this_form_loads_in_the_next_and_not_in_the_one_before(
    service: workload.Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N loads in N and N+1; a newer one is refused, and stays as it was."""
    with job_of(service, tmp_path, 3) as job:
        folder = job.folder
    with workload.opened(folder) as job:
        assert len(job.parts()) == 1
    with monkeypatch.context() as patch:
        patch.setattr(jobfile, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE of_the_next_version (x INTEGER) STRICT;"))
        with workload.opened(folder) as job:
            assert len(job.parts()) == 1
    with pytest.raises(LocalState, match="newer Standby"), workload.opened(folder):
        pass


@pytest.mark.parametrize(("rows", "sizes"), [(10, [10]), (11, [10, 1]), (20, [10, 10]), (21, [10, 10, 1])])
def test_one_row_more_than_a_part_holds(answer: Answer, rows: int, sizes: list[int]) -> None:
    """100,001 rows, made small: the last one has a part of its own, and no row is left out."""
    report, found = answer(rows, pace=quick(limits=Limits(items=10)))
    assert [part["items"] for part in report["parts"]] == sizes
    assert len(found) == rows


@pytest.mark.kill
@pytest.mark.timeout(900)
def test_a_hundred_thousand_and_one_rows_and_257_megabytes(
    standby_emulator: Emulator, service: workload.Service, tmp_path: Path
) -> None:
    """The real limits: 100,000 items and 256,000,000 bytes, and the service takes what was made of them."""
    source = tmp_path / "in.parquet"
    with duckdb.connect(":memory:") as connection:
        query = "SELECT i AS id, repeat('x', 2460) || i AS text FROM range(100001) r(i)"
        connection.execute(f"COPY ({query}) TO '{source}' (ROW_GROUP_SIZE 4096)")
    spec = workload.Spec(
        source=workload.Source(kind="file", where=str(source)),
        output=str(tmp_path / "out.parquet"),
        model=MODEL,
        prompt="{{ text }}",
        max_tokens=5,
    )
    standby_emulator.script("*=say:yes")
    pace = quick(canary=Canary(items=1, above=10**9), patience_s=60.0)
    with workload.opened_job(spec, endpoint=service.endpoint) as job:
        workload.prepare_job(job, pace=pace)
        sizes = [(part.items, part.bytes) for part in job.parts()]
        assert sum(size for _, size in sizes) > 257_000_000
        assert all(items <= 100_000 and size <= 256_000_000 for items, size in sizes)
        assert [job.body(part.number).stat().st_size for part in job.parts()] == [size for _, size in sizes]
        report = workload.run_job(job, service, pace=pace)
    assert (report["failed"], report["succeeded"]) == ({}, 100_001)
    assert len(creates(standby_emulator)) == len(sizes)


def test_one_row_above_the_limit_is_named(answer: Answer, standby_emulator: Emulator, tmp_path: Path) -> None:
    """A row that no batch could hold stops everything before anything is sent, and the message says which."""
    source = tmp_path / "in.csv"
    source.write_text("text\nshort\n" + "x" * 3000 + "\nshort\n")
    with pytest.raises(BadInput, match=r"row 2: makes a request of 3,1.. bytes; a batch holds at most 1,98."):
        answer(source, pace=quick(limits=Limits(bytes=2000)))
    assert creates(standby_emulator) == []


def test_cost_with_all_kinds_of_tokens() -> None:
    """5-minute and 1-hour writes, reads, and a prompt above the step of a price: each at its own rate, in a batch."""
    usage = {
        "input_tokens": 1_000,
        "cache_creation_input_tokens": 5_000,
        "cache_creation": {"ephemeral_5m_input_tokens": 3_000, "ephemeral_1h_input_tokens": 2_000},
        "cache_read_input_tokens": 10_000,
        "output_tokens": 400,
    }
    cost = Cost()
    cost.add(used_of(usage), prices_at("2026-11-23T00:00:00+00:00")(MODEL), 1)
    per_token = 1_000_000 // 2  # a dollar a million tokens of input, in a batch: pico-dollars
    whole = 1_000 + 3_000 * 1.25 + 2_000 * 2 + 10_000 * 0.1 + 400 * 5
    assert cost.charged == whole * per_token


def test_an_unknown_price_is_not_zero(service: workload.Service, tmp_path: Path) -> None:
    """It is unknown, and the report says for how many answers."""
    with job_of(service, tmp_path, 3) as job:
        assert workload.run_job(job, service, pace=quick())["cost"]["charged_pico"] > 0
        report = report_of(job, lambda _: None)
    assert (report["cost"]["charged_pico"], report["cost"]["unpriced_answers"]) == (None, 3)


@pytest.mark.parametrize("hours", [0.01, 0.5, 24.0])
def test_an_end_is_noticed_soon_and_asked_for_seldom(hours: float) -> None:
    """Within two seconds and a tenth of what it took, or five minutes; a batch of a day costs some 330 looks."""
    now_s, polls, waits = 0.0, 0, []
    while now_s < hours * 3600:
        waits.append(poll_wait_s(polls, chance=1.0))
        now_s += waits[-1]
        polls += 1
    assert max(waits) <= 330
    assert now_s - hours * 3600 <= 2.5 + 0.12 * hours * 3600
    assert polls <= 340
    assert poll_wait_s(0, after_s=60) == 60


def test_the_flags_wait_as_the_library_does() -> None:
    """`--poll` names the library's own default, without loading it."""
    [poll] = [one for one in standby.commands["watch"].params if one.name == "poll_s"]
    assert poll.default == FIRST_WAIT_S == Pace().first_poll_s


def test_a_laptop_that_slept_looks_at_once(
    standby_emulator: Emulator, service: workload.Service, tmp_path: Path
) -> None:
    """A wait of 30 s is over when the lid opens after a night, by the clock on the wall."""
    world = World()
    with submitted(standby_emulator, service, tmp_path) as job:
        runner = world.runner(job, service, Pace(first_poll_s=30))
        pause = runner.run_once()
        assert pause is not None
        assert pause > 25
        world.sleep(8 * 3600)
        assert runner.run_once() is None


def test_a_clock_that_was_set_back_stops_nothing(
    standby_emulator: Emulator, service: workload.Service, tmp_path: Path
) -> None:
    """Somebody sets the wall clock back by a day: a wait of 30 s stays one of 30 s."""
    world = World()
    with submitted(standby_emulator, service, tmp_path) as job:
        runner = world.runner(job, service, Pace(first_poll_s=30))
        runner.run_once()
        world.sleep(-86_400)
        world.wait(40)
        assert runner.run_once() is None


def test_a_laptop_that_slept_sends_nothing_twice(
    standby_emulator: Emulator, service: workload.Service, tmp_path: Path
) -> None:
    """A night is not the minute for which a lost create is looked for: the batch may still appear."""
    world = World()
    with job_of(service, tmp_path, 3) as job:
        job.move(job.parts()[0], PartState.SENDING, anchor=None)
        runner = world.runner(job, service, Pace(settle_s=60))
        runner.run_once()
        world.sleep(8 * 3600)
        runner.run_once()
        assert [part.state for part in job.parts()] == [PartState.SENDING]
        assert creates(standby_emulator) == []
        world.wait(61)
        runner.run_once()
        assert [part.state for part in job.parts()] == [PartState.SUBMITTED]


def test_a_laptop_that_slept_without_a_network_is_patient(
    standby_emulator: Emulator, service: workload.Service, tmp_path: Path
) -> None:
    """What failed before the lid was closed, and once more after it was opened, has not failed all night."""
    world = World()
    standby_emulator.fault("list=503")
    with job_of(service, tmp_path, 3) as job:
        runner = world.runner(job, service, Pace(patience_s=900))
        assert runner._guarded() is not None
        world.sleep(8 * 3600)
        assert runner._guarded() is not None
        world.wait(901)
        with pytest.raises(Unavailable):
            runner._guarded()


def test_time_that_passed_never_goes_back() -> None:
    """Of the clock on the wall and the steady one, the one that went further since the last look counts."""
    world = World()
    clock = Elapsed(lambda: world.wall_s, lambda: world.steady_s)
    world.wait(10)
    assert clock() == 10
    world.sleep(100)
    assert clock() == 110
    world.sleep(-1000)
    assert clock() == 110
    world.wait(5)
    assert clock() == 115


@contextmanager
def submitted(emulator: Emulator, service: workload.Service, folder: Path) -> Iterator[JobFile]:
    """Open a job whose batch was sent by another process, and is shown as running at first."""
    with job_of(service, folder, 3) as job:
        workload.submit_job(job, service, pace=quick())
        emulator.settle()
        shown = service.retrieve(str(job.parts()[0].batch_id))
        assert shown is not None
        fields: dict[str, Any] = {name: getattr(shown, name) for name in shown.__slots__}
        looks = iter([type(shown)(**{**fields, "status": "in_progress", "results_url": None})])
        true = service.retrieve
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(service, "retrieve", lambda batch_id: next(looks, None) or true(batch_id))
            yield job
