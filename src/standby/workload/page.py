"""The report of a job as one HTML page: no script, no request, everything in it escaped. Pure.

Charts are SVG that stretches with the page; what they show stands beside them in words. The page looks right in light
and dark, narrow and wide, and on paper.
"""

from __future__ import annotations

import base64
import hashlib
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from standby.folder import sync_folder
from standby.pricing.rates import dollars
from standby.workload.markup import Html, bar, columns, el, table
from standby.workload.sentences import answered_words, cost_words, length_words, time_words
from standby.workload.words import counted, lasting, moment, percent, short

MOST_PARTS = 60
"""Drawn; of more, the slowest."""
MOST_CAUSES = 20
MOST_KEY = 60
"""Characters of a key; a longer one is cut in its middle."""
TOKENS = (
    ("input", "plain prompt", "c1"),
    ("cache_read", "read from a cache", "c2"),
    ("cache_write_5m", "written to a cache for 5 min", "c3"),
    ("cache_write_1h", "written to a cache for 1 h", "c4"),
    ("output", "answers", "c5"),
)
STYLE = """
:root{--paper:#fbfaf7;--card:#fff;--ink:#1d1c19;--soft:#66635b;--line:#e4e1d8;--track:#efece4;--bad:#b3382c;
--c1:#2f6db0;--c2:#2a8c7a;--c3:#d08a1d;--c4:#8a5a2b;--c5:#7a4fa3}
@media (prefers-color-scheme:dark){:root{--paper:#161512;--card:#1f1e1a;--ink:#edebe4;--soft:#a8a498;--line:#35332d;
--track:#2c2a25;--bad:#ef8274;--c1:#6fa8e3;--c2:#55bfa9;--c3:#e6ae55;--c4:#c2925f;--c5:#b492db}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;
font-variant-numeric:tabular-nums}
main{max-width:62rem;margin:0 auto;padding:2rem 1.25rem 3rem}
h1{font-size:1.6rem;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:0 0 .75rem}
p{margin:.4rem 0}
.soft,figcaption{color:var(--soft)}
.small{font-size:.875rem}
header p{overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.75rem;margin:1.25rem 0}
.tile,section{background:var(--card);border:1px solid var(--line);border-radius:.6rem}
.tile{padding:.75rem 1rem}
.tile b{display:block;font-size:1.45rem;line-height:1.3;font-weight:600;overflow-wrap:anywhere}
section{padding:1.1rem 1.25rem;margin:.75rem 0}
.row{display:grid;grid-template-columns:15rem 1fr 9.5rem;gap:.2rem .9rem;align-items:center;
margin:.45rem 0}
.row .v{text-align:right}
.bar{display:block;width:100%;height:.9rem;border-radius:.25rem}
.columns{display:block;width:100%;height:8rem;border-bottom:1px solid var(--line)}
.axis{display:flex;justify-content:space-between;color:var(--soft);font-size:.8rem}
.time .axis{margin:0 10.4rem .6rem 15.9rem}
.row+p{margin-top:.9rem}.cause .row+p{margin-top:.2rem}
.track{fill:var(--track)}.c0{fill:var(--soft)}.bad{fill:var(--bad)}
.c1{fill:var(--c1)}.c2{fill:var(--c2)}.c3{fill:var(--c3)}.c4{fill:var(--c4)}.c5{fill:var(--c5)}.ink{fill:var(--ink)}
.legend{list-style:none;margin:.7rem 0 .3rem;padding:0;display:flex;flex-wrap:wrap;gap:.3rem 1.4rem}
.legend li{display:flex;gap:.45rem;align-items:baseline}
.legend svg{flex:none;width:.75rem;height:.75rem;border-radius:.15rem}
.cause{margin:0 0 1rem;overflow-wrap:anywhere}
.cause:last-child{margin-bottom:0}
code{font:.875em ui-monospace,"SF Mono",Menlo,Consolas,monospace;overflow-wrap:anywhere}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.925rem}
th,td{text-align:left;padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--line);overflow-wrap:anywhere}
th{font-weight:600;color:var(--soft)}
th.n,td.n{text-align:right;padding:.3rem 0 .3rem .9rem;white-space:nowrap}
tbody tr:last-child td{border-bottom:0}
footer{color:var(--soft);font-size:.875rem;margin-top:1.25rem;overflow-wrap:anywhere}
@media (max-width:40rem){main{padding:1.25rem .75rem 2rem}section{padding:.9rem}
.row{grid-template-columns:1fr auto}.row .bar{grid-column:1/-1;grid-row:2}.row .v{grid-column:2;grid-row:1}
.time .axis{margin:0 0 .6rem}}
@media print{:root{--paper:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb;--track:#eee;--bad:#a02a20;--c1:#2f6db0;
--c2:#2a8c7a;--c3:#d08a1d;--c4:#8a5a2b;--c5:#7a4fa3}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
main{max-width:none;padding:0}.tile,.row,.cause,.columns,tr{break-inside:avoid}h2{break-after:avoid}body{font-size:11pt}}
"""


def write_page(report: dict[str, Any], to: Path) -> None:
    """Write the page of a report to a file, for its owner only; it appears complete, or stays as it was."""
    new = to.with_name(f".{to.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(page_of(report))
        file.flush()
        os.fsync(file.fileno())
    new.replace(to)
    sync_folder(to.parent)


def page_of(report: dict[str, Any]) -> str:
    """Draw a report (see `report_of`) as a whole HTML document."""
    name = Path(report["output"]).name
    hashed = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{hashed}'; base-uri 'none'; form-action 'none'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", f"{name}: report"),
        el("style", Html(STYLE)),
    )
    sections = (_cost, _failures, _tokens, _lengths, _time, _tries, _dearest)
    body = el(
        "main", _header(report, name), _tiles(report), *(section(report) for section in sections), _footer(report)
    )
    return f"<!doctype html>\n{el('html', head, el('body', body), lang='en')}\n"


def _header(report: dict[str, Any], name: str) -> Html:
    models = ", ".join(one["model"] for one in report["models"]) or report["model"] or ""
    about = " · ".join(text for text in (models, report["endpoint"], moment(report["created_at"])) if text)
    return el("header", el("h1", name), el("p", answered_words(report)), el("p", about, class_="soft small"))


def _tiles(report: dict[str, Any]) -> Html:
    cost, time = report["cost"], report["time"]
    tiles = [("rows answered", percent(report["succeeded"] / report["rows"]) if report["rows"] else "none")]
    if cost["charged_pico"] is not None:
        saved = cost["real_time_pico"] - cost["charged_pico"]
        tiles += [("charged", dollars(cost["charged_pico"])), ("saved against real time", dollars(saved))]
    else:
        tiles.append(("charged", "unknown"))
    if time["seconds"] is not None:
        tiles.append(("from first to last", lasting(time["seconds"])))
    return el("div", *(_tile(label, value) for label, value in tiles), class_="tiles")


def _tile(label: str, value: str) -> Html:
    return el("div", el("b", value), el("span", label, class_="soft small"), class_="tile")


def _section(title: str, *inside: Html | None, kind: str | None = None) -> Html:
    return el("section", el("h2", title), *inside, class_=kind)


def _row(label: str, drawn: Html, value: str) -> Html:
    return el("div", el("span", label), drawn, el("span", value, class_="v"), class_="row")


# -- money


def _cost(report: dict[str, Any]) -> Html:
    cost = report["cost"]
    if cost["charged_pico"] is None:
        return _section("Cost", el("p", "Unknown: no price is known for this model."))
    lines = [
        ("in real time, without a cache", cost["real_time_pico"], "c0"),
        ("in a batch, without a cache", cost["batch_without_cache_pico"], "c3"),
        ("charged", cost["charged_pico"], "c1"),
    ]
    told = (report["predicted"] or {}).get("charged_pico") or {}
    scale = max([*(pico for _, pico, _ in lines), told.get("high") or 0, 1])
    rows = [
        _row(name, bar([(0, pico / scale, kind)], f"{name}: {dollars(pico)}"), dollars(pico))
        for name, pico, kind in lines
    ]
    if told.get("low") is not None:
        span, at = f"{dollars(told['low'])} to {dollars(told['high'])}", cost["charged_pico"] / scale
        pieces = [(told["low"] / scale, told["high"] / scale, "c5"), (at - 0.002, at + 0.002, "ink")]
        rows.append(_row("predicted; the mark: charged", bar(pieces, f"predicted: {span}"), span))
    return _section("Cost", *rows, *(el("p", text) for text in cost_words(report)))


# -- rows


def _failures(report: dict[str, Any]) -> Html | None:
    failures, still = report["failures"], report["open"]
    if not failures and not still:
        return _section("Rows without a good answer", el("p", "None."))
    scale = max([*(one["rows"] for one in failures), still, 1])
    drawn = [_cause(one, scale) for one in failures[:MOST_CAUSES]]
    if len(failures) > MOST_CAUSES:
        drawn.append(el("p", f"{len(failures) - MOST_CAUSES} rarer causes are left out."))
    if still:
        drawn.append(_row("still open", bar([(0, still / scale, "c0")], f"still open: {still:,}"), f"{still:,}"))
    return _section("Rows without a good answer", *drawn)


def _cause(one: dict[str, Any], scale: int) -> Html:
    first = one["first"]
    words = f", “{first['words']}”" if first["words"] else ""
    return el(
        "div",
        _row(
            one["cause"], bar([(0, one["rows"] / scale, "bad")], f"{one['cause']}: {one['rows']:,}"), f"{one['rows']:,}"
        ),
        el("p", _sentence(one["why"]), *_todo(one["todo"]), class_="small"),
        el(
            "p",
            "first: ",
            el("code", short(first["key"], MOST_KEY)),
            f" (row {first['row']:,}){words}",
            class_="small soft",
        ),
        class_="cause",
    )


def _todo(text: str) -> tuple[str, ...]:
    """Set the command in it apart."""
    words, found, command = text.partition(": standby ")
    return (f"{_sentence(words)[:-2]}: ", el("code", f"standby {command}")) if found else (_sentence(text),)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}. " if text else ""


# -- tokens


def _tokens(report: dict[str, Any]) -> Html | None:
    tokens = report["tokens"]
    total = sum(tokens.values())
    if not total:
        return None
    pieces, at = [], 0.0
    for key, _, kind in TOKENS:
        if tokens[key]:
            pieces.append((at, at + tokens[key] / total, kind))
            at += tokens[key] / total
    legend = [
        el(
            "li",
            el("svg", el("rect", width="100%", height="100%", class_=kind), aria_hidden="true"),
            f"{name} {tokens[key]:,} ({percent(tokens[key] / total)})",
        )
        for key, name, kind in TOKENS
        if tokens[key]
    ]
    return _section("Tokens", bar(pieces, f"{total:,} tokens"), el("ul", *legend, class_="legend"))


def _lengths(report: dict[str, Any]) -> Html | None:
    told = report["answer_tokens"]
    if told is None:
        return None
    bins = told["bins"]
    labels = [f"{one['from']:,} to {one['to']:,} tokens: {counted(one['answers'], 'answer')}" for one in bins]
    drawn = columns([one["answers"] for one in bins], labels, "how many answers are how long")
    edges = dict.fromkeys((bins[0]["from"], bins[len(bins) // 2]["from"], bins[-1]["to"]))
    axis = el("div", *(el("span", f"{edge:,}") for edge in edges), class_="axis")
    fullest = f"The highest column stands for {counted(max(one['answers'] for one in bins), 'answer')}."
    return _section("Length of answers, in tokens", drawn, axis, el("p", length_words(told)), el("p", fullest))


# -- time


def _time(report: dict[str, Any]) -> Html | None:
    time = report["time"]
    if not time["seconds"]:
        return None
    ended = [part for part in report["parts"] if part["seconds"] is not None]
    slowest = {part["number"] for part in sorted(ended, key=lambda part: -float(part["seconds"]))[:MOST_PARTS]}
    left_out = len(ended) - len(slowest)
    more = el("p", f"{left_out:,} quicker parts are not drawn.", class_="soft small") if left_out else None
    axis = el("div", el("span", moment(time["began_at"])), el("span", f"+ {lasting(time['seconds'])}"), class_="axis")
    drawn = [_part_row(part, time) for part in ended if part["number"] in slowest]
    return _section("Time", *drawn, axis, more, *(el("p", text) for text in time_words(report)), kind="time")


def _part_row(part: dict[str, Any], time: dict[str, Any]) -> Html:
    begin = (datetime.fromisoformat(part["created_at"]) - datetime.fromisoformat(time["began_at"])).total_seconds()
    piece = (begin / time["seconds"], (begin + part["seconds"]) / time["seconds"], "c3" if part["round"] else "c1")
    again = f", try {part['round'] + 1}" if part["round"] else ""
    name, took = f"part {part['number']}: {counted(part['items'], 'row')}{again}", lasting(part["seconds"])
    return _row(name, bar([piece], f"{name}, {took}"), took)


def _tries(report: dict[str, Any]) -> Html | None:
    if len(report["rounds"]) < 2:
        return None
    rows = [
        (_ordinal(one["round"]), f"{one['parts']:,}", f"{one['sent']:,}", f"{one['succeeded']:,}")
        for one in report["rounds"]
    ]
    return _section("Tries", table(("try", "batches", "rows sent", "answered"), rows, numbers=3))


def _ordinal(round_: int) -> str:
    return "first" if round_ == 0 else f"again, {round_}." if round_ > 1 else "again"


def _dearest(report: dict[str, Any]) -> Html | None:
    if not report["dearest"]:
        return None
    rows = [
        (
            short(one["key"], MOST_KEY) + (f" and {one['rows_alike']:,} alike" if one["rows_alike"] else ""),
            f"{one['row']:,}",
            f"{one['prompt_tokens']:,}",
            f"{one['output_tokens']:,}",
            dollars(one["charged_pico"]),
        )
        for one in report["dearest"]
    ]
    return _section("Dearest rows", table(("key", "row", "prompt tokens", "answer tokens", "charged"), rows, numbers=4))


def _footer(report: dict[str, Any]) -> Html:
    written = f", answers written {moment(report['written_at'])}" if report["written_at"] else ""
    return el("footer", el("p", f"Job of {report['output']}{written}. Prices are those of the day on which it began."))
