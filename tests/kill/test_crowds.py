"""Many batches at once: all are listed, none waits for another, small ones pass large ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness import ServerProcess, call, create, item, list_batches, results, retrieve, wait_ended, wait_until

pytestmark = pytest.mark.kill
THREADS = 8


@pytest.fixture
def slots() -> int:
    """Say how many requests the simulator works on at once."""
    return 8


@pytest.fixture
def server(tmp_path: Path, slots: int) -> Iterator[ServerProcess]:
    """Start a simulator that takes a moment for each answer, so that work is under way when somebody looks."""
    with ServerProcess(tmp_path / "data", config={"simulator": {"slots": slots, "decode_tokens_s": 1000.0}}) as running:
        yield running


def test_a_thousand_batches_in_one_list(server: ServerProcess) -> None:
    """A thousand batches of one item are listed newest first, each once, whatever the page and the direction."""
    with ThreadPoolExecutor(THREADS) as pool:
        made = list(pool.map(lambda n: create(server, [item(f"i{n}", max_tokens=1)])["id"], range(1000)))
    listed = [batch["id"] for batch in list_batches(server, limit=1000)]
    assert len(listed) == 1000
    assert set(listed) == set(made)
    assert [batch["id"] for batch in list_batches(server, limit=7)] == listed
    assert list(upwards(server, 33)) == listed[::-1]
    for batch_id in random.Random(1).sample(made, 50):
        wait_ended(server, batch_id)
    wait_until(
        lambda: all(b["processing_status"] == "ended" for b in list_batches(server)), 120, "not all of them ended"
    )
    created = [batch["created_at"] for batch in list_batches(server)]
    assert created == sorted(created, reverse=True)


def upwards(server: ServerProcess, limit: int) -> Iterator[str]:
    """Walk from the oldest batch to the newest by `before_id`."""
    cursor = list_batches(server)[-1]["id"]
    yield cursor
    while True:
        page = call(server, "GET", f"/v1/messages/batches?limit={limit}&before_id={cursor}").ok()
        yield from (batch["id"] for batch in reversed(page["data"]))
        if not page["has_more"]:
            return
        cursor = page["first_id"]


def test_twenty_batches_interleave(server: ServerProcess) -> None:
    """Of twenty equal batches none ends before every other one has begun."""
    with ThreadPoolExecutor(THREADS) as pool:
        made = list(pool.map(lambda b: create(server, [item(f"b{b}-{n}") for n in range(100)])["id"], range(20)))
    first_end: list[dict[str, int]] = []

    def one_ended() -> bool:
        seen = {batch["id"]: batch for batch in list_batches(server)}
        if any(seen[batch_id]["processing_status"] == "ended" for batch_id in made):
            first_end[:] = [seen[batch_id]["request_counts"] for batch_id in made]
        return bool(first_end)

    wait_until(one_ended, 120, "none ended")
    assert all(counts["processing"] < 100 for counts in first_end), first_end
    for batch_id in made:
        assert wait_ended(server, batch_id)["request_counts"]["succeeded"] == 100
        assert len(results(server, batch_id)) == 100


@pytest.mark.parametrize("slots", [64])
def test_a_small_batch_passes_a_large_one(server: ServerProcess) -> None:
    """Ten items beside twenty thousand end while nearly all of those still wait."""
    large = create(server, [item(f"l{n}") for n in range(20_000)])["id"]
    wait_until(lambda: retrieve(server, large)["request_counts"]["succeeded"] > 0, 60, "the large one never began")
    before = retrieve(server, large)["request_counts"]["processing"]
    small = create(server, [item(f"s{n}") for n in range(10)])["id"]
    wait_ended(server, small)
    seen = retrieve(server, large)
    assert seen["processing_status"] == "in_progress"
    done_meanwhile = before - seen["request_counts"]["processing"]
    assert done_meanwhile < 2000, f"{done_meanwhile} items of the large batch went before ten of the small one"
    assert wait_ended(server, large, timeout=240)["request_counts"]["succeeded"] == 20_000
    assert len(results(server, large)) == 20_000
