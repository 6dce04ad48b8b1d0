"""What a person at a terminal sees."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import standby
from standby.cli import main
from standby.config import PREFIX, known_keys, load_settings

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command on an empty data folder; return its code, standard output and standard error."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STANDBY_STORE_DATA", str(tmp_path / "data"))

    def once(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return once


def test_version(run: Run) -> None:
    """`--version` says which version it is."""
    assert run("--version") == (0, f"standby {standby.__version__}\n", "")


def test_help_of_every_command(run: Run) -> None:
    """`--help` works everywhere and `-h` is the same."""
    for path in (
        "",
        "serve",
        "keys",
        "keys create",
        "keys list",
        "keys revoke",
        "workspaces create",
        "config",
        "doctor",
    ):
        code, shown, _ = run(*path.split(), "--help")
        assert code == 0
        assert shown.startswith(f"Usage: standby {path}".rstrip())
        assert run(*path.split(), "-h")[1] == shown


def test_unknown_command(run: Run) -> None:
    """A command that does not exist is exit code 2 and one clear message."""
    code, shown, complaint = run("sevre")
    assert (code, shown) == (2, "")
    assert "No such command 'sevre'" in complaint


def test_config_prints_every_setting_as_toml(run: Run, tmp_path: Path) -> None:
    """The output is a file that `--config` reads, with every setting in it."""
    code, shown, _ = run("config")
    found = {f"{table}.{name}" for table, values in tomllib.loads(shown).items() for name in values}
    assert code == 0
    assert found == set(known_keys())
    file = tmp_path / "standby.toml"
    file.write_text(shown, encoding="utf-8")
    assert load_settings(file, environ={}).store.data == str(tmp_path / "data")
    assert run("config", "--config", str(file)) == (0, shown, "")


def test_config_masks_secrets(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret is never shown, and what stands for it cannot be taken for one."""
    monkeypatch.setenv("STANDBY_ENGINE_API_KEY", "hunter2")
    _, shown, _ = run("config")
    assert "hunter2" not in shown
    assert "api_key" not in tomllib.loads(shown)["engine"]


def test_flags_win_over_environment_and_file(run: Run, tmp_path: Path) -> None:
    """Of all places the command line has the last word."""
    file = tmp_path / "standby.toml"
    file.write_text('[store]\ndata = "from the file"\n', encoding="utf-8")
    _, shown, _ = run("config", "--config", str(file), "--data", "from the flag")
    assert tomllib.loads(shown)["store"]["data"] == "from the flag"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[server]\nprot = 1\n", "server.prot: no such setting"),
        ("[server]\nport = 'x'\n", "server.port: must be a whole number"),
        ("[server]\nport = 70000\n", "server.port: must be at most 65535"),
        ("port = 1\n", "port: settings stand in tables"),
        ("[server\n", "line 1"),
    ],
)
def test_bad_settings_stop_every_command(run: Run, tmp_path: Path, content: str, complaint: str) -> None:
    """A bad file is exit code 3 and one line that names file and key, for the server and for all else."""
    file = tmp_path / "standby.toml"
    file.write_text(content, encoding="utf-8")
    for command in ("serve", "config", "doctor", "keys list"):
        code, shown, said = run(*command.split(), "--config", str(file))
        assert (code, shown) == (3, "")
        assert said.startswith("standby: ")
        assert complaint in said
        assert str(file) in said
        assert said.count("\n") == 1


def test_bad_variable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable is not ignored."""
    monkeypatch.setenv("STANDBY_SERVER_PROT", "1")
    code, _, said = run("config")
    assert code == 3
    assert said.startswith("standby: STANDBY_SERVER_PROT: no such setting")


def test_life_of_a_key(run: Run) -> None:
    """A key is shown once, listed without its secret, and revoked for ever."""
    code, secret, said = run("keys", "create", "ci")
    assert code == 0
    assert re.fullmatch(r"sk-standby-\S{40,}\n", secret)
    key_id = said.split()[1]
    _, listed, _ = run("keys", "list")
    assert secret.strip() not in listed
    assert [line.split()[:2] for line in listed.splitlines()[1:]] == [[key_id, "ci"]]
    assert secret.strip()[-4:] in listed
    assert run("keys", "revoke", key_id)[0] == 0
    first = run("keys", "list")[1]
    assert len(re.findall(r"\d{4}-\d\d-\d\d", first)) == 2
    assert run("keys", "revoke", key_id)[0] == 0
    assert run("keys", "list")[1] == first


def test_revoking_what_is_not_there(run: Run) -> None:
    """An id that nobody has is exit code 1 and a line that says so."""
    code, shown, said = run("keys", "revoke", "key_nothing")
    assert (code, shown) == (1, "")
    assert "key_nothing" in said


def test_workspaces(run: Run) -> None:
    """A workspace gets an id, is listed after the default one, and keys are made for it by name or by id."""
    workspace = run("workspaces", "create", "reports")[1].strip()
    assert [line.split()[1] for line in run("workspaces", "list")[1].splitlines()[1:]] == ["default", "reports"]
    assert run("keys", "create", "a", "--workspace", "reports")[0] == 0
    assert run("keys", "create", "b", "--workspace", workspace)[0] == 0
    assert [line.split()[3] for line in run("keys", "list")[1].splitlines()[1:]] == ["reports", "reports"]


def test_workspace_twice(run: Run) -> None:
    """A name is given once."""
    run("workspaces", "create", "reports")
    code, shown, said = run("workspaces", "create", "reports")
    assert (code, shown) == (1, "")
    assert "reports" in said


def test_key_for_an_unknown_workspace(run: Run) -> None:
    """No key is made for a workspace that does not exist."""
    code, shown, said = run("keys", "create", "a", "--workspace", "nowhere")
    assert (code, shown) == (1, "")
    assert "standby workspaces list" in said
    assert run("keys", "list")[1].splitlines()[1:] == []


def test_doctor_of_a_sound_folder(run: Run) -> None:
    """A folder without damage is exit code 0, and nothing on standard output."""
    run("workspaces", "list")
    code, shown, said = run("doctor")
    assert (code, shown) == (0, "")
    assert "all is well" in said


def test_doctor_of_nothing(run: Run, tmp_path: Path) -> None:
    """A folder that holds no data is named, and not made."""
    code, _, said = run("doctor")
    assert code == 3
    assert str(tmp_path / "data") in said
    assert not (tmp_path / "data").exists()


def test_model_that_is_not_there(run: Run, tmp_path: Path) -> None:
    """A model file that does not exist is a wrong command line."""
    code, _, said = run("serve", "--model", str(tmp_path / "no.gguf"))
    assert code == 2
    assert "no.gguf" in said


def test_module_is_the_command() -> None:
    """`python -m standby` is the same program."""
    done = subprocess.run([sys.executable, "-m", "standby", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"standby {standby.__version__}\n"


def test_reader_that_has_seen_enough() -> None:
    """`standby config | head -1` ends without a complaint."""
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m standby config | head -1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[server]\n"
    assert done.stderr == ""


def test_help_loads_nothing_heavy() -> None:
    """`--help` does not wait for a web server, a database or an engine to load."""
    code = "import sys, standby.cli; print(sorted({'starlette', 'uvicorn', 'aiohttp', 'obstore', 'rich', 'sqlite3'} & sys.modules.keys()))"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
