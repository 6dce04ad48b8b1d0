from __future__ import annotations

import pytest

from tests.sdk.calls import Outcome
from tests.sdk.stories import SDKS, Stories, is_playable

pytestmark = pytest.mark.sdk

NO_DELETE = {"messages.batches.delete": Outcome.NOT_OFFERED}
NO_BETA_STREAM = {"beta.messages.stream": Outcome.NOT_OFFERED}
ONE_KIND_OF_CLIENT = {"asynchronous client": Outcome.NOT_OFFERED}
LACKING = {
    "python 0.41.0": NO_DELETE | NO_BETA_STREAM,
    "typescript 0.36.2": ONE_KIND_OF_CLIENT,
    "typescript 1.12.0": ONE_KIND_OF_CLIENT,
}


@pytest.mark.parametrize("sdk", SDKS)
def test_every_call_that_an_sdk_offers_works(sdk: str, stories: Stories) -> None:
    """An official SDK, unmodified, notices no difference."""
    if not is_playable(sdk):
        pytest.skip("NODE IS NOT INSTALLED: nothing is known about the TypeScript SDKs on this machine")

    unusual = {call: outcome for call, outcome in stories.calls(sdk).items() if outcome != Outcome.WORKS}

    assert unusual == LACKING.get(sdk, {})
