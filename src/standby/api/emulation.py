"""What tests turn while the simulator runs, under `/standby/v1/`: clock, script, faults; and what arrived."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Concatenate

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from standby.api.bodies import read_body
from standby.api.metrics import CONTENT_TYPE
from standby.api.replies import json_reply
from standby.emulation.clock import seconds_of
from standby.emulation.faults import faults_of
from standby.emulation.script import rules_of
from standby.emulation.stage import Stage
from standby.errors import ApiError, ScriptError, invalid
from standby.records import DAY, SECOND
from standby.wire.batches import timestamp

MOST_BYTES = 1 << 20
FARTHEST_US = 36_500 * DAY


def staged(
    endpoint: Callable[Concatenate[Emulation, Stage, Request, ...], Awaitable[Response]],
) -> Callable[[Emulation, Request], Awaitable[Response]]:
    """Answer 404 if another engine than the simulator runs, and 400 for what cannot be understood."""

    async def on_stage(self: Emulation, request: Request) -> Response:
        if self.stage is None:
            raise ApiError(
                404, "not_found_error", "This is only there with the simulator: standby serve --engine simulated"
            )
        try:
            return await endpoint(self, self.stage, request)
        except ScriptError as error:
            raise invalid(str(error)) from None

    return on_stage


class Emulation:
    """The routes; `stage` is None unless the engine is the simulator."""

    def __init__(self, stage: Stage | None) -> None:
        """Keep the stage."""
        self.stage = stage

    @staged
    async def clock(self, stage: Stage, request: Request) -> Response:  # noqa: ARG002 - the shape of an endpoint
        """Tell the time."""
        return _time(stage)

    @staged
    async def advance(self, stage: Stage, request: Request) -> Response:
        """Let time pass; answers when all that is due has happened."""
        given = await _object(request, "advance", "advance_s")
        if len(given) != 1:
            raise invalid('write one of {"advance": "24h"} and {"advance_s": 86400}')
        by_us = int(seconds_of(*given.values()) * SECOND)
        if stage.clock.ahead_us + by_us > FARTHEST_US:
            raise invalid("advance: a clock is moved 100 years ahead at most")
        return _time(stage, is_settled=await stage.advance(by_us))

    @staged
    async def script(self, stage: Stage, request: Request) -> Response:  # noqa: ARG002 - the shape of an endpoint
        """Show the rules in the order in which they are asked."""
        return _script(stage)

    @staged
    async def put_script(self, stage: Stage, request: Request) -> Response:
        """Replace the rules that were set."""
        stage.script.put(rules_of(await _given(request, "script")))
        return _script(stage)

    @staged
    async def add_script(self, stage: Stage, request: Request) -> Response:
        """Put rules in front of those that were set."""
        stage.script.prepend(rules_of(await _given(request, "script")))
        return _script(stage)

    @staged
    async def clear_script(self, stage: Stage, request: Request) -> Response:  # noqa: ARG002 - the shape of an endpoint
        """Forget the rules that were set."""
        stage.script.clear()
        return _script(stage)

    @staged
    async def faults(self, stage: Stage, request: Request) -> Response:  # noqa: ARG002 - the shape of an endpoint
        """Show the faults, and how often each struck."""
        return _faults(stage)

    @staged
    async def put_faults(self, stage: Stage, request: Request) -> Response:
        """Replace the faults that were set."""
        stage.faults.put(faults_of(await _given(request, "faults")))
        return _faults(stage)

    @staged
    async def add_faults(self, stage: Stage, request: Request) -> Response:
        """Put faults in front of those that were set."""
        stage.faults.prepend(faults_of(await _given(request, "faults")))
        return _faults(stage)

    @staged
    async def clear_faults(self, stage: Stage, request: Request) -> Response:  # noqa: ARG002 - the shape of an endpoint
        """Forget the faults that were set."""
        stage.faults.clear()
        return _faults(stage)

    @staged
    async def requests(self, stage: Stage, request: Request) -> Response:  # noqa: ARG002 - the shape of an endpoint
        """Show what arrived."""
        return _json({"requests": stage.seen()})

    @staged
    async def forget_requests(self, stage: Stage, request: Request) -> Response:  # noqa: ARG002 - the shape of an endpoint
        """Forget what arrived."""
        stage.arrivals.clear()
        return _json({"requests": []})

    @staged
    async def reset(self, stage: Stage, request: Request) -> Response:  # noqa: ARG002 - the shape of an endpoint
        """Forget everything, and delete every batch."""
        await stage.reset()
        return _time(stage)

    @staged
    async def metrics(self, stage: Stage, request: Request) -> Response:  # noqa: ARG002 - the shape of an endpoint
        """Write what the simulated engine tells of itself."""
        return Response(stage.metrics(), headers={"content-type": CONTENT_TYPE})


def _time(stage: Stage, **more: Any) -> Response:
    return _json({"now": timestamp(stage.clock()), "ahead_s": stage.clock.ahead_us / SECOND, **more})


def _script(stage: Stage) -> Response:
    return _json({"script": [rule.source for rule in (*stage.script.rules, *stage.script.filed)]})


def _faults(stage: Stage) -> Response:
    return _json({"faults": stage.faults.shown()})


def _json(value: Any) -> Response:
    return json_reply(msgspec.json.encode(value))


async def _given(request: Request, key: str) -> Any:
    given = await _object(request, key)
    if key not in given:
        raise invalid(f"{key}: Field required")
    return given[key]


async def _object(request: Request, *keys: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(await read_body(request, max_bytes=MOST_BYTES))
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid("The request body is not valid JSON") from None
    if not isinstance(value, dict):
        raise invalid("The request body is not a JSON object")
    unknown = sorted(value.keys() - set(keys))
    if unknown:
        raise invalid(f"{unknown[0][:100]}: Extra inputs are not permitted")
    return value
