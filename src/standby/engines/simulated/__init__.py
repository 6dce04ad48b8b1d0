"""The simulator: an emulator of Claude for tests, and the fake engine of our own."""

from standby.engines.simulated.cues import Cues
from standby.engines.simulated.engine import ALIASES, Simulated

__all__ = ["ALIASES", "Cues", "Simulated"]
