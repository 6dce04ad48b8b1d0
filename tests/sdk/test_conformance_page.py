from __future__ import annotations

from collections.abc import Iterator

import pydantic
import pytest

from tests.sdk.places import fleeting_server
from tests.sdk.shapes import Sample, rows, samples, validate
from tests.sdk.stories import SHAPES, Stories, node_program
from tests.sdk.write_conformance import PAGE, render

pytestmark = pytest.mark.sdk


@pytest.fixture(scope="module")
def sent(stories: Stories, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Sample]]:
    """One of everything that the server sends."""
    stage = stories.stage
    with fleeting_server(tmp_path_factory.mktemp("fleeting")) as fleeting_url:
        yield samples(stage.url, stage.tenants[SHAPES], fleeting_url)


def test_every_object_is_strictly_of_its_type(sent: list[Sample]) -> None:
    """Result rows and events too, which the SDK itself never validates."""
    complaints = []
    for kind, value in sent:
        try:
            validate(kind, value)
        except pydantic.ValidationError as error:
            complaints.append(f"{value}: {error}")

    assert complaints == []


def test_no_documented_key_is_missing_or_made_up(sent: list[Sample]) -> None:
    """A key that does not apply is null: TypeScript programs compare with null."""
    missing = {row.name: row.missing for row in rows(sent) if row.missing}
    unknown = {row.name: row.unknown for row in rows(sent) if row.unknown}

    assert missing == {}
    assert unknown == {}


def test_the_page_says_what_this_run_says(stories: Stories, sent: list[Sample]) -> None:
    """`python -m tests.sdk.write_conformance` writes it again."""
    if not node_program():
        pytest.skip("NODE IS NOT INSTALLED: the page cannot be compared on this machine")

    assert PAGE.read_text(encoding="utf-8") == render(stories, rows(sent))
