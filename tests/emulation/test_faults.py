from __future__ import annotations

from typing import Any

import pytest

from standby.emulation.faults import GROUPS, OPERATIONS, Fault, Faults, faults_of, operation_of
from standby.errors import ScriptError

BATCH = "/v1/messages/batches/msgbatch_1"
PLACES = {
    "create": ("POST", "/v1/messages/batches"),
    "list": ("GET", "/v1/messages/batches"),
    "retrieve": ("GET", BATCH),
    "delete": ("DELETE", BATCH),
    "cancel": ("POST", f"{BATCH}/cancel"),
    "results": ("GET", f"{BATCH}/results"),
    "messages": ("POST", "/v1/messages"),
    "count_tokens": ("POST", "/v1/messages/count_tokens"),
    "models": ("GET", "/v1/models/claude-haiku-4-5"),
}


def armed(given: Any) -> Faults:
    """Set faults."""
    faults = Faults()
    faults.put(faults_of(given))
    return faults


def struck(faults: Faults, *operations: str) -> list[str]:
    """Ask for some operations in turn; give the statuses, empty where nothing struck."""
    found = [faults.strike(*PLACES[operation]) for operation in operations]
    return [str(fault.status) if fault else "" for fault in found]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_place(operation: str) -> None:
    """An operation is known by its method and path, and only its own fault strikes it."""
    assert operation_of(*PLACES[operation]) == operation
    for other in OPERATIONS:
        assert struck(armed(f"{other}=500"), operation) == (["500"] if other == operation else [""])


def test_groups() -> None:
    """`batches` are six, `*` all; anything else is no operation."""
    assert struck(armed("batches=500"), *PLACES) == ["500"] * 6 + [""] * 3
    assert struck(armed("*=500"), *PLACES) == ["500"] * 9
    assert armed("*=500").strike("GET", "/v1/nothing") is None
    assert operation_of("HEAD", f"{BATCH}/results") == "results"
    assert set(GROUPS) == {*OPERATIONS, "batches", "*"}


@pytest.mark.parametrize(
    ("place", "operations"),
    [
        ("/v1/messages/batches", {"create", "list"}),
        ("POST /v1/messages/batches", {"create"}),
        ("/v1/messages/batches/*", {"retrieve", "delete", "cancel", "results"}),
        ("GET /v1/*", {"list", "retrieve", "results", "models"}),
    ],
)
def test_paths(place: str, operations: set[str]) -> None:
    """A path with stars, with or without a method."""
    assert {name for name in PLACES if struck(armed(f"{place}=500"), name) == ["500"]} == operations


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ("429+retry_after:2", {"status": 429, "retry_after_s": 2.0}),
        ("529+message:Later.", {"status": 529, "message": "Later."}),
        ("reset", {"is_reset": True}),
        ("lost+times:1", {"is_lost": True, "times": 1}),
        ("cut:10", {"cut_rows": 10}),
        ("cut_inside:0", {"cut_rows": 0, "is_cut_inside": True}),
        ("slow:1000", {"bytes_per_s": 1000.0}),
        ("wait:500ms+503", {"wait_s": 0.5, "status": 503}),
        ("500+chance:0.5+seed:7+skip:3", {"status": 500, "chance": 0.5, "seed": 7, "skip": 3}),
    ],
)
def test_actions(actions: str, expected: dict[str, Any]) -> None:
    """Each action, alone and joined."""
    (fault,) = faults_of(f"create={actions}")
    assert fault == Fault(source=f"create={actions}", operations=frozenset({"create"}), **expected)


@pytest.mark.parametrize(
    ("status", "type_"),
    [(401, "authentication_error"), (418, "invalid_request_error"), (503, "api_error"), (529, "overloaded_error")],
)
def test_types(status: int, type_: str) -> None:
    """Each status has the type that clients expect with it."""
    assert faults_of(f"*={status}")[0].error_type == type_


def test_how_often() -> None:
    """Some pass first, then some are struck, then never again; every fault counts for itself."""
    faults = armed("create=429+skip:1+times:2; create=500+times:1")
    assert struck(faults, *["create"] * 6) == ["500", "429", "429", "", "", ""]
    assert [one["struck"] for one in faults.shown()] == [2, 1]


def test_chance_is_the_same_every_time() -> None:
    """A seed gives one sequence, another seed another one; the share is about right."""

    def run(seed: int) -> list[str]:
        return struck(armed(f"*=500+chance:0.3+seed:{seed}"), *["create"] * 400)

    assert run(1) == run(1) != run(2)
    assert 80 < run(1).count("500") < 160
    assert struck(armed("*=500+chance:0"), "create") == [""]


def test_precedence() -> None:
    """Set later comes first; those of the file are last and stay."""
    faults = Faults(faults_of("*=500+times:1"))
    faults.put(faults_of("create=501"))
    faults.prepend(faults_of("create=502+times:1"))
    assert struck(faults, "create", "create", "list", "list") == ["502", "501", "500", ""]
    faults.clear()
    assert struck(faults, "create", "create") == ["500", ""]


def test_a_table_means_the_same_as_a_line() -> None:
    """The file and the API spell out what a line says."""
    (fault,) = faults_of({"at": "create", "do": "429+retry_after:2", "times": 3, "chance": 0.5})
    assert fault == faults_of("create=429+retry_after:2+times:3+chance:0.5")[0]
    assert faults_of([{"do": "500"}, "create=501; list=502"])[0].operations == GROUPS["*"]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("create", '"create": write PLACE=ACTIONS'),
        ("creat=500", '"creat" is no place: write a path, or one of create, list'),
        ("create=200", '"200" is no action: there are a status from 400 to 599'),
        ("create=explode", '"explode" is no action'),
        ("create=explode:1", '"explode" is no action'),
        ("create=times:1", "does nothing"),
        ("create=500+times:many", '"many" is no whole number'),
        ("create=500+chance:2", '"2" is no probability'),
        ("create=slow:0", "at least 1 byte"),
        ("create=wait:soon", "is no time"),
        (["create=500", "x"], 'fault 2: "x": write PLACE=ACTIONS'),
        ([7], "fault 1: is neither a line nor a table"),
        ({"do": 1}, "do: must be text"),
        ({"what": 1}, "what: no such key"),
        (7, "faults are a line of text"),
    ],
)
def test_what_is_wrong(given: Any, complaint: str) -> None:
    """The message names the fault and shows the part that is wrong."""
    with pytest.raises(ScriptError) as caught:
        faults_of(given)
    assert complaint in str(caught.value)
