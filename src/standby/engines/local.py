"""The embedded engine: starts the host as a child, watches it, starts it again when it dies or hangs.

A crash of native code ends the child only. What was in flight comes back as BROKEN, what is sent while it
starts again as UNREACHABLE: both are tried again, so no item is lost.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import structlog

from standby.config import EngineSettings
from standby.engines.base import NO_CONTEXT, CacheProfile, Context, EngineProfile, Model, Signals
from standby.engines.chat import Chat, resolve_name
from standby.engines.chat.connection import Connection
from standby.engines.model_file import find_model, model_name
from standby.errors import EngineError, Failure, StartError
from standby.records import Load
from standby.wire.chat.dialect import HOST, LLAMACPP
from standby.wire.messages import CountParams, Event, Message, MessageParams

START_S = 300.0
BEAT_S = 2.0
SILENCE_S = 60.0
"""A host that does not answer `/health` for this long hangs: a step of a big model may take seconds."""
BACK_OFF_S = (0.2, 1.0, 5.0, 15.0)
HEALTHY_S = 60.0
SLOTS = {"openvino": 32, "llamacpp": 4}
MODULES = {"openvino": "openvino_genai", "llamacpp": "xllamacpp"}


class _Ready(msgspec.Struct, frozen=True):
    """The host's line on stdout."""

    uds: str
    port: int
    model: str
    slots: int
    context: int
    pid: int


class Local:
    """The embedded engine as an endpoint."""

    def __init__(
        self, settings: EngineSettings, *, backend: Literal["openvino", "llamacpp"] = "openvino", log: Any = None
    ) -> None:
        """Keep the settings; nothing runs yet. `log` takes `info` and `warning` with a message and keywords."""
        self._settings = settings
        self._backend = backend
        self._log = log or structlog.get_logger(__name__)
        self._folder: Path | None = None
        self._model: Path | None = None
        self._host: _Host | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._slots = settings.slots or SLOTS[backend]
        self._known: list[Model] = []
        self._came_up = asyncio.Event()
        self.starts = 0
        """How often the host was started."""

    @property
    def profile(self) -> EngineProfile:
        """What it declares; settings go before what is known of it, also while it starts."""
        embedded = self._backend == "openvino"
        if self._host is not None:
            profile = self._host.chat.profile
            pins = not embedded and profile.cache is CacheProfile.PER_SLOT
            return replace(profile, pauses_for_live=embedded and profile.yields_to_live, pins_live=pins)
        cache = CacheProfile.SHARED_AFTER_FIRST_TOKEN if embedded else CacheProfile.PER_SLOT
        if self._settings.cache != "auto":
            cache = CacheProfile(self._settings.cache)
        yields = embedded and self._settings.priority != "off"
        return EngineProfile(
            name=self._backend, slots=self._slots, cache=cache, yields_to_live=yields, pauses_for_live=yields
        )

    @property
    def pid(self) -> int | None:
        """The process of the host, while it runs."""
        return self._host.process.pid if self._host is not None else None

    async def start(self) -> None:
        """Find the model and begin to start the host; returns before it is ready. Raises `StartError`."""
        _check_installed(self._backend)
        self._model = await asyncio.to_thread(find_model, self._settings.model)
        self._folder = Path(tempfile.mkdtemp(prefix="standby-"))
        self._keeper = asyncio.ensure_future(self._keep())

    async def close(self) -> None:
        """End the host."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def ready(self) -> bool:
        """Whether the host is up and answers."""
        return self._host is not None and self._host.chat.ready()

    async def wait_ready(self, *, timeout_s: float = START_S) -> None:
        """Wait until it is ready; raises `StartError` after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.ready():
                    self._came_up.clear()
                    await self._came_up.wait()
        except TimeoutError:
            raise StartError(f"the engine host was not ready after {timeout_s:.0f} s; its log says why") from None

    async def generate(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = False,
        context: Context = NO_CONTEXT,
    ) -> Message:
        """Answer one request."""
        return await self._up().generate(params, deadline_us=deadline_us, live=live, context=context)

    async def stream(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = True,
        context: Context = NO_CONTEXT,
    ) -> AsyncGenerator[Event, None]:
        """Answer one request as events."""
        async with aclosing(self._up().stream(params, deadline_us=deadline_us, live=live, context=context)) as events:
            async for event in events:
                yield event

    async def count_tokens(self, params: CountParams) -> int:
        """Count the tokens of the prompt."""
        return await self._up().count_tokens(params)

    async def models(self) -> list[Model]:
        """List the one model; known from the first start on, also while the host starts again."""
        if not self._known:
            self._known = await self._up().models()
        return self._known

    async def resolve(self, model: str) -> str:
        """Return the real id for a name or an alias; raises `unknown_model`."""
        return resolve_name(model, await self.models(), self._settings.aliases)

    def load(self) -> Load:
        """What the host does."""
        return self._host.chat.load() if self._host is not None else Load(slots=self._slots)

    @property
    def connection(self) -> Connection:
        """The way to the host that is up, for questions beyond the contract; `EngineError` while none is."""
        return self._up().connection

    async def signals(self) -> Signals | None:
        """Read the host's metrics; None while it is down."""
        return await self._host.chat.signals() if self._host is not None else None

    def _up(self) -> Chat:
        if self._host is None:
            raise EngineError(Failure.UNREACHABLE, "the engine host is starting")
        return self._host.chat

    async def _keep(self) -> None:
        """Keep a host running: start, watch, start again with back-off."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            try:
                await self._run_once()
            except (OSError, EngineError, StartError) as error:
                self._log.warning("engine host failed", backend=self._backend, reason=str(error))
            failures = 1 if loop.time() - began > HEALTHY_S else failures + 1
            await asyncio.sleep(BACK_OFF_S[min(failures, len(BACK_OFF_S)) - 1])

    async def _run_once(self) -> None:
        """Start one host and return when it has ended."""
        assert self._model is not None
        assert self._folder is not None
        self.starts += 1
        host = _Host(self._settings, self._backend, self._model, self._folder / f"host-{self.starts}.sock", self._log)
        try:
            ready = await host.start()
            self._slots = ready.slots
            self._known = await host.chat.models()
            self._host = host
            self._came_up.set()
            self._log.info(
                "engine host ready", backend=self._backend, model=ready.model, slots=ready.slots, pid=ready.pid
            )
            reason = await host.watch()
            self._log.warning("engine host ended", backend=self._backend, reason=reason)
        finally:
            self._host = None
            await host.stop()


class _Host:
    """One run of the child process."""

    process: asyncio.subprocess.Process
    chat: Chat

    def __init__(self, settings: EngineSettings, backend: str, model: Path, uds: Path, log: Any) -> None:
        self._settings = settings
        self._backend = backend
        self._model = model
        self._uds = str(uds) if hasattr(socket, "AF_UNIX") and sys.platform != "win32" else ""
        self._log = log
        self._started = False
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> _Ready:
        """Start the child and wait for its ready line."""
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            *self._command(), stdin=pipe, stdout=pipe, stderr=pipe, env=_environment(), limit=1 << 20
        )
        self._started = True
        self._reading = asyncio.ensure_future(self._read_log())
        ready = await self._wait_for_ready_line()
        dialect = HOST if self._backend == "openvino" else LLAMACPP
        base = "http://localhost" if ready.uds else f"http://127.0.0.1:{ready.port}"
        self.chat = Chat(
            self._settings, base_url=base, uds=ready.uds or None, dialect=dialect, name=self._backend, slots=ready.slots
        )
        await self.chat.start()
        return ready

    async def watch(self) -> str:
        """Return why it ended, once it has, or once it hangs."""
        ended = asyncio.ensure_future(self.process.wait())
        loop = asyncio.get_running_loop()
        heard = loop.time()
        try:
            while True:
                await asyncio.wait({ended}, timeout=BEAT_S)
                if ended.done():
                    return f"exit status {ended.result()}"
                with suppress(EngineError):
                    await self.chat.check()
                    heard = loop.time()
                if loop.time() - heard > SILENCE_S:
                    return f"no sign of life for {SILENCE_S:.0f} s"
        finally:
            ended.cancel()

    async def stop(self) -> None:
        """End it, whatever it does."""
        if not self._started:
            return
        if hasattr(self, "chat"):
            await self.chat.close()
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        if self._reading is not None:
            await self._reading
        if self.process.stdin is not None:
            self.process.stdin.close()
        await asyncio.to_thread(_remove, self._uds)

    def _command(self) -> list[str]:
        settings = self._settings
        place = ["--uds", self._uds] if self._uds else ["--port", "0"]
        return [
            *(sys.executable, "-m", "standby.host", "--watch-stdin", "--backend", self._backend, *place),
            *("--model", str(self._model), "--name", settings.model_name or model_name(self._model)),
            *("--threads", str(settings.threads), "--slots", str(settings.slots)),
            *("--kv-cache-mb", str(settings.kv_cache_mb), "--context", str(settings.context)),
        ]

    async def _wait_for_ready_line(self) -> _Ready:
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(START_S):
                while line := await self.process.stdout.readline():
                    if line.startswith(b"{"):
                        return msgspec.json.decode(line, type=_Ready)
        except TimeoutError:
            raise StartError(f"the engine host was not ready after {START_S:.0f} s") from None
        raise StartError(f"the engine host ended with status {await self.process.wait()} before it was ready")

    async def _read_log(self) -> None:
        """Pass the child's words on; it never writes prompts."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            text = line.decode("utf-8", "replace").strip()
            level, _, words = text.partition(" ")
            if level in {"ERROR", "WARNING"}:
                self._log.warning("engine host says", text=words)
            elif text:
                self._log.info("engine host says", text=words if level == "INFO" else text)


def _remove(path: str) -> None:
    if path:
        Path(path).unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    """The child's environment: ours, without secrets that it does not need."""
    return {name: value for name, value in os.environ.items() if not name.endswith("API_KEY")}


def _check_installed(backend: str) -> None:
    from importlib.util import find_spec  # noqa: PLC0415

    if find_spec(MODULES[backend]) is None:
        extra = "local" if backend == "openvino" else "llamacpp"
        raise StartError(
            f"the embedded engine is not installed; `pip install 'standby[{extra}]'`, or --engine simulated"
        )
