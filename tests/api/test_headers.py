from __future__ import annotations

import re
import uuid
from dataclasses import replace

import pytest

from standby.ids import is_id
from tests.api.client import Answer, Client
from tests.api.world import World, message

BATCHES = "/v1/messages/batches"


def with_server(world: World, **changes: object) -> Client:
    """Make a client of a server with other settings."""
    world.settings = replace(world.settings, server=replace(world.settings.server, **changes))  # type: ignore[arg-type]
    return world.client()


async def test_every_answer_has_its_ids(world: World, client: Client) -> None:
    """Success, error and unknown path all carry `request-id` and the organization; bodies repeat the id (item 22)."""
    answers: list[Answer] = [
        await client.get(BATCHES),
        await client.get(f"{BATCHES}/x"),
        await client.get("/_stainless_unknown_path"),
        await client.post("/v1/messages", message(stream=True)),
        await client.send("HEAD", BATCHES),
        await client.get("/health"),
        await world.client(peer=("192.0.2.7", 1)).get(BATCHES),
    ]

    ids = [answer.headers["request-id"] for answer in answers]
    assert all(is_id("req", request_id) for request_id in ids)
    assert len(set(ids)) == len(ids)
    organizations = {answer.headers["anthropic-organization-id"] for answer in answers}
    assert len(organizations) == 1
    assert uuid.UUID(organizations.pop())


async def test_organization_stays(world: World) -> None:
    """The organization belongs to the data folder: a restart does not change it."""
    first = (await world.client().get("/health")).headers["anthropic-organization-id"]
    again = (await world.client().get("/health")).headers["anthropic-organization-id"]

    assert first == again


async def test_unknown_path(client: Client) -> None:
    """Unknown paths are 404 in the contract's shape, whatever the method."""
    for method in ("GET", "POST", "DELETE", "PATCH", "OPTIONS", "BREW"):
        for path in ("/", "/v1", "/v1/", "/v1/messages/", f"{BATCHES}/", "/_stainless_unknown_path", "//", "/%2e%2e/x"):
            (await client.send(method, path)).error(404, "not_found_error")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", BATCHES, "GET, HEAD, POST"),
        ("PATCH", f"{BATCHES}/x", "DELETE, GET, HEAD"),
        ("GET", "/v1/messages", "POST"),
        ("HEAD", "/v1/messages", "POST"),
        ("OPTIONS", "/v1/models", "GET, HEAD"),
        ("BREW", "/health", "GET, HEAD"),
    ],
)
async def test_wrong_method(client: Client, method: str, path: str, allowed: str) -> None:
    """A method that a path does not have is 405 and says which it has."""
    answer = await client.send(method, path)

    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        answer.error(405, "invalid_request_error")


async def test_head(client: Client) -> None:
    """HEAD is GET without the body."""
    whole, head = await client.get(BATCHES), await client.send("HEAD", BATCHES)

    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]
    assert (await client.send("HEAD", f"{BATCHES}/x")).status == 404


@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21", "2023-01-01"])
async def test_versions(client: Client, version: str) -> None:
    """All versions that exist are taken (item 11)."""
    (await client.get(BATCHES, headers={"anthropic-version": version})).ok()


async def test_version_faults(world: World, client: Client) -> None:
    """An unknown version and a doubled header are 400; a missing one is the old version, or 400 if strict."""
    unknown = await client.get(BATCHES, headers={"anthropic-version": "2024-01-01"})
    doubled = await client.get(BATCHES, headers=[("anthropic-version", "2023-06-01")] * 2)
    missing = {"host": "localhost"}

    assert unknown.error(400, "invalid_request_error") == 'anthropic-version: "2024-01-01" is not a valid version'
    assert "is not a valid version" in doubled.error(400, "invalid_request_error")
    (await client.send("GET", BATCHES, headers=missing, bare=True)).ok()
    strict = with_server(world, strict_version=True)
    refused = await strict.send("GET", BATCHES, headers=missing, bare=True)
    assert refused.error(400, "invalid_request_error") == "anthropic-version: header is required"


async def test_betas(world: World, client: Client) -> None:
    """Betas are joined over all headers and ignored if unknown, or 400 with the strict switch (item 11)."""
    retired = [
        ("anthropic-beta", "message-batches-2024-09-24, pdfs-2024-09-25"),
        ("anthropic-beta", "token-counting-2024-11-01"),
        ("anthropic-beta", "oauth-2025-04-20"),
    ]
    unknown = [*retired, ("anthropic-beta", "made-up-2031-01-01")]

    (await client.get(BATCHES, headers=retired)).ok()
    (await client.get(BATCHES, headers=unknown)).ok()
    strict = with_server(world, strict_betas=True)
    (await strict.get(BATCHES, headers=retired)).ok()
    assert "`made-up-2031-01-01`" in (await strict.get(BATCHES, headers=unknown)).error(400, "invalid_request_error")


async def test_rules_are_kept_with_the_batch(world: World, client: Client) -> None:
    """Version, betas and user profile of the create are frozen for its items."""
    headers = {
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "output-300k-2026-03-24, x, x",
        "anthropic-user-profile-id": "up_1",
    }
    batch = (await client.post(BATCHES, {"requests": [{"custom_id": "a", "params": {}}]}, headers=headers)).ok()

    rules = await world.store.rules_of(batch["id"])

    assert (rules.version, rules.betas, rules.user_profile_id) == (
        "2026-10-21",
        ("output-300k-2026-03-24", "x"),
        "up_1",
    )


async def test_telemetry_is_ignored(client: Client) -> None:
    """Headers of SDKs may hold anything, `NOT_GIVEN` too."""
    strange = {"x-stainless-timeout": "NOT_GIVEN", "x-stainless-retry-count": "many", "traceparent": "00-zz"}

    (await client.post(BATCHES, {"requests": [{"custom_id": "a", "params": {}}]}, headers=strange)).ok()


async def results_url(world: World, client: Client, headers: dict[str, str], prefix: str = "") -> str:
    """End a batch and read its `results_url` with these headers."""
    batch_id = (await client.post(f"{prefix}{BATCHES}", {"requests": [{"custom_id": "a", "params": {}}]})).ok()["id"]
    await world.work(batch_id)
    await world.end(batch_id)
    found: str = (await client.get(f"{prefix}{BATCHES}/{batch_id}", headers=headers)).ok()["results_url"]
    listed = {each["id"]: each for each in (await client.get(f"{prefix}{BATCHES}", headers=headers)).ok()["data"]}
    assert listed[batch_id]["results_url"] == found
    assert found.endswith(f"{BATCHES}/{batch_id}/results")
    return found.removesuffix(f"{BATCHES}/{batch_id}/results")


async def test_results_url_is_the_callers_own_address(world: World, client: Client) -> None:
    """`results_url` is absolute and begins as the caller's own request did (item 1)."""
    assert await results_url(world, client, {"host": "localhost:9"}) == "http://localhost:9"
    assert await results_url(world, client, {"host": "[::1]:8378"}) == "http://[::1]:8378"


@pytest.mark.parametrize("host", ["", "{evil}", "a/../b", "x y", "a..b", "host:99999999"])
async def test_results_url_survives_a_bad_host(world: World, host: str) -> None:
    """A host that would break the URL is replaced by the address of the server."""
    secret, _ = await world.key()

    assert await results_url(world, world.client(key=secret), {"host": host}) == "http://127.0.0.1:8378"


async def test_results_url_behind_a_proxy(world: World) -> None:
    """Forwarded headers count only if a trusted proxy sends them."""
    forwarded = {
        "x-forwarded-proto": "https",
        "x-forwarded-host": "inner, llm.example.com",
        "x-forwarded-prefix": "/pre/fix/",
        "x-forwarded-for": "127.0.0.1",
    }

    assert await results_url(world, world.client(), forwarded) == "http://localhost:8378"
    trusting = with_server(world, trusted_proxies=("10.0.0.0/8", "127.0.0.0/8"))
    assert await results_url(world, trusting, forwarded) == "https://llm.example.com/pre/fix"
    strange = {**forwarded, "x-forwarded-prefix": "/../{x}", "x-forwarded-proto": "gopher"}
    assert await results_url(world, trusting, strange) == "http://llm.example.com"


async def test_results_url_of_the_public_address(world: World) -> None:
    """A configured address wins over everything."""
    named = with_server(world, public_url="https://llm.example.com/base/", path_prefix="llm/")

    assert await results_url(world, named, {}, prefix="/llm") == "https://llm.example.com/base/llm"


async def test_path_prefix(world: World) -> None:
    """With a prefix the API lives behind it, and only there; health stays at the root."""
    client = with_server(world, path_prefix="/pre/fix")

    assert await results_url(world, client, {}, prefix="/pre/fix") == "http://localhost:8378/pre/fix"
    (await client.get(BATCHES)).error(404, "not_found_error")
    assert (await client.get("/health")).status == 200


async def test_json_is_compressed_when_asked(world: World, client: Client) -> None:
    """Large JSON answers are compressed for who asks, small ones and errors stay as they are."""
    for _ in range(9):
        await client.post(BATCHES, {"requests": [{"custom_id": "a", "params": {}}]})
    asked = {"accept-encoding": "gzip"}

    large = await client.get(BATCHES, headers=asked)
    small = await client.get(f"{BATCHES}?limit=1", headers=asked)

    assert large.headers["content-encoding"] == "gzip"
    assert re.search(r"\baccept-encoding\b", large.headers["vary"], re.IGNORECASE)
    assert len(large.body) < 5000
    assert "content-encoding" not in small.headers
    (await client.get(f"{BATCHES}/x", headers=asked)).error(404, "not_found_error")


async def test_websockets_are_declined(world: World) -> None:
    """There is no WebSocket here, and asking for one breaks nothing."""
    sent = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: object) -> None:
        sent.append(message)

    await world.app()({"type": "websocket", "path": "/", "headers": []}, receive, send)

    assert sent == [{"type": "websocket.close", "code": 1000}]
