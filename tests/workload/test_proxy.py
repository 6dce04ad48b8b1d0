"""A proxy between client and server goes wrong: no row is lost, no part is submitted twice, the bill is right.

What the official service does not do, an idempotency key, is taken away from the server here too.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import anthropic
import duckdb
import pytest

from standby import workload
from standby.testing import Emulator
from standby.workload.faults import LocalState, WorkloadError
from standby.workload.service import Service
from tests.workload.conftest import MODEL, small
from tests.workload.proxy import NO_TROUBLE, Choose, Dice, Proxy, Request, troubles_of
from tests.workload.truth import SCRIPT, judge, ledger_pico

ROWS, PART = 30, 12
TRIES = 2
COMMANDS = 60
"""How often the same command is typed again, at most."""
PACE: dict[str, Any] = {"settle_s": 0.05, "look_s": 0.01, "queue_s": 0.05, "patience_s": 1.0, "retries": TRIES - 1}


def rows_in(folder: Path, rows: int) -> Path:
    """Write rows: id, text."""
    source = folder / "in.parquet"
    with duckdb.connect(":memory:") as connection:
        query = f"SELECT i AS id, 'row ' || i AS text FROM range({rows}) r(i)"
        connection.execute(f"COPY ({query}) TO '{source}'")
    return source


def story(emulator: Emulator, folder: Path, choose: Choose, *, rows: int = ROWS) -> Counter[tuple[str, str]]:
    """Run a job through a proxy, the same command again whenever it gives up; judge it; say what struck where."""
    emulator.reset()
    emulator.script(*SCRIPT)
    before = ledger_pico(emulator.url)
    output = folder / "out.parquet"
    source = workload.Source(kind="file", where=str(rows_in(folder, rows)))
    spec = workload.Spec(source=source, output=str(output), model=MODEL, prompt="Say {{ text }}", id_column="id")
    with Proxy(emulator.url, choose) as proxy:
        report = _typed_again_and_again(spec, proxy.url)
        met = proxy.met
    judge(emulator.url, output, report, rows=rows, tries=TRIES)
    assert report["cost"]["charged_pico"] == ledger_pico(emulator.url) - before
    return met


def _typed_again_and_again(spec: workload.Spec, url: str) -> dict[str, Any]:
    pace = small(PART, **PACE)
    said: list[str] = []
    for _ in range(COMMANDS):
        client = anthropic.Anthropic(base_url=url, api_key="emulator")
        service = Service(client, stall_s=0.3)
        try:
            with workload.opened_job(spec, endpoint=service.endpoint) as job:
                workload.prepare_job(job, pace=pace)
                return workload.run_job(job, service, pace=pace)
        except LocalState:
            raise
        except WorkloadError as error:
            said.append(str(error))
        finally:
            client.close()
    raise AssertionError(f"it never ended: {said[-5:]}")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_goes_wrong_nothing_is_lost_or_paid_twice(
    standby_emulator: Emulator, tmp_path: Path, seed: int
) -> None:
    """Dice throw the troubles of twenty stories."""
    met = story(standby_emulator, tmp_path, Dice(seed))
    assert any(trouble for _, trouble in met)


@pytest.mark.kill
@pytest.mark.timeout(1800)
def test_two_hundred_stories_more(standby_emulator: Emulator, tmp_path: Path, subtests: pytest.Subtests) -> None:
    """The same with other dice; every trouble that there is strikes every request that it can strike."""
    met: Counter[tuple[str, str]] = Counter()
    for seed in range(1000, 1200):
        with subtests.test(seed=seed):
            folder = tmp_path / str(seed)
            folder.mkdir()
            met += story(standby_emulator, folder, Dice(seed))
    print(f"{sum(count for (_, trouble), count in met.items() if trouble)} troubles in 200 stories")  # noqa: T201
    operations = ("create", "list", "retrieve", "results")
    unmet = {(operation, one) for operation in operations for one in troubles_of(operation)} - met.keys()
    assert not unmet, f"these never struck: {sorted(unmet)}"


@pytest.mark.parametrize("operation", ["create", "list", "retrieve", "results"])
def test_every_trouble_in_turn(standby_emulator: Emulator, tmp_path: Path, operation: str) -> None:
    """Everything that can happen to one kind of request happens to it, one after the other."""
    left = list(troubles_of(operation))
    is_turn = [True]

    def choose(request: Request) -> str:
        if request.operation != operation:
            return NO_TROUBLE
        is_turn[0] = not is_turn[0] or operation != "retrieve"
        return left.pop() if left and is_turn[0] else NO_TROUBLE

    met = story(standby_emulator, tmp_path, choose, rows=120)
    assert {trouble for what, trouble in met if what == operation and trouble} == set(troubles_of(operation))


def test_a_create_that_is_lost_again_and_again(standby_emulator: Emulator, tmp_path: Path) -> None:
    """Every answer to a create is lost, and each part exists once."""
    story(standby_emulator, tmp_path, lambda request: "lost" if request.operation == "create" else NO_TROUBLE)
