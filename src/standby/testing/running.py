"""A server in a thread of its own, with a temporary data folder, for as long as a test needs it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_URL = re.compile(r"https?://\S+")


class Running:
    """A context manager: the server answers when it is entered, and is gone when it is left."""

    def __init__(self, settings: Mapping[str, Any], *, data: Path | None = None) -> None:
        """Keep the settings, with `__` for the dot; nothing runs yet."""
        self._given = {name.replace("__", "."): value for name, value in settings.items()}
        self._data = data
        self._stack = contextlib.ExitStack()
        self._began: queue.SimpleQueue[str | BaseException] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.url = ""

    def __enter__(self) -> Self:
        """Start; raises what kept the server from starting."""
        with contextlib.ExitStack() as stack:
            folder = self._data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="standby-")))
            stack.enter_context(_quiet_logs())
            thread = threading.Thread(target=self._run, args=(folder,), name="standby-emulator", daemon=True)
            thread.start()
            stack.callback(self._end, thread)
            began = self._began.get()
            if isinstance(began, BaseException):
                raise began
            self.url = began
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and remove what is left."""
        self._stack.close()

    def _run(self, folder: Path) -> None:
        try:
            with asyncio.Runner() as runner:
                self._loop = runner.get_loop()
                runner.run(self._serve(folder))
        except BaseException as error:  # noqa: BLE001 - whoever waits for the start gets it, whatever it is
            self._began.put(error)

    async def _serve(self, folder: Path) -> None:
        from standby.config import load_settings  # noqa: PLC0415 - heavy, loaded only when an emulator starts
        from standby.server import serve  # noqa: PLC0415 - the same

        flags = {
            "engine.kind": "simulated",
            "server.port": 0,
            "server.shutdown_grace_s": 0.0,
            **self._given,
            "store.data": str(folder),
        }
        self._stop = asyncio.Event()
        await serve(load_settings(environ={}, flags=flags), say=self._hear, stop=self._stop)

    def _hear(self, line: str) -> None:
        """The server says its address first."""
        found = _URL.search(line)
        if not self.url and found is not None:
            self._began.put(found[0])

    def _end(self, thread: threading.Thread) -> None:
        if self._loop is not None and self._stop is not None and thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
        thread.join()


_quiet: list[logging.Handler] = []
"""One for each server that runs in this process and sends its logs there."""


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    """Send our logs to `logging`, where test runners look for them, unless this process has made its own choice."""
    import structlog  # noqa: PLC0415 - see above

    if structlog.is_configured() and not _quiet:
        yield
        return
    silence = logging.NullHandler()
    _quiet.append(silence)
    logging.getLogger("standby").addHandler(silence)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.processors.format_exc_info, _as_text],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    try:
        yield
    finally:
        _quiet.remove(silence)
        if not _quiet:
            structlog.reset_defaults()
        logging.getLogger("standby").removeHandler(silence)


def _as_text(logger: object, method: str, event: Mapping[str, Any]) -> str:  # noqa: ARG001 - the shape of a processor
    words = [f"{key}={value}" for key, value in event.items() if key != "event"]
    return " ".join([str(event["event"]), *words])
