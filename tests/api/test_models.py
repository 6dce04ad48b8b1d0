from __future__ import annotations

from tests.api.client import Client
from tests.api.world import MODEL, OLDER

MODELS = "/v1/models"


async def test_list(client: Client) -> None:
    """All models come newest first, with what strict clients require."""
    page = (await client.get(MODELS)).ok()

    assert [model["id"] for model in page["data"]] == [MODEL.id, OLDER.id]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (MODEL.id, OLDER.id, False)
    assert page["data"][0]["type"] == "model"
    assert page["data"][0]["lifecycle"] == "active"
    assert page["data"][0]["created_at"] == "2023-11-14T22:13:20.000000Z"
    assert page["data"][0]["max_tokens"] == MODEL.max_output_tokens
    assert page["data"][0]["capabilities"]["batch"] == {"supported": True}


async def test_pages(client: Client) -> None:
    """Cursors and limit work as for batches."""
    first = (await client.get(f"{MODELS}?limit=1")).ok()
    second = (await client.get(f"{MODELS}?limit=1&after_id={MODEL.id}")).ok()
    back = (await client.get(f"{MODELS}?limit=1&before_id={OLDER.id}")).ok()

    assert ([m["id"] for m in first["data"]], first["has_more"]) == ([MODEL.id], True)
    assert ([m["id"] for m in second["data"]], second["has_more"]) == ([OLDER.id], False)
    assert ([m["id"] for m in back["data"]], back["has_more"]) == ([MODEL.id], False)
    (await client.get(f"{MODELS}?after_id=nothing")).error(400, "invalid_request_error")


async def test_lifecycle(client: Client) -> None:
    """Models of another lifecycle do not exist here; a word that is none is 400."""
    assert (await client.get(f"{MODELS}?lifecycle%5B%5D=retired")).ok()["data"] == []
    assert len((await client.get(f"{MODELS}?lifecycle[]=active&lifecycle[]=retired")).ok()["data"]) == 2
    (await client.get(f"{MODELS}?lifecycle[]=new")).error(400, "invalid_request_error")


async def test_retrieve(client: Client) -> None:
    """A model is found by its id and by an alias; what is not served is 404 with the contract's words."""
    assert (await client.get(f"{MODELS}/{OLDER.id}")).ok()["id"] == OLDER.id
    assert (await client.get(f"{MODELS}/claude-sonnet-5-5")).ok()["id"] == MODEL.id
    assert (await client.get(f"{MODELS}/gpt-2")).error(404, "not_found_error") == "model: gpt-2"
