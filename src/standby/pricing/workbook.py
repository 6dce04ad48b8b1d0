"""The outlook as an .xlsx workbook whose cells are live formulas: change an input, and every figure follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from standby.pricing.rates import PER_MILLION, Price, Rate, Tariff
from standby.pricing.savings import NIGHTS_A_MONTH, NIGHTS_A_YEAR, Job, Ttl

MONEY = "$#,##0.00"
FINE_MONEY = "$#,##0.0000####"
SHARE = "0.0%"
FIRST = 17
"""Row of the first model's prices on the sheet Inputs, from 1."""
COLUMNS = tuple(column.name for column in fields(Rate))
WIDE = 24


def write_workbook(file: Path, job: Job, prices: Sequence[Price], *, hits: tuple[float, float], ttl: Ttl) -> None:
    """Write the six sheets; `ValueError` for a tariff with more than one step, which no formula here covers."""
    import xlsxwriter  # noqa: PLC0415 - only this command needs it

    if any(len(tariff.tiers) > 1 for price in prices for tariff in (price.standard, price.batch)):
        raise ValueError("a tariff with more than one step cannot be written as a workbook")
    with xlsxwriter.Workbook(str(file)) as book:
        _Sheets(book, prices).write(job, hits, ttl)


class _Sheets:
    def __init__(self, book: Any, prices: Sequence[Price]) -> None:
        self._book = book
        self._prices = prices
        self._bold = book.add_format({"bold": True})
        self._entry = book.add_format({"bg_color": "#FFF8DC", "border": 1})
        self._entry_share = book.add_format({"bg_color": "#FFF8DC", "border": 1, "num_format": "0%"})
        self._money = book.add_format({"num_format": MONEY})
        self._rate = book.add_format({"num_format": FINE_MONEY})
        self._share = book.add_format({"num_format": SHARE})

    def write(self, job: Job, hits: tuple[float, float], ttl: Ttl) -> None:
        self._inputs(job, hits, ttl)
        self._costs("Standard", "standard")
        self._costs("Batch", "batch")
        self._cache()
        self._break_even()
        self._by_model()

    def _inputs(self, job: Job, hits: tuple[float, float], ttl: Ttl) -> None:
        sheet = self._book.add_worksheet("Inputs")
        sheet.set_column(0, 0, 34)
        sheet.set_column(1, 40, 14)
        sheet.write(
            0, 0, "Change the yellow cells; all other sheets follow. Prices are dollars a million tokens.", self._bold
        )
        for row, (name, label, value, form) in enumerate(self._entries(job, hits, ttl), 2):
            sheet.write(row, 0, label)
            sheet.write(row, 1, value, form)
            self._book.define_name(name, f"=Inputs!$B${row + 1}")
        sheet.write(12, 0, "Prompt tokens of a request")
        _formula(sheet, 12, 1, "=shared_tokens+fresh_tokens")
        self._book.define_name("prompt_tokens", "=Inputs!$B$13")
        self._price_table(sheet)

    def _entries(self, job: Job, hits: tuple[float, float], ttl: Ttl) -> list[tuple[str, str, Any, Any]]:
        return [
            ("requests", "Requests a night", job.requests, self._entry),
            ("shared_tokens", "Shared prompt tokens (cacheable)", job.shared_tokens, self._entry),
            ("fresh_tokens", "Own prompt tokens", job.fresh_tokens, self._entry),
            ("output_tokens", "Output tokens", job.output_tokens, self._entry),
            ("hits_low", "Cache hits, low", hits[0], self._entry_share),
            ("hits_high", "Cache hits, high", hits[1], self._entry_share),
            ("cache_ttl", "Lifetime of the cache (5m or 1h)", ttl, self._entry),
            ("nights_month", "Nights a month", NIGHTS_A_MONTH, self._entry),
            ("nights_year", "Nights a year", NIGHTS_A_YEAR, self._entry),
        ]

    def _price_table(self, sheet: Any) -> None:
        heads = ["model", "source", "checked", "step above"]
        heads += [
            f"{kind} {column}{step}" for kind in ("standard", "batch") for step in ("", " (step)") for column in COLUMNS
        ]
        for place, head in enumerate(heads):
            sheet.write(FIRST - 2, place, head, self._bold)
        for number, price in enumerate(self._prices):
            row = FIRST - 1 + number
            half = ", half assumed" if price.is_batch_assumed else ""
            sheet.write_row(row, 0, [price.model, price.source + half, price.checked.isoformat()])
            if price.standard.tiers:
                sheet.write(row, 3, price.standard.tiers[0].above, self._entry)
            rates = [*_dollars(price.standard), *_dollars(price.batch)]
            for place, rate in enumerate(rates, 4):
                sheet.write(row, place, rate, self._rate)

    def _rate_of(self, number: int, kind: str, column: str) -> str:
        """Write the formula of the rate that holds for this prompt's length."""
        start = 4 + (0 if kind == "standard" else 2 * len(COLUMNS)) + COLUMNS.index(column)
        row = FIRST + number
        base, step = (f"Inputs!${_letter(place)}${row}" for place in (start, start + len(COLUMNS)))
        return f"IF(AND(ISNUMBER(Inputs!$D${row}),prompt_tokens>Inputs!$D${row}),{step},{base})"

    def _costs(self, title: str, kind: str) -> None:
        sheet = self._sheet(title, ["model", "prompt tokens", "output tokens", "a night", "a month", "a year"])
        for number, price in enumerate(self._prices):
            row = number + 1
            sheet.write(row, 0, price.model)
            prompt = f"=requests*prompt_tokens*{self._rate_of(number, kind, 'input')}/{PER_MILLION}"
            output = f"=requests*output_tokens*{self._rate_of(number, kind, 'output')}/{PER_MILLION}"
            _formula(sheet, row, 1, prompt, self._money)
            _formula(sheet, row, 2, output, self._money)
            _formula(sheet, row, 3, f"=B{row + 1}+C{row + 1}", self._money)
            _formula(sheet, row, 4, f"=D{row + 1}*nights_month", self._money)
            _formula(sheet, row, 5, f"=D{row + 1}*nights_year", self._money)

    def _cache(self) -> None:
        heads = ["model", "hits, low", "a night, low", "hits, high", "a night, high", "a month, high", "a year, high"]
        sheet = self._sheet("Cache", heads)
        for number, price in enumerate(self._prices):
            row = number + 1
            sheet.write(row, 0, price.model)
            for place, end in ((1, "low"), (3, "high")):
                _formula(sheet, row, place, f"=MIN(INT(requests*hits_{end}),MAX(requests-1,0))")
                _formula(sheet, row, place + 1, self._cached(number, f"{_letter(place)}{row + 1}"), self._money)
            _formula(sheet, row, 5, f"=E{row + 1}*nights_month", self._money)
            _formula(sheet, row, 6, f"=E{row + 1}*nights_year", self._money)

    def _cached(self, number: int, hits: str) -> str:
        plain, output = (self._rate_of(number, "batch", column) for column in ("input", "output"))
        own = f"(fresh_tokens*{plain}+output_tokens*{output})"
        read = f"shared_tokens*{self._rate_of(number, 'batch', 'read')}"
        write = f"shared_tokens*{self._write_of(number)}"
        return f"=({hits}*({read}+{own})+(requests-{hits})*({write}+{own}))/{PER_MILLION}"

    def _write_of(self, number: int) -> str:
        hour, minutes = (self._rate_of(number, "batch", column) for column in ("write_1h", "write_5m"))
        return f'IF(cache_ttl="1h",{hour},{minutes})'

    def _break_even(self) -> None:
        sheet = self._sheet("Break-even", ["model", "5-minute writes", "1-hour writes"])
        for number, price in enumerate(self._prices):
            row = number + 1
            sheet.write(row, 0, price.model)
            for place, column in ((1, "write_5m"), (2, "write_1h")):
                plain, read, write = (self._rate_of(number, "batch", name) for name in ("input", "read", column))
                formula = f'=IF({read}>={plain},"never",MAX(({write}-{plain})/({write}-{read}),0))'
                _formula(sheet, row, place, formula, self._share)

    def _by_model(self) -> None:
        heads = ["model", "standard", "batch", "batch + cache, low", "batch + cache, high", "saved, low", "saved, high"]
        sheet = self._sheet("By model", [*heads, "saved a month, high", "saved a year, high"])
        for number, price in enumerate(self._prices):
            row, at = number + 1, number + 2
            sheet.write(row, 0, price.model)
            for place, cell in enumerate((f"Standard!D{at}", f"Batch!D{at}", f"Cache!C{at}", f"Cache!E{at}"), 1):
                _formula(sheet, row, place, f"={cell}", self._money)
            _formula(sheet, row, 5, f"=IF(B{at}=0,0,1-D{at}/B{at})", self._share)
            _formula(sheet, row, 6, f"=IF(B{at}=0,0,1-E{at}/B{at})", self._share)
            _formula(sheet, row, 7, f"=(B{at}-E{at})*nights_month", self._money)
            _formula(sheet, row, 8, f"=(B{at}-E{at})*nights_year", self._money)

    def _sheet(self, title: str, heads: list[str]) -> Any:
        sheet = self._book.add_worksheet(title)
        sheet.set_column(0, len(heads), WIDE)
        sheet.write_row(0, 0, heads, self._bold)
        return sheet


def _formula(sheet: Any, row: int, column: int, formula: str, form: Any = None) -> None:
    """Write a formula without a result, so that every program works it out: LibreOffice believes a result it finds."""
    sheet.write_formula(row, column, formula, form, "")


def _dollars(tariff: Tariff) -> list[float]:
    """Write the base rates, then those above the step (the base again if there is none)."""
    step = tariff.tiers[0].rate if tariff.tiers else tariff.base
    return [pico / PER_MILLION for rate in (tariff.base, step) for pico in astuple(rate)]


def _letter(column: int) -> str:
    """Name a column from 0 as a sheet does: 0 is A, 26 is AA."""
    return (chr(64 + column // 26) if column >= 26 else "") + chr(65 + column % 26)
