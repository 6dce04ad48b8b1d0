"""For tests of programs that use the Message Batches API: a whole server in this process that does as it is told.

    from standby.testing import emulator

    with emulator(script="bad-*=errored:api_error") as emu:
        client = emu.client()
        …
        emu.advance(hours=24)

For pytest there are the fixtures of `standby.testing.plugin`.
"""

from standby.testing.emulator import AsyncEmulator, Emulator, Received, async_emulator, emulator

__all__ = ["AsyncEmulator", "Emulator", "Received", "async_emulator", "emulator"]
