"""A TCP proxy between a client and a server that goes wrong as a plan says.

Every connection of the client is a thread. A request is read whole, unless its trouble strikes before; an answer of the
server is read whole before it is passed on, unless it is cut on the way. So a trouble that comes after the server had
the request is sure to find it done: nothing here depends on who is faster.

`Idempotency-Key` is taken out of every request, as services other than Standby do not know it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import urlsplit

GIVE_UP_S = 30.0
LATE_S = 0.05
Choose = Callable[["Request"], str]
NO_TROUBLE = ""
BEFORE = ("reset", "cut_upload", "502", "503", "503+later", "529", "529+later", "429", "429+later", "504", "page")
"""The server hears nothing of the request, or only half of it."""
AFTER = ("lost", "half", "half_and_silent", "stall", "late", "502_after", "504_after")
"""The server did what was asked."""
OF_RESULTS = ("at_a_line", "garbage", "shuffled", "doubled", "foreign", "crlf", "blank", "emptied")
OF_A_BATCH = ("elsewhere", "unknown", "without_url")
SPENT = {"error_code": "enforced_spend_limit_reached"}
SAID: dict[str, tuple[int, dict[str, object]]] = {
    "spent": (429, {"type": "rate_limit_error", "message": "Your limit is reached.", "details": SPENT}),
}
"""Errors of the service itself; dice do not throw them, for they end a command rightly."""
PAGE = b"<html><body><h1>Please log in</h1></body></html>\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asked."""

    number: int
    """From 0, over all connections."""
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def operation(self) -> str:
        """Name it: create, list, retrieve, results, or the path."""
        found = re.fullmatch(r"/v1/messages/batches(/[^/?]+)?(/results)?(\?.*)?", self.path)
        if found is None:
            return self.path
        if self.method == "POST":
            return "create"
        return "results" if found[2] else "retrieve" if found[1] else "list"


@dataclass(slots=True)
class Reply:
    """What is sent back."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def head(self, length: int | None) -> bytes:
        """Write the head; without a length the end of the connection ends the body."""
        gone = {"content-length", "transfer-encoding", "connection"}
        headers = [(name, value) for name, value in self.headers if name.lower() not in gone]
        headers.append(("Connection", "close") if length is None else ("Content-Length", str(length)))
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, 'Unknown')}"]
        return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1")


class Broken(Exception):
    """The connection to the client is over."""


class Proxy:
    """A context manager; `choose` names the trouble of each request, or none. `met` counts what struck where."""

    def __init__(self, server: str, choose: Choose) -> None:
        """Pass on to the server at this base URL."""
        self._server = urlsplit(server)
        self._choose = choose
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._count = 0
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.met: Counter[tuple[str, str]] = Counter()

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._begin(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every connection and every thread."""
        self._ending.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(GIVE_UP_S)
            assert not thread.is_alive(), "a thread of the proxy never ended"

    def _begin(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(client)
            self._begin(lambda client=client: self._serve(client))  # type: ignore[misc]

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(GIVE_UP_S)
        with contextlib.suppress(Broken, OSError, http.client.HTTPException), client.makefile("rb") as stream:
            while True:
                self._one(client, stream)
        with self._lock:
            self._open.discard(client)
        client.close()

    def _one(self, client: socket.socket, stream: BinaryIO) -> None:
        """Pass one request on, and its answer back, with whatever trouble it has."""
        method, path, headers = _read_head(stream)
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), None)
        with self._lock:
            number, self._count = self._count, self._count + 1
        request = Request(number=number, method=method, path=path, headers=headers, body=b"")
        trouble = self._choose(request)
        self.met[request.operation, trouble] += 1
        if trouble == "reset":
            raise _reset(client)
        if trouble == "cut_upload":
            self._pass_on_half(request, stream.read((length or 0) // 2), length or 0)
            raise _reset(client)
        body = stream.read(length) if length is not None else _chunks(stream, headers)
        request = Request(number=number, method=method, path=path, headers=headers, body=body)
        if trouble in {*BEFORE, *SAID, "astray"}:
            _send(client, _refusal(trouble))
            return
        reply = self._ask(request, is_plain=trouble in OF_RESULTS)
        self._answer(client, request, reply, trouble)

    def _answer(self, client: socket.socket, request: Request, reply: Reply, trouble: str) -> None:
        if trouble == "lost":
            raise _reset(client)
        if trouble in {"502_after", "504_after"}:
            _send(client, Reply(int(trouble[:3]), [("Content-Type", "text/html")], PAGE))
        elif trouble in {"half", "half_and_silent", "at_a_line", "stall"}:
            self._cut(client, reply, trouble)
        else:
            self._ending.wait(LATE_S if trouble == "late" else 0)
            _send(client, _changed(reply, trouble, random.Random(request.number)))

    def _cut(self, client: socket.socket, reply: Reply, trouble: str) -> None:
        """Send a part of the answer; then break off, end as if that were all, or say nothing more."""
        part = reply.body[: len(reply.body) // 2]
        if trouble == "at_a_line":
            part = part[: part.rfind(b"\n") + 1]
        is_told = trouble in {"half", "stall"}
        client.sendall(reply.head(len(reply.body) if is_told else None) + part)
        if trouble == "stall":
            client.recv(1)  # until the client has had enough
        if trouble == "half":
            raise _reset(client)
        raise Broken

    def _ask(self, request: Request, *, is_plain: bool) -> Reply:
        """Ask the server. `Host` stays the proxy's, so that links lead through it."""
        gone = {"idempotency-key", "transfer-encoding", "content-length", *(["accept-encoding"] if is_plain else [])}
        connection = http.client.HTTPConnection(self._server.hostname or "", self._server.port, timeout=GIVE_UP_S)
        try:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                if name.lower() not in gone:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(request.body)))
            connection.endheaders(request.body)
            answer = connection.getresponse()
            return Reply(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def _pass_on_half(self, request: Request, half: bytes, length: int) -> None:
        """Let the server have half of a body and then nothing more."""
        lines = [f"{request.method} {request.path} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers)]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        with socket.create_connection((self._server.hostname or "", self._server.port or 80), GIVE_UP_S) as server:
            server.sendall(head + half[: max(0, length - 1)])


@dataclass(slots=True)
class Dice:
    """A plan by chance: the same seed, the same troubles for the same requests."""

    seed: int
    chance: float = 0.35
    most: int = 14
    """Troubles in all, so that every story has an end."""
    without: frozenset[str] = frozenset()
    dice: random.Random = field(init=False)
    denied: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Take the seed."""
        self.dice = random.Random(self.seed)

    def __call__(self, request: Request) -> str:
        """Choose. What is denied twice is rightly believed gone: a batch that is unknown, a row that is no row."""
        if request.path in self.denied:
            self.denied.discard(request.path)
            return NO_TROUBLE
        if self.most == 0 or self.dice.random() >= self.chance:
            return NO_TROUBLE
        self.most -= 1
        chosen = self.dice.choice([one for one in troubles_of(request.operation) if one not in self.without])
        if chosen in {*OF_A_BATCH, "garbage"}:
            self.denied.add(request.path)
        return chosen


def troubles_of(operation: str) -> tuple[str, ...]:
    """List what can happen to a request."""
    more = {"results": OF_RESULTS, "retrieve": OF_A_BATCH}.get(operation, ())
    uploads = BEFORE if operation == "create" else tuple(one for one in BEFORE if one != "cut_upload")
    stalls = AFTER if operation == "results" else tuple(one for one in AFTER if one != "stall")
    return (*uploads, *stalls, *more)


def _refusal(trouble: str) -> Reply:
    if trouble == "page":
        return Reply(200, [("Content-Type", "text/html")], PAGE)
    if trouble in SAID:
        status, error = SAID[trouble]
        body = json.dumps({"type": "error", "error": error, "request_id": "req_1"}).encode()
        return Reply(status, [("Content-Type", "application/json")], body)
    if trouble == "astray":
        return Reply(404, [("Content-Type", "text/html")], PAGE)
    code, _, later = trouble.partition("+")
    headers = [("Content-Type", "text/html")] + ([("Retry-After", "0")] if later else [])
    return Reply(int(code), headers, PAGE)


def _changed(reply: Reply, trouble: str, dice: random.Random) -> Reply:
    """Change an answer that was good."""
    if trouble in OF_RESULTS and reply.status in {200, 206}:
        reply.body = _lines(reply.body, trouble, dice)
    if trouble in OF_A_BATCH and reply.status == 200:
        return _batch(reply, trouble)
    return reply


def _lines(body: bytes, trouble: str, dice: random.Random) -> bytes:
    lines = body.splitlines()
    if trouble == "crlf":
        return b"".join(line + b"\r\n" for line in lines)
    if trouble == "shuffled":
        dice.shuffle(lines)
    if trouble == "emptied":
        lines = []
    if lines:
        place = dice.randrange(len(lines))
        match trouble:
            case "garbage":
                lines[place] = b'{"custom_id": "' + b"\xff" * 20
            case "doubled":
                lines.insert(place, lines[dice.randrange(len(lines))])
            case "foreign":
                lines.insert(place, b'{"custom_id":"a-stranger","result":{"type":"expired"}}')
            case "blank":
                lines.insert(place, b"")
    return b"".join(line + b"\n" for line in lines)


def _batch(reply: Reply, trouble: str) -> Reply:
    if trouble == "unknown":
        error = {"type": "error", "error": {"type": "not_found_error", "message": "Message Batch not found."}}
        return Reply(404, reply.headers, json.dumps(error).encode())
    batch = json.loads(reply.body)
    if batch.get("results_url"):
        batch["results_url"] = "https://elsewhere.example/results" if trouble == "elsewhere" else None
    return Reply(200, reply.headers, json.dumps(batch).encode())


def _read_head(stream: BinaryIO) -> tuple[str, str, list[tuple[str, str]]]:
    first = stream.readline().decode("latin-1").split()
    if len(first) != 3:
        raise Broken
    headers = []
    for line in iter(stream.readline, b"\r\n"):
        if not line:
            raise Broken
        name, _, value = line.decode("latin-1").partition(":")
        headers.append((name.strip(), value.strip()))
    return first[0], first[1], headers


def _chunks(stream: BinaryIO, headers: list[tuple[str, str]]) -> bytes:
    """Read a body of unknown length, if there is one."""
    if not any(name.lower() == "transfer-encoding" for name, _ in headers):
        return b""
    return b"".join(_chunk(stream))


def _chunk(stream: BinaryIO) -> Iterator[bytes]:
    while size := int(stream.readline().strip() or b"0", 16):
        yield stream.read(size)
        stream.readline()
    stream.readline()


def _send(client: socket.socket, reply: Reply) -> None:
    client.sendall(reply.head(len(reply.body)) + reply.body)


def _reset(client: socket.socket) -> Broken:
    """Break a connection the hard way: the other side sees a reset, not an end."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    return Broken("reset")
