"""Doors: the places where a crash must do no harm, each with a name.

Production passes through them at the price of one comparison. A crash test names one door in
`STANDBY_CRASH_AT=name[:n]` and the process dies there, at its n-th passage, as if the power
had gone; or it installs a listener to learn which doors a scenario passes.
"""

from __future__ import annotations

import os
from collections.abc import Callable

listener: Callable[[str], None] | None = None


def door(name: str) -> None:
    """Pass the door `name`."""
    if listener is not None:
        listener(name)


def crash_at(spec: str) -> Callable[[str], None]:
    """Return a listener that ends the process without any clean-up at the n-th passage of a door."""
    name, _, count = spec.partition(":")
    left = int(count or "1")

    def crash(passed: str) -> None:
        nonlocal left
        if passed == name:
            left -= 1
            if left == 0:
                os._exit(137)

    return crash


if os.environ.get("STANDBY_CRASH_AT"):
    listener = crash_at(os.environ["STANDBY_CRASH_AT"])
