"""Write the generated parts of docs/: what the program itself knows about its settings, commands, states, metrics.

A part stands between two comments that name it. `--check` writes nothing and fails if a part is out of date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from standby.api.metrics import Metrics
from standby.cli import standby as command
from standby.cli.help import WIDTH
from standby.config import known_keys
from standby.engines.pool_meters import EndpointMeters
from standby.records import Load
from standby.scheduler.control import AdmissionMeters
from standby.scheduler.meters import Meters
from standby.states import BATCH_MOVES, RUN_MOVES

DOCS = Path(__file__).resolve().parents[1] / "docs"
RESULTS = DOCS.parent / "tests" / "engines" / "results"
PART = re.compile(r"(<!-- begin (\w+)[^>]*-->\n)(.*?)(<!-- end \2 -->)", re.DOTALL)


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if something is out of date")
    is_check = parser.parse_args().check
    stale = [file for file in sorted(DOCS.rglob("*.md")) if bring_up_to_date(file, write=not is_check)]
    for file in stale:
        print(f"{file.relative_to(DOCS.parent)} {'is out of date; run: make docs' if is_check else 'written'}")
    return int(is_check and bool(stale))


def bring_up_to_date(file: Path, *, write: bool) -> bool:
    """Replace every generated part of a file; say whether that changes anything."""
    before = file.read_text(encoding="utf-8")
    after = PART.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}\n{part[4]}", before)
    if write and after != before:
        file.write_text(after, encoding="utf-8")
    return after != before


def settings() -> str:
    """One table of settings a table of the file."""
    tables = []
    for table, keys in groupby(known_keys().items(), key=lambda entry: entry[0].partition(".")[0]):
        rows = [(f"`{key.partition('.')[2]}`", shown_default(entry), meaning(entry)) for key, entry in keys]
        tables.append(f"### [{table}]\n\n{markdown(('setting', 'default', 'meaning'), rows)}")
    return "\n\n".join(tables)


def shown_default(entry: Mapping[str, Any]) -> str:
    """Write a default as it would stand in the file; in words if it depends on the machine."""
    default = entry["default"]
    if isinstance(default, str) and " " in default:
        return default
    return f"`{json.dumps(list(default) if isinstance(default, tuple) else default)}`"


def meaning(entry: Mapping[str, Any]) -> str:
    """Say what a setting does, and which values it takes."""
    bounds = [f"{words} {entry[name]}" for name, words in (("min", "at least"), ("max", "at most")) if entry.get(name)]
    return " ".join(
        [
            entry["doc"],
            *([f"({', '.join(bounds)})"] if bounds else []),
            *(["Shown masked."] if entry.get("secret") else []),
        ]
    )


def commands() -> str:
    """Show the help of every command, as a terminal of 80 columns shows it."""
    return "\n\n".join(f"## {path}\n\n```text\n{help_of(each, path)}\n```" for path, each in walk(command, "standby"))


def walk(each: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and all below it."""
    yield path, each
    if isinstance(each, click.Group):
        for name in sorted(each.commands):
            yield from walk(each.commands[name], f"{path} {name}")


def help_of(each: click.Command, path: str) -> str:
    """Write the help of one command."""
    context = click.Context(each, info_name=path, terminal_width=WIDTH, max_content_width=WIDTH)
    context.help_option_names = ["-h", "--help"]
    return each.get_help(context)


def batch_states() -> str:
    """Draw the states of a batch."""
    return diagram(BATCH_MOVES)


def run_states() -> str:
    """Draw the states of a run."""
    return diagram(RUN_MOVES)


def diagram(moves: Mapping[Any, Mapping[Any, str]]) -> str:
    """Draw a table of moves, as a picture and as a table."""
    first, lasts = next(iter(moves)), [state for state, after in moves.items() if not after]
    arrows = [f"    {before} --> {after}" for before, afters in moves.items() for after in afters]
    picture = ["stateDiagram-v2", f"    [*] --> {first}", *arrows, *(f"    {last} --> [*]" for last in lasts)]
    rows = [(f"`{before}`", f"`{after}`", why) for before, afters in moves.items() for after, why in afters.items()]
    return "\n".join(["```mermaid", *picture, "```", "", markdown(("from", "to", "when"), rows)])


def metrics() -> str:
    """List what `GET /metrics` tells."""
    rows = [
        (f"`{name_of(family)}`", family.type, ", ".join(f"`{label}`" for label in labels), family.documentation)
        for family, labels in sorted(families(), key=lambda pair: pair[0].name)
    ]
    return markdown(("metric", "type", "labels", "meaning"), rows)


def families() -> Iterator[tuple[Metric, tuple[str, ...]]]:
    """Yield every metric family with its label names."""
    registry = CollectorRegistry()
    own, *_ = Metrics(registry), Meters(registry), EndpointMeters(registry), AdmissionMeters(registry)
    text = own.expose(batches={"in_progress": 0}, results={}, load=Load(), is_ready=True).decode()
    declared = {
        family.name: tuple(getattr(collector, "_labelnames", ()))
        for collector in list(registry._collector_to_names)  # noqa: SLF001 - labels without samples stand nowhere else
        for family in collector.collect()
    }
    for family in text_string_to_metric_families(text):
        if family.name.endswith("_created"):
            continue
        sampled = family.samples[0].labels if family.samples else {}
        yield family, declared.get(family.name, tuple(sampled))


def engine_features() -> str:
    """Show what the behavioural suite saw each engine do, out of the results that were committed."""
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))]
    about = [(report["engine"], report["version"], report["date"]) for report in reports]
    rows = []
    notes: dict[str, int] = {}
    for name, feature in reports[0]["features"].items():
        cells = [shown_outcome(report["features"][name], notes) for report in reports]
        rows.append((feature["words"], *cells))
    table = markdown(("feature", *(report["engine"] for report in reports)), rows)
    listed = "\n".join(f"{number}. {note}" for note, number in notes.items())
    return f"{markdown(('column', 'release', 'seen on'), about)}\n\n{table}\n\n{listed}"


def shown_outcome(feature: Mapping[str, Any], notes: dict[str, int]) -> str:
    """Write one cell; what needs words gets the number of a note."""
    words = {"yes": "yes", "refused": "refused", "no": "no", "failed": "FAILED", "untested": "not tried"}
    why = feature.get("why", "")
    if feature.get("field"):
        why = f"Refused; the message begins with `{feature['field']}`" + (f": {why}." if why else ".")
    if not why:
        return words[feature["outcome"]]
    number = notes.setdefault(f"{why[0].upper()}{why[1:].rstrip('.')}.", len(notes) + 1)
    return f"{words[feature['outcome']]} ({number})"


def name_of(family: Metric) -> str:
    """Name a family as it stands in queries."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table."""
    lines = [columns, ["---" for _ in columns], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "commands": commands,
    "batch_states": batch_states,
    "run_states": run_states,
    "metrics": metrics,
    "engine_features": engine_features,
}

if __name__ == "__main__":
    sys.exit(main())
