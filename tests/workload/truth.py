"""What has to be true of a job when its story is over, whatever happened on the way: asked of the server itself.

Every row has one outcome, and the right one. No part was submitted twice. What the report says was charged is what the
server's ledger says. The output is complete.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tests.harness import call, list_batches, results_bytes
from tests.workload.conftest import read

AGAIN = 7
CUT = 11
SCRIPT = (f"*~/row {AGAIN}([0-9][0-9])?$/=errored:api_error", f"*~/row {CUT}([0-9][0-9])?$/=stop:max_tokens")
"""Of the simulator: row 7 and its like fail in a way that may pass, and never do; row 11 and its like is cut."""


def text_of(row: int) -> str:
    """Write the prompt of a row."""
    return f"row {row}"


def status_of(row: int) -> str:
    """Say what a row has to end as, under `SCRIPT`."""
    digits = str(row)
    if digits == str(AGAIN) or (len(digits) == 3 and digits.startswith(str(AGAIN))):
        return "errored"
    if digits == str(CUT) or (len(digits) == 4 and digits.startswith(str(CUT))):
        return "max_tokens"
    return "succeeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What was seen of a story that is over."""

    batches: int
    items: int


def judge(url: str, output: Path, report: dict[str, Any], *, rows: int, tries: int) -> Judged:
    """Hold a job of `rows` rows against its server; rows that fail in a way that passes were sent `tries` times."""
    _check_output(output, rows)
    _check_report(report, rows)
    sent = _check_batches(url, output, rows, tries)
    _check_ledger(url, report)
    return sent


def _check_output(output: Path, rows: int) -> None:
    found = read(output)
    assert [row["id"] for row in found] == list(range(rows))
    wrong = [(row["id"], row["status"]) for row in found if row["status"] != status_of(row["id"])]
    assert not wrong, f"{len(wrong)} rows have another outcome than they should: {wrong[:5]}"
    assert all((row["answer"] is not None) == (row["status"] != "errored") for row in found)


def _check_report(report: dict[str, Any], rows: int) -> None:
    expected = Counter(status_of(row) for row in range(rows))
    causes = {"errored": "api_error"}
    failed = {causes.get(status, status): count for status, count in expected.items() if status != "succeeded"}
    assert (report["is_done"], report["rows"], report["open"]) == (True, rows, 0)
    assert (report["succeeded"], report["failed"]) == (expected["succeeded"], failed)


def _check_batches(url: str, output: Path, rows: int, tries: int) -> Judged:
    """Each item stands in one batch of the service, or in one of each round; each batch of ours is known to the job."""
    folder = Path(f"{output}.standby")
    with sqlite3.connect(folder / "job.sqlite") as database:
        tag = database.execute("SELECT value FROM meta WHERE name = 'tag'").fetchone()[0]
        known: dict[str, int] = dict(database.execute("SELECT batch_id, items FROM parts").fetchall())
    database.close()
    ours: dict[str, int] = {}
    sent: Counter[str] = Counter()
    for batch in list_batches(url):
        names = [msgspec.json.decode(line)["custom_id"] for line in results_bytes(url, batch["id"]).splitlines()]
        if any(name.startswith(f"{tag}-") for name in names):
            ours[batch["id"]] = len(names)
            sent.update(names)
    assert ours == known, "the service has other batches of this job than the job knows"
    failing = sum(status_of(row) == "errored" for row in range(rows))
    assert Counter(sent.values()) == Counter({1: rows - failing, tries: failing}) - Counter({1: 0, tries: 0})
    return Judged(batches=len(ours), items=sum(ours.values()))


def _check_ledger(url: str, report: dict[str, Any]) -> None:
    """The ledger of all batches that the service still has is what the report says, to the pico-dollar."""
    costs = [call(url, "GET", f"/standby/v1/batches/{batch}/cost").ok() for batch in _ids(report)]
    assert report["cost"]["charged_pico"] == sum(cost["cost_pico"] or 0 for cost in costs)


def ledger_pico(url: str) -> int:
    """Sum what the server charged for batches so far, by its own ledger."""
    rows = call(url, "GET", "/standby/v1/usage?by=kind").ok()["data"]
    return sum(row["cost_pico"] or 0 for row in rows if row["kind"] == "batch")


def _ids(report: dict[str, Any]) -> list[str]:
    return [part["batch_id"] for part in report["parts"]]
