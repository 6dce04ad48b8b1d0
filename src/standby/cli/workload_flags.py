"""Flags of the commands that begin a workload, and the workload that they add up to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from standby.cli import offers

if TYPE_CHECKING:
    from standby.workload.runner import Pace
    from standby.workload.spec import Source, Spec

Command = TypeVar("Command", bound=Callable[..., Any])
FORMATS = ("jsonl", "json", "csv", "tsv", "parquet", "xlsx")

ROWS = (
    click.argument("source", required=False, metavar="[FILE]", shell_complete=offers.files),
    click.option("--sql", metavar="QUERY", help="Rows of a query over files and attached databases."),
    click.option("--files", nargs=2, metavar="DIR GLOB", help="One row a file: path, name, size, text."),
    click.option("--format", "form", type=click.Choice(FORMATS), help="Of FILE, if its name does not say it."),
    click.option("--limit", type=click.IntRange(min=1), metavar="ROWS", help="Only the first rows."),
    click.option("--id", "id_column", default="", metavar="COLUMN", help="Names a row; without it its number does."),
)
PROMPT = (
    click.option(
        "-m", "--model", default="", metavar="NAME", help="Which model answers.", shell_complete=offers.models
    ),
    click.option("-p", "--prompt", default="", metavar="TEXT|@FILE", help="Template with {{ column }}."),
    click.option("-s", "--system", default="", metavar="TEXT|@FILE", help="System prompt, a template too."),
    click.option(
        "-a",
        "--attach-file",
        "attachments",
        multiple=True,
        metavar="TEMPLATE",
        help="Image or PDF of a row: a path or URL, such as {{ path }}.",
    ),
    click.option(
        "--schema",
        metavar="FILE|MODULE:CLASS",
        help="Answers follow this JSON Schema or pydantic model.",
        shell_complete=offers.files,
    ),
    click.option(
        "--max-tokens",
        type=click.IntRange(min=1),
        default=1024,
        show_default=True,
        metavar="TOKENS",
        help="Longest answer.",
    ),
    click.option(
        "--param",
        "params",
        nargs=2,
        multiple=True,
        metavar="NAME VALUE",
        help="Any other parameter of a request; VALUE is JSON or text.",
    ),
    click.option(
        "--cache",
        type=click.Choice(["off", "5m", "1h"]),
        default="off",
        show_default=True,
        help="Cache the system prompt for so long.",
    ),
)
OUTPUT = (
    click.option(
        "-o",
        "--output",
        metavar="FILE|NAME.TABLE",
        help="Parquet, CSV, TSV, JSONL, Excel, or a table of an attached database.",
        shell_complete=offers.files,
    ),
)
ATTACH = (
    click.option(
        "--attach",
        "attach",
        multiple=True,
        metavar="NAME=ADDRESS",
        help="Database: postgresql://…, a SQLite or a DuckDB file.",
    ),
    click.option("--base-url", metavar="URL", help="Address of the service; otherwise as the SDK finds it."),
)
PACE = (
    click.option(
        "--retries",
        type=click.IntRange(min=0),
        default=3,
        show_default=True,
        metavar="TIMES",
        help="Try again what expired or met an overloaded service.",
    ),
    click.option("--more-room", is_flag=True, help="Ask again with twice the tokens where an answer was cut."),
    click.option(
        "--wait",
        "wait_s",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        help="Give up waiting then, exit code 7; the batches run on.",
    ),
    click.option(
        "--poll",
        "poll_s",
        type=click.FloatRange(min=0.01),
        default=2.0,
        show_default=True,
        metavar="SECONDS",
        help="First wait between two looks; grows by a tenth, to five minutes.",
    ),
    click.option(
        "--settle",
        "settle_s",
        type=click.FloatRange(min=0),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="Look so long for a batch whose create was not answered.",
    ),
)
BUDGET = (
    click.option(
        "--max-cost",
        type=click.FloatRange(min=0, min_open=True),
        metavar="DOLLARS",
        help="Send nothing that could cost more, parts and tries together.",
    ),
    click.option("--no-estimate", is_flag=True, help="Count no prompts before; ignored with --max-cost."),
)
PAGE = (
    click.option(
        "--report",
        "page",
        metavar="FILE",
        help="Write the report as an HTML page with charts too.",
        shell_complete=offers.files,
    ),
)
EVENTS = (
    click.option("--jsonl", "as_jsonl", is_flag=True, help="Print what happens as lines of JSON, the report last."),
)
SHOWN = (click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, money in pico-dollars."),)


def flags(*groups: tuple[Callable[[Any], Any], ...]) -> Callable[[Command], Command]:
    """Add groups of flags to a command, in their order."""

    def add(command: Command) -> Command:
        for one in reversed([flag for group in groups for flag in group]):
            command = one(command)
        return command

    return add


def spec_of(given: dict[str, Any]) -> Spec:
    """Read a workload out of the flags; `BadInput` and usage errors say which is wrong."""
    from standby.workload.prompts import schema_of, text_of
    from standby.workload.spec import Spec

    source = _source(given)
    output = given.get("output") or ""
    if not output:
        raise click.UsageError("say where the answers go, with -o")
    names = attached_of(given["attach"])
    name, _, table = output.partition(".")
    is_table = bool(table) and name in names
    spec = Spec(
        source=source,
        output=output if is_table else str(Path(output).absolute()),
        model=given["model"],
        max_tokens=given["max_tokens"],
        system=text_of(given["system"]),
        prompt=text_of(given["prompt"]),
        attachments=given["attachments"],
        schema=schema_of(given["schema"]) if given["schema"] else None,
        params={key: _value(value) for key, value in given["params"]},
        id_column=given["id_column"],
        cache=given["cache"],
    )
    if (spec.prompt or spec.attachments) and not spec.model:
        raise click.UsageError("say which model answers, with -m")
    return spec


def attached_of(given: tuple[str, ...]) -> dict[str, str]:
    """Read `NAME=ADDRESS`."""
    pairs = [one.partition("=") for one in given]
    for name, equals, address in pairs:
        if not (name.isidentifier() and equals and address):
            raise click.UsageError("--attach: write NAME=ADDRESS, with a plain word for the name")
    return {name: address for name, _, address in pairs}


def pace_of(given: dict[str, Any]) -> Pace:
    """Read how patient the job is."""
    from standby.workload.runner import Pace

    return Pace(
        first_poll_s=given["poll_s"],
        settle_s=given["settle_s"],
        retries=given["retries"],
        is_more_room=given["more_room"],
    )


def _source(given: dict[str, Any]) -> Source:
    from standby.workload.native import dialect_of
    from standby.workload.spec import Source

    ways = [way for way in ("source", "sql", "files") if given[way]]
    if len(ways) != 1:
        raise click.UsageError("say where the rows are: a FILE, --sql or --files, and one of them only")
    common: dict[str, Any] = {"format": given["form"] or "", "limit": given["limit"]}
    if given["sql"]:
        return Source(kind="sql", where=given["sql"], attached=tuple(sorted(attached_of(given["attach"]))), **common)
    if given["files"]:
        folder, glob = given["files"]
        return Source(kind="files", where=str(Path(folder).absolute()), glob=glob, **common)
    if given["source"] == "-":
        return Source(kind="stdin", **common)
    path = Path(given["source"]).absolute()
    if not path.exists():
        raise click.UsageError(f"{given['source']}: there is no such file")
    is_native = not given["prompt"] and not given["attachments"] and dialect_of(path) is not None
    return Source(kind="native" if is_native else "file", where=str(path), **common)


def _value(text: str) -> Any:
    """Read JSON; what is none is text."""
    import msgspec

    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
