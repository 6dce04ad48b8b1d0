"""What a person sees while a job runs, and what a log gets."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from rich.console import Console

from standby import workload
from standby.cli.workload_progress import ASCII, Lines, Screen, Signs, _above, _live, signs_of
from standby.testing import Emulator, emulator
from standby.workload.tempo import Tempo
from tests.workload.conftest import MODEL, small, write_rows

NOW = 1_790_000_000.0
BEGAN = "2026-09-21T14:00:00Z"
CLIENT = "import sys; from standby.cli import main; sys.exit(main(sys.argv[1:]))"
CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def view(**other: Any) -> workload.View:
    """A job in the middle."""
    given: dict[str, Any] = {"parts": {"submitted": 3, "done": 2}, "items": 500_000, "done": 310_000, "is_live": True}
    given |= {"began_at": BEGAN, "expires_at": "2026-09-22T14:00:00Z", "spent_pico": 1_210 * 10**9}
    given |= {"predicted_pico": (3_100 * 10**9, 9_800 * 10**9)}
    return workload.View(**{**given, **other})


def screen(*views: workload.View, signs: Signs | None = None) -> Screen:
    """Show views, ten minutes apart."""
    times = iter([NOW, *(NOW + 600 * n for n in range(1, 99))])
    found = Screen(Tempo(), lambda: next(times), signs or Signs())
    for one in views:
        found(one)
    return found


@pytest.mark.parametrize("width", [24, 40, 60, 80, 132, 400])
@pytest.mark.parametrize("note", ["", "the service has no room: " + "try again later " * 9, "x" * 500])
@pytest.mark.parametrize("done", [0, 1, 310_000, 500_000])
def test_lines_fit_any_terminal(width: int, note: str, done: int) -> None:
    """No line is as wide as the terminal, so that none wraps."""
    lines = [line.plain for line in screen(view(note=note, done=done)).lines(width)]
    assert lines
    assert max(len(line) for line in lines) < width


def test_one_view_tells_it_all() -> None:
    """Parts, rate, time left, time so far, cost beside its prediction, and when the batch expires."""
    first, second = view(done=250_000), view(done=310_000)
    text = " ".join(line.plain for line in screen(first, second).lines(80))
    for words in (
        "62%  310,000 of 500,000 rows",
        "5 batches: 3 running, 2 done",
        "100 rows/s",
        "left",
        "so far",
        "charged $1.21 · predicted $3.10 to $9.80",
        "expires in",
    ):
        assert words in text


def test_where_nobody_counts_no_share_is_claimed() -> None:
    """Claude counts at the end: time so far, what is usual, and the expiry are what there is."""
    one = view(parts={"submitted": 1}, done=0, is_live=False, expected_s=(1800.0, 9e9))
    lines = [line.plain for line in screen(one).lines(80)]
    assert "%" not in lines[0]
    assert "usually 30 min to" in " ".join(lines)
    assert "left" not in " ".join(lines)


def test_a_terminal_without_unicode_gets_none() -> None:
    """LANG=C is believed, although Python itself then writes UTF-8."""
    lines = screen(view(done=0, note="x" * 300), view(note="x" * 300), signs=ASCII).lines(60)
    assert all(line.plain.isascii() for line in lines)
    assert screen(signs=ASCII).lines(60)[0].plain.isascii()


@pytest.mark.parametrize(
    ("environ", "encoding", "signs"),
    [
        ({"LANG": "en_US.UTF-8"}, "utf-8", Signs()),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, "utf-8", ASCII),
        ({"LC_CTYPE": "C.UTF-8"}, "utf-8", ASCII),
        ({"LC_ALL": "C", "LANG": "de_DE.UTF-8"}, "utf-8", ASCII),
        ({"LC_ALL": "C.UTF-8"}, "utf-8", Signs()),
        ({"LC_CTYPE": "de_DE.utf8"}, "UTF-8", Signs()),
        ({"LANG": "de_DE.UTF-8"}, "latin-1", ASCII),
        ({}, None, ASCII),
    ],
)
def test_signs_follow_the_language(environ: dict[str, str], encoding: str | None, signs: Signs) -> None:
    """The variables in their order; what Python sets by itself says nothing."""
    assert signs_of(environ, encoding) == signs


def test_a_log_gets_a_line_a_change_and_one_a_minute() -> None:
    """A change within the minute waits for its end; what does not change is not repeated."""
    written: list[str] = []
    now = [NOW]
    lines = Lines(Tempo(), lambda: now[0], written.append)
    for seconds, done in ((0, 0), (1, 10), (30, 20), (59, 30), (61, 30), (200, 30), (201, 40)):
        now[0] = NOW + seconds
        lines(view(done=done))
    assert [line.partition(" of")[0] for line in written] == ["0", "30", "40"]
    assert all("\n" not in line for line in written)


def test_a_rate_follows_what_was_counted() -> None:
    """Of the last minutes; slower when the next count is overdue; anew when rows are tried again."""
    tempo = Tempo()
    assert tempo.per_s(0) is None
    for at in range(0, 6000, 60):
        tempo.add(at, at * 2)
    assert tempo.per_s(5940) == pytest.approx(2)
    assert tempo.left_s(5940, 5940 * 2 + 200) == pytest.approx(100)
    assert (tempo.per_s(9000) or 9) < 1
    tempo.add(9000, 5)
    assert tempo.per_s(9000) is None


def test_a_view_counts_down_when_rows_are_tried_again(
    service: workload.Service, standby_emulator: Emulator, tmp_path: Path
) -> None:
    """Rows on their way are not done, and every view is of all rows."""
    standby_emulator.script("*~/text [01]$/=errored:overloaded_error")
    seen: list[workload.View] = []
    source = workload.Source(kind="file", where=str(write_rows(tmp_path / "in.jsonl", 6)))
    spec = workload.Spec(source=source, output=str(tmp_path / "out.csv"), model=MODEL, prompt="Say {{ text }}")
    with workload.opened_job(spec, endpoint=service.endpoint) as job:
        workload.prepare_job(job, pace=small(4))
        workload.run_job(job, service, pace=small(4, retries=1), say=seen.append)
    assert {one.items for one in seen} == {6}
    assert seen[-1].done == 6
    again = [one for one in seen if one.again]
    assert again
    assert all(one.done == one.items - one.again for one in again)
    assert all(one.spent_pico for one in seen if one.round)


def test_cost_moves_while_a_batch_runs(tmp_path: Path) -> None:
    """A Standby server tells what was charged before a part is done; the view adds that up."""
    with emulator(batch__counts="live", script="*~/text 3$/=slow:1h") as live:
        service = workload.Service(live.client())
        source = workload.Source(kind="file", where=str(write_rows(tmp_path / "in.jsonl", 4)))
        spec = workload.Spec(source=source, output=str(tmp_path / "out.csv"), model=MODEL, prompt="Say {{ text }}")
        running: list[int] = []

        def say(view: workload.View) -> None:
            if view.spent_pico and view.parts.get("submitted") and not running:
                running.append(view.spent_pico)
                live.advance(hours=2)

        with workload.opened_job(spec, endpoint=service.endpoint) as job:
            workload.prepare_job(job)
            report = workload.run_job(job, service, pace=small(9), say=say, wait_s=50)
    assert report["succeeded"] == 4
    assert 0 < running[0] < report["cost"]["charged_pico"]


def test_a_terminal_that_gets_narrower_keeps_no_remains() -> None:
    """It has wrapped what was drawn; all of those lines are wiped before the next picture."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120, legacy_windows=False)
    shown = screen(view(note="the queue is full"))
    with _live(shown, console) as live:
        live.refresh()
        before = [line.cell_len for line in shown.lines(120)]
        written.truncate(0)
        console.width = 30
        live.refresh()
        ups = written.getvalue().partition("\x1b[2m")[0].count("\x1b[1A")
    assert ups == sum(-(-length // 30) for length in before) - 1


def test_what_is_said_meanwhile_stands_above(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what click writes, which knows its own way to standard error."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console = Console(file=written, force_terminal=True, width=40, legacy_windows=False)
    with _live(screen(view()), console) as live, _above(console):
        live.refresh()
        click.echo("a warning of several words that does not fit", err=True)
    said = CODE.sub("", written.getvalue())
    assert "a warning of several words that does not\nfit\n" in said.replace("\r", "")


@pytest.fixture
def command(standby_emulator: Emulator, tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """A job whose answers take a moment, and its environment."""
    standby_emulator.script("*=slow:1200ms")
    write_rows(tmp_path / "in.jsonl", 5)
    command = [sys.executable, "-c", CLIENT, "run", "in.jsonl", "-m", MODEL, "-p", "Say {{ text }}"]
    command += ["-o", "out.csv", "--poll", "0.1"]
    keep = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "PYTHONPATH"}}
    own = {"ANTHROPIC_API_KEY": "x", "ANTHROPIC_BASE_URL": standby_emulator.url, "XDG_STATE_HOME": str(tmp_path)}
    return command, {**keep, **own, "TERM": "xterm-256color", "LANG": "C.UTF-8"}


def watched(command: list[str], env: dict[str, str], folder: Path, *, columns: int) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its code and all that was written there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**env, "COLUMNS": str(columns)}, cwd=folder
    )
    os.close(theirs)
    written = b""
    end = time.monotonic() + 240  # a busy machine takes long to begin
    try:
        while time.monotonic() < end:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    piece = os.read(ours, 65536)
                except OSError:  # the other side is closed
                    break
                written += piece
        return process.wait(timeout=60), written.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_terminal_shows_progress_in_place(
    command: tuple[list[str], dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 60 columns no line is longer; afterwards the cursor is back and only the report stands there."""
    code, written = watched(*command, tmp_path, columns=60)
    assert code == 0
    assert "one batch, running" in written
    assert "expires in" in written
    moving = written[written.index("\x1b[?25l") :]
    lines = [CODE.sub("", line) for line in re.split(r"\r\n|\r|\x1b\[1A", moving)]
    assert max(len(line) for line in lines) <= 60
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    assert "rows are answered" in written[written.rindex("\x1b[?25h") :]


def test_no_color_is_honoured(command: tuple[list[str], dict[str, str]], tmp_path: Path) -> None:
    """Not a single colour, and the same words."""
    code, written = watched(command[0], {**command[1], "NO_COLOR": "1"}, tmp_path, columns=80)
    assert code == 0
    colours = re.findall(r"\x1b\[([0-9;]*)m", written)
    assert not [one for code in colours for one in code.split(";") if one[:1] in {"3", "4", "9"} and len(one) > 1]
    assert "one batch, running" in written


def test_a_dumb_terminal_gets_lines(command: tuple[list[str], dict[str, str]], tmp_path: Path) -> None:
    """What cannot move a cursor is not asked to."""
    code, written = watched(command[0], {**command[1], "TERM": "dumb"}, tmp_path, columns=80)
    assert code == 0
    assert "\x1b" not in written
    assert "0 of 5 rows" in written
