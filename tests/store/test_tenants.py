from __future__ import annotations

import pytest

from standby.errors import Conflict, NotFound, StoreError
from standby.ids import is_id
from standby.records import KeyId, Workspace, WorkspaceId
from standby.store.base import Store
from tests.store.build import NOW


async def test_a_new_store_has_one_workspace_named_default(store: Store) -> None:
    """Without anybody's doing there is a workspace, with an id like any other."""
    (only,) = await store.list_workspaces()

    assert only.name == "default"
    assert is_id("wrkspc", only.id)


async def test_workspaces_have_unique_names(store: Store) -> None:
    """A taken name is a conflict; what is made is listed after the older ones."""
    made = await store.create_workspace("reports", now_us=4_000_000_000 * 1_000_000)

    with pytest.raises(Conflict, match="reports"):
        await store.create_workspace("reports", now_us=NOW)

    assert is_id("wrkspc", made.id)
    assert [w.name for w in await store.list_workspaces()] == ["default", "reports"]
    assert (await store.list_workspaces())[1] == made


async def test_a_key_is_found_by_its_digest(store: Store, workspace: Workspace) -> None:
    """The key that was kept comes back for its digest and for no other."""
    made = await store.create_key(workspace.id, "nightly", digest=b"\x00\xff1", hint="sk-…abcd", now_us=NOW)

    assert await store.find_key(b"\x00\xff1") == made
    assert await store.find_key(b"\x00\xff2") is None
    assert (made.workspace_id, made.name, made.hint) == (workspace.id, "nightly", "sk-…abcd")
    assert (made.created_us, made.revoked_us) == (NOW, None)


async def test_a_key_needs_a_workspace_and_a_digest_of_its_own(store: Store, workspace: Workspace) -> None:
    """An unknown workspace is not found, a digest in use is refused."""
    await store.create_key(workspace.id, "one", digest=b"1", hint="h", now_us=NOW)

    with pytest.raises(NotFound):
        await store.create_key(WorkspaceId("wrkspc_none"), "k", digest=b"2", hint="h", now_us=NOW)
    with pytest.raises(StoreError):
        await store.create_key(workspace.id, "two", digest=b"1", hint="h", now_us=NOW)

    assert [key.name for key in await store.list_keys()] == ["one"]


async def test_a_revoked_key_stays_revoked_from_the_first_time(store: Store, workspace: Workspace) -> None:
    """A revoked key is still found and listed, with the time of its first revocation."""
    one = await store.create_key(workspace.id, "one", digest=b"1", hint="h", now_us=NOW)
    two = await store.create_key(workspace.id, "two", digest=b"2", hint="h", now_us=NOW + 1)

    first = await store.revoke_key(one.id, now_us=NOW + 5)
    second = await store.revoke_key(one.id, now_us=NOW + 9)

    assert first.revoked_us == NOW + 5
    assert second == first
    assert await store.find_key(b"1") == first
    assert await store.list_keys() == [first, two]


async def test_an_unknown_key_cannot_be_revoked(store: Store) -> None:
    """Revoking what is not there says so."""
    with pytest.raises(NotFound):
        await store.revoke_key(KeyId("apikey_none"), now_us=NOW)
