from __future__ import annotations

import json
from dataclasses import replace

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from standby.api.deps import Phase
from standby.errors import StoreError
from tests.api.client import Client
from tests.api.world import World, create_body, message

BATCHES = "/v1/messages/batches"


async def test_health(client: Client) -> None:
    """A process that answers is alive."""
    assert (await client.get("/health")).ok() == {"status": "ok"}


async def test_ready(world: World, client: Client) -> None:
    """Ready means: the server is up, the store answers, the engine is ready; else 503 with the reason."""
    assert (await client.get("/ready")).ok() == {"status": "ready"}

    world.engine.is_ready = False
    engine = await client.get("/ready")
    world.engine.is_ready = True
    world.phase[0] = Phase.DRAINING
    draining = await client.get("/ready")

    assert (engine.status, engine.json()["reason"]) == (503, "the engine is not ready")
    assert (draining.status, draining.json()["reason"]) == (503, "the server is draining")


async def test_store_that_does_not_answer(world: World) -> None:
    """A store in trouble makes the server not ready, and still alive."""

    class Broken(type(world.store)):  # type: ignore[misc]
        async def count_batches(self) -> dict[str, int]:
            raise StoreError("the disk says no")

        async def list_workspaces(self) -> list[object]:
            raise StoreError("the disk says no")

    world.changes["store"] = Broken(world.folder / "standby.db")
    client = world.client()

    ready = await client.get("/ready")

    assert (ready.status, ready.json()["reason"]) == (503, "the store does not answer")
    assert (await client.get("/health")).status == 200


async def test_metrics(world: World, client: Client) -> None:
    """Requests by route and status, batches by state, results by outcome, load of the engine; no ids in labels."""
    batch_id = await world.ended(client, 4)
    await client.post(BATCHES, create_body(1))
    await client.get(f"{BATCHES}/{batch_id}")
    await client.get(f"{BATCHES}/nothing")
    await client.get("/wp-login.php")
    await client.send("BREW", "/coffee")

    answer = await client.get("/metrics")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }

    route = ("route", f"{BATCHES}/{{batch_id}}")
    requests = "standby_http_requests_total"
    assert answer.headers["content-type"].startswith("text/plain")
    assert samples[requests, ("method", "GET"), route, ("status", "200")] == 1
    assert samples[requests, ("method", "GET"), route, ("status", "404")] == 1
    assert samples[requests, ("method", "GET"), ("route", "unknown"), ("status", "404")] == 1
    assert samples[requests, ("method", "OTHER"), ("route", "unknown"), ("status", "404")] == 1
    assert samples["standby_batches", ("state", "ended")] == 1
    assert samples["standby_batches", ("state", "in_progress")] == 1
    assert samples["standby_results_total", ("outcome", "succeeded")] == 4
    assert samples["standby_engine_requests", ("kind", "live")] == 1
    assert samples["standby_engine_slots",] == 2
    assert samples["standby_engine_ready",] == 1
    assert batch_id not in answer.body.decode()
    assert "wrkspc_" not in answer.body.decode()


async def test_no_key_needed(world: World) -> None:
    """Health, readiness and metrics answer anybody, and name no workspace."""
    await world.key()
    client = world.client(peer=("192.0.2.7", 1))

    for path in ("/health", "/ready", "/metrics"):
        answer = await client.get(path)
        assert answer.status == 200
        assert "anthropic-workspace-id" not in answer.headers


async def test_log_knows_no_secrets(world: World) -> None:
    """The log says who called what and how it went, and holds no prompt, no answer and no key."""
    secret, owner = await world.key("mine")
    world.engine.answer = "a private answer"
    client = world.client(key=secret)

    with structlog.testing.capture_logs() as lines:
        sent = await client.post("/v1/messages", message(messages=[{"role": "user", "content": "a private prompt"}]))
        world.engine.fault = KeyError("a private prompt")
        await client.post("/v1/messages", message())

    first = next(line for line in lines if line["event"] == "request")
    assert (first["method"], first["route"], first["status"]) == ("POST", "/v1/messages", 200)
    assert (first["request_id"], first["workspace"]) == (sent.headers["request-id"], owner.id)
    assert first["ms"] >= 0
    written = json.dumps(lines)
    assert "KeyError" in written
    assert "private" not in written
    assert secret not in written


@pytest.mark.parametrize("asked", ["gzip", "identity"])
async def test_unforeseen_error(world: World, asked: str) -> None:
    """An error that nobody foresaw is a 500 in the contract's shape that tells nothing of its inside."""
    world.engine.fault = RuntimeError("inner secret " * 200)

    answer = await world.client().post("/v1/messages", message(), headers={"accept-encoding": asked})

    assert answer.error(500, "api_error") == "Internal server error"


async def test_progress(world: World, client: Client) -> None:
    """Progress tells counts, the mean rate so far, what is left at that rate, and the tokens."""
    batch_id = (await client.post(BATCHES, create_body(600))).ok()["id"]
    before = (await client.get(f"/standby/v1/batches/{batch_id}")).ok()
    done = len(await world.work(batch_id, runs=1))
    world.clock.now_us += 10 * 1_000_000

    during = (await client.get(f"/standby/v1/batches/{batch_id}")).ok()

    assert (before["items_per_s"], before["eta_s"]) == (None, None)
    assert 0 < done < 600
    assert during["size"] == 600
    assert during["processing_status"] == "in_progress"
    assert during["request_counts"]["succeeded"] == done
    assert during["items_per_s"] == pytest.approx(done / 10, abs=0.001)
    assert during["eta_s"] == pytest.approx((600 - done) / (done / 10), abs=0.1)
    assert during["tokens"] == {"input": 2 * done, "write_5m": 0, "write_1h": 0, "read": 0, "output": 3 * done}


async def test_progress_of_an_ended_batch(world: World, client: Client) -> None:
    """After the end the rate stands still and nothing is left to estimate."""
    batch_id = (await client.post(BATCHES, create_body(3))).ok()["id"]
    world.clock.now_us += 6_000_000
    await world.work(batch_id)
    await world.end(batch_id)
    world.clock.now_us += 3600 * 1_000_000

    ended = (await client.get(f"/standby/v1/batches/{batch_id}")).ok()

    assert (ended["items_per_s"], ended["eta_s"], ended["elapsed_s"]) == (0.5, None, 6.0)


async def test_partial_results(world: World, client: Client) -> None:
    """Results can be read while a batch runs: first none, then those that exist, in the end the same as ever."""
    batch_id = (await client.post(BATCHES, create_body(600))).ok()["id"]
    path = f"/standby/v1/batches/{batch_id}/results"
    before = await client.get(path)
    rows = await world.work(batch_id, runs=1)
    during = await client.get(path)
    await world.work(batch_id)
    await world.end(batch_id)

    after = await client.get(path)

    assert (before.status, before.body) == (200, b"")
    assert during.body == b"".join(rows)
    assert during.headers["etag"] != after.headers["etag"]
    assert after.body == (await client.get(f"{BATCHES}/{batch_id}/results")).body
    assert len(after.body.splitlines()) == 600


async def test_extensions_live_behind_the_prefix(world: World) -> None:
    """With a path prefix the extensions stand behind it as well."""
    world.settings = replace(world.settings, server=replace(world.settings.server, path_prefix="/llm"))
    client = world.client()
    batch_id = (await client.post(f"/llm{BATCHES}", create_body(1))).ok()["id"]

    assert (await client.get(f"/llm/standby/v1/batches/{batch_id}")).ok()["size"] == 1
