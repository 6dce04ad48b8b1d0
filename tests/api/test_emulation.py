from __future__ import annotations

import pytest

from standby.api.auth import CACHE_US
from standby.emulation.clock import MovableClock
from standby.emulation.faults import faults_of
from standby.emulation.script import Script, rules_of
from standby.emulation.stage import Stage
from tests.api.client import Client
from tests.api.world import World, create_body, message

TURNS = [
    ("GET", "/standby/v1/clock"),
    ("POST", "/standby/v1/clock"),
    *(
        (method, f"/standby/v1/simulator/{name}")
        for name in ("script", "faults")
        for method in ("GET", "PUT", "POST", "DELETE")
    ),
    ("GET", "/standby/v1/simulator/requests"),
    ("DELETE", "/standby/v1/simulator/requests"),
    ("POST", "/standby/v1/simulator/reset"),
    ("GET", "/standby/v1/simulator/metrics"),
]


@pytest.fixture
def stage(world: World) -> Stage:
    """A stage that belongs to nothing but the API."""
    stage = Stage(clock=MovableClock(world.clock), script=Script(rules_of("late-*=never")))
    world.changes["stage"] = stage
    world.changes["clock"] = stage.clock
    return stage


@pytest.fixture
def client(world: World, stage: Stage) -> Client:
    """A caller of the emulator."""
    return world.client()


@pytest.mark.parametrize(("method", "path"), TURNS)
async def test_only_with_the_simulator(world: World, method: str, path: str) -> None:
    """With another engine every one of these routes is a 404 that says why."""
    answer = await world.client().send(method, path, {})
    assert answer.status == 404
    assert "--engine simulated" in answer.json()["error"]["message"]


async def test_time(client: Client, stage: Stage) -> None:
    """The clock tells the time and is moved forward, by either name."""
    before = (await client.get("/standby/v1/clock")).ok()
    assert before == {"now": "2026-05-28T20:26:40.000000Z", "ahead_s": 0}
    after = (await client.post("/standby/v1/clock", {"advance": "24h"})).ok()
    assert after == {"now": "2026-05-29T20:26:40.000000Z", "ahead_s": 86400, "is_settled": True}
    await client.post("/standby/v1/clock", {"advance_s": 0.5})
    assert stage.clock.ahead_us == 86_400_500_000


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({}, "write one of"),
        ({"advance": "1h", "advance_s": 1}, "write one of"),
        ({"advance": "soon"}, "is no time"),
        ({"advance_s": -1}, "is no time"),
        ({"advance_s": 1e12}, "100 years"),
        ({"forward": 1}, "forward: Extra inputs are not permitted"),
        (b"[]", "not a JSON object"),
        (b"{", "not valid JSON"),
        (b'{"advance": "\xff"}', "not valid JSON"),
    ],
)
async def test_time_that_is_none(client: Client, stage: Stage, body: object, complaint: str) -> None:
    """Whatever cannot be understood is a 400, and the clock stays where it is."""
    answer = await client.post("/standby/v1/clock", body)
    assert answer.status == 400
    assert complaint in answer.json()["error"]["message"]
    assert stage.clock.ahead_us == 0


async def test_scripts(client: Client) -> None:
    """Rules are replaced, put in front, and forgotten; those of the file stay and are shown last."""
    path = "/standby/v1/simulator/script"
    assert (await client.send("PUT", path, {"script": "a=refusal; b=never"})).ok() == {
        "script": ["a=refusal", "b=never", "late-*=never"]
    }
    assert (await client.post(path, {"script": [{"custom_id": "c", "do": "ok"}]})).ok()["script"][1:] == [
        "a=refusal",
        "b=never",
        "late-*=never",
    ]
    assert (await client.get(path)).ok()["script"][0] == '{"custom_id": "c", "do": "ok"}'
    assert (await client.send("DELETE", path)).ok() == {"script": ["late-*=never"]}
    for body, complaint in (({"script": "explode"}, "is no action"), ({}, "script: Field required")):
        answer = await client.send("PUT", path, body)
        assert (answer.status, complaint in answer.json()["error"]["message"]) == (400, True)


async def test_faults(client: Client) -> None:
    """Faults strike, are counted, and never keep a test from taking them away."""
    path = "/standby/v1/simulator/faults"
    (await client.send("PUT", path, {"faults": "/v1/*=529+times:2; /standby/*=500; /health=500"})).ok()
    statuses = [(await client.get("/v1/messages/batches")).status for _ in range(3)]
    assert statuses == [529, 529, 200]
    assert (await client.get("/health")).status == 200
    shown = (await client.get(path)).ok()["faults"]
    assert [one["struck"] for one in shown] == [2, 0, 0]
    assert (await client.post(path, {"faults": [{"at": "list", "do": "500"}]})).ok()["faults"][0]["fault"] == "list=500"
    assert (await client.send("DELETE", path)).ok() == {"faults": []}
    assert (await client.send("PUT", path, {"faults": "nowhere=500"})).status == 400


async def test_an_answer_of_a_fault_is_like_any_other(client: Client, stage: Stage) -> None:
    """It has its type, its id, its time to come back, and stands in the metrics."""
    stage.faults.put(faults_of("list=429+retry_after:2.5"))
    answer = await client.get("/v1/messages/batches")
    assert answer.headers["retry-after"] == "2.5"
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert answer.json()["request_id"] == answer.headers["request-id"]
    assert 'status="429"' in (await client.get("/metrics")).body.decode()


async def test_a_lost_create_is_done(world: World, client: Client, stage: Stage) -> None:
    """Nobody hears of the batch, but it is there; a create that was reset is not."""
    stage.faults.put(faults_of("create=lost+times:1; create=reset"))
    for _ in range(2):
        assert await gone(client)
    assert len((await client.get("/v1/messages/batches")).ok()["data"]) == 1
    assert [(one.operation, one.status, one.items, one.fault) for one in stage.arrivals] == [
        ("create", 200, 2, "create=lost+times:1"),
        ("create", 0, 0, "create=reset"),
        ("list", 200, 0, ""),
    ]


async def test_an_error_is_lost_as_well(client: Client, stage: Stage) -> None:
    """A refusal reaches nobody either, and is noted."""
    stage.faults.put(faults_of("create=lost"))
    assert (await client.post("/v1/messages/batches", {"requests": []})).status == 0
    assert stage.arrivals[0].status == 400


async def gone(client: Client) -> bool:
    """Create a batch; whether no answer came."""
    return (await client.post("/v1/messages/batches", create_body(2))).status == 0


async def test_what_arrived(client: Client, stage: Stage) -> None:
    """Requests to the API are kept with how they were answered, until somebody forgets them."""
    headers = {"x-stainless-retry-count": "2", "standby-simulate": "never"}
    batch = (await client.post("/v1/messages/batches", create_body(3), headers=headers)).ok()
    await client.get("/v1/models/none")
    await client.get("/health")
    seen = (await client.get("/standby/v1/simulator/requests")).ok()["requests"]
    assert [(one["operation"], one["status"], one["items"]) for one in seen] == [("create", 200, 3), ("models", 404, 0)]
    assert (seen[0]["batch_id"], seen[0]["retry"], seen[0]["simulate"]) == (batch["id"], 2, "never")
    assert (await client.send("DELETE", "/standby/v1/simulator/requests")).ok() == {"requests": []}
    assert not stage.arrivals


async def test_the_header(world: World, client: Client) -> None:
    """It is kept with a batch and reaches the engine; what is wrong with it is a 400; others do not know it."""
    batch = (await client.post("/v1/messages/batches", create_body(1), headers={"standby-simulate": "a=never"})).ok()
    assert (await world.store.rules_of(batch["id"])).simulate == "a=never"
    (await client.post("/v1/messages", message(), headers={"standby-simulate": "refusal"})).ok()
    assert world.engine.contexts[-1].simulate == "refusal"
    refused = await client.post("/v1/messages", message(), headers={"standby-simulate": "explode"})
    assert (refused.status, "standby-simulate" in refused.json()["error"]["message"]) == (400, True)
    world.changes.clear()
    (await world.client().post("/v1/messages", message(), headers={"standby-simulate": "explode"})).ok()
    assert world.engine.contexts[-1].simulate == ""


async def test_a_key_is_wanted_once_there_is_one(world: World, client: Client) -> None:
    """Nobody turns the clock of others without a key; any key will do."""
    secret, _ = await world.key()
    world.clock.now_us += CACHE_US
    assert (await client.post("/standby/v1/clock", {"advance": "1h"})).status == 401
    answer = await client.post("/standby/v1/clock", {"advance": "1h"}, headers={"x-api-key": secret})
    assert answer.status == 200
