"""The ASGI application: all routes on one page, and the layers around them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp

from standby.api.auth import Keyring
from standby.api.batches import Batches
from standby.api.compress import Compress
from standby.api.deps import Deps
from standby.api.emulation import Emulation
from standby.api.extensions import Extensions
from standby.api.front import Front, nowhere
from standby.api.guard import Guard, Resource
from standby.api.health import Health
from standby.api.limits import Limits
from standby.api.messages import Messages
from standby.api.models import Models
from standby.api.money import Money
from standby.api.peers import path_prefix
from standby.api.trouble import Trouble


def build_app(deps: Deps) -> ASGIApp:
    """Build the application; nothing is read or opened before the first request."""
    settings = deps.settings
    keyring = Keyring(deps.store, settings.server, deps.clock)
    limits = Limits(settings.limits, deps.store, deps.clock)
    guard = Guard(keyring=keyring, limits=limits, settings=settings.server, is_simulated=deps.stage is not None)
    router = Router(routes(deps, guard, limits), redirect_slashes=False, default=nowhere)
    app: ASGIApp = Compress(router)
    if deps.stage is not None:
        app = Trouble(app, stage=deps.stage, prefix=path_prefix(settings.server))
    return Front(app, keyring=keyring, metrics=deps.metrics)


def routes(deps: Deps, guard: Guard, limits: Limits) -> Sequence[BaseRoute]:
    """List every route; those of the API stand behind the setting `server.path_prefix`."""
    batches, messages, models = Batches(deps, limits), Messages(deps), Models(deps)
    money = Money(deps, limits)
    extensions, health, emulation = Extensions(deps), Health(deps), Emulation(deps.stage)
    batch, live, free, test = guard.batch, guard.live, guard.free, guard.test
    api = [
        Resource("/v1/messages/batches", GET=batch(batches.list), POST=batch(batches.create)),
        Resource("/v1/messages/batches/{batch_id}", GET=batch(batches.retrieve), DELETE=batch(batches.delete)),
        Resource("/v1/messages/batches/{batch_id}/cancel", POST=batch(batches.cancel)),
        Resource("/v1/messages/batches/{batch_id}/results", GET=batch(batches.results)),
        Resource("/v1/messages/count_tokens", POST=live(messages.count_tokens)),
        Resource("/v1/messages", POST=live(messages.create)),
        Resource("/v1/models", GET=free(models.list)),
        Resource("/v1/models/{model_id}", GET=free(models.retrieve)),
        Resource("/standby/v1/batches/{batch_id}", GET=batch(extensions.progress)),
        Resource("/standby/v1/batches/{batch_id}/cost", GET=batch(money.cost)),
        Resource("/standby/v1/scheduler", GET=batch(extensions.scheduler)),
        Resource("/standby/v1/usage", GET=batch(money.usage)),
        Resource("/standby/v1/batches/{batch_id}/results", GET=batch(extensions.partial_results)),
    ]
    stage = [
        Resource("/standby/v1/clock", GET=test(emulation.clock), POST=test(emulation.advance)),
        Resource(
            "/standby/v1/simulator/script",
            GET=test(emulation.script),
            PUT=test(emulation.put_script),
            POST=test(emulation.add_script),
            DELETE=test(emulation.clear_script),
        ),
        Resource(
            "/standby/v1/simulator/faults",
            GET=test(emulation.faults),
            PUT=test(emulation.put_faults),
            POST=test(emulation.add_faults),
            DELETE=test(emulation.clear_faults),
        ),
        Resource(
            "/standby/v1/simulator/requests", GET=test(emulation.requests), DELETE=test(emulation.forget_requests)
        ),
        Resource("/standby/v1/simulator/reset", POST=test(emulation.reset)),
        Resource("/standby/v1/simulator/metrics", GET=test(emulation.metrics)),
    ]
    operation = [
        Resource("/health", GET=health.health),
        Resource("/ready", GET=health.ready),
        Resource("/metrics", GET=health.metrics),
    ]
    prefix = path_prefix(deps.settings.server)
    return [Route(prefix + one.name, one) for one in (*api, *stage)] + [Route(one.name, one) for one in operation]
