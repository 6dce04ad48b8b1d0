from __future__ import annotations

import pytest

from standby.ids import make_id
from tests.api.client import Client
from tests.api.world import World, create_body

BATCHES = "/v1/messages/batches"


async def make(world: World, client: Client, count: int) -> list[str]:
    """Create batches, a second apart; return their ids, newest first."""
    made = []
    for _ in range(count):
        world.clock.now_us += 1_000_000
        made.append((await client.post(BATCHES, create_body(1))).ok()["id"])
    return made[::-1]


async def walk(client: Client, cursor: str, wanted: str, *, start: str = "", limit: int = 2) -> list[list[str]]:
    """Walk pages as the SDKs do, until `has_more` is false."""
    pages, query = [], start
    while True:
        page = (await client.get(f"{BATCHES}?limit={limit}{query}")).ok()
        pages.append([batch["id"] for batch in page["data"]])
        if not page["has_more"]:
            return pages
        query = f"&{cursor}={page[wanted]}"


async def test_empty_list(client: Client) -> None:
    """An empty page has null ids and no more."""
    assert (await client.get(BATCHES)).ok() == {"data": [], "has_more": False, "first_id": None, "last_id": None}


async def test_forwards(world: World, client: Client) -> None:
    """`after_id` walks from the newest to the oldest without gaps or repeats."""
    ids = await make(world, client, 5)

    assert await walk(client, "after_id", "last_id") == [ids[:2], ids[2:4], ids[4:]]


async def test_backwards(world: World, client: Client) -> None:
    """`before_id` takes the items nearest to the cursor, newest first, so that the walk reaches the top (item 17)."""
    ids = await make(world, client, 5)

    assert await walk(client, "before_id", "first_id", start=f"&before_id={ids[4]}") == [ids[2:4], ids[:2]]


async def test_after_the_last_is_empty(world: World, client: Client) -> None:
    """`after_id` of the last item gives an empty page with null ids: old clients stop only there (item 16)."""
    ids = await make(world, client, 3)

    page = (await client.get(f"{BATCHES}?after_id={ids[-1]}")).ok()

    assert page == {"data": [], "has_more": False, "first_id": None, "last_id": None}


async def test_cursor_of_a_deleted_batch(world: World, client: Client) -> None:
    """An id that was deleted meanwhile still marks its place."""
    ids = await make(world, client, 3)
    await world.work(ids[1])
    await world.end(ids[1])
    await client.send("DELETE", f"{BATCHES}/{ids[1]}")

    after = (await client.get(f"{BATCHES}?after_id={ids[1]}")).ok()
    before = (await client.get(f"{BATCHES}?before_id={ids[1]}")).ok()

    assert [batch["id"] for batch in after["data"]] == [ids[2]]
    assert [batch["id"] for batch in before["data"]] == [ids[0]]


async def test_before_wins(world: World, client: Client) -> None:
    """With both cursors `before_id` wins."""
    ids = await make(world, client, 3)

    page = (await client.get(f"{BATCHES}?after_id={ids[0]}&before_id={ids[1]}")).ok()

    assert [batch["id"] for batch in page["data"]] == [ids[0]]


async def test_default_limit(world: World, client: Client) -> None:
    """Without a limit a page has 20."""
    await make(world, client, 21)

    page = (await client.get(BATCHES)).ok()

    assert (len(page["data"]), page["has_more"]) == (20, True)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=0", "limit: Input should be greater than or equal to 1"),
        ("limit=-5", "limit: Input should be greater than or equal to 1"),
        ("limit=1001", "limit: Input should be less than or equal to 1000"),
        ("limit=99999999999999999999999999", "limit: "),
        ("limit=ten", "limit: Input should be a valid integer"),
        ("limit=", "limit: Input should be a valid integer"),
        ("limit=%D9%A3", "limit: Input should be a valid integer"),
        ("after_id=nonsense", "after_id: "),
        ("before_id=msgbatch_", "before_id: "),
        ("after_id=%FF%FE", "after_id: "),
    ],
)
async def test_bad_queries(client: Client, query: str, words: str) -> None:
    """A limit out of range and a cursor that is no id are 400 and name the parameter."""
    assert words in (await client.get(f"{BATCHES}?{query}")).error(400, "invalid_request_error")


async def test_unknown_parameters_are_ignored(client: Client) -> None:
    """`?beta=true` and whatever else is not known changes nothing (item 11)."""
    assert (await client.get(f"{BATCHES}?beta=true&lifecycle%5B%5D=active&x")).ok()["data"] == []


async def test_unknown_cursor_that_could_be_an_id(world: World, client: Client) -> None:
    """A well-formed id of nothing marks a place in time."""
    ids = await make(world, client, 2)

    page = (await client.get(f"{BATCHES}?after_id={make_id('msgbatch')}")).ok()

    assert isinstance(page["data"], list)
    assert {batch["id"] for batch in page["data"]} <= set(ids)
