"""What every engine must do. A test module subclasses `EngineSuite` and says how its engine is made."""

from __future__ import annotations

from tests.engines.asking import PROMPT, check_order, close, is_idle, text_of, until
from tests.engines.suite_life import Life
from tests.engines.suite_prompts import Prompts
from tests.engines.suite_text import Texts
from tests.engines.suite_tools import Tools

__all__ = ["PROMPT", "EngineSuite", "check_order", "close", "is_idle", "text_of", "until"]


class EngineSuite(Texts, Prompts, Tools, Life):
    """Subclass as `TestX(EngineSuite)` with the fixture `engine` (started; closed afterwards) and `model`."""
