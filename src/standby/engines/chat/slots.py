"""Whether a prompt may be sent to the slot of an engine that keeps its beginning, on engines with a cache per slot.

llama.cpp takes `id_slot`: a request waits for that slot even while others are idle, and the number wraps around. Its
default of one KV cache for all slots (no `--parallel`) saves idle slots to memory and empties them whenever work
begins; a request for a slot then finds nothing, while one that names none gets back what was saved. So an engine whose
settings are not ours is tried once before the first such request.
"""

from __future__ import annotations

import asyncio
import logging

from standby.engines.chat.connection import Connection
from standby.engines.chat.trials import Trials
from standby.errors import EngineError
from standby.wire.chat.dialect import Dialect

log = logging.getLogger("standby.engines.chat")


class Slots:
    """Asks an engine once whether its slots keep what they have."""

    def __init__(self, connection: Connection, *, is_ours: bool) -> None:
        """Ask over `connection`; an engine that `is_ours` was started so that they do."""
        self._connection = connection
        self._is_ours = is_ours
        self._trying: asyncio.Task[bool] | None = None

    def forget(self) -> None:
        """Ask again: the engine may be another one now."""
        if self._trying is not None and self._trying.done():
            self._trying = None

    async def close(self) -> None:
        """Ask no longer."""
        if self._trying is not None:
            self._trying.cancel()
            await asyncio.wait({self._trying})

    async def are_kept(self, dialect: Dialect, model: str) -> bool:
        """Say whether an idle slot keeps its cache while others work; the first callers wait for the trial."""
        if self._is_ours:
            return True
        if self._trying is None:
            self._trying = asyncio.ensure_future(self._try(dialect, model))
        return await asyncio.shield(self._trying)

    async def _try(self, dialect: Dialect, model: str) -> bool:
        try:
            kept = await Trials(self._connection, dialect, model).keeps_slots()
        except EngineError:
            return False
        if not kept:
            log.info("%s: it empties idle slots, so it chooses the slot of a prompt itself", self._connection.base)
        return kept
