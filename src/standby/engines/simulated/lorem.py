"""Words, and numbers to choose by, that depend on a text and a seed alone. Pure."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

WORDS = tuple(
    (  # noqa: SIM905 - 256 quoted words are harder to read
        "a able about above across again air all almost along also and animal answer any area arm as at away back "
        "base be beard bed been before began below best better berry big bird blue boat body book both box "
        "bread bridge bright bring broom build but by call came can car care carry case cat cause center chair "
        "change child circle city class clean clear close cloud cold color come common cook cool copy corn corner "
        "could count couple course cover cross cry cup cut dance dark day deep did dish do dog door down draw "
        "dream dress drink drive dry each ear early earth east easy eat edge egg end energy enough even ever every "
        "eye face fact fall family far farm fast father feel feet few field figure fill final find fine finger "
        "finish fire first fish five flower fly follow food foot for force forest form fort found four free "
        "fresh friend from front fruit full game garden gave get girl give glass go gold gone good great green "
        "grew ground group grow had half hand happy hard has hat have head hear heart heat heavy help here high "
        "hill hold home hope horse hot hour house how idea if in inch island it job join joy jump just keep key "
        "kind king knew know lady lake land large last late laugh lead learn leave left leg less let letter life "
        "light like line list listen little live long look lost love low make man many map mark may meet milk mind"
    ).split()
)
"""One for each byte; each is one token."""
_SPACED = tuple(f" {word}" for word in WORDS)


def words_for(text: bytes, seed: bytes, count: int) -> list[str]:
    """Choose `count` words; fewer are the beginning of more."""
    picked = hashlib.shake_128(seed + text).digest(count)
    words = [_SPACED[byte] for byte in picked]
    return [words[0][1:], *words[1:]] if words else []


def choices_for(text: bytes, seed: bytes) -> Iterator[int]:
    """Endless numbers from 0 to 255."""
    for number in itertools.count():
        yield from hashlib.blake2b(text, key=seed, salt=number.to_bytes(8, "big")).digest()
