"""Pictures for the docs, drawn from real runs: `python -m bench --plots docs/images`. Needs the extra `bench`.

They have no background and middle colours, so that they can be read on light and on dark pages.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.interference import PROCESSES, SETTINGS, SIDES, Setting, Trace, batch_rate, latencies, play
from bench.reuse import LIVE_CELLS, ORDERS, Reuse, measure
from bench.reuse import Cell as ReuseCell
from standby.config import LogSettings
from standby.logs import set_up_logs

SEED = 1
STEP_S = 5
"""Latencies and rates are shown for so many seconds together."""
INK = "#808890"
COLOURS = {"alone": "#808890", "ungated": "#d1495b", "fixed": "#c98a1b", "ours": "#2a9d8f"}
NAMES = {"alone": "live traffic alone", "ungated": "no admission", "fixed": "fixed cap of {cap}", "ours": "Standby"}
ORDER_COLOURS = ("#808890", "#c98a1b", "#7a6fb0", "#2a9d8f")
ITEMS = 1000


def draw_all(folder: Path) -> list[Path]:
    """Run and draw everything; return what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    mpl.rcParams.update(style())
    return [draw_interference(folder, SETTINGS["vllm"]), draw_reuse(folder)]


def style() -> dict[str, object]:
    """Return what is the same in every picture; two drawings of the same figures are the same bytes."""
    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    return {
        **ink,
        "font.family": "sans-serif",
        "font.size": 9,
        "svg.fonttype": "none",
        "svg.hashsalt": "standby",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "path.simplify_threshold": 1.0,
    }


def draw_interference(folder: Path, setting: Setting) -> Path:
    """Draw live latency and batch rate over time, each side in its colour."""
    setting = replace(setting, live=replace(setting.live, phase_s=60.0, cycles=3, warm_up=1))
    with ProcessPoolExecutor(PROCESSES) as processes:
        traces = list(processes.map(_played, [setting] * len(SIDES), SIDES))
    figure = Figure(figsize=(7.5, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for trace in traces:
        draw_side(upper, lower, trace)
    shade_bursts(upper, setting)
    shade_bursts(lower, setting)
    upper.set(yscale="log", ylabel="time to first token, ms", title="Live requests: p95 of every five seconds")
    lower.set(ylabel="tokens a second", xlabel="seconds; bursts are shaded", title="Batches")
    lower.set_ylim(bottom=0)
    lower.set_xlim(setting.live.counted_from_s, setting.live.seconds)
    figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return saved(figure, folder / "interference.svg")


def draw_side(upper: Axes, lower: Axes, trace: Trace) -> None:
    """Draw one side in both pictures."""
    live, colour = trace.setting.live, COLOURS[trace.side]
    name = NAMES[trace.side].format(cap=trace.setting.cap)
    starts = range(int(live.counted_from_s), int(live.seconds), STEP_S)
    points = [(start, _p95_ms(trace, start)) for start in starts]
    seen = [(start + STEP_S / 2, wait) for start, wait in points if wait is not None]
    upper.plot([at for at, _ in seen], [wait for _, wait in seen], color=colour, label=name, linewidth=1.4)
    if trace.side != "alone":
        rates = list(batch_rate(trace.attempts, live.seconds))
        means = [sum(rates[start : start + STEP_S]) / STEP_S for start in starts]
        lower.plot([start + STEP_S / 2 for start in starts], means, color=colour, linewidth=1.4)


def shade_bursts(axes: Axes, setting: Setting) -> None:
    """Show where the bursts are."""
    live = setting.live
    for cycle in range(live.warm_up, live.cycles):
        begin = (2 * cycle + 1) * live.phase_s
        axes.axvspan(begin, begin + live.phase_s, color=INK, alpha=0.15, linewidth=0)


def draw_reuse(folder: Path) -> Path:
    """Draw what part of the possible reuse each order gets, engine by engine."""
    with ProcessPoolExecutor(PROCESSES) as processes:
        found = list(processes.map(_reused, LIVE_CELLS))
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for place, order in enumerate(ORDERS):
        draw_order(axes, place, order, [cell[place] for cell in found])
    axes.set(
        ylabel="% of the upper bound", ylim=(0, 105), title="Prompt tokens out of the cache, with live requests between"
    )
    names = [cell[0].cell.name.removesuffix(", live between").replace(", ", "\n") for cell in found]
    axes.set_xticks(range(len(found)), names)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return saved(figure, folder / "reuse.svg")


def draw_order(axes: Axes, place: int, order: str, found: Sequence[Reuse]) -> None:
    """Draw the bars of one order."""
    width = 0.8 / len(ORDERS)
    at = [number + (place - (len(ORDERS) - 1) / 2) * width for number in range(len(found))]
    name = {"submit": "order of submission", "ours": "Standby", "ours, no gates": "our order alone"}.get(order, order)
    axes.bar(at, [100 * one.of_bound for one in found], width * 0.92, color=ORDER_COLOURS[place], label=name)


def saved(figure: Figure, path: Path) -> Path:
    """Write a picture."""
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    return path


def _p95_ms(trace: Trace, start: int) -> float | None:
    asked = [one for one in trace.asked if start <= one.sent_s < start + STEP_S and one.gaps]
    return 1000 * latencies(asked)[0][1] if asked else None


def _played(setting: Setting, side: str) -> Trace:
    set_up_logs(LogSettings(level="error"))
    print(f"drawing {setting.name}, {side} …", file=sys.stderr, flush=True)
    return play(setting, side, SEED)


def _reused(cell: ReuseCell) -> list[Reuse]:
    print(f"drawing reuse, {cell.name} …", file=sys.stderr, flush=True)
    return measure(cell, items=ITEMS)
