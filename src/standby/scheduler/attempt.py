"""One attempt at one item on one engine."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import structlog

from standby.engines.base import Context, Engine, check_model
from standby.errors import ApiError, EngineError, Failure, InvalidParams
from standby.records import Bill
from standby.scheduler.flight import Flight
from standby.scheduler.held import Queued, Settled
from standby.states import Outcome
from standby.wire.batches import errored_row, succeeded_row
from standby.wire.messages import Message, decode_params

log = structlog.get_logger("standby.worker")


async def attempt(engine: Engine, flight: Flight, *, bill: Callable[[Message], Bill]) -> Settled:
    """Run the item once; raises `EngineError` if the engine failed and the item may be tried again."""
    lease, item = flight.held.lease, flight.item
    if item.params is None:
        log.error("stored item is damaged", batch=lease.batch_id, item=item.entry.item)
        return errored(item, "api_error", "The stored request is damaged; submit it again")
    try:
        params = decode_params(item.params, rules=lease.rules, batch=True)
        await check_model(engine, params)
        message = await engine.generate(params, deadline_us=lease.expires_us, live=False, context=_context(flight))
        return _succeeded(flight, message, bill)
    except InvalidParams as fault:
        return errored(item, fault.type, fault.message)
    except (EngineError, ApiError):
        raise
    except Exception as error:
        frames = "".join(traceback.format_tb(error.__traceback__))  # without the message, which may quote a prompt
        log.error(  # noqa: TRY400 - see above
            "attempt broke", batch=lease.batch_id, item=item.entry.item, error=type(error).__name__, frames=frames
        )
        raise EngineError(Failure.BROKEN, f"Internal error ({type(error).__name__})") from error


def _context(flight: Flight) -> Context:
    lease, item = flight.held.lease, flight.item
    return Context(
        workspace_id=lease.workspace_id,
        batch_id=lease.batch_id,
        custom_id=item.entry.custom_id,
        attempt=item.tries.total + 1,
        simulate=lease.rules.simulate,
        watch=flight,
        sent=flight.sent,
        at=flight.endpoint,
        slot=flight.place.slot,
    )


def errored(item: Queued, type_: str, message: str) -> Settled:
    """The item's row when it failed for ever."""
    return Settled(
        item=item.entry.item,
        outcome=Outcome.ERRORED,
        row=errored_row(item.entry.custom_id, type_, message),
    )


def _succeeded(flight: Flight, message: Message, bill: Callable[[Message], Bill]) -> Settled:
    entry, billed = flight.item.entry, bill(message)
    return Settled(
        item=entry.item,
        outcome=Outcome.SUCCEEDED,
        row=succeeded_row(entry.custom_id, message),
        tokens=billed.tokens,
        bill=billed,
        reuse=flight.reuse,
    )
