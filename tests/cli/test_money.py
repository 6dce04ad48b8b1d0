from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from standby.cli import standby
from standby.config import Settings, StoreSettings
from standby.records import Batch, Bill, LiveBill, Tokens, WorkspaceId
from standby.server import open_store
from standby.store.base import Store
from tests.store.build import NOW, commit, created, leased


def run(data: Path, *arguments: str) -> Result:
    """Run a command in-process on a data folder."""
    return CliRunner().invoke(standby, [*arguments, "--data", str(data)])


def bill(model: str, charge: int, *, unpriced: int = 0) -> Bill:
    """Make a bill for one request."""
    used = Tokens(input=10, write_1h=20, read=30, output=5)
    return Bill(
        model=model,
        requests=1,
        tokens=used,
        plain_pico=4 * charge,
        batch_pico=2 * charge,
        charge_pico=charge,
        unpriced=unpriced,
    )


async def _fill(data: Path) -> Batch:
    store: Store = await open_store(Settings(store=StoreSettings(data=str(data))))
    try:
        batch = await created(store, (2,))
        lease = await leased(store, batch.id)
        bills = (bill("haiku", 1_000_000_000_000), bill("opus", 3_000_000_000_000))
        await store.commit_segments([commit(lease, [0, 1], bills=bills)], now_us=NOW)
        other = await store.create_workspace("other", now_us=NOW)
        await store.charge_live(
            [LiveBill(workspace_id=other.id, credential="k", bill=bill("own", 0, unpriced=1))], now_us=NOW
        )
    finally:
        await store.close()
    return batch


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Batch]:
    """Make a data folder in which two items and one live request are charged."""
    folder = tmp_path / "data"
    work: Coroutine[Any, Any, Batch] = _fill(folder)
    return folder, asyncio.run(work)


def test_usage_is_a_table(data: tuple[Path, Batch]) -> None:
    """Models, tokens and money, and what has no price."""
    shown = run(data[0], "usage").stdout
    assert "$3.00" in shown
    assert "unknown" in shown
    assert shown.splitlines()[0].split()[0] == "model"


def test_usage_for_programs(data: tuple[Path, Batch]) -> None:
    """JSON and CSV say the same, in whole pico-dollars."""
    rows = json.loads(run(data[0], "usage", "--by", "kind,model", "--json").stdout)
    found = {(row["kind"], row["model"]): row["cost_pico"] for row in rows}
    assert found == {("batch", "haiku"): 10**12, ("batch", "opus"): 3 * 10**12, ("live", "own"): None}
    lines = list(csv.DictReader(io.StringIO(run(data[0], "usage", "--by", "kind,model", "--csv").stdout)))
    assert [{name: str("" if value is None else value) for name, value in row.items()} for row in rows] == lines


def test_usage_of_one_workspace(data: tuple[Path, Batch]) -> None:
    """A name or an id chooses; one that is not there is said."""
    (row,) = json.loads(run(data[0], "usage", "--workspace", "other", "--json").stdout)
    assert row["model"] == "own"
    assert "no workspace 'nobody'" in str(run(data[0], "usage", "--workspace", "nobody").exception)


@pytest.mark.parametrize("arguments", [("--by", "colour"), ("--since", "x"), ("--csv", "--json")])
def test_usage_names_what_is_wrong(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A flag that cannot be read is named, with exit code 2."""
    result = run(tmp_path / "data", "usage", *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.output


def test_nothing_used_is_said(tmp_path: Path) -> None:
    """An empty ledger is no table, and no CSV has no lines."""
    assert "Nothing was used." in run(tmp_path / "data", "usage").stderr
    assert run(tmp_path / "data", "usage", "--csv").stdout == ""
    assert json.loads(run(tmp_path / "data", "usage", "--json").stdout) == []


def test_the_cost_of_a_batch(data: tuple[Path, Batch]) -> None:
    """Three prices, two savings, the mean, by model; the rows are not needed for it."""
    folder, batch = data
    shown = run(folder, "cost", batch.id, "--top", "0").stdout
    for figure in ("$16.00", "$8.00", "$4.00", "$2.00", "the engine reused 75.0%", "50.0% are billed", "haiku", "opus"):
        assert figure in shown
    report = json.loads(run(folder, "cost", batch.id, "--top", "0", "--json").stdout)
    assert (report["cost_pico"], report["saved_by_cache_pico"]) == (4 * 10**12, 4 * 10**12)


def test_the_cost_of_no_batch(tmp_path: Path) -> None:
    """A batch that is not there is said."""
    result = run(tmp_path / "data", "cost", "msgbatch_none")
    assert "no batch msgbatch_none" in str(result.exception)


def test_workspaces_are_ids(data: tuple[Path, Batch]) -> None:
    """Grouped by workspace, a row names the id under which it is kept."""
    rows = json.loads(run(data[0], "usage", "--by", "workspace", "--json").stdout)
    assert {WorkspaceId(row["workspace_id"]) for row in rows} >= {data[1].workspace_id}
