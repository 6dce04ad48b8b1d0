"""`python -m bench [--quick] [--only NAME] [--write FILE] [--plots FOLDER]`."""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from collections.abc import Callable
from pathlib import Path

from bench.cancel import cancel_rows
from bench.chat import chat_rows
from bench.fairness import fairness_rows
from bench.interference import SETTINGS, interference_rows, quick
from bench.live import live_rows, order_rows
from bench.measure import machine
from bench.plan import plan_rows
from bench.reuse import reuse_rows
from bench.rows import Row, create_rows, dispatch_row, emulator_rows, growth_rows, results_row
from bench.tenants import tenants_rows
from bench.workloads import workloads_rows
from bench.yielding import yielding_rows

SEED = 1
BLOCK = "<!-- figures of {name}: written by `python -m bench --only {name} --write` -->"
END = "<!-- end of {name} -->"


GROUPS: dict[str, Callable[[int, int], list[Row]]] = {
    "create": lambda small, runs: create_rows(runs, items=100_000 // small, item_bytes=2_350),
    "results": lambda small, runs: results_row(runs, items=40_000 // small),
    "dispatch": lambda small, runs: dispatch_row(runs, items=20_000 // small),
    "growth": lambda small, _: growth_rows(sizes=tuple(size // small for size in (1_000, 10_000, 100_000))),
    "chat": lambda _, runs: chat_rows(8 if runs > 1 else 1, items=32 if runs > 1 else 16, window=16),
    "emulator": lambda small, runs: emulator_rows(runs, items=100_000 // small),
    "fairness": lambda small, _: fairness_rows(worlds=2_000 // small),
    "tenants": lambda small, _: tenants_rows(small=small),
    "plan": lambda small, runs: plan_rows(runs, items=100_000 // small),
    "reuse": lambda small, _: reuse_rows(items=3_000 // small),
    "interference": lambda small, _: _interference_rows(is_quick=small > 1),
    "workloads": lambda small, _: workloads_rows(rows=500_000 // small, small=small),
    "cancel": lambda small, _: cancel_rows(20 // small, items=2_000),
    "yielding": lambda small, _: yielding_rows(20 // small),
    "live-local": lambda small, _: live_rows("local", is_quick=small > 1, seed=SEED),
    "live-llamacpp": lambda small, _: live_rows("llamacpp", is_quick=small > 1, seed=SEED),
    "order-local": lambda small, runs: order_rows("local", runs=runs, is_quick=small > 1, seed=SEED),
    "order-llamacpp": lambda small, runs: order_rows("llamacpp", runs=runs, is_quick=small > 1, seed=SEED),
}
"""By name: what makes rows, of a divisor of its sizes and a number of runs."""


def main() -> int:
    """Measure and print; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes, one run: to see that it works")
    parser.add_argument("--only", metavar="NAME", choices=list(GROUPS))
    parser.add_argument("--write", metavar="FILE", type=Path, help="put what was measured into this page")
    parser.add_argument(
        "--plots", metavar="FOLDER", type=Path, help="only draw the pictures of the docs, into a folder"
    )
    chosen = parser.parse_args()
    if chosen.plots:
        from bench.plots import draw_all  # noqa: PLC0415 - needs the extra `bench`

        print(*draw_all(chosen.plots), sep="\n")
        return 0
    if chosen.write and not chosen.write.is_file():
        parser.error(f"--write: {chosen.write} is no page that exists")
    small, runs = (10, 1) if chosen.quick else (1, 3)
    found: dict[str, list[Row]] = {}
    for name, group in GROUPS.items():
        if chosen.only in {None, name}:
            print(f"measuring {name} …", file=sys.stderr)
            found[name] = group(small, runs)
            text = table(found[name])
            print(text, flush=True)
            if chosen.write:
                page = chosen.write.read_text(encoding="utf-8")
                chosen.write.write_text(put(page, name, text), encoding="utf-8")
    rows = [row for some in found.values() for row in some]
    return 0 if all(row.is_met for row in rows) else 1


def put(page: str, name: str, text: str) -> str:
    """Put figures into a page, in the place of those that the same group had, or at its end."""
    begin, end = BLOCK.format(name=name), END.format(name=name)
    block = f"{begin}\n\n{text}\n\n{end}"
    if begin not in page:
        return f"{page.rstrip()}\n\n### {name}\n\n{block}\n"
    before, _, rest = page.partition(begin)
    return before + block + rest.partition(end)[2]


def _interference_rows(*, is_quick: bool) -> list[Row]:
    return interference_rows([quick(one) if is_quick else one for one in SETTINGS.values()], seed=SEED)


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
