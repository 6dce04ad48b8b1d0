from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from standby.cli import main
from standby.config import load_settings
from standby.records import OwnLimits
from standby.server import open_store


def limits_in(folder: Path) -> OwnLimits:
    """Read the only limits that are stored there."""

    async def read() -> OwnLimits:
        store = await open_store(load_settings(environ={}, flags={"store.data": str(folder)}))
        try:
            (found,) = (await store.list_limits()).values()
        finally:
            await store.close()
        return found

    return asyncio.run(read())


def test_limits_are_set_one_by_one_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not named stays; `none` lifts a limit, `default` leaves it to the settings again."""
    data = ["--data", str(tmp_path)]
    assert main(["workspaces", "limit", "default", *data, "--spend-per-day", "2.50", "--enqueued-tokens", "1000"]) == 0
    assert main(["workspaces", "limit", "default", *data, "--spend-per-month", "none"]) == 0
    assert limits_in(tmp_path) == OwnLimits(spend_per_day=2_500_000_000_000, spend_per_month=0, enqueued_tokens=1000)
    assert main(["workspaces", "limit", "default", *data, "--enqueued-tokens", "default"]) == 0
    capsys.readouterr()
    assert main(["workspaces", "limit", "default", *data]) == 0
    shown = capsys.readouterr().out
    assert [line.split() for line in shown.splitlines()][1] == [
        "spend",
        "per",
        "day",
        "its",
        "own",
        "$2.50",
        "$0.00",
        "$2.50",
    ]
    assert limits_in(tmp_path).enqueued_tokens is None


@pytest.mark.parametrize("text", ["-3", "0", "many", "10000000", "nan", "Infinity"])
def test_a_bad_limit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    """A limit that cannot be read is a fault of the command line, and nothing is stored."""
    assert main(["workspaces", "limit", "default", "--data", str(tmp_path), "--spend-per-day", text]) == 2
    assert "--spend-per-day: must be" in capsys.readouterr().err
