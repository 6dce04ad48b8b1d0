"""The service as a workload sees it: Claude's Message Batches API or a Standby server, through the official SDK.

The SDK finds the credentials and the address, signs, and types its errors. Two things are done by hand: a body is
streamed from a file, and results are read as raw lines. Its own retries are off where a repetition could pay twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import anthropic
import httpx2

from standby.workload.faults import NoAccess, QueueFull, Refused, Unavailable, Uncertain, WorkloadError

MESSAGES = "/v1/messages"
BATCHES = "/v1/messages/batches"
DOWNLOAD_BYTES = 256 * 1024
COUNTED = frozenset(
    {"messages", "model", "cache_control", "output_config", "speed", "system", "thinking", "tool_choice", "tools"}
)
"""What `count_tokens` takes (contract 4)."""
PAGE = 100
CREATE_TIMEOUT_S = 600.0
SURELY_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)
ENDED = "ended"


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
    pieces: Iterator[bytes]


class Service:
    """Verbs on the service; each raises `WorkloadError`s only."""

    def __init__(self, client: anthropic.Anthropic) -> None:
        """Take a client of the SDK."""
        self._client = client

    @property
    def endpoint(self) -> str:
        """Where it is, as a job remembers it."""
        return str(self._client.base_url).rstrip("/")

    def create(self, body: Path, *, key: str) -> Seen:
        """Make a batch of a body on disk. `Uncertain` if nobody knows whether it was made.

        `key` is an idempotency key: Standby honours it, Claude ignores it.
        """
        client = self._client.with_options(max_retries=0)
        with body.open("rb") as file:
            try:
                answer = client.post(
                    BATCHES,
                    content=file,
                    cast_to=httpx2.Response,
                    options={"headers": {"Idempotency-Key": key}, "timeout": CREATE_TIMEOUT_S},
                )
                return _seen(answer)
            except (anthropic.AnthropicError, ValueError) as error:
                raise fault_of_create(error, self.endpoint) from error

    def newest(self) -> Seen | None:
        """Find the newest batch of the workspace."""
        return next(iter(self._page(limit=1)), None)

    def newer_than(self, anchor: tuple[str, str] | None) -> Iterator[Seen]:
        """Walk over the batches that were made after the anchor (id and time), newest first."""
        after: str | None = None
        while True:
            page = self._page(limit=PAGE, after_id=after) if after else self._page(limit=PAGE)
            for batch in page:
                if anchor is not None and (batch.id == anchor[0] or batch.created_at < anchor[1]):
                    return
                yield batch
            if len(page) < PAGE:
                return
            after = page[-1].id

    def retrieve(self, batch_id: str) -> Seen | None:
        """Look at a batch; None if the service does not know it."""
        try:
            with _translating():
                return _seen(self._client.get(f"{BATCHES}/{batch_id}", cast_to=httpx2.Response))
        except Refused as error:
            if _status(error) == 404:
                return None
            raise

    def cancel(self, batch_id: str) -> None:
        """Ask for the end of a batch; one that has ended stays as it is."""
        try:
            with _translating():
                self._client.post(f"{BATCHES}/{batch_id}/cancel", cast_to=httpx2.Response)
        except Refused as error:
            if _status(error) not in {400, 404}:
                raise

    @contextmanager
    def results(self, batch: Seen, *, offset: int = 0, etag: str | None = None) -> Iterator[Download]:
        """Open the results of a batch as raw bytes, from `offset` on if the service can do that.

        While it is read, `Unavailable` says that the connection broke.
        """
        headers = {"Accept": "application/binary"}
        if offset and etag:
            headers |= {"Range": f"bytes={offset}-", "If-Range": etag}
        url = results_url(batch, self.endpoint)
        with _translating():
            answer = self._client.get(url, cast_to=httpx2.Response, options={"headers": headers}, stream=True)
            try:
                yield Download(
                    offset=offset if answer.status_code == 206 else 0,
                    etag=answer.headers.get("etag"),
                    pieces=answer.iter_bytes(DOWNLOAD_BYTES),
                )
            finally:
                answer.close()

    def count_tokens(self, params: dict[str, Any]) -> int:
        """Count the prompt tokens of a request, by the service's own tokenizer."""
        body = {name: value for name, value in params.items() if name in COUNTED}
        with _translating():
            answer = self._client.post(f"{MESSAGES}/count_tokens", body=body, cast_to=httpx2.Response)
        return int(answer.json()["input_tokens"])

    def model(self, name: str) -> dict[str, Any] | None:
        """Look a model up; None if the service does not know it."""
        try:
            with _translating():
                found: dict[str, Any] = self._client.get(f"/v1/models/{name}", cast_to=httpx2.Response).json()
                return found
        except Refused as error:
            if _status(error) == 404:
                return None
            raise

    def _page(self, **query: Any) -> list[Seen]:
        with _translating():
            answer = self._client.get(BATCHES, cast_to=httpx2.Response, options={"params": query})
        return [seen_of(one) for one in answer.json()["data"]]


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
    except (anthropic.APIConnectionError, httpx2.TransportError, httpx2.StreamError) as error:
        raise Unavailable(f"the connection to the service failed ({type(error).__name__})") from error
    except TypeError as error:
        if "authentication" not in str(error):
            raise
        raise NoAccess("no credentials: set ANTHROPIC_API_KEY, or what else the SDK takes") from error


def results_url(batch: Seen, endpoint: str) -> str:
    """Find where the results of a batch lie; `Refused` if that is not the service itself."""
    url = urljoin(endpoint + "/", batch.results_url or "")
    ours, theirs = urlsplit(endpoint), urlsplit(url)
    if (ours.scheme, ours.netloc) != (theirs.scheme, theirs.netloc):
        raise Refused(
            f"the results of {batch.id} lie on another server ({theirs.scheme}://{theirs.netloc}) than the service "
            f"({ours.scheme}://{ours.netloc}); the key is not sent there. Set the server's public address right"
        )
    return url


def fault_of_create(error: Exception, endpoint: str) -> WorkloadError:
    """Say what a create that failed means: `Uncertain` unless it surely made no batch."""
    if isinstance(error, anthropic.APIConnectionError):
        if isinstance(error.__cause__, SURELY_NOT_SENT):
            return Unavailable(f"{endpoint} cannot be reached")
        return Uncertain("the connection broke before the answer to the create")
    if not isinstance(error, anthropic.APIStatusError):
        return Uncertain("the answer to the create cannot be read")
    if error.status_code >= 500 and error.status_code != 529:
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
    return Refused(f"the service refuses ({status}): {said}")


SPENT = frozenset({"enforced_spend_limit_reached", "contract_spend_limit_reached"})


def _words(error: anthropic.APIStatusError) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    inner = body.get("error")
    return str(inner.get("message", "")) if isinstance(inner, dict) else f"HTTP {error.status_code}"


def _code(error: anthropic.APIStatusError) -> str | None:
    body = error.body if isinstance(error.body, dict) else {}
    inner = body.get("error")
    details = inner.get("details") if isinstance(inner, dict) else None
    return details.get("error_code") if isinstance(details, dict) else None


def _status(error: WorkloadError) -> int:
    return error.__cause__.status_code if isinstance(error.__cause__, anthropic.APIStatusError) else 0


def after_of(answer: httpx2.Response) -> float | None:
    """Read `retry-after`, in seconds."""
    try:
        return max(0.0, float(answer.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _seen(answer: httpx2.Response) -> Seen:
    return seen_of(answer.json(), after_s=after_of(answer))


def seen_of(batch: dict[str, Any], *, after_s: float | None = None) -> Seen:
    """Read a batch as the service writes it."""
    return Seen(
        id=batch["id"],
        status=batch["processing_status"],
        counts=batch["request_counts"],
        created_at=batch["created_at"],
        expires_at=batch["expires_at"],
        ended_at=batch.get("ended_at"),
        archived_at=batch.get("archived_at"),
        results_url=batch.get("results_url"),
        after_s=after_s,
    )
