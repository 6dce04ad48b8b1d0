"""Content blocks as the content of a chat message: text, images, files. Pure; raises `InvalidParams`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from standby.errors import invalid
from standby.wire.chat.dialect import Dialect
from standby.wire.messages import (
    Base64Source,
    ContentSource,
    DocumentParam,
    FileSource,
    ImageParam,
    SearchResultParam,
    TextParam,
    TextSource,
    UrlSource,
)

BETWEEN = "\n\n"
"""Between two text blocks of one turn, and between turns that are merged."""
Part = dict[str, Any]
"""`{"type": "text" | "image_url" | "file", …}`."""


def text_part(text: str) -> Part:
    """Make a part of text."""
    return {"type": "text", "text": text}


def content_of(parts: Iterable[Part]) -> str | list[Part]:
    """Join neighbouring texts; text alone is a plain string, as engines without images want it."""
    joined: list[Part] = []
    for part in parts:
        if joined and part["type"] == joined[-1]["type"] == "text":
            joined[-1] = text_part(joined[-1]["text"] + BETWEEN + part["text"])
        else:
            joined.append(part)
    if not joined:
        return ""
    return joined[0]["text"] if len(joined) == 1 and joined[0]["type"] == "text" else joined


def parts_of(block: Any, at: str, dialect: Dialect) -> Iterator[Part]:
    """Write one block that stands at the path `at`; a block that is no content for this engine is refused."""
    match block:
        case TextParam():
            yield text_part(block.text)
        case ImageParam():
            yield _image(block, at, dialect)
        case DocumentParam():
            yield from _document(block, at, dialect)
        case SearchResultParam():
            yield _search_result(block, at)
        case _:
            raise unsupported(block, at)


def unsupported(block: Any, at: str) -> Exception:
    """Refuse a kind of block by name."""
    kind = type(block).__struct_config__.tag
    return invalid(f"{at}.type: the engine behind this model does not support `{kind}` blocks")


def _image(block: ImageParam, at: str, dialect: Dialect) -> Part:
    if dialect.images == "off":
        raise invalid(f"{at}.type: the engine behind this model does not support `image` blocks")
    if block.transformations:
        raise invalid(f"{at}.transformations: the engine behind this model cannot change images")
    match block.source:
        case Base64Source(data=data, media_type=media_type):
            return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}
        case UrlSource(url=url) if dialect.images == "any":
            return {"type": "image_url", "image_url": {"url": url}}
        case UrlSource():
            raise invalid(f"{at}.source.type: the engine behind this model takes images as `base64` only")
        case FileSource():
            raise _no_file(at)


def _document(block: DocumentParam, at: str, dialect: Dialect) -> Iterator[Part]:
    _no_citations(block, at)
    match block.source:
        case TextSource(data=data):
            yield text_part(_framed(block, data))
        case ContentSource(content=str(data)):
            yield text_part(_framed(block, data))
        case ContentSource(content=blocks):
            yield text_part(_opening(block))
            for number, inner in enumerate(blocks):
                yield from parts_of(inner, f"{at}.source.content.{number}", dialect)
            yield text_part("</document>")
        case Base64Source(data=data, media_type=media_type) if dialect.files:
            if block.context:
                yield text_part(block.context)
            file = {"filename": block.title or "document.pdf", "file_data": f"data:{media_type};base64,{data}"}
            yield {"type": "file", "file": file}
        case Base64Source():
            raise invalid(f"{at}.source.type: the engine behind this model cannot read PDFs; send their text")
        case UrlSource():
            raise invalid(f"{at}.source.type: the engine behind this model cannot fetch documents; send their text")
        case FileSource():
            raise _no_file(at)


def _framed(block: DocumentParam, text: str) -> str:
    return f"{_opening(block)}\n{text}\n</document>"


def _opening(block: DocumentParam) -> str:
    title = f' title="{block.title}"' if block.title else ""
    context = f"\n<context>{block.context}</context>" if block.context else ""
    return f"<document{title}>{context}"


def _search_result(block: SearchResultParam, at: str) -> Part:
    _no_citations(block, at)
    text = BETWEEN.join(part.text for part in block.content)
    return text_part(f'<search_result title="{block.title}" source="{block.source}">\n{text}\n</search_result>')


def _no_citations(block: DocumentParam | SearchResultParam, at: str) -> None:
    if block.citations is not None and block.citations.enabled:
        raise invalid(f"{at}.citations.enabled: the engine behind this model cannot cite")


def _no_file(at: str) -> Exception:
    return invalid(f"{at}.source.type: the engine behind this model cannot read uploaded files; send the content")
