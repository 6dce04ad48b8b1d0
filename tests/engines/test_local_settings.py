from __future__ import annotations

from typing import Any

import pytest

from standby.config import EngineSettings
from standby.engines.base import CacheProfile
from standby.engines.local import Local


@pytest.mark.parametrize(
    ("backend", "settings", "expected"),
    [
        ("openvino", {}, (CacheProfile.SHARED_AFTER_FIRST_TOKEN, True, 32)),
        ("llamacpp", {}, (CacheProfile.PER_SLOT, False, 4)),
        ("openvino", {"cache": "none", "priority": "off", "slots": 3}, (CacheProfile.NONE, False, 3)),
        ("llamacpp", {"cache": "shared_at_once"}, (CacheProfile.SHARED_AT_ONCE, False, 4)),
    ],
)
def test_settings_go_before_what_is_known_of_an_embedded_engine(
    backend: Any, settings: dict[str, Any], expected: tuple[CacheProfile, bool, int]
) -> None:
    """Also while its host is not up yet."""
    profile = Local(EngineSettings(**settings), backend=backend).profile
    assert (profile.cache, profile.yields_to_live, profile.slots) == expected
