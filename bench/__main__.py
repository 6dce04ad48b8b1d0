"""`python -m bench [--quick] [--only NAME] [--write FILE]`."""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from collections.abc import Callable
from pathlib import Path

from bench.chat import chat_rows
from bench.fairness import fairness_rows
from bench.measure import machine
from bench.plan import plan_rows
from bench.reuse import reuse_rows
from bench.rows import Row, create_rows, dispatch_row, emulator_rows, growth_rows, results_row

MARK = "<!-- figures: written by `make bench` -->"


def main() -> int:
    """Measure and print; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes, one run: to see that it works")
    parser.add_argument(
        "--only",
        metavar="NAME",
        choices=["create", "results", "dispatch", "growth", "chat", "emulator", "fairness", "plan", "reuse"],
    )
    parser.add_argument("--write", metavar="FILE", type=Path, help="put the table into this page")
    chosen = parser.parse_args()
    small, runs = (10, 1) if chosen.quick else (1, 3)
    groups: dict[str, Callable[[], list[Row]]] = {
        "create": lambda: create_rows(runs, items=100_000 // small, item_bytes=2_350),
        "results": lambda: results_row(runs, items=40_000 // small),
        "dispatch": lambda: dispatch_row(runs, items=20_000 // small),
        "growth": lambda: growth_rows(sizes=tuple(size // small for size in (1_000, 10_000, 100_000))),
        "chat": lambda: chat_rows(4 if runs > 1 else 1, items=32 if runs > 1 else 16, window=16),
        "emulator": lambda: emulator_rows(runs, items=100_000 // small),
        "fairness": lambda: fairness_rows(worlds=2_000 // small),
        "plan": lambda: plan_rows(runs, items=100_000 // small),
        "reuse": lambda: reuse_rows(items=3_000 // small),
    }
    rows: list[Row] = []
    for name, group in groups.items():
        if chosen.only in {None, name}:
            print(f"measuring {name} …", file=sys.stderr)
            rows += group()
    text = table(rows)
    print(text)
    if chosen.write:
        page = chosen.write.read_text(encoding="utf-8")
        chosen.write.write_text(page.split(MARK)[0] + MARK + "\n\n" + text + "\n", encoding="utf-8")
    return 0 if all(row.is_met for row in rows) else 1


def table(rows: list[Row]) -> str:
    """Write the rows as Markdown."""
    today = dt.datetime.now(tz=dt.UTC).date()
    head = [
        f"{today}, {machine()}. Each cell: min / median / max of its runs; both sides ran in turn, in one run.",
        "",
        "| what | Standby | against | ratio | target | met |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines = [
        f"| {r.name} | {r.ours} | {r.against} | {r.ratio} | {r.target} | {'yes' if r.is_met else '**no**'} |"
        for r in rows
    ]
    return "\n".join(head + lines)


if __name__ == "__main__":
    sys.exit(main())
