"""The simulator: an emulator of Claude for tests, and the fake engine of our own."""

from standby.engines.simulated.engine import ALIASES, Simulated, stopped

__all__ = ["ALIASES", "Simulated", "stopped"]
