"""Names of items on the wire: a run tag and a hash, so that any key of a user works and a batch is known as ours.

`<tag>-<hash>`: the tag is random for each job, the hash is of the user's key; 43 of the 64 characters that the service
allows (contract 2.2).
"""

from __future__ import annotations

import hashlib
import secrets

TAG_BYTES = 5
HASH_BYTES = 16


def new_tag() -> str:
    """Make the tag of a job: 40 random bits."""
    return secrets.token_hex(TAG_BYTES)


def hash_of(key: str) -> bytes:
    """Return the 16 bytes that stand for a user's key; any text will do, also unicode and long ones."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=HASH_BYTES).digest()


def custom_id(tag: str, item: bytes) -> str:
    """Write the name of an item."""
    return f"{tag}-{item.hex()}"


def item_of(tag: str, name: object) -> bytes | None:
    """Read the hash out of a name; None if it is not one of this job."""
    if not isinstance(name, str) or not name.startswith(f"{tag}-"):
        return None
    try:
        found = bytes.fromhex(name[len(tag) + 1 :])
    except ValueError:
        return None
    return found if len(found) == HASH_BYTES and custom_id(tag, found) == name else None
