"""`standby savings`: tables, JSON, past requests, and a workbook that LibreOffice recalculates."""

from __future__ import annotations

import asyncio
import csv
import json
import shutil
import subprocess
import zipfile
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from standby.cli import standby
from standby.config import Settings, StoreSettings
from standby.pricing.claude import claude_price
from standby.pricing.log import LogError, read_log
from standby.pricing.rates import DOLLAR, Price
from standby.pricing.savings import Past
from standby.records import Bill, LiveBill, Tokens
from standby.server import open_store

NIGHT = ("--requests", "1000", "--input", "6200", "--output", "300", "--cacheable", str(6000 / 6200))
SHEETS = ("Inputs", "Standard", "Batch", "Cache", "Break-even", "By model")


def run(*arguments: str, stdin: str = "") -> Result:
    """Run the command in-process."""
    return CliRunner().invoke(standby, ["savings", *arguments], input=stdin)


def test_a_night_is_shown_three_ways() -> None:
    """The contract's check value stands in the table, with its break-evens."""
    result = run(*NIGHT, "--model", "claude-haiku-4-5", "--hits", "60%-99.9%")
    assert result.exit_code == 0
    for figure in ("$7.70", "$3.85", "$3.43", "$1.16", "21.7%", "52.6%"):
        assert figure in result.stdout


def test_json_is_exact() -> None:
    """Money comes in whole pico-dollars."""
    (found,) = json.loads(run(*NIGHT, "--model", "claude-haiku-4-5", "--hits", "99.9%", "--json").stdout)
    assert found["high"] == {
        "standard": 7_700_000_000_000,
        "batch": 3_850_000_000_000,
        "batch_and_cache": 1_155_700_000_000,
    }
    assert found["source"].startswith("genai-prices ")


def test_a_model_with_an_own_price_is_reckoned(tmp_path: Path) -> None:
    """Prices of the settings are heeded."""
    settings = tmp_path / "standby.toml"
    settings.write_text('[prices."smol"]\ninput = 0.04\noutput = 0.12\n')
    night = ("--requests", "1000", "--input", "1000", "--output", "0", "--model", "smol")
    (found,) = json.loads(run(*night, "--json", "--config", str(settings)).stdout)
    assert found["high"]["standard"] == 4 * DOLLAR // 100


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--requests", "1"), "--input is missing"),
        ((*NIGHT, "--model", "nobody"), "nobody knows its price"),
        ((*NIGHT, "--hits", "98%-30%"), "the low end stands first"),
        ((*NIGHT, "--cacheable", "2"), "2 is not between 0 and 1"),
        ((*NIGHT, "--cacheable", "some"), "'some' is no share"),
        ((*NIGHT, "--log", "-"), "--log stands alone"),
    ],
)
def test_what_is_wrong_is_named(arguments: tuple[str, ...], named: str) -> None:
    """A command line that cannot be answered says why, with exit code 2."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert named in result.output


def test_past_requests_are_reckoned_each_by_itself(tmp_path: Path) -> None:
    """Messages, batch results and bare usage are read; a tier is each request's own; unknown prices stay unknown."""
    usage = {"input_tokens": 60_000, "output_tokens": 0}
    lines = [
        {"model": "claude-haiku-5-5", "usage": usage},
        {"model": "claude-haiku-5-5", "usage": usage, "content": []},
        {"custom_id": "a", "result": {"type": "succeeded", "message": {"model": "smol", "usage": usage}}},
        {"custom_id": "b", "result": {"type": "expired"}},
    ]
    result = run("--log", "-", "--json", stdin="\n".join(map(json.dumps, lines)) + "\n\n")
    known, unknown = json.loads(result.stdout)
    assert (known["requests"], known["standard"], known["batch"]) == (2, 12_000_000_000, 6_000_000_000)
    assert (unknown["model"], unknown["requests"], unknown["standard"]) == ("smol", 1, None)
    shown = run("--log", "-", stdin=json.dumps(lines[2]))
    assert "unknown" in shown.stdout
    assert "Prices unknown: smol" in shown.stderr


def test_the_server_s_own_ledger_is_reckoned(tmp_path: Path) -> None:
    """Live requests count as they were charged, batch items not at all; unknown prices stay unknown."""
    asyncio.run(_charge(tmp_path))
    result = run("--ledger", "--json", "--data", str(tmp_path))
    known, unknown = json.loads(result.stdout)
    assert (known["model"], known["requests"], known["standard"], known["batch"]) == ("claude-haiku-4-5", 2, 14, 7)
    assert (unknown["model"], unknown["standard"], unknown["batch"]) == ("smol", None, None)
    assert run("--ledger", "--since", "1d", "--data", str(tmp_path)).exit_code == 1
    assert run("--ledger", "--since", "x", "--data", str(tmp_path)).exit_code == 2


async def _charge(folder: Path) -> None:
    store = await open_store(Settings(store=StoreSettings(data=str(folder))))
    workspace = (await store.list_workspaces())[0].id
    used = Tokens(input=10)
    bills = [
        Bill(model="claude-haiku-4-5", requests=2, tokens=used, plain_pico=20, batch_pico=10, charge_pico=14),
        Bill(model="smol", requests=1, tokens=used, unpriced=1),
    ]
    entered = [LiveBill(workspace_id=workspace, credential="k", bill=bill) for bill in bills]
    await store.charge_live(entered, now_us=1_700_000_000_000_000)
    await store.close()


def test_cache_columns_of_a_log_are_read() -> None:
    """Writes without a lifetime are 5-minute writes; what was a batch already is known by its tier."""
    one = (
        b'{"model":"m","usage":{"input_tokens":1,"output_tokens":2,'
        b'"cache_creation_input_tokens":3,"cache_read_input_tokens":4}}'
    )
    two = (
        b'{"model":"m","usage":{"input_tokens":1,"output_tokens":2,"cache_creation_input_tokens":8,"service_tier":"batch",'
        b'"cache_creation":{"ephemeral_5m_input_tokens":3,"ephemeral_1h_input_tokens":5}}}'
    )
    assert list(read_log([one, two])) == [
        Past(model="m", tokens=Tokens(input=1, write_5m=3, read=4, output=2)),
        Past(model="m", tokens=Tokens(input=1, write_5m=3, write_1h=5, output=2), is_batch=True),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"secret words",
        b'{"model":"m"}',
        b'{"model":"m","usage":{"input_tokens":"secret words","output_tokens":1}}',
        b'{"model":"m","usage":{"input_tokens":-1,"output_tokens":1}}',
        b'{"result":"secret words"}',
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_not_quoted(line: bytes) -> None:
    """The error names the file and the line, and says nothing of what stands in it."""
    good = b'{"model":"m","usage":{"input_tokens":1,"output_tokens":2}}'
    with pytest.raises(LogError) as caught:
        list(read_log([good, line], name="past.jsonl"))
    assert str(caught.value).startswith("past.jsonl:2: ")
    assert "secret" not in str(caught.value)


def test_a_workbook_has_no_figure_without_its_formula(tmp_path: Path) -> None:
    """Every sheet but the inputs holds formulas only, beside its heads and the models' names."""
    file = _workbook(tmp_path)
    with zipfile.ZipFile(file) as parts:
        for number in range(2, len(SHEETS) + 1):
            sheet = parts.read(f"xl/worksheets/sheet{number}.xml").decode()
            assert sheet.count("<f>") > 0
            assert sheet.count("<v>") == sheet.count("<v></v>") + sheet.count('t="s"')


@pytest.mark.office
@pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice is not installed")
def test_a_workbook_recalculated_elsewhere_says_the_same(tmp_path: Path) -> None:
    """LibreOffice computes from the formulas what we compute, for the inputs written and for changed ones."""
    sheets = _recalculated(_workbook(tmp_path), tmp_path)
    assert sheets["By model"][1][0] == "claude-haiku-4-5"
    assert _figures(sheets["By model"][1]) == pytest.approx(
        [7.70, 3.85, 3.43, 1.1557, 1 - 3.43 / 7.7, 1 - 1.1557 / 7.7]
    )
    assert _figures(sheets["Break-even"][1]) == pytest.approx([25 / 115, 10 / 19])
    dearer = _recalculated(_workbook(tmp_path, "--input", "100001", "--cacheable", "0"), tmp_path)
    expected = _price("claude-haiku-5-5").batch.of(Tokens(input=100_001, output=300)) * 1000
    assert _figures(dearer["Batch"][2])[2] == pytest.approx(expected / DOLLAR)


@pytest.mark.office
@pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice is not installed")
def test_a_changed_input_changes_every_figure(tmp_path: Path) -> None:
    """Ten times the requests, typed into the sheet, cost ten times as much on the sheets behind it."""
    file = _workbook(tmp_path)
    before = _recalculated(file, tmp_path)
    _type_into(file, "<v>1000</v>", "<v>10000</v>")
    after = _recalculated(file, tmp_path)
    for sheet in ("Standard", "Batch", "Cache", "By model"):
        assert _figures(before[sheet][1]) != _figures(after[sheet][1])
    assert _figures(after["By model"][1])[:2] == pytest.approx([77.0, 38.5])


def _type_into(file: Path, cell: str, new: str) -> None:
    with zipfile.ZipFile(file) as parts:
        held = {name: parts.read(name) for name in parts.namelist()}
    inputs = held["xl/worksheets/sheet1.xml"].decode()
    assert inputs.count(cell) == 1
    held["xl/worksheets/sheet1.xml"] = inputs.replace(cell, new).encode()
    with zipfile.ZipFile(file, "w") as parts:
        for name, content in held.items():
            parts.writestr(name, content)


def _figures(row: list[str]) -> list[float]:
    return [float(cell.rstrip("%")) / (100 if cell.endswith("%") else 1) for cell in row[1:7]]


def _price(model: str) -> Price:
    price = claude_price(model, date(2026, 11, 22))
    assert price is not None
    return price


def _workbook(folder: Path, *more: str) -> Path:
    file = folder / "savings.xlsx"
    models = ("--model", "claude-haiku-4-5", "--model", "claude-haiku-5-5", "--hits", "60%-99.9%")
    assert run(*NIGHT, *more, *models, "--xlsx", str(file)).exit_code == 0
    return file


def _recalculated(file: Path, folder: Path) -> dict[str, list[list[str]]]:
    """Let LibreOffice open the workbook, compute every cell and write every sheet as CSV."""
    form = "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true,false,false,false,-1"
    profile = f"-env:UserInstallation=file://{folder}/profile"
    command = ["soffice", profile, "--headless", "--convert-to", form, "--outdir", str(folder), str(file)]
    subprocess.run(command, check=True, capture_output=True, timeout=180)
    found = {}
    for name in SHEETS:
        with (folder / f"savings-{name}.csv").open(newline="", encoding="utf-8") as lines:
            found[name] = [[cell for cell in row if cell] for row in csv.reader(lines)]
    return found
