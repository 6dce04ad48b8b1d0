"""Grammars that count everything, for engines that keep to a grammar by themselves. Pure.

llama.cpp refuses a repeat of 2000 or more, where what is repeated counts with all the rules inside it, and makes a rule
for each optional one. So a part that is repeated is a name or a character, and many are written as runs of a hundred
that are shared.
"""

from __future__ import annotations

from functools import lru_cache

from standby.wire.grammar.compile import language_of
from standby.wire.grammar.language import Chars, Language, Node, Rule, Writer, bounds

RUN = 100
MOST = 2 * RUN
"""Up to so many are counted in one place."""


@lru_cache(maxsize=64)
def exact_grammar(schema: bytes) -> str:
    """Write the grammar (GBNF) of the answers that are valid; a schema as JSON text. Raises `Unsupported`."""
    language = language_of(schema)
    return Exact(language).text(language.root)


class Exact(Writer):
    """Writes a grammar that counts as the language does."""

    def __init__(self, language: Language) -> None:
        """Write nothing yet."""
        super().__init__(language)
        self._names: dict[str, str] = {}

    def repeated(self, part: Node, low: int, high: int | None) -> str:
        """Write the ones that must come, then those that may."""
        one = part.write(self)
        if not isinstance(part, (Chars, Rule)):
            one = self._named(one)
        must = self._exactly(one, low)
        may = f"{one}*" if high is None else self._at_most(one, high - low)
        return " ".join(text for text in (must, may) if text) or '""'

    def _exactly(self, one: str, count: int) -> str:
        """`count` of them; nothing for none."""
        if count <= MOST:
            return f"{one}{bounds(count, count)}" if count else ""
        runs, rest = divmod(count, RUN)
        run = self._named(f"{one}{bounds(RUN, RUN)}")
        many = self._exactly(run, runs)
        return f"{one}{bounds(rest, rest)} {many}" if rest else many

    def _at_most(self, one: str, count: int) -> str:
        """Up to `count` of them; nothing for none."""
        if count <= MOST:
            return f"{one}{bounds(0, count)}" if count else ""
        runs, rest = divmod(count, RUN)
        more = self._runs(one, runs)
        if not rest:
            return more
        return f"({one}{bounds(rest, rest)} {more} | {one}{bounds(0, rest - 1)})"

    def _runs(self, one: str, count: int) -> str:
        """Up to `count` full runs, and a part of one more if it is not the last: each is one rule, for all counts."""
        full = self._named(f"{one}{bounds(RUN, RUN)}")
        some = self._named(f"{one}{bounds(0, RUN - 1)}")
        name = self._named(f"{one}{bounds(0, RUN)}")
        for _ in range(count - 1):
            name = self._named(f"{full} {name} | {some}")
        return name

    def _named(self, body: str) -> str:
        """Return the name of a rule with this body; the same body has the same name."""
        if body not in self._names:
            name = self._names[body] = f"n{len(self._names)}"
            self._lines[name] = body
        return self._names[body]
