"""A request on its way through the step loop, and what comes out of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from standby.host.ask import Ask
from standby.host.guard import Guard
from standby.host.text import Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Something for the client: text, or the end."""

    text: str
    completion_tokens: int
    finish: str | None = None
    """`stop`, `length`, `failed`, or `refused`: its grammar ended the library."""
    stop: str | None = None
    """The stop string that was found."""


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """One request on its way through the loop."""

    number: int
    ask: Ask
    prompt: list[int]
    limit: int
    writer: Writer
    guard: Guard | None = None
    """Keeps a structured answer inside its language."""
    pieces: asyncio.Queue[Piece] = field(default_factory=asyncio.Queue)
    kept: list[int] = field(default_factory=list)
    cached: int = 0
    """Prompt tokens found in the prefix cache when it first ran (derived)."""
    prompt_keys: list[bytes] = field(default_factory=list)
    held: list[bytes] = field(default_factory=list)
    todo: tuple[bytes, ...] = ()
    handle: Any = None
    ran: bool = False
    started: bool = False
    is_slice: bool = False
    """Whether it only reads a part of its prompt now."""
    read: int = 0
    """Tokens that were read so far, slice by slice."""
    over: bool = False
    unsent: str = ""

    @property
    def tokens(self) -> list[int]:
        """Everything the library has to know to go on."""
        return self.prompt + self.kept

    @property
    def structured(self) -> bool:
        """Whether it runs inside a grammar."""
        return self.ask.language is not None
