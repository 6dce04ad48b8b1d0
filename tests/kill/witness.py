"""A client that remembers: every call becomes an event of a history, lost answers included."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from tests.harness import Answer, NoAnswer, ServerProcess, call, item
from tests.history import Cancel, Create, Delete, History, Listed, Missing, Reply, Results, Seen

BATCHES = "/v1/messages/batches"
LOST = (NoAnswer, json.JSONDecodeError)


class Broken(AssertionError):
    """An answer that no client should ever get, such as a 500 or a body without the contract's shape."""


class Witness:
    """Talks to one server and writes down what it saw.

    A call that got no answer returns None: the caller knows nothing, and neither does the history.
    Answers of a server that is going down (503, 529) count as none.
    """

    def __init__(
        self, server: ServerProcess, history: History, *, timeout: float = 30.0, tolerant: bool = False
    ) -> None:
        """Watch `server`; several witnesses may share a history. A tolerant one takes any 5xx as no answer."""
        self.server = server
        self.history = history
        self.timeout = timeout
        self.tolerant = tolerant
        self.refusals = 0
        self.lost = 0
        self._lock = threading.Lock()

    def create(
        self,
        token: str,
        items: Sequence[Mapping[str, Any]],
        *,
        key: str | None = None,
        retry: int | None = None,
    ) -> Any:
        """Create a batch; returns it, or None if the answer was lost or refused.

        `key` is an idempotency key; `retry` counts the tries of an SDK from 0. With either, all calls of one token
        may make one batch at most.
        """
        headers = {"idempotency-key": key} if key else {}
        headers |= {"x-stainless-retry-count": str(retry)} if retry is not None else {}
        began = self.history.clock()
        answer = self._ask("POST", BATCHES, {"requests": list(items)}, headers)
        self.history.add(
            Create(
                began=began,
                ended=self.history.clock(),
                token=token,
                custom_ids=tuple(str(one["custom_id"]) for one in items),
                reply=_reply(answer),
                is_idempotent=key is not None or retry is not None,
                batch=answer.json() if answer and answer.status == 200 else None,
            )
        )
        return answer.json() if answer and answer.status == 200 else None

    def look(self, batch_id: str) -> Any:
        """Read a batch; None if it is not there or nothing was learnt."""
        began = self.history.clock()
        answer = self._ask("GET", f"{BATCHES}/{batch_id}")
        ended = self.history.clock()
        if answer is None:
            return None
        if answer.status == 404:
            self.history.add(Missing(began=began, ended=ended, batch_id=batch_id))
            return None
        batch = expect(answer, 200).json()
        self.history.add(Seen(began=began, ended=ended, batch=batch))
        return batch

    def walk(self, *, limit: int = 100) -> list[str] | None:
        """List everything; None if the walk broke off."""
        began, query, ids = self.history.clock(), f"?limit={limit}", []
        while True:
            page_began = self.history.clock()
            answer = self._ask("GET", BATCHES + query)
            if answer is None:
                return None
            page = expect(answer, 200).json()
            ended = self.history.clock()
            for batch in page["data"]:
                ids.append(batch["id"])
                self.history.add(Seen(began=page_began, ended=ended, batch=batch))
            if not page["has_more"]:
                self.history.add(Listed(began=began, ended=ended, ids=tuple(ids)))
                return ids
            query = f"?limit={limit}&after_id={page['last_id']}"

    def read(self, batch_id: str) -> bytes | None:
        """Download results; None if there are none to be had."""
        began = self.history.clock()
        answer = self._ask("GET", f"{BATCHES}/{batch_id}/results")
        if answer is None or answer.status == 404:
            return None
        raw = expect(answer, 200).body
        self.history.add(Results(began=began, ended=self.history.clock(), batch_id=batch_id, raw=raw))
        return raw

    def cancel(self, batch_id: str) -> Reply:
        """Cancel a batch."""
        began = self.history.clock()
        answer = self._ask("POST", f"{BATCHES}/{batch_id}/cancel")
        ended, reply = self.history.clock(), _reply(answer)
        self.history.add(Cancel(began=began, ended=ended, batch_id=batch_id, reply=reply))
        if answer and answer.status == 200:
            self.history.add(Seen(began=began, ended=ended, batch=answer.json()))
        return reply

    def delete(self, batch_id: str) -> Reply:
        """Delete a batch."""
        began = self.history.clock()
        answer = self._ask("DELETE", f"{BATCHES}/{batch_id}")
        reply = _reply(answer)
        self.history.add(Delete(began=began, ended=self.history.clock(), batch_id=batch_id, reply=reply))
        return reply

    def live(self, text: str = "Are you there?") -> Any:
        """Ask a live question; None if the answer was lost."""
        answer = self._ask("POST", "/v1/messages", item("live", text)["params"])
        return expect(answer, 200).json() if answer else None

    def finish(self, known: Sequence[str] = ()) -> None:
        """Look at and read everything that is there, twice, so that a closed history can be judged."""
        for _ in range(2):
            for batch_id in {*(self.walk() or []), *known}:
                if self.look(batch_id):
                    self.read(batch_id)

    def _ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer | None:
        try:
            answer = call(self.server, method, path, body, headers=headers, timeout=self.timeout)
        except NoAnswer:
            with self._lock:
                self.lost += 1
            return None
        if self.tolerant and answer.status >= 500:
            return None
        if answer.status != 200:
            expect_error(answer)
        if answer.status in {503, 529}:
            return None
        if answer.status != 200:
            with self._lock:
                self.refusals += 1
        return answer


def _reply(answer: Answer | None) -> Reply:
    if answer is None:
        return Reply.UNKNOWN
    return Reply.ACKNOWLEDGED if answer.status == 200 else Reply.REFUSED


def expect(answer: Answer, status: int) -> Answer:
    """Insist on a status."""
    if answer.status != status:
        raise Broken(f"{answer.status} instead of {status}: {answer.body[:1000]!r}")
    return answer


def expect_error(answer: Answer) -> tuple[int, str, str]:
    """Insist on the error body of contract 6.1; returns status, type and message."""
    try:
        body = answer.json()
        kind, text, request_id = body["error"]["type"], body["error"]["message"], body["request_id"]
    except (ValueError, KeyError, TypeError) as error:
        raise Broken(f"{answer.status} without an error body: {answer.body[:1000]!r}") from error
    wrong = body["type"] != "error" or not text or answer.headers.get("request-id") != request_id
    if wrong or answer.headers.get("content-type") != "application/json" or answer.status in {500, 409}:
        raise Broken(f"{answer.status} {answer.headers}: {answer.body[:1000]!r}")
    return answer.status, kind, text
