"""The models that the engines serve (contract 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from standby.api.batches import limit_of
from standby.api.call import Caller
from standby.api.deps import Deps
from standby.api.replies import json_reply
from standby.engines.base import Model
from standby.errors import invalid, unknown_model
from standby.wire.claude import CHECKED, find
from standby.wire.models import UNLISTED, Listing, encode_model, encode_models, model_object

LIFECYCLES = frozenset({"active", "deprecated", "retired"})


class Models:
    """List and retrieve."""

    def __init__(self, deps: Deps) -> None:
        """Keep what the verbs need."""
        self._deps = deps

    async def list(self, request: Request, caller: Caller) -> Response:  # noqa: ARG002 - the shape of an endpoint
        """Read one page, newest first."""
        wanted = _lifecycles(request)
        models = [model for model in await self._deps.engine.models() if _listing(model.id).lifecycle in wanted]
        page, has_more = page_of(
            models,
            limit=limit_of(request),
            after=request.query_params.get("after_id"),
            before=request.query_params.get("before_id"),
        )
        return json_reply(encode_models([_object(model) for model in page], has_more=has_more))

    async def retrieve(self, request: Request, caller: Caller) -> Response:  # noqa: ARG002 - the shape of an endpoint
        """Read one model, by id or by an alias."""
        name = str(request.path_params["model_id"])
        model_id = await self._deps.engine.resolve(name)
        for model in await self._deps.engine.models():
            if model.id == model_id:
                return json_reply(encode_model(_object(model)))
        raise unknown_model(name)


def page_of(
    models: Sequence[Model], *, limit: int, after: str | None, before: str | None
) -> tuple[Sequence[Model], bool]:
    """Cut a page out of the list; `before` wins, and takes the models nearest to the cursor (contract 2.4)."""
    if before is not None:
        newer = models[: _place(models, "before_id", before)]
        return newer[-limit:], len(newer) > limit
    rest = models if after is None else models[_place(models, "after_id", after) + 1 :]
    return rest[:limit], len(rest) > limit


def _object(model: Model) -> dict[str, Any]:
    """Write a model; what an engine cannot tell stands in the catalogue, if it is one of Claude's."""
    return model_object(
        model.id,
        display_name=model.display_name,
        created_us=model.created_us,
        max_input_tokens=model.max_input_tokens,
        max_output_tokens=model.max_output_tokens,
        features=model.features,
        listing=_listing(model.id),
    )


def _listing(model_id: str) -> Listing:
    """Look a model up. None that is served here is retired, whatever the catalogue says."""
    claude = find(model_id)
    if claude is None:
        return UNLISTED
    return Listing(
        lifecycle="active" if claude.lifecycle(CHECKED) == "active" else "deprecated",
        line=claude.line,
        retires_us=claude.retires_us,
        thinking=claude.thinking,
    )


def _place(models: Sequence[Model], name: str, model_id: str) -> int:
    for place, model in enumerate(models):
        if model.id == model_id:
            return place
    raise invalid(f"{name}: Input should be the id of a model")


def _lifecycles(request: Request) -> set[str]:
    query = request.query_params
    wanted = {*query.getlist("lifecycle[]"), *query.getlist("lifecycle")}
    if wanted - LIFECYCLES:
        raise invalid("lifecycle: Input should be 'active', 'deprecated' or 'retired'")
    return wanted or {"active", "deprecated"}
