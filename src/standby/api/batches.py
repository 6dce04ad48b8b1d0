"""The six batch routes (contract 2)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from standby.api.bodies import check_length, encoding_of, pieces_of
from standby.api.call import Caller, call_of
from standby.api.deps import Deps, Phase, Upload
from standby.api.limits import Limits
from standby.api.peers import base_url
from standby.api.replies import json_reply
from standby.api.results import results_reply
from standby.errors import ApiError, BlobError, Conflict, NotFound, StoreError, invalid
from standby.ids import is_id
from standby.records import Batch, BatchId, Created, Segment
from standby.states import BatchState
from standby.wire.batches import encode_batch, encode_deleted, encode_page

DEFAULT_LIMIT = 20
MAX_LIMIT = 1000
MAX_IDEMPOTENCY_KEY = 255
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")

log = structlog.get_logger("standby.api")


class Batches:
    """Create, retrieve, list, cancel, delete, results."""

    def __init__(self, deps: Deps, limits: Limits) -> None:
        """Keep what the verbs need."""
        self._deps = deps
        self._limits = limits

    async def create(self, request: Request, caller: Caller) -> Response:
        """Hand the body on as it arrives; answer once the batch is durable."""
        if not (_idempotency_key(request) or _is_sdk_retry(request)):
            await self._check_limits(caller)  # else its twin, that was taken, may answer
        check_awake(self._deps)
        check_length(request, self._deps.settings.batch.max_body_mb * 2**20)
        try:
            created = await self._take(request, caller)
        except Conflict:
            raise invalid("idempotency-key: was used before with another body") from None
        call_of(request.scope).is_stored = True
        return self._reply(request, created.batch)

    async def retrieve(self, request: Request, caller: Caller) -> Response:
        """Read one batch."""
        return self._reply(request, await find_batch(self._deps, request, caller))

    async def list(self, request: Request, caller: Caller) -> Response:
        """Read one page, newest first (contract 2.4)."""
        page = await self._deps.store.list_batches(
            caller.workspace_id,
            limit=limit_of(request),
            after=_cursor(request, "after_id"),
            before=_cursor(request, "before_id"),
        )
        base = self._base(request)
        return json_reply(
            encode_page(page, results_url=lambda batch_id: f"{base}/{batch_id}/results", counts_at_end=self._at_end)
        )

    async def cancel(self, request: Request, caller: Caller) -> Response:
        """Stop the dispatch of a batch; the body, if any, is not looked at."""
        batch_id = batch_id_of(request)
        try:
            batch = await self._deps.store.cancel_batch(caller.workspace_id, batch_id, now_us=self._deps.clock())
        except NotFound:
            raise unknown_batch(batch_id) from None
        except Conflict:
            raise invalid(f"Message Batch {batch_id} has already ended and cannot be canceled.") from None
        return self._reply(request, batch)

    async def delete(self, request: Request, caller: Caller) -> Response:
        """Take an ended batch away and erase what it stored."""
        batch_id = batch_id_of(request)
        try:
            await self._deps.store.delete_batch(caller.workspace_id, batch_id)
        except NotFound:
            raise unknown_batch(batch_id) from None
        except Conflict:
            raise invalid("In progress batches cannot be deleted. Consider canceling the batch instead.") from None
        await self._erase(batch_id)
        return json_reply(encode_deleted(batch_id))

    async def results(self, request: Request, caller: Caller) -> ASGIApp:
        """Stream the results of an ended batch."""
        batch = await find_batch(self._deps, request, caller)
        segments = await self._deps.store.manifest(batch.id) if has_results(batch) else []
        if not segments:
            raise no_results(batch.id)
        return await download(self._deps, request, caller, segments)

    async def _check_limits(self, caller: Caller) -> None:
        await self._deps.spending.check(caller.workspace_id)
        await self._limits.check_queue(caller.workspace_id)

    async def _take(self, request: Request, caller: Caller) -> Created:
        upload = self._deps.intake.begin(
            principal=caller.principal,
            rules=caller.rules,
            encoding=encoding_of(request),
            idempotency_key=_idempotency_key(request),
            is_sdk_retry=_is_sdk_retry(request),
        )
        try:
            return await _fill(upload, request)
        except BaseException:
            await upload.abort()
            raise

    async def _erase(self, batch_id: BatchId) -> None:
        # The store already owes this erasure, so the sweeper finishes what fails here.
        try:
            await self._deps.blobs.erase(batch_id)
            await self._deps.store.finish_erasure(batch_id)
        except (BlobError, StoreError) as error:
            log.warning("erasure is left to the sweeper", batch=batch_id, detail=str(error))

    def _reply(self, request: Request, batch: Batch) -> Response:
        url = f"{self._base(request)}/{batch.id}/results"
        return json_reply(encode_batch(batch, results_url=url, counts_at_end=self._at_end))

    def _base(self, request: Request) -> str:
        return f"{base_url(request, self._deps.settings.server)}/v1/messages/batches"

    @property
    def _at_end(self) -> bool:
        return self._deps.settings.batch.counts == "at_end"


async def find_batch(deps: Deps, request: Request, caller: Caller) -> Batch:
    """Read the batch that the path names; 404 if this workspace has none of that id."""
    batch_id = batch_id_of(request)
    try:
        return await deps.store.get_batch(caller.workspace_id, batch_id)
    except NotFound:
        raise unknown_batch(batch_id) from None


async def download(deps: Deps, request: Request, caller: Caller, segments: Sequence[Segment]) -> ASGIApp:
    """Answer with these segments; 404 if the batch was deleted or archived since they were listed."""
    try:
        return await results_reply(request, segments, deps.blobs)
    except BlobError:
        batch = await find_batch(deps, request, caller)
        if batch.archived_us is None:
            raise
        raise no_results(batch.id) from None


def batch_id_of(request: Request) -> BatchId:
    """Read the id from the path; whatever cannot be an id is simply unknown."""
    text = str(request.path_params["batch_id"])
    if not is_id("msgbatch", text):
        raise unknown_batch(text)
    return BatchId(text)


def no_results(batch_id: str) -> ApiError:
    """404 with the contract's wording (2.7)."""
    return ApiError(404, "not_found_error", f"Message Batch {batch_id} has no available results.")


def unknown_batch(batch_id: str) -> ApiError:
    """404 with the contract's wording (2.3)."""
    shown = batch_id.encode("utf-8", "replace").decode()[:100]
    return ApiError(404, "not_found_error", f"Message Batch {shown} not found.")


def has_results(batch: Batch) -> bool:
    """Whether results can be downloaded: ended and not archived."""
    return batch.state is BatchState.ENDED and batch.archived_us is None


def check_awake(deps: Deps) -> None:
    """Refuse new work while the server goes down; an SDK tries again by itself."""
    if deps.state() is Phase.DRAINING:
        raise ApiError(529, "overloaded_error", "The server is shutting down. Try again shortly.")


def limit_of(request: Request) -> int:
    """Read `limit` of a list: 1 to 1000, 20 if it is not there."""
    text = request.query_params.get("limit")
    if text is None:
        return DEFAULT_LIMIT
    if not _WHOLE.fullmatch(text):
        raise invalid("limit: Input should be a valid integer, unable to parse string as an integer")
    if int(text) > MAX_LIMIT:
        raise invalid(f"limit: Input should be less than or equal to {MAX_LIMIT}")
    if int(text) < 1:
        raise invalid("limit: Input should be greater than or equal to 1")
    return int(text)


async def _fill(upload: Upload, request: Request) -> Created:
    async for piece in pieces_of(request.receive):
        await upload.write(piece)
    return await upload.finish()


def _cursor(request: Request, name: str) -> BatchId | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not is_id("msgbatch", text):
        raise invalid(f"{name}: Input should be the id of a message batch")
    return BatchId(text)


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key", "").strip()
    if len(key) > MAX_IDEMPOTENCY_KEY:
        raise invalid(f"idempotency-key: should have at most {MAX_IDEMPOTENCY_KEY} characters")
    return key or None


def _is_sdk_retry(request: Request) -> bool:
    count = request.headers.get("x-stainless-retry-count", "").strip()
    return count.isascii() and count.isdigit() and int(count[:9]) >= 1
