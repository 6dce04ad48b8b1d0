from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.workload.attachments import LARGEST, block_of
from standby.workload.faults import BadInput
from standby.workload.prompts import Prompts
from standby.workload.spec import Source, Spec

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 40


def prompts(prompt: str, *columns: str, **more: Any) -> Prompts:
    """Compile a workload's templates."""
    spec = Spec(source=Source(kind="stdin"), output="out.csv", model="m", prompt=prompt, **more)
    return Prompts(spec, columns)


def said(prompt: str, row: dict[str, Any]) -> str:
    """Write the prompt of a row."""
    text: str = prompts(prompt, *row).params(row, number=1)["messages"][0]["content"]
    return text


@pytest.mark.parametrize(
    ("prompt", "row", "text"),
    [
        ("{{größe}} {{ a }}", {"größe": "ü", "a": None}, "ü "),
        ('{{ row["any name"] }}', {"any name": "x"}, "x"),
        ("{{ row }}", {"row": "mine"}, "mine"),
        ("{{ self }}{{ template_name }}", {"self": "a", "template_name": "b"}, "ab"),
        ("{{ n + 1 }} {{ f }} {{ b }}", {"n": 1, "f": 1.5, "b": True}, "2 1.5 True"),
        ("{{ o.a.0 }} {% if n %}yes{% endif %}", {"o": {"a": [7]}, "n": 1}, "7 yes"),
        ("a\r\n{{ t }}\n", {"t": "{{ t }}"}, "a\r\n{{ t }}\n"),
        ("{# no #}{{ '{{' }}}} {{ none }}x", {"t": "1", "none": "col"}, "{{}} x"),
        ("{{ range }}", {"range": "a column"}, "a column"),
    ],
)
def test_templates_fill_in_columns(prompt: str, row: dict[str, Any], text: str) -> None:
    """Any column, whatever its name and its value; what a value holds is no template."""
    assert said(prompt, row) == text


@given(
    pieces=st.lists(
        st.sampled_from(["{{ a }}", "{{b}}", "{{  a\n}}", " text ", " }} ", " { ", "ü\r\n", "\n"]), max_size=8
    ),
    a=st.one_of(st.none(), st.text(max_size=8)),
    b=st.one_of(st.none(), st.text(max_size=8), st.integers(-9, 9), st.floats(allow_nan=False), st.booleans()),
)
def test_the_short_way_says_what_the_engine_says(pieces: list[str], a: Any, b: Any) -> None:
    """Templates of columns and texts are filled in without the engine, and equally."""
    prompt = "x" + "".join(pieces)
    short, row = prompts(prompt, "a", "b"), {"a": a, "b": b}
    long = prompts(prompt, "a", "b")
    long._pieces = dict.fromkeys(long._pieces)
    assert short.params(row, number=1) == long.params(row, number=1)


@pytest.mark.parametrize(
    "prompt",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% include '--prompt' %}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{{ a.__class__ }}",
        "{{ a.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{{ o.missing }}",
        '{{ row["missing"] }}',
        "{{ a | nofilter }}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_that_asks_for_more_is_an_error_of_its_row(prompt: str) -> None:
    """No Python, no files, no endless work; a value that is not there is named, never left out."""
    row = {"a": "x", "o": {"b": 1}}
    with pytest.raises(BadInput, match="--prompt"):
        prompts(prompt, *row).params(row, number=7)


@pytest.mark.parametrize("prompt", ["{{ debug() }}", "{{ nothing }}", "{{ a", "{% if a %}"])
def test_a_template_is_looked_at_before_any_row(prompt: str) -> None:
    """A column that is not there, and a bracket that is not closed."""
    with pytest.raises(BadInput, match="--prompt"):
        prompts(prompt, "a")


@pytest.mark.parametrize(
    ("data", "media"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"%PDF-1.7", "application/pdf"),
    ],
)
def test_an_attachment_is_what_its_bytes_say(tmp_path: Path, data: bytes, media: str) -> None:
    """Its name may say anything; the bytes go along as they are."""
    (tmp_path / "x.txt").write_bytes(data)
    block = block_of(str(tmp_path / "x.txt"), row=1)
    assert block["type"] == ("document" if media == "application/pdf" else "image")
    assert block["source"] == {"type": "base64", "media_type": media, "data": base64.b64encode(data).decode()}


def test_attachments_from_the_web_and_from_a_column_of_bytes() -> None:
    """An address is passed on; a `data:` URL, which a column of bytes is, is looked at."""
    assert block_of("https://x.org/a.pdf?b=1", row=1)["type"] == "document"
    assert block_of("https://x.org/a", row=1) == {"type": "image", "source": {"type": "url", "url": "https://x.org/a"}}
    block = block_of("data:;base64," + base64.b64encode(PNG).decode(), row=1)
    assert block["source"]["media_type"] == "image/png"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("{folder}/gone.png", "cannot be read"),
        ("{folder}", "is no file"),
        ("/dev/zero", "is no file"),
        ("{folder}/note.txt", "is neither a JPEG, PNG, GIF or WebP image nor a PDF"),
        ("{folder}/large.png", f"holds at most {LARGEST:,}"),
        ("a\0b", "holds what no path can"),
        ("data:image/png,xx", "not in base64"),
        ("data:;base64,!!", "no base64"),
        ("x" * 5000, "cannot be read"),
    ],
)
def test_an_attachment_that_cannot_be_names_its_row(tmp_path: Path, place: str, words: str) -> None:
    """Before anything is sent, and without reading what is too large."""
    (tmp_path / "note.txt").write_text("hello")
    with (tmp_path / "large.png").open("wb") as file:
        file.write(PNG)
        file.truncate(LARGEST + 1)
    with pytest.raises(BadInput, match=f"row 7: .*{words}"):
        block_of(place.replace("{folder}", str(tmp_path)), row=7)


def test_parameters_stand_beside_the_prompt() -> None:
    """Any parameter of a request, the system prompt with its marker, a schema beside other output settings."""
    found = prompts(
        "{{ a }}",
        "a",
        params={"temperature": 0.2, "output_config": {"effort": "low"}},
        system="Be {{ a }}.",
        cache="1h",
        schema={"type": "object"},
    ).params({"a": "x"}, number=1)
    assert json.loads(json.dumps(found)) == {
        "model": "m",
        "max_tokens": 1024,
        "temperature": 0.2,
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        "system": [{"type": "text", "text": "Be x.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "messages": [{"role": "user", "content": "x"}],
    }
