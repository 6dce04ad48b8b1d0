"""HTML and SVG as functions. Text is escaped unless it is `Html` already: no key, no message becomes a tag."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

VOID = frozenset({"meta"})


class Html(str):
    """Text that is HTML."""

    __slots__ = ()


def el(name: str, /, *inside: str | None, **attributes: object) -> Html:
    """Make an element: `class_` is class, `aria_label` is aria-label; what is None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{''.join(_safe(one) for one in inside if one is not None)}</{name}>")


def _safe(text: str) -> str:
    return text if isinstance(text, Html) else html.escape(text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int) -> Html:
    """Make a table whose last `numbers` columns are figures."""
    first = len(head) - numbers
    kinds = [None if at < first else "n" for at in range(len(head))]
    top = el("tr", *(el("th", text, class_=kind, scope="col") for text, kind in zip(head, kinds, strict=True)))
    body = (el("tr", *(el("td", text, class_=kind) for text, kind in zip(row, kinds, strict=True))) for row in rows)
    return el("div", el("table", el("thead", top), el("tbody", *body)), class_="wide")


def bar(pieces: Iterable[tuple[float, float, str]], label: str) -> Html:
    """Draw one bar as wide as its room: pieces from, to (0 to 1) and the class that colours them.

    A piece that is there can be seen, however small it is.
    """
    drawn = (
        el("rect", x=_share(low), width=_share(max(high - low, 0.004)), height="100%", class_=kind)
        for low, high, kind in pieces
    )
    track = el("rect", width="100%", height="100%", class_="track")
    return el("svg", track, *drawn, class_="bar", role="img", aria_label=label)


def columns(heights: Sequence[int], labels: Sequence[str], label: str) -> Html:
    """Draw columns side by side over the whole width; each tells its label when it is pointed at."""
    most = max([*heights, 1])
    drawn = (
        el(
            "rect",
            el("title", told),
            x=f"{at + 0.06:.2f}",
            y=f"{100 - _height(height, most):.2f}",
            width="0.88",
            height=f"{_height(height, most):.2f}",
            class_="c1",
        )
        for at, (height, told) in enumerate(zip(heights, labels, strict=True))
    )
    box = f"0 0 {len(heights)} 100"
    return el("svg", *drawn, class_="columns", viewBox=box, preserveAspectRatio="none", role="img", aria_label=label)


def _height(count: int, most: int) -> float:
    return max(100 * count / most, 1.0) if count else 0.0


def _share(value: float) -> str:
    return f"{100 * min(max(value, 0.0), 1.0):.3f}%"
