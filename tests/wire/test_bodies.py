from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.errors import ApiError
from standby.wire.bodies import STEP, Inflate, too_large

LIMIT = 1 << 20


def bare(data: bytes) -> bytes:
    """Deflate without the zlib wrapper, as some clients send it."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def twice(data: bytes) -> bytes:
    """A gzip file of two members."""
    return gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :])


ENCODINGS: list[tuple[str | None, Callable[[bytes], bytes]]] = [
    (None, bytes),
    ("", bytes),
    ("identity", bytes),
    ("gzip", gzip.compress),
    ("GZIP ", gzip.compress),
    ("x-gzip", twice),
    ("deflate", zlib.compress),
    ("deflate", bare),
]


def inflated(encoding: str | None, raw: bytes, size: int, limit: int = LIMIT) -> bytes:
    """Decode in chunks of `size`."""
    body = Inflate(encoding, limit)
    return b"".join(body.feed(raw[at : at + size]) for at in range(0, len(raw), size)) + body.finish()


@pytest.mark.parametrize(("encoding", "pack"), ENCODINGS)
@given(data=st.binary(max_size=300) | st.binary(max_size=9).map(lambda part: part * 60_000), size=st.integers(1, 2000))
def test_a_body_comes_out_as_it_was(
    encoding: str | None, pack: Callable[[bytes], bytes], data: bytes, size: int
) -> None:
    """Whatever the encoding, the size of the body and the chunks it comes in."""
    assert inflated(encoding, pack(data), max(size, len(pack(data)) // 50)) == data


@pytest.mark.parametrize(("encoding", "pack"), ENCODINGS)
def test_the_limit_counts_decoded_bytes(encoding: str | None, pack: Callable[[bytes], bytes]) -> None:
    """Exactly the limit passes, one byte more is 413; only a decoded body says so in its code."""
    assert len(inflated(encoding, pack(bytes(LIMIT)), 1000)) == LIMIT
    with pytest.raises(ApiError) as caught:
        inflated(encoding, pack(bytes(LIMIT + 1)), 1000)
    is_plain = pack is bytes
    code = None if is_plain else "request_body_too_large_after_decoding"
    assert (caught.value.status, caught.value.type, caught.value.code) == (413, "request_too_large", code)


def test_a_bomb_is_noticed_in_small_parts() -> None:
    """A thousandfold body is refused after the limit, and never more than a part of it is held at once."""
    parts = Inflate("gzip", 2 * LIMIT).pieces(gzip.compress(bytes(100 * LIMIT)))
    sizes = [len(next(parts)) for _ in range(2 * LIMIT // STEP)]
    assert set(sizes) == {STEP}
    with pytest.raises(ApiError) as caught:
        next(parts)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("encoding", "raw"),
    [
        ("gzip", b"not gzip at all"),
        ("gzip", gzip.compress(b"whole")[:-1]),
        ("gzip", gzip.compress(b"whole")[:-4] + b"XXXX"),
        ("gzip", gzip.compress(b"whole") + b"more"),
        ("gzip", b"\x1f"),
        ("deflate", b"\xff\xff\xff"),
        ("deflate", zlib.compress(b"whole")[:-1]),
        ("deflate", zlib.compress(b"whole") + b"more"),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_a_body_that_does_not_fit_its_encoding_is_refused(encoding: str, raw: bytes, size: int) -> None:
    """Broken, cut short or with something behind it: 400 with its code."""
    with pytest.raises(ApiError) as caught:
        inflated(encoding, raw, size)
    assert (caught.value.status, caught.value.code) == (400, "request_body_encoding_invalid")


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "none"])
def test_an_unknown_encoding_is_refused_before_anything_is_read(encoding: str) -> None:
    """400 with its own code."""
    with pytest.raises(ApiError) as caught:
        Inflate(encoding, LIMIT)
    assert (caught.value.status, caught.value.code) == (400, "request_body_encoding_unsupported")


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]), st.integers(1, 50))
def test_any_bytes_are_decoded_or_refused(raw: bytes, encoding: str, size: int) -> None:
    """Nothing but an answer for the client comes out."""
    try:
        inflated(encoding, raw, size)
    except ApiError as error:
        assert error.status in {400, 413}  # noqa: PT017 - either outcome is right


def test_an_empty_body_is_empty_in_every_encoding() -> None:
    """No bytes are no fault of the encoding."""
    assert [inflated(encoding, b"", 1) for encoding in ("gzip", "deflate", None)] == [b"", b"", b""]


def test_a_body_may_be_refused_by_its_length() -> None:
    """The same answer for a `Content-Length` that is too large."""
    assert too_large(5).status == 413
