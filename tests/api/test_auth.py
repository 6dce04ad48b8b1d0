from __future__ import annotations

from dataclasses import replace

import pytest

from standby.api.auth import CACHE_US, digest, new_secret
from tests.api.client import Client
from tests.api.world import World, create_body, message

BATCHES = "/v1/messages/batches"
ROUTES = (
    ("GET", BATCHES),
    ("POST", BATCHES),
    ("GET", f"{BATCHES}/x"),
    ("DELETE", f"{BATCHES}/x"),
    ("POST", f"{BATCHES}/x/cancel"),
    ("GET", f"{BATCHES}/x/results"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/x"),
    ("GET", "/standby/v1/batches/x"),
    ("GET", "/standby/v1/batches/x/results"),
)


def test_secrets() -> None:
    """Secrets are long, random and recognisable; only their digest is kept."""
    one, other = new_secret(), new_secret()

    assert one != other
    assert one.startswith("sk-standby-")
    assert len(one) >= 50
    assert len(digest(one)) == 32
    assert digest(one) == digest(one) != digest(other)


async def test_both_headers(world: World) -> None:
    """A key is taken from `x-api-key` and as a bearer token; with both, one valid one is enough (item 10)."""
    secret, _ = await world.key()
    client = world.client()
    shown: list[dict[str, str]] = [
        {"x-api-key": secret},
        {"authorization": f"Bearer {secret}"},
        {"authorization": f"bearer   {secret} "},
        {"x-api-key": secret, "authorization": "Bearer wrong"},
        {"x-api-key": "wrong", "authorization": f"Bearer {secret}"},
    ]

    for headers in shown:
        (await client.get(BATCHES, headers=headers)).ok()


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_needs_a_key(world: World, method: str, path: str) -> None:
    """Once a key exists, no route answers without a valid one."""
    await world.key()
    client = world.client()

    missing = await client.send(method, path)
    wrong = await client.send(method, path, headers={"x-api-key": "sk-standby-wrong"})

    missing.error(401, "authentication_error")
    assert wrong.error(401, "authentication_error") == "API key is invalid."
    assert "anthropic-workspace-id" not in wrong.headers


@pytest.mark.parametrize("value", ["Basic abc", "Bearer", "Bearer ", "", "\x00", "ä" * 300, "Bearer \udcff"])
async def test_strange_credentials(world: World, value: str) -> None:
    """Whatever stands in the headers, the answer is 401."""
    await world.key()

    answer = await world.client().get(BATCHES, headers={"authorization": value, "x-api-key": value})

    answer.error(401, "authentication_error")


async def test_revoked_key(world: World) -> None:
    """A revoked key stops working within two seconds, and revoking the last one does not open the server."""
    secret, _ = await world.key()
    client = world.client(key=secret)
    (await client.get(BATCHES)).ok()
    (key,) = await world.store.list_keys()

    await world.store.revoke_key(key.id, now_us=world.clock())
    world.clock.now_us += CACHE_US

    assert (await client.get(BATCHES)).error(401, "authentication_error") == "API key is invalid."
    (await world.client().get(BATCHES)).error(401, "authentication_error")


async def test_answers_are_remembered_only_for_two_seconds(world: World) -> None:
    """A key that was unknown works two seconds after it was made, also if somebody tried it before."""
    await world.key()
    _, owner = await world.key("reports")
    late = new_secret()
    client = world.client(key=late)
    (await client.get(BATCHES)).error(401, "authentication_error")

    await world.store.create_key(owner.id, "late", digest=digest(late), hint="", now_us=world.clock())
    world.clock.now_us += CACHE_US

    assert (await client.get(BATCHES)).headers["anthropic-workspace-id"] == owner.id


async def test_no_key_at_all(world: World, client: Client) -> None:
    """With no key defined a caller on this machine is the default workspace, whatever key an SDK sends."""
    (default,) = await world.store.list_workspaces()

    for headers in ({}, {"x-api-key": "anything"}, {"authorization": "Bearer anything"}):
        assert (await client.get(BATCHES, headers=headers)).headers["anthropic-workspace-id"] == default.id


async def test_first_key_closes_the_door(world: World, client: Client) -> None:
    """As soon as a key exists, calls without one are refused, two seconds later at the latest."""
    (await client.get(BATCHES)).ok()

    await world.key()
    world.clock.now_us += CACHE_US

    (await client.get(BATCHES)).error(401, "authentication_error")


@pytest.mark.parametrize("peer", [("192.0.2.7", 1), ("::ffff:192.0.2.7", 1), ("2001:db8::1", 1), None])
async def test_others_need_a_key_always(world: World, peer: tuple[str, int] | None) -> None:
    """A caller from elsewhere is nobody, also while no key is defined, and is told how to become somebody."""
    words = (await world.client(peer=peer).get(BATCHES)).error(401, "authentication_error")

    assert "standby keys create" in words


@pytest.mark.parametrize("peer", [("127.0.0.1", 1), ("127.8.8.8", 1), ("::1", 1), ("::ffff:127.0.0.1", 1)])
async def test_loopback_has_many_names(world: World, peer: tuple[str, int]) -> None:
    """All addresses of this machine count as this machine."""
    (await world.client(peer=peer).get(BATCHES)).ok()


async def test_proxy_does_not_make_callers_local(world: World) -> None:
    """Behind a trusted proxy on this machine the caller is whom the proxy names."""
    proxied = replace(world.settings.server, trusted_proxies=("127.0.0.1",))
    world.settings = replace(world.settings, server=proxied)
    client = world.client()

    (await client.get(BATCHES, headers={"x-forwarded-for": "127.0.0.1, 192.0.2.7"})).error(401, "authentication_error")
    (await client.get(BATCHES, headers={"x-forwarded-for": "192.0.2.7, 127.0.0.1"})).ok()


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:8378"},
        {"host": "127.0.0.1.evil.example"},
        {"origin": "https://evil.example"},
        {"origin": "http://localhost.evil.example:8378"},
    ],
)
async def test_pages_of_strangers_are_not_local(client: Client, headers: dict[str, str]) -> None:
    """A web page that a browser on this machine shows cannot use a server without keys."""
    (await client.get(BATCHES, headers=headers)).error(401, "authentication_error")
    (await client.post(BATCHES, create_body(1), headers=headers)).error(401, "authentication_error")


@pytest.mark.parametrize("host", ["localhost:8378", "127.0.0.1:8378", "[::1]:8378", "standby", "app.localhost", ""])
async def test_local_names(client: Client, host: str) -> None:
    """The usual names of this machine are local."""
    (await client.get(BATCHES, headers={"host": host, "origin": "http://localhost:3000"})).ok()


async def test_public_name_is_local_too(world: World) -> None:
    """The name under which the server was told to be known may stand in `Host`."""
    named = replace(world.settings.server, public_url="https://llm.example.com/base")
    world.settings = replace(world.settings, server=named)

    (await world.client().get(BATCHES, headers={"host": "llm.example.com"})).ok()


async def test_workspaces_do_not_see_each_other(world: World) -> None:
    """Another workspace's batch is 404 everywhere and in no list, never 403 (item 29)."""
    mine, _ = await world.key("mine")
    theirs, _ = await world.key("theirs")
    me, them = world.client(key=mine), world.client(key=theirs)
    batch_id = await world.ended(me)

    for method, path in (
        ("GET", f"{BATCHES}/{batch_id}"),
        ("GET", f"{BATCHES}/{batch_id}/results"),
        ("POST", f"{BATCHES}/{batch_id}/cancel"),
        ("DELETE", f"{BATCHES}/{batch_id}"),
        ("GET", f"/standby/v1/batches/{batch_id}"),
        ("GET", f"/standby/v1/batches/{batch_id}/results"),
    ):
        answer = await them.send(method, path)
        assert answer.error(404, "not_found_error") == f"Message Batch {batch_id} not found."
    assert (await them.get(BATCHES)).ok()["data"] == []
    assert [batch["id"] for batch in (await me.get(BATCHES)).ok()["data"]] == [batch_id]


async def test_workspaces_do_not_share_idempotency_keys(world: World) -> None:
    """The same idempotency key in two workspaces makes two batches."""
    mine, _ = await world.key("mine")
    theirs, _ = await world.key("theirs")
    ids = {
        (await world.client(key=key).post(BATCHES, create_body(1), headers={"idempotency-key": "k"})).ok()["id"]
        for key in (mine, theirs)
    }

    assert len(ids) == 2


async def test_named_workspace_must_match(world: World) -> None:
    """`anthropic-workspace-id` may be given, and must be the credential's own: else 403."""
    secret, owner = await world.key("mine")
    client = world.client(key=secret)

    (await client.get(BATCHES, headers={"anthropic-workspace-id": owner.id})).ok()
    other = await client.post("/v1/messages", message(), headers={"anthropic-workspace-id": "wrkspc_other"})

    other.error(403, "permission_error")
