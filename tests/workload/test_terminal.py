"""The command line of workloads: help, completion, events for programs, exit codes, which job is meant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from standby.cli import main, standby
from standby.cli.help import COMMANDS, FLAGS, WIDTH, Headed
from standby.cli.workload import COMMANDS as WORKLOADS
from standby.testing import Emulator
from standby.workload.jobfile import opened
from tests.workload.conftest import MODEL, Command, creates
from tests.workload.test_commands import ASK, QUICK
from tests.workload.test_commands import run as run  # noqa: PLC0414 - a fixture
from tools.write_docs import help_of, walk

PATHS = [path for path, _ in walk(standby, "standby")]


@pytest.mark.parametrize("path", PATHS)
def test_help_fits_a_terminal(path: str) -> None:
    """No line is longer than 80 columns."""
    shown = help_of(dict(walk(standby, "standby"))[path], path)
    assert [line for line in shown.splitlines() if len(line) > WIDTH] == []


def test_the_list_of_commands_cuts_no_sentence() -> None:
    """Each says in one line what it does."""
    assert "..." not in help_of(standby, "standby").partition("\n")[2]


def test_every_command_and_flag_has_its_heading() -> None:
    """What is new is put where people look for it."""
    assert sorted(name for names in COMMANDS.values() for name in names) == sorted(standby.commands)
    placed = {name for names in FLAGS.values() for name in names}
    own = {"help", "dry_run", "failed", "history"}
    for command in WORKLOADS:
        if isinstance(command, Headed):
            flags = {str(one.name) for one in command.params if isinstance(one, click.Option)}
            assert flags - own <= placed, command.name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rnu",), "Did you mean 'run'"),
        (("run", "in.jsonl", "--modle", "x"), "'--model'"),
        (("nowhere.toml",), "nowhere.toml' does not exist"),
    ],
)
def test_what_is_mistyped_is_guessed(run: Command, arguments: tuple[str, ...], words: str) -> None:
    """2, and the near name."""
    code, _, err = run(*arguments)
    assert (code, words.lower() in err.lower()) == (2, True), err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_its_shell(run: Command, shell: str) -> None:
    """It asks the command itself, by the variable that click reads."""
    code, out, _ = run("completion", shell)
    assert (code, f"_STANDBY_COMPLETE={shell}_complete" in out) == (0, True)


def test_the_script_for_bash_is_one(run: Command, tmp_path: Path) -> None:
    """Bash reads it without a complaint."""
    (tmp_path / "script").write_text(run("completion", "bash")[1])
    assert subprocess.run(["bash", "-n", "script"], cwd=tmp_path, check=False).returncode == 0


def offered(words: str, folder: Path) -> list[str]:
    """Ask for completions as bash does."""
    variables = {
        **os.environ,
        "_STANDBY_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    program = "import sys; sys.argv[0] = 'standby'; from standby.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.split()


def test_models_jobs_and_files_complete(run: Command, tmp_path: Path) -> None:
    """Models by their prices, jobs by their outputs; the rest is left to the shell."""
    run("run", "in.jsonl", *ASK, "-o", "out.csv", *QUICK)
    assert f"plain,{MODEL}" in offered("standby run -m claude-h", tmp_path)
    assert offered("standby report o", tmp_path) == ["plain,out.csv"]
    assert offered("standby run in", tmp_path) == ["file,in"]
    assert "plain,watch" in offered("standby wa", tmp_path)


def events(out: str) -> Iterator[str]:
    """Name the events, and check what each has."""
    for line in out.splitlines():
        event = json.loads(line)
        assert (event["schema"], event["at"][:2]) == (1, "20")
        yield event["event"]


def test_events_are_lines_of_json_with_the_report_last(run: Command, standby_emulator: Emulator) -> None:
    """A program sees what happens, and how it ended, without reading what people read."""
    code, out, err = run("run", "in.jsonl", *ASK, "-o", "out.csv", *QUICK, "--jsonl", "--no-estimate")
    assert (code, err) == (0, "")
    *before, last = events(out)
    assert (set(before), last) == ({"progress"}, "report")
    found = [json.loads(line) for line in out.splitlines()]
    assert (found[-2]["done"], found[-2]["items"], found[-1]["report"]["succeeded"]) == (4, 4, 4)
    code, out, _ = run("watch", "nowhere.csv", *QUICK, "--jsonl")
    assert (code, json.loads(out)["event"], json.loads(out)["code"]) == (8, "error", 8)


def test_the_only_open_job_needs_no_name(run: Command, standby_emulator: Emulator) -> None:
    """Of several one has to be named; the message names them."""
    code, _, err = run("watch", *QUICK)
    assert (code, "no job is open" in err) == (8, True)
    standby_emulator.script("*=slow:1h")
    run("submit", "in.jsonl", *ASK, "-o", "a.csv", *QUICK)
    assert json.loads(run("report", "--json")[1])["is_done"] is False
    run("submit", "in.jsonl", *ASK, "-o", "b.csv", *QUICK)
    code, _, err = run("watch", *QUICK)
    assert (code, "a.csv" in err, "b.csv" in err) == (8, True, True)
    assert run("cancel", "b.csv")[1].startswith("One batch is being canceled")
    standby_emulator.advance(hours=2)
    run("watch", "b.csv", *QUICK, "--retries", "0")
    assert run("watch", *QUICK)[0] == 0
    found = [json.loads(line) for line in run("list", "--json")[1].splitlines()]
    assert {(one["output"].rpartition("/")[2], one["state"]) for one in found} == {("a.csv", "done"), ("b.csv", "done")}


def test_a_job_in_use_can_be_looked_at(run: Command, tmp_path: Path) -> None:
    """Report and list wait for nobody."""
    run("submit", "in.jsonl", *ASK, "-o", "out.csv", *QUICK)
    with opened(tmp_path / "out.csv.standby"):
        out = run("report", "out.csv", "--json")[1]
        assert json.loads(out)["rows"] == 4
        assert "open" in run("list")[1]
        assert run("watch", "out.csv", *QUICK)[0] == 8


@pytest.mark.parametrize(
    ("fault", "code"),
    [("create=401", 3), ("create=403", 3), ("create=400", 4), ("create=413", 4), ("cancel=503", 5)],
)
def test_each_way_to_fail_has_its_code(run: Command, standby_emulator: Emulator, fault: str, code: int) -> None:
    """3: credentials; 4: refused; 5: not to be reached. Mended, the same command goes on."""
    if fault.startswith("cancel"):
        standby_emulator.script("*=slow:1h")
        run("submit", "in.jsonl", *ASK, "-o", "out.csv", *QUICK)
        standby_emulator.fault(fault)
        found, _, err = run("cancel", "out.csv")
    else:
        standby_emulator.fault(f"{fault}+times:1")
        found, _, err = run("run", "in.jsonl", *ASK, "-o", "out.csv", *QUICK)
    assert (found, err.splitlines()[-1].startswith("standby: ")) == (code, True), err
    if code < 5:
        assert run("run", "in.jsonl", *ASK, "-o", "out.csv", *QUICK)[0] == 0
    assert len(creates(standby_emulator)) == 1


def test_without_credentials_it_says_which_variable_to_set(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """3, before anything is read."""
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert main(["run", "in.jsonl", *ASK, "-o", "out.csv", *QUICK]) == 3
