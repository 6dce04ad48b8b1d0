"""The docs name everything that a user or a reader of the code can meet."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import standby
from standby import errors
from standby.api import app, faults
from standby.cli import standby as command
from standby.config import OTHER_VARIABLES, known_keys
from tools.write_docs import families, name_of, walk

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ALL = [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"]


def read(name: str) -> str:
    """Read one document."""
    return (DOCS / name).read_text(encoding="utf-8")


def endpoints() -> list[tuple[str, str]]:
    """Read the method and path of every route off the page where they are listed."""
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(app))) if isinstance(node, ast.Call)]
    resources = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Resource"]
    return [
        (str(keyword.arg), path.value)
        for call in resources
        for path in call.args
        if isinstance(path, ast.Constant) and isinstance(path.value, str)
        for keyword in call.keywords
    ]


def test_routes_are_found() -> None:
    """The list of routes that the next test walks over is not empty by mistake."""
    assert {("POST", "/v1/messages/batches"), ("GET", "/metrics"), ("GET", "/v1/models")} <= set(endpoints())


@pytest.mark.parametrize(("method", "path"), endpoints())
def test_endpoint_is_documented(method: str, path: str) -> None:
    """Each route stands in the reference."""
    assert f"| `{method} {path}` |" in read("reference/endpoints.md")


def test_no_endpoint_is_invented() -> None:
    """The reference lists no route that does not exist."""
    listed = re.findall(r"^\| `(GET|POST|DELETE|PUT|PATCH) (\S+)` \|", read("reference/endpoints.md"), re.MULTILINE)
    assert set(listed) == set(endpoints())


@pytest.mark.parametrize("key", list(known_keys()))
def test_setting_is_documented(key: str) -> None:
    """Each setting stands in the table of its section."""
    table, _, name = key.partition(".")
    section = read("reference/settings.md").partition(f"### [{table}]\n")[2].partition("\n### ")[0]
    assert f"| `{name}` |" in section


@pytest.mark.parametrize("variable", sorted(OTHER_VARIABLES - {"STANDBY_CRASH_AT"}))
def test_variable_is_documented(variable: str) -> None:
    """Variables that are no settings are named too; the one that crashes the server is for its tests only."""
    assert variable in read("reference/settings.md")


def answers() -> list[tuple[int, str]]:
    """Collect the status and type of every `ApiError` that the code raises."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "src").rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    made = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in {"ApiError", "InvalidParams"}]
    literal = [[one.value for one in call.args[:2] if isinstance(one, ast.Constant)] for call in made]
    return sorted(
        (pair[0], pair[1])
        for pair in {tuple(values) for values in literal if len(values) == 2}
        if isinstance(pair[0], int) and isinstance(pair[1], str)
    )


def test_answers_are_found() -> None:
    """The list that the next test walks over is not empty by mistake."""
    assert {(401, "authentication_error"), (404, "not_found_error"), (413, "request_too_large")} <= set(answers())


@pytest.mark.parametrize(("status", "type_"), answers())
def test_error_is_documented(status: int, type_: str) -> None:
    """Each error that a client can meet stands in the reference."""
    assert re.search(rf"^\| {status} \| `{type_}` \|", read("reference/errors.md"), re.MULTILINE)


@pytest.mark.parametrize("failure", errors.Failure, ids=lambda failure: failure.label)
def test_failure_is_documented(failure: errors.Failure) -> None:
    """Each way in which an attempt can fail is explained with its fault and the type of its row."""
    row = re.search(rf"^\| `{failure.label}` \| {failure.fault} \|.*$", read("reference/errors.md"), re.MULTILINE)
    assert row is not None
    assert failure.retriable != (f"`errored` with `{failure.wire_type}`" in row[0] and "again" not in row[0])


@pytest.mark.parametrize("failure", errors.Failure, ids=lambda failure: failure.label)
def test_live_failure_is_documented(failure: errors.Failure) -> None:
    """What a live client sees of a failed attempt stands in the reference."""
    answer = faults.answer_to(errors.EngineError(failure, "x"))
    assert re.search(rf"^\| {answer.status} \| `{answer.type}` \|", read("reference/errors.md"), re.MULTILINE)


def error_classes() -> Iterator[str]:
    """Name every class of `errors.py`."""
    for name, each in vars(errors).items():
        if inspect.isclass(each) and issubclass(each, errors.StandbyError):
            yield name


@pytest.mark.parametrize("name", list(error_classes()))
def test_error_class_is_documented(name: str) -> None:
    """The reference names every class, and so does the tree at the top of the module."""
    assert f"`{name}`" in read("reference/errors.md")
    assert name in (errors.__doc__ or "")


@pytest.mark.parametrize("name", sorted(name_of(family) for family, _ in families()))
def test_metric_is_documented(name: str) -> None:
    """Each metric stands in the reference."""
    assert f"| `{name}` |" in read("reference/metrics.md")


def test_metrics_are_named_for_us() -> None:
    """Every metric begins with `standby_`, so that a shared monitoring keeps them apart."""
    assert all(family.name.startswith("standby_") for family, _ in families())


def flags() -> Iterator[tuple[str, str]]:
    """Yield every flag of every command."""
    for path, each in walk(command, "standby"):
        for parameter in each.params:
            if isinstance(parameter, click.Option):
                yield path, parameter.opts[-1]


@pytest.mark.parametrize(("path", "flag"), list(flags()))
def test_flag_is_documented(path: str, flag: str) -> None:
    """Each flag stands in the section of its command."""
    section = read("reference/cli.md").partition(f"## {path}\n")[2].partition("\n## ")[0]
    assert flag in section


@pytest.mark.parametrize("code", ["0", "1", "2", "3", "130"])
def test_exit_code_is_documented(code: str) -> None:
    """The codes that the command line promises are those in the reference."""
    assert f"| {code} |" in read("reference/cli.md")


@pytest.mark.parametrize("room", sorted(module.name for module in pkgutil.iter_modules(standby.__path__)))
def test_room_is_on_the_map(room: str) -> None:
    """Every room and every module of the ground floor is named on the map."""
    assert re.search(rf"(\*\*{room}/\*\*|[`*]{room}\.py[`*])", read("map.md")) or room == "__main__"


def test_map_has_ten_steps() -> None:
    """The walk is told in ten numbered steps."""
    steps = re.findall(r"^(\d+)\. ", read("map.md"), re.MULTILINE)
    assert steps == [str(number) for number in range(1, 11)]


def packages() -> list[str]:
    """Name every package that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    return sorted({re.match(r"[A-Za-z0-9_.-]+", one)[0] for one in wanted})  # type: ignore[index]


@pytest.mark.parametrize("package", packages())
def test_dependency_has_its_sentence(package: str) -> None:
    """Nothing is installed without a reason."""
    assert f"| `{package}` |" in read("dependencies.md")


def test_no_sentence_without_a_dependency() -> None:
    """A package that was removed leaves the list."""
    assert set(re.findall(r"^\| `([a-z0-9_.-]+)` \|", read("dependencies.md"), re.MULTILINE)) == set(packages())


@pytest.mark.parametrize("file", ALL, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    """A link to a file leads to a file that is there, and a link to a heading to a heading."""
    for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
        if "://" not in target:
            path, _, heading = target.partition("#")
            goal = (file.parent / path).resolve() if path else file
            assert goal.exists(), target
            assert not heading or heading in headings(goal), target


def headings(file: Path) -> set[str]:
    """Name the headings of a document as links do."""
    found = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", text.lower()).replace(" ", "-") for text in found}


@pytest.mark.parametrize("file", sorted((DOCS / "decisions").glob("2*.md")), ids=lambda file: file.stem)
def test_decision_is_listed_and_dated(file: Path) -> None:
    """A decision says what was rejected and what it costs, carries its date and stands in the list."""
    text = file.read_text(encoding="utf-8")
    assert f"]({file.name})" in read("decisions/README.md")
    assert file.stem[:10] in text
    assert {"**Decided.**", "**Why.**", "**Rejected.**", "**Costs.**"} <= set(re.findall(r"\*\*\w+\.\*\*", text))


def cited_sections() -> list[str]:
    """Collect the sections of the contract that the code cites, such as `2.4` in "contract 2.4"."""
    texts = [file.read_text(encoding="utf-8") for place in ("src", "tests") for file in (ROOT / place).rglob("*.py")]
    citations = [found for text in texts for found in re.findall(r"contract (\d[\d., and to]*)", text)]
    return sorted({number for citation in citations for number in re.findall(r"\d+(?:\.\d+)*", citation)})


@pytest.mark.parametrize("section", cited_sections())
def test_cited_section_exists(section: str) -> None:
    """Who reads "contract 2.4" in the code finds 2.4 in the contract."""
    assert re.search(rf"^#+ {re.escape(section)} ", read("reference/contract.md"), re.MULTILINE)
