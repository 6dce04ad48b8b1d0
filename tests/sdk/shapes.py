"""Every kind of object that the server sends, held against the type that the newest SDK has for it.

Objects are taken from a running server, as bytes of the wire; types are the pydantic models of the SDK. Where a type
nests another, the nested object is held against the nested type.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import anthropic.types as sdk
import anthropic.types.messages as batches
import pydantic
from anthropic.pagination import SyncPage

from tests.harness import Answer, call, item, message, wait_until
from tests.sdk.places import Tenant

Sample = tuple[Any, Any]
"""A type of the SDK, and JSON that the server sent for it."""
BATCHES = "/v1/messages/batches"
MANY = 60
LONG = 24
BRIEF = 1
END_S = 60.0


@dataclass(slots=True)
class Keys:
    """What was seen of one type: how often each key came, and how often it was null."""

    objects: int = 0
    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    null: dict[str, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One type in the table."""

    name: str
    sent: tuple[str, ...]
    """Known to the SDK, and with a value in at least one sample."""
    null: tuple[str, ...]
    """Known to the SDK, and null in every sample."""
    missing: tuple[str, ...]
    """Known to the SDK, and never sent."""
    unknown: tuple[str, ...]
    """Sent, and not known to the SDK."""


class Visitor:
    """Collects keys, type by type."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.seen: dict[type[pydantic.BaseModel], Keys] = defaultdict(Keys)

    def visit(self, kind: Any, value: Any) -> None:
        """Walk down a type and its JSON together."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if value is None:
            return
        if origin is Annotated:
            self.visit(arguments[0], value)
        elif origin in {typing.Union, types.UnionType}:
            self.visit(next((each for each in arguments if fits(each, value)), None), value)
        elif origin is list:
            for each in value:
                self.visit(arguments[0], each)
        elif inspect.isclass(kind) and issubclass(kind, pydantic.BaseModel):
            self._note(kind, value)

    def _note(self, kind: type[pydantic.BaseModel], value: dict[str, Any]) -> None:
        keys = self.seen[kind]
        keys.objects += 1
        for name, part in value.items():
            keys.sent[name] += 1
            keys.null[name] += part is None
            if name in kind.model_fields:
                self.visit(kind.model_fields[name].annotation, part)


def fits(kind: Any, value: Any) -> bool:
    """Whether JSON is a value of a type, read strictly."""
    try:
        validate(kind, value)
    except pydantic.ValidationError:
        return False
    return True


def validate(kind: Any, value: Any) -> None:
    """Raise unless JSON is a value of a type: no text for a number, no number for a truth."""
    pydantic.TypeAdapter(kind).validate_json(json.dumps(value), strict=True)


def rows(samples: list[Sample]) -> list[Row]:
    """Compare all samples with their types, in the order of the types' names."""
    visitor = Visitor()
    for kind, value in samples:
        visitor.visit(kind, value)
    return sorted((row(kind, keys) for kind, keys in visitor.seen.items()), key=lambda found: found.name)


def row(kind: type[pydantic.BaseModel], keys: Keys) -> Row:
    """Sort the keys of one type."""
    known = list(kind.model_fields)
    null = {name for name, count in keys.null.items() if count == keys.sent[name]}
    return Row(
        name=kind.__name__,
        sent=tuple(name for name in known if name in keys.sent and name not in null),
        null=tuple(name for name in known if name in null),
        missing=tuple(name for name in known if name not in keys.sent),
        unknown=tuple(sorted(name for name in keys.sent if name not in known)),
    )


@dataclass(frozen=True, slots=True)
class Client:
    """Asks one server with one key."""

    url: str
    tenant: Tenant | None = None

    def ask(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> Answer:
        """Send one request."""
        known = key or (self.tenant.key if self.tenant else "any-key")
        return call(self.url, method, path, body, headers={"x-api-key": known})

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request that must work."""
        return self.ask(method, path, body).ok()

    def ended(self, batch_id: str) -> Any:
        """Wait for the end of a batch."""
        return self.until(batch_id, lambda batch: batch["processing_status"] == "ended")

    def until(self, batch_id: str, met: Any) -> Any:
        """Poll a batch until something holds."""
        found: list[Any] = []

        def look() -> bool:
            found[:] = [self.ok("GET", f"{BATCHES}/{batch_id}")]
            return bool(met(found[0]))

        wait_until(look, END_S, lambda: f"waited in vain: {found}")
        return found[0]

    def rows(self, batch_id: str) -> Iterator[Sample]:
        """Read the results of a batch."""
        answer = self.ask("GET", f"{BATCHES}/{batch_id}/results")
        assert answer.status == 200, answer.body
        for line in answer.body.splitlines():
            yield batches.MessageBatchIndividualResponse, json.loads(line)


def samples(url: str, tenant: Tenant, fleeting_url: str) -> list[Sample]:
    """Make the servers send one of everything."""
    client = Client(url, tenant)
    return [*of_batches(client), *of_fleeting(Client(fleeting_url)), *of_messages(client), *of_errors(client)]


def of_batches(client: Client) -> Iterator[Sample]:
    """Batches in every state, results of three kinds, a page, a deletion."""
    broken = {"custom_id": "broken", "params": {}}
    batch = client.ok("POST", BATCHES, {"requests": [item("one", max_tokens=BRIEF), broken]})
    yield batches.MessageBatch, batch
    yield batches.MessageBatch, client.ended(batch["id"])
    yield from client.rows(batch["id"])

    long = client.ok("POST", BATCHES, {"requests": [item(f"item-{n}", max_tokens=LONG) for n in range(MANY)]})
    yield batches.MessageBatch, client.ok("POST", f"{BATCHES}/{long['id']}/cancel")
    yield batches.MessageBatch, client.ended(long["id"])
    yield from client.rows(long["id"])

    yield SyncPage[batches.MessageBatch], client.ok("GET", BATCHES)
    yield batches.DeletedMessageBatch, client.ok("DELETE", f"{BATCHES}/{batch['id']}")


def of_fleeting(client: Client) -> Iterator[Sample]:
    """Results that expired, and an archived batch."""
    batch = client.ok("POST", BATCHES, {"requests": [item(f"item-{n}", max_tokens=LONG) for n in range(MANY)]})
    client.ended(batch["id"])
    yield from client.rows(batch["id"])
    yield batches.MessageBatch, client.until(batch["id"], lambda found: found["archived_at"])


def of_messages(client: Client) -> Iterator[Sample]:
    """Messages whole and streamed, token counts, models."""
    yield sdk.Message, client.ok("POST", "/v1/messages", message(max_tokens=LONG))
    streamed = client.ask("POST", "/v1/messages", message(stream=True, max_tokens=LONG))
    for line in streamed.body.decode().splitlines():
        event = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {"type": "ping"}
        if event["type"] != "ping":
            yield sdk.RawMessageStreamEvent, event

    asked = {name: value for name, value in message().items() if name != "max_tokens"}
    yield sdk.MessageTokensCount, client.ok("POST", "/v1/messages/count_tokens", asked)
    page = client.ok("GET", "/v1/models")
    yield SyncPage[sdk.ModelInfo], page
    yield sdk.ModelInfo, client.ok("GET", f"/v1/models/{page['data'][0]['id']}")


def of_errors(client: Client) -> Iterator[Sample]:
    """Error bodies of the statuses that a client can provoke."""
    for status, answer in (
        (400, client.ask("POST", BATCHES, {"requests": []})),
        (401, client.ask("GET", BATCHES, key="nobody-has-this")),
        (404, client.ask("GET", f"{BATCHES}/msgbatch_nothing")),
        (404, client.ask("POST", "/v1/messages", message(model="nobody-serves-this"))),
    ):
        assert answer.status == status, f"{answer.status} instead of {status}: {answer.body!r}"
        yield sdk.ErrorResponse, answer.json()
