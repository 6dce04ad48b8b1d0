"""`standby top` against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from standby.cli import main, standby
from tests.harness import ServerProcess, create, item


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose engine holds every item back."""
    folder: Path = tmp_path_factory.mktemp("top")
    with ServerProcess(folder / "data", config={"simulator": {"script": "*=never"}}) as running:
        yield running


def test_top_shows_endpoints_and_batches_once(server: ServerProcess) -> None:
    """With --once it prints what is so now and ends."""
    batch = create(server, [item(f"i{n}") for n in range(3)])

    shown = CliRunner().invoke(standby, ["top", "--once", "--url", server.url], terminal_width=300)
    told = CliRunner().invoke(standby, ["top", "--once", "--json", "--url", server.url])

    assert shown.exit_code == 0, shown.output
    assert "simulated" in shown.output
    assert "cost tokens/s" in shown.output
    look = json.loads(told.output)
    assert [one["size"] for one in look["batches"] if one["id"] == batch["id"]] == [3]
    assert look["scheduler"]["endpoints"][0]["engine"] == "simulated"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--url", "ftp://x"], 2, "--url: must begin with http"),
        (["--every", "0"], 2, "--every: must be more than 0"),
        (["--once", "--url", "http://127.0.0.1:9"], 1, "no Standby server answers there"),
    ],
)
def test_top_says_what_is_wrong(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on standard error."""
    assert main(["top", *arguments]) == code
    assert said in capsys.readouterr().err
