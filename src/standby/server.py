"""The composition root: settings in, a running server out. Only here are stores and engines named by class.

Start: lock the folder, open store and blobs, give back what a dead process held, remove what nobody accepted, start
the engine, listen, work. Stop: stop leasing, let requests and items in flight finish, commit, give back, close.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import structlog
import uvicorn
from prometheus_client import CollectorRegistry

from standby.api.app import build_app
from standby.api.deps import Deps, Phase
from standby.api.metrics import Metrics
from standby.api.protocol import JsonProtocol
from standby.api.till import Till
from standby.blobs.base import Blobs
from standby.blobs.local import LocalBlobs
from standby.config import EngineSettings, Settings
from standby.emulation.stage import Stage, build_stage
from standby.engines.base import Engine
from standby.engines.findings import Findings
from standby.engines.pool import Pool
from standby.engines.pool_meters import EndpointMeters
from standby.errors import PriceError, ScriptError, SettingError, StartError
from standby.folder import locked, made
from standby.logs import set_up_logs
from standby.pricing.book import PriceBook, open_book
from standby.records import Clock, Queue
from standby.scheduler.control import TICK_S, AdmissionMeters, Control
from standby.scheduler.explain import Explain
from standby.scheduler.inspection import inspect
from standby.scheduler.intake import Intake
from standby.scheduler.meters import Meters
from standby.scheduler.rest import Rest
from standby.scheduler.runner import run as run_loop
from standby.scheduler.spending import READ_S, Spending
from standby.scheduler.sweeper import Sweeper
from standby.scheduler.worker import Worker
from standby.store.base import Store
from standby.store.sqlite import SqliteStore

SWEEP_S = 0.1
EMBEDDED = frozenset({"local", "llamacpp"})
LEASE_BEATS = 3
BACKLOG = 2048
SWITCH_S = 0.0005
"""How long a thread may keep the event loop waiting for the interpreter; Python's own 5 ms show in live latency."""

log = structlog.get_logger("standby.server")


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; 0 after an orderly stop. Raises `StartError` or `SettingError`."""
    set_up_logs(settings.log)
    sys.setswitchinterval(SWITCH_S)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(settings, say=_print))
    return 0


async def serve(settings: Settings, *, say: Callable[[str], None], stop: asyncio.Event | None = None) -> None:
    """Serve until `stop` is set or a signal comes; `say` gets the lines for the person who started it."""
    stop = stop or asyncio.Event()
    folder = Path(settings.store.data)
    with locked(folder):
        async with _opened_store(settings) as store, _opened_blobs(settings) as blobs:
            await _check_exposure(settings, store)
            with _listening(settings) as listener:
                await _serve_on(settings, store, blobs, listener, say=say, stop=stop)


async def open_store(settings: Settings) -> Store:
    """Open the store of these settings; a server may be using it."""
    store = SqliteStore(made(Path(settings.store.data)) / "standby.db")
    await store.open()
    return store


@contextlib.asynccontextmanager
async def opened_to_read(settings: Settings) -> AsyncIterator[tuple[Store, Blobs]]:
    """Open store and blobs of these settings to look at them; a server may be using them."""
    async with _opened_store(settings) as store:
        blobs = _blobs(settings)
        await blobs.open_to_read()
        try:
            yield store, blobs
        finally:
            await blobs.close()


def doctor(settings: Settings) -> list[str]:
    """Check a data folder that no server uses; one sentence a fault. Raises `StartError` if it cannot be opened."""
    if not (Path(settings.store.data) / "standby.db").exists():
        raise StartError(f"store.data: there is no Standby data in {settings.store.data}")
    return asyncio.run(_inspected(settings))


def probe_engine(settings: Settings, *, model: str, deep: bool) -> Findings:
    """Find out what the chat-completions endpoint at the URL `engine.kind` can do; `deep` lets `model` answer."""
    from standby.engines.chat.probe import probe  # noqa: PLC0415 - heavy, loaded only if asked for

    return asyncio.run(probe(settings.engine, model=model, deep=deep))


async def _inspected(settings: Settings) -> list[str]:
    with locked(Path(settings.store.data)):
        async with _opened_store(settings) as store:
            blobs = _blobs(settings)
            await blobs.open()
            return [*await store.check(), *await inspect(store, blobs)]


async def _serve_on(
    settings: Settings,
    store: Store,
    blobs: Blobs,
    listener: socket.socket,
    *,
    say: Callable[[str], None],
    stop: asyncio.Event,
) -> None:
    stage = _stage(settings)
    clock: Clock = now_us if stage is None else stage.clock
    registry = CollectorRegistry()
    meters = Meters(registry)
    engine = build_engine(settings, meters=EndpointMeters(registry), stage=stage)
    control = Control(engine, settings.worker, clock=clock, meters=AdmissionMeters(registry))
    if isinstance(engine, Pool):
        engine.most_batch = control.allowed
    prices = await _prices(settings)
    sweeper = Sweeper(store=store, blobs=blobs, settings=settings.batch, clock=clock, meters=meters)
    await store.release_runs(holder=None)
    await sweeper.remove_orphans()
    await engine.start()
    try:
        spending = Spending(store=store, settings=settings.limits, clock=clock)
        await spending.run_once()
        worker = Worker(
            store=store,
            blobs=blobs,
            engine=engine,
            settings=settings.worker,
            grace_s=settings.batch.grace_s,
            clock=clock,
            meters=meters,
            prices=prices,
            control=control,
            quota=spending.quota,
        )
        till = Till(store=store, prices=prices, clock=clock, settle=spending.settle)
        if stage is not None:
            rest = Rest(store=store, blobs=blobs, engine=engine, worker=worker, sweeper=sweeper, clock=stage.clock)
            _set(stage, rest, worker, grace_s=settings.batch.grace_s)
        phase = [Phase.READY]
        deps = Deps(
            settings=settings,
            store=store,
            blobs=blobs,
            engine=engine,
            intake=Intake(
                store=store,
                blobs=blobs,
                settings=settings.batch,
                clock=clock,
                room=Queue(items=settings.limits.enqueued_items, tokens=settings.limits.enqueued_tokens),
                check=spending.check,
            ),
            clock=clock,
            metrics=Metrics(registry),
            prices=prices,
            spending=spending,
            till=till,
            explain=Explain(worker),
            state=lambda: phase[0],
            stage=stage,
        )
        web = _Web(_web_config(build_app(deps), settings))
        async with _loops(worker, sweeper, till, spending, control, settings) as stop_loops:
            serving = asyncio.create_task(web.serve(sockets=[listener]))
            for line in welcome(settings, listener):
                say(line)
            with _signals(stop):
                await _first(stop.wait(), serving)
            log.info("stopping")
            phase[0] = Phase.DRAINING
            web.should_exit = True
            await stop_loops()
            await asyncio.gather(serving, worker.drain(grace_s=settings.server.shutdown_grace_s))
    finally:
        await engine.close()
    log.info("stopped")


async def _prices(settings: Settings) -> PriceBook:
    """Open the price book; where Claude's prices will be asked for, they are loaded before the first request waits."""
    try:
        prices = open_book(settings.prices, Path(settings.store.data))
    except PriceError as error:
        raise StartError(str(error)) from error
    kinds = [own.kind for _, own in settings.endpoints] or [settings.engine.kind]
    if any(kind not in EMBEDDED for kind in kinds) or any(price.same_as for _, price in settings.prices):
        await asyncio.to_thread(prices.price, "claude-haiku-4-5", now_us())
    return prices


def _stage(settings: Settings) -> Stage | None:
    """With nothing but simulators behind it the server is an emulator: tests turn its clock and its script."""
    kinds = [own.kind for _, own in settings.endpoints] or [settings.engine.kind]
    if any(kind != "simulated" for kind in kinds):
        return None
    try:
        return build_stage(settings.simulator.script)
    except ScriptError as error:
        raise SettingError(f"simulator.script: {error}") from None


def _set(stage: Stage, rest: Rest, worker: Worker, *, grace_s: float) -> None:
    """Let the stage know whom its clock concerns."""
    worker.later = stage.clock.call_later
    stage.hold = worker.hold_until
    stage.settle = rest.settle
    stage.empty = functools.partial(rest.empty, grace_s=grace_s)


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the person who started the server reads it


def build_engine(settings: Settings, *, meters: EndpointMeters | None = None, stage: Stage | None = None) -> Engine:
    """Choose the engine that the settings name, or a pool of all endpoints; heavy ones are loaded only then.

    The simulator alone stands without a pool, unless it behaves like an engine: scripted failures reach the client as
    they are.
    """
    is_claude = settings.engine.kind == "simulated" and settings.simulator.profile == "claude"
    if is_claude and not settings.endpoints:
        return _one_engine("simulated", settings.engine, settings, stage)
    named = settings.endpoints or (("engine", settings.engine),)
    return Pool(
        [(name, _one_engine(name, own, settings, stage)) for name, own in named],
        [own for _, own in named],
        clock=now_us if stage is None else stage.clock,
        meters=meters,
    )


def _one_engine(name: str, own: EngineSettings, settings: Settings, stage: Stage | None) -> Engine:
    kind = own.kind
    if kind == "simulated":
        from standby.engines.simulated import Simulated  # noqa: PLC0415 - heavy, loaded only if chosen

        if stage is None:
            return Simulated(settings.simulator)
        simulated = Simulated(settings.simulator, clock=stage.clock, script=stage.script)
        stage.actors.append(simulated)
        return simulated
    if kind in {"local", "llamacpp"}:
        from standby.engines.local import Local  # noqa: PLC0415 - heavy, loaded only if chosen

        return Local(own, backend="openvino" if kind == "local" else "llamacpp")
    if kind.startswith(("http://", "https://")):
        return _remote_engine(name, own)
    at = f"endpoints.{name}.kind" if settings.endpoints else "engine.kind"
    raise SettingError(f"{at}: must be local, llamacpp, simulated or a URL, not {kind!r}")


def _remote_engine(name: str, own: EngineSettings) -> Engine:
    from standby.engines.chat import Chat  # noqa: PLC0415 - heavy, loaded only if chosen
    from standby.engines.messages import Either, Messages  # noqa: PLC0415 - the same

    chat = functools.partial(Chat, own, base_url=own.kind)
    messages = functools.partial(Messages, own, base_url=own.kind, name=name)
    if own.api == "auto":
        return Either(own, base_url=own.kind, name=name, chat=chat, messages=messages)
    return messages() if own.api == "messages" else chat()


def welcome(settings: Settings, listener: socket.socket) -> Iterator[str]:
    """What a person needs to know: where it is, and how to point an SDK at it."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = settings.server.public_url or f"http://{shown}:{port}{settings.server.path_prefix}"
    if settings.endpoints:
        yield f"Standby serves {url} with {len(settings.endpoints)} endpoints; data in {settings.store.data}"
        for name, own in settings.endpoints:
            yield f"  {name}: {own.kind}"
    else:
        yield f"Standby serves {url} with the {settings.engine.kind} engine; data in {settings.store.data}"
    yield f'  Python:      client = anthropic.Anthropic(base_url="{url}", api_key="…")'
    yield f'  TypeScript:  const client = new Anthropic({{ baseURL: "{url}", apiKey: "…" }})'


def now_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


@contextlib.asynccontextmanager
async def _opened_store(settings: Settings) -> AsyncIterator[Store]:
    store = await open_store(settings)
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def _opened_blobs(settings: Settings) -> AsyncIterator[Blobs]:
    blobs = _blobs(settings)
    await blobs.open()
    try:
        yield blobs
    finally:
        await blobs.close()


def _blobs(settings: Settings) -> Blobs:
    return LocalBlobs(Path(settings.store.data))


async def _check_exposure(settings: Settings, store: Store) -> None:
    """Refuse to be reachable by others while everybody would be let in."""
    has_key = any(key.revoked_us is None for key in await store.list_keys())
    if has_key:
        return
    if not _is_loopback(settings.server.host):
        raise StartError(
            f"server.host: {settings.server.host} can be reached by others, but no API key is defined; "
            "make one with `standby keys create`, or listen on 127.0.0.1"
        )
    log.warning("no API key is defined: only this machine can connect, and any key is accepted")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    host, port = settings.server.host, settings.server.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        hint = "; choose another with --port" if error.errno in {98, 48} else ""
        raise StartError(f"server.port: cannot listen on {host}:{port}: {error.strerror}{hint}") from error
    with listener:
        yield listener


def _web_config(app: object, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        lifespan="off",
        log_config=None,
        access_log=False,
        http=JsonProtocol,
        ws="none",
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, int(settings.server.shutdown_grace_s)),
    )


class _Web(uvicorn.Server):
    """Uvicorn without its own signal handlers: stopping is the composition root's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


@contextlib.asynccontextmanager
async def _loops(
    worker: Worker, sweeper: Sweeper, till: Till, spending: Spending, control: Control, settings: Settings
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Run the loops; the yielded function ends those that begin new work and leaves the committer running."""
    stop, stop_commits = asyncio.Event(), asyncio.Event()

    async def sweep() -> None:
        await sweeper.run_once()

    beat_s = settings.worker.lease_s / LEASE_BEATS
    tasks = [
        asyncio.create_task(run_loop("worker", worker.run_once, stop=stop, wake=worker.wake, idle_s=1.0)),
        asyncio.create_task(run_loop("sweeper", sweep, stop=stop, idle_s=SWEEP_S)),
    ]
    lasting = [
        asyncio.create_task(run_loop("spending", spending.run_once, stop=stop_commits, idle_s=READ_S)),
        asyncio.create_task(run_loop("till", till.run_once, stop=stop_commits, wake=till.wake, idle_s=1.0)),
        asyncio.create_task(run_loop("admission", control.run_once, stop=stop_commits, idle_s=TICK_S)),
        asyncio.create_task(run_loop("leases", worker.renew_once, stop=stop_commits, idle_s=beat_s)),
        asyncio.create_task(
            run_loop("committer", worker.committer.run_once, stop=stop_commits, wake=worker.committer.wake, idle_s=1.0)
        ),
    ]

    async def end() -> None:
        stop.set()
        await asyncio.gather(*tasks)

    try:
        yield end
    finally:
        await end()
        stop_commits.set()
        await asyncio.gather(*lasting)
        await control.close()
        await till.run_once()


async def _first(stopped: Awaitable[object], serving: asyncio.Task[None]) -> None:
    waiting = asyncio.ensure_future(stopped)
    await asyncio.wait({waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    handled = (signal.SIGTERM, signal.SIGINT)
    with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
        for number in handled:
            loop.add_signal_handler(number, stop.set)
    yield


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not on every system
    except ImportError:
        return None
    return uvloop.new_event_loop
