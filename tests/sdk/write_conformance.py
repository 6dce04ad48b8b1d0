"""Writes docs/conformance.md from a run of everything in this folder: `python -m tests.sdk.write_conformance`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.sdk.calls import CALLS, Outcome
from tests.sdk.own_suites import FILES, MEASURED
from tests.sdk.places import Tenant, fleeting_server, stage
from tests.sdk.shapes import Row, rows, samples
from tests.sdk.stories import INSTALLED, SDKS, SHAPES, TENANTS, Stories

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
HEAD = """\
# Conformance

What the official SDKs notice of a running server, unmodified, over a socket. This page is written by
`python -m tests.sdk.write_conformance`, and a test fails when a run says something else.

"""


def main() -> None:
    """Play everything and write the page."""
    with tempfile.TemporaryDirectory() as folder, stage(Path(folder), TENANTS) as built:
        page = render(Stories(built), observed_rows(Path(folder), built.url, built.tenants[SHAPES]))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page, encoding="utf-8")


def observed_rows(folder: Path, url: str, tenant: Tenant) -> list[Row]:
    """Look at one of everything that the server sends."""
    with fleeting_server(folder / "fleeting") as fleeting_url:
        return rows(samples(url, tenant, fleeting_url))


def render(stories: Stories, shapes: list[Row]) -> str:
    """Write the whole page."""
    return f"{HEAD}{calls_part(stories)}\n{suites_part()}\n{shapes_part(shapes)}"


def calls_part(stories: Stories) -> str:
    """Write the table "SDK x call"."""
    played = {sdk: stories.calls(sdk) for sdk in SDKS}
    body = [(label(call), meaning, *(cell(played[sdk][call]) for sdk in SDKS)) for call, meaning in CALLS.items()]
    return f"""\
## Calls

"yes" means that the call did what its row says; "-" that this SDK does not have it. The Python clients validate every
answer strictly (`_strict_response_validation=True`), and warnings are errors. Nothing is retried.

{table(("call", "what is checked", *SDKS), body)}"""


def label(call: str) -> str:
    """Show the part of a row's name that is code as code."""
    method, comma, rest = call.partition(",")
    return f"`{method}`{comma}{rest}" if "." in method else call


def cell(outcome: str) -> str:
    """Show an outcome; a reason of a failure is for the log, not for a table."""
    return {Outcome.WORKS.value: "yes", Outcome.NOT_OFFERED.value: "-"}.get(outcome, "**no**")


def suites_part() -> str:
    """Write what the SDK's own tests say."""
    body = [(f"python {version}", str(passed), "0", str(skipped)) for version, (passed, skipped) in MEASURED.items()]
    files = "\n".join(f"* `{name}`" for name in FILES)
    return f"""\
## The SDK's own tests

The source archives of the Python SDK carry the tests of its authors. Those that speak over the wire run here as they
are. They name objects that exist nowhere (`message_batch_id`), so a proxy puts real ones in their place on the way in
(`tests/sdk/literals.py` lists every replacement) and passes each answer of the server back untouched.

{files}

{table(("SDK", "passed", "failed", "skipped by the SDK itself"), body)}"""


def shapes_part(shapes: list[Row]) -> str:
    """Write the comparison of keys."""
    head = ("type of the SDK", "sent", "always `null`", "known to the SDK, never sent", "sent, unknown to the SDK")
    body = [(f"`{row.name}`", *map(names, (row.sent, row.null, row.missing, row.unknown))) for row in shapes]
    return f"""\
## Keys

Every kind of object that the server sends, against the type that the Python SDK {INSTALLED} has for it, nested objects
included; each object is also read strictly as that type. "Always `null`": in everything that a server with the
simulator sent for this page.

{table(head, body)}"""


def names(keys: tuple[str, ...]) -> str:
    """Write keys as code."""
    return ", ".join(f"`{key}`" for key in keys)


def table(head: tuple[str, ...], body: Sequence[tuple[str, ...]]) -> str:
    """Write a table."""
    lines = [head, tuple("---" for _ in head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
