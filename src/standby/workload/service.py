"""The service as a workload sees it: Claude's Message Batches API or a Standby server, through the official SDK.

The SDK finds the credentials and the address, signs, and types its errors. Two things are done by hand: a body is
streamed from a file, and results are read as raw lines. Its own retries are off: a repeated create could pay twice, and
for all else the loop of a job has a patience of its own, which can be watched and interrupted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import anthropic
import httpx2

from standby.workload.binding import Binding
from standby.workload.faults import NoAccess, QueueFull, Refused, Unavailable, Uncertain, WorkloadError

MESSAGES = "/v1/messages"
BATCHES = "/v1/messages/batches"
COUNTED = frozenset(
    {"messages", "model", "cache_control", "output_config", "speed", "system", "thinking", "tool_choice", "tools"}
)
"""What `count_tokens` takes (contract 4)."""
PAGE = 100
CREATE_TIMEOUT_S = 600.0
LOOK_TIMEOUT_S = 60.0
"""Of what is asked before a job begins."""
STALL_S = 120.0
"""How long an answer may be silent."""
MOST_AFTER_S = 3600.0
"""A `retry-after` beyond this is cut: look again, however long the service wants its peace."""
SURELY_NOT_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
)
PERHAPS_MADE = frozenset({408, 409})
"""Answers to a create that do not say whether a batch was made, beside those from 500 on but 529."""
PORTS = {"http": 80, "https": 443}
ENDED = "ended"
_SPAN = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A batch as the service shows it."""

    id: str
    status: str
    counts: dict[str, int]
    created_at: str
    expires_at: str
    ended_at: str | None
    archived_at: str | None
    results_url: str | None
    after_s: float | None = None

    @property
    def total(self) -> int:
        """How many items it has."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """Results on their way; `offset` is where the pieces begin, 0 unless the service took up in the middle."""

    offset: int
    etag: str | None
    """Names these very bytes, so that they can be taken up later; None if the service cannot do that."""
    pieces: Iterator[bytes]


class Service:
    """Verbs on the service; each raises `WorkloadError`s only."""

    def __init__(self, client: anthropic.Anthropic, *, stall_s: float = STALL_S) -> None:
        """Take a client of the SDK; an answer that is silent for `stall_s` seconds counts as broken."""
        self._client = client
        self._once = client.with_options(max_retries=0)
        self._patience: anthropic.RequestOptions = {"timeout": stall_s}
        self._binding: Binding | None = None

    def bind(self, binding: Binding) -> None:
        """Refuse answers from elsewhere than where a job belongs, from now on."""
        self._binding = binding

    @property
    def endpoint(self) -> str:
        """Where it is, as a job remembers it."""
        return str(self._client.base_url).rstrip("/")

    def create(self, body: Path, *, key: str) -> Seen:
        """Make a batch of a body on disk. `Uncertain` if nobody knows whether it was made.

        `key` is an idempotency key: Standby honours it, Claude ignores it.
        """
        options: anthropic.RequestOptions = {"headers": {"Idempotency-Key": key}, "timeout": CREATE_TIMEOUT_S}
        with body.open("rb") as file:
            try:
                made = self._once.post(BATCHES, content=file, cast_to=httpx2.Response, options=options)
                self._heed(made.headers, is_proof=True)
                return _seen(made)
            except (anthropic.AnthropicError, Unavailable) as error:
                raise fault_of_create(error, self.endpoint) from error

    def newest(self) -> Seen | None:
        """Find the newest batch of the workspace."""
        return next(iter(self._page(limit=1)[0]), None)

    def newer_than(self, anchor: tuple[str, str] | None) -> Iterator[Seen]:
        """Walk over the batches that were made after the anchor (id and time), newest first."""
        page, has_more = self._page(limit=PAGE)
        while True:
            for batch in page:
                if anchor is not None and (batch.id == anchor[0] or batch.created_at < anchor[1]):
                    return
                yield batch
            if not (page and has_more):
                return
            page, has_more = self._page(limit=PAGE, after_id=page[-1].id)

    def retrieve(self, batch_id: str) -> Seen | None:
        """Look at a batch; None if the service does not know it."""
        try:
            with _translating():
                found = self._once.get(f"{BATCHES}/{batch_id}", cast_to=httpx2.Response, options=self._patience)
            self._heed(found.headers, is_proof=True)
            return _seen(found)
        except Refused as error:
            if _status(error) == 404:
                self._check_unknown(batch_id, error)
                return None
            raise

    def charged(self, batch_id: str) -> int | None:
        """Ask a Standby server what a batch was charged so far, in pico-dollars; None if it does not tell."""
        client = self._client.with_options(max_retries=0)
        try:
            with _translating():
                answer = client.get(f"/standby/v1/batches/{batch_id}/cost?top=0", cast_to=httpx2.Response)
            return int(answer.json()["cost_pico"])
        except (WorkloadError, ValueError, KeyError, TypeError):
            return None

    def cancel(self, batch_id: str) -> None:
        """Ask for the end of a batch; one that has ended stays as it is."""
        try:
            with _translating():
                self._client.post(f"{BATCHES}/{batch_id}/cancel", cast_to=httpx2.Response)
        except Refused as error:
            if _status(error) not in {400, 404}:
                raise
            if _status(error) == 404:
                self._check_unknown(batch_id, error)

    @contextmanager
    def results(self, batch: Seen, *, offset: int = 0, etag: str | None = None) -> Iterator[Download]:
        """Open the results of a batch as raw bytes, from `offset` on if the service can do that.

        While it is read, `Unavailable` says that the connection broke.
        """
        headers = {"Accept": "application/binary"}
        if offset and etag:
            headers |= {"Range": f"bytes={offset}-", "If-Range": etag, "Accept-Encoding": "identity"}
        options: anthropic.RequestOptions = {"headers": headers, **self._patience}
        url = results_url(batch, self.endpoint)
        with _translating():
            try:
                answer = self._once.get(url, cast_to=httpx2.Response, options=options, stream=True)
            except anthropic.APIStatusError as error:
                if error.status_code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    raise
                yield Download(offset=offset, etag=None, pieces=iter(()))  # nothing lies behind it
                return
            try:
                begin = begin_of(answer, offset)
                yield Download(offset=begin, etag=tag_of(answer), pieces=answer.iter_bytes())
            finally:
                answer.close()

    def count_tokens(self, params: dict[str, Any]) -> int:
        """Count the prompt tokens of a request, by the service's own tokenizer."""
        body = {name: value for name, value in params.items() if name in COUNTED}
        with _translating():
            options: anthropic.RequestOptions = {"timeout": LOOK_TIMEOUT_S}
            answer = self._client.post(f"{MESSAGES}/count_tokens", body=body, cast_to=httpx2.Response, options=options)
        return int(answer.json()["input_tokens"])

    def models(self) -> list[str]:
        """Name the models of the service; none if it has no list of them."""
        try:
            with _translating():
                options: anthropic.RequestOptions = {"params": {"limit": 1000}, "timeout": LOOK_TIMEOUT_S}
                listed = self._client.get("/v1/models", cast_to=httpx2.Response, options=options).json()
            return [str(one["id"]) for one in listed.get("data", ())]
        except Refused as error:
            if _status(error) == 404:
                return []
            raise

    @property
    def version(self) -> str:
        """The version of the API that requests name."""
        return str(self._client.default_headers.get("anthropic-version", ""))

    @property
    def betas(self) -> str:
        """What requests ask for beyond that version."""
        return str(self._client.default_headers.get("anthropic-beta", ""))

    def model(self, name: str) -> dict[str, Any] | None:
        """Look a model up; None if the service does not know it."""
        try:
            with _translating():
                options: anthropic.RequestOptions = {"timeout": LOOK_TIMEOUT_S}
                path = f"/v1/models/{quote(name, safe='')}"
                found: dict[str, Any] = self._client.get(path, cast_to=httpx2.Response, options=options).json()
                return found
        except Refused as error:
            if _status(error) == 404:
                return None
            raise

    def _page(self, **query: Any) -> tuple[list[Seen], bool]:
        """Read one page, and whether there are more."""
        with _translating():
            options: anthropic.RequestOptions = {"params": query, **self._patience}
            answer = self._once.get(BATCHES, cast_to=httpx2.Response, options=options)
        self._heed(answer.headers)
        page = read_answer(answer)
        if not isinstance(page.get("data"), list):
            raise Unavailable(NOT_THE_SERVICE)
        return [seen_of(one) for one in page["data"]], page.get("has_more") is not False

    def _heed(self, headers: Mapping[str, str], *, is_proof: bool = False) -> None:
        if self._binding is not None:
            self._binding.heed(headers, is_proof=is_proof)

    def _check_unknown(self, batch_id: str, error: WorkloadError) -> None:
        """Believe only the job's own workspace that a batch is not known there."""
        if self._binding is not None and isinstance(error.__cause__, anthropic.APIStatusError):
            self._binding.heed(error.__cause__.response.headers)
            self._binding.check_unknown(batch_id, error.__cause__.response.headers)


def connected(base_url: str | None = None) -> Service:
    """Connect with the credentials and the address that the official SDK finds. `NoAccess` if there are none."""
    try:
        return Service(anthropic.Anthropic(base_url=base_url))
    except anthropic.AnthropicError as error:
        raise NoAccess(f"no credentials: set ANTHROPIC_API_KEY, or what else the SDK takes ({error})") from error


@contextmanager
def _translating() -> Iterator[None]:
    """Turn what the SDK and its connection raise into ours."""
    try:
        yield
    except anthropic.APIStatusError as error:
        raise translated(error) from error
    except (anthropic.APIConnectionError, httpx2.RequestError, httpx2.StreamError) as error:
        raise Unavailable(f"the connection to the service failed ({type(error).__name__})") from error
    except TypeError as error:
        if "authentication" not in str(error):
            raise
        raise NoAccess("no credentials: set ANTHROPIC_API_KEY, or what else the SDK takes") from error


def results_url(batch: Seen, endpoint: str) -> str:
    """Find where the results of a batch lie; `Refused` if that is not the service itself."""
    url = urljoin(endpoint + "/", batch.results_url or "")
    if _origin(url) != _origin(endpoint):
        ours, theirs = urlsplit(endpoint), urlsplit(url)
        raise Refused(
            f"the results of {batch.id} lie on another server ({theirs.scheme}://{theirs.netloc}) than the service "
            f"({ours.scheme}://{ours.netloc}); the key is not sent there. Set the server's public address right"
        )
    return url


def _origin(url: str) -> tuple[str, str | None, int | None]:
    found = urlsplit(url)
    return found.scheme, found.hostname, found.port or PORTS.get(found.scheme)


def fault_of_create(error: Exception, endpoint: str) -> WorkloadError:
    """Say what a create that failed means: `Uncertain` unless it surely made no batch."""
    if isinstance(error, anthropic.APIConnectionError):
        if isinstance(error.__cause__, SURELY_NOT_SENT):
            return Unavailable(f"{endpoint} cannot be reached")
        return Uncertain("the connection broke before the answer to the create")
    if not isinstance(error, anthropic.APIStatusError):
        return Uncertain("the answer to the create cannot be read")
    if error.status_code in PERHAPS_MADE or (error.status_code >= 500 and error.status_code != 529):
        return Uncertain(f"the create was answered with {error.status_code}")
    return translated(error)


def translated(error: anthropic.APIStatusError) -> WorkloadError:
    """Turn an answer that is an error into ours. Only the service's own words are passed on."""
    status, said = error.status_code, _words(error)
    if status in {401, 403}:
        return NoAccess(f"the service does not take the credentials: {said}")
    if status == 429 and _code(error) in SPENT:
        return Refused(f"the service's spend limit is reached: {said}")
    if status in {429, 529}:
        return QueueFull(f"the service has no room: {said}", after_s=after_of(error.response))
    if status in {408, 409} or status >= 500:
        return Unavailable(f"the service answered {status}: {said}", after_s=after_of(error.response))
    if status == 404 and not is_of_the_service(error):
        return Unavailable(NOT_THE_SERVICE)
    return Refused(f"the service refuses ({status}): {said}")


NOT_THE_SERVICE = (
    "something else answers at the service's address; look at ANTHROPIC_BASE_URL and at proxies in between"
)
SPENT = frozenset({"enforced_spend_limit_reached", "contract_spend_limit_reached"})


def _words(error: anthropic.APIStatusError) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    inner = body.get("error")
    return str(inner.get("message", "")) if isinstance(inner, dict) else f"HTTP {error.status_code}"


def is_of_the_service(error: anthropic.APIStatusError) -> bool:
    """Whether an error has the form of the service's (contract 6.1), and is no page of something in between."""
    return isinstance(error.body, dict) and isinstance(error.body.get("error"), dict)


def _code(error: anthropic.APIStatusError) -> str | None:
    body = error.body if isinstance(error.body, dict) else {}
    inner = body.get("error")
    details = inner.get("details") if isinstance(inner, dict) else None
    return details.get("error_code") if isinstance(details, dict) else None


def _status(error: WorkloadError) -> int:
    return error.__cause__.status_code if isinstance(error.__cause__, anthropic.APIStatusError) else 0


def after_of(answer: httpx2.Response) -> float | None:
    """Read `retry-after`, in seconds; None if there is none that can be read."""
    try:
        after_s = float(answer.headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return min(max(0.0, after_s), MOST_AFTER_S) if math.isfinite(after_s) else None


def begin_of(answer: httpx2.Response, asked: int) -> int:
    """Say where the bytes of an answer begin: at 0, or where a partial one says."""
    if answer.status_code != HTTPStatus.PARTIAL_CONTENT:
        return 0
    span = _SPAN.fullmatch(answer.headers.get("content-range", ""))
    if span is None or int(span[1]) > asked:
        raise Unavailable("the service sent another part of the results than was asked for")
    return int(span[1])


def tag_of(answer: httpx2.Response) -> str | None:
    """Name the bytes behind an answer. The tag of a packed one is weak, that of what is in it is not."""
    etag: str = answer.headers.get("etag", "")
    if "content-encoding" in answer.headers:
        etag = etag.removeprefix("W/")
    return etag if etag.startswith('"') else None


def read_answer(answer: httpx2.Response) -> dict[str, Any]:
    """Read a JSON object; `Unavailable` if something else than the service gave the answer."""
    try:
        found = answer.json()
    except ValueError as error:
        raise Unavailable(NOT_THE_SERVICE) from error
    if not isinstance(found, dict):
        raise Unavailable(NOT_THE_SERVICE)
    return found


def _seen(answer: httpx2.Response) -> Seen:
    return seen_of(read_answer(answer), after_s=after_of(answer))


def seen_of(batch: dict[str, Any], *, after_s: float | None = None) -> Seen:
    """Read a batch as the service writes it; `Unavailable` if it is none."""
    try:
        return Seen(
            id=str(batch["id"]),
            status=str(batch["processing_status"]),
            counts={str(kind): int(count) for kind, count in batch["request_counts"].items()},
            created_at=str(batch["created_at"]),
            expires_at=str(batch["expires_at"]),
            ended_at=batch.get("ended_at"),
            archived_at=batch.get("archived_at"),
            results_url=batch.get("results_url"),
            after_s=after_s,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unavailable(NOT_THE_SERVICE) from error
