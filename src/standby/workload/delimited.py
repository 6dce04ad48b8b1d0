"""CSV and TSV: what DuckDB has to be told, read off the first line.

Its own guess skips lines that do not fit and looks at some rows only; a row that does not fit has to be an error.
"""

from __future__ import annotations

import codecs
import csv
import gzip
from pathlib import Path
from typing import TextIO

from standby.workload.faults import BadInput

LINE_BYTES = 16 << 20
"""Longest row."""
OPTIONS = (
    "auto_detect=false, parallel=false, header=true, skip=0, quote='\"', escape='\"', "
    f"nullstr='', allow_quoted_nulls=false, max_line_size={LINE_BYTES}, buffer_size={2 * LINE_BYTES}"
)
DELIMITERS = ",;\t|"


def options(path: Path, form: str) -> str:
    """Write the options of `read_csv`: all columns are texts, an empty value is NULL, a quoted empty one is not."""
    encoding = _encoding(path)
    try:
        with _opened(path, encoding) as file:
            line = file.readline(LINE_BYTES)
            delimiter = "\t" if form == "tsv" else _delimiter(line)
            file.seek(0)
            header = next(csv.reader(file, delimiter=delimiter), [])
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeError:
        raise BadInput(f"{path}: is not UTF-8; save it as that, or name its encoding in --sql") from None
    except csv.Error as error:
        raise BadInput(f"{path}: its first line cannot be read ({error})") from None
    if not header:
        raise BadInput(f"{path}: is empty; its first line has to name the columns")
    columns = ", ".join(f"{_quoted(name)}: 'VARCHAR'" for name in _names(header))
    foreign = f", encoding='{encoding}'" if encoding == "utf-16" else ""
    return f"{OPTIONS}, delim={_quoted(delimiter)}, columns={{{columns}}}{foreign}"


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        is_wide = file.read(2) in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}
    return "utf-16" if is_wide else "utf-8-sig"


def _opened(path: Path, encoding: str) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=encoding, newline="")
    return path.open(encoding=encoding, newline="")


def _delimiter(line: str) -> str:
    """Take the one that stands most often in the first line, outside of quotes."""
    plain = "".join(line.split('"')[::2])
    return max(DELIMITERS, key=plain.count)


def _names(header: list[str]) -> list[str]:
    """Name every column, each differently; a database does not tell `Text` from `text`."""
    names: list[str] = []
    taken: set[str] = set()
    for number, given in enumerate(header, start=1):
        name, again = given.strip() or f"column_{number}", 1
        wanted = name
        while name.lower() in taken:
            name, again = f"{wanted}_{again}", again + 1
        taken.add(name.lower())
        names.append(name)
    return names


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
