"""Keeps one answer inside its language: the exact one, where the engine's grammar is looser. Pure.

The engine's grammar does not count long repeats (`language`), and knows nothing of `max_tokens`. So each character
is checked here. Where one does not fit, the loop takes it back and goes on with the grammar of what may follow; when
only so many tokens are left as the shortest ending takes, it writes that ending. So a structured answer is valid even
if the model would never have come to an end.
"""

from __future__ import annotations

import codecs

from standby.wire.grammar.language import EMPTY, NOTHING, Language, Node


class Guard:
    """The state of one answer."""

    __slots__ = ("_decoder", "_language", "_node", "_steered", "_taken", "since", "whole")

    def __init__(self, language: Language) -> None:
        """Begin at the first character."""
        self._language = language
        self._node: Node = language.root
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._taken = 0
        self._steered = -1
        self.whole = 0
        """How many tokens are whole: all their characters fit, and no character is under way after them."""
        self.since = ""
        """Characters that fit after those tokens."""

    @property
    def is_over(self) -> bool:
        """Whether nothing can follow."""
        return self._node is EMPTY

    @property
    def can_end(self) -> bool:
        """Whether the answer is valid as it is."""
        return self._node.is_nullable

    def take(self, data: bytes, *, tokens: int) -> tuple[str, bool]:
        """Take the bytes of one token, the answer's `tokens`-th; return what fits, and whether all of it did."""
        try:
            text = self._decoder.decode(data)
        except UnicodeDecodeError:
            return "", False
        for number, char in enumerate(text):
            node = self._language.after(self._node, char)
            if node is NOTHING:
                self.since += text[:number]
                return text[:number], False
            self._node = node
            self._taken += 1
        self.since += text
        if not self._decoder.getstate()[0]:
            self.whole, self.since = tokens, ""
        return text, True

    @property
    def least(self) -> float:
        """How many bytes the shortest ending has: it takes as many tokens at most."""
        return self._node.least(self._language.sizes)

    def ending(self) -> str:
        """Return the shortest text that makes the answer valid."""
        return self._language.ending(self._node)

    def gets_nowhere(self) -> bool:
        """Whether nothing was taken since this was last asked: the engine does not heed its grammar."""
        before, self._steered = self._steered, self._taken
        return before == self._taken

    def grammar(self) -> str:
        """Write the grammar of what may follow; a character that was under way is forgotten."""
        self._decoder.reset()
        return self._language.text(self._node)
