from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from standby.emulation.cue import ERROR_TYPES, NEVER, PLAIN, STOP_REASONS, Cue
from standby.emulation.script import Script, read_script, rules_of, rules_of_line
from standby.errors import ScriptError


def cue(
    given: Any, *, custom_id: str = "doc-1", model: str = "claude-haiku-4-5", text: str = "", header: str = ""
) -> Cue:
    """Ask a script that was set."""
    script = Script()
    script.put(rules_of(given))
    return script.cue(custom_id=custom_id, model=model, text=lambda: text, header=header)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ok", PLAIN),
        ("", PLAIN),
        ("never", Cue(after_s=NEVER)),
        ("slow:2.5", Cue(after_s=2.5)),
        ("slow:500ms", Cue(after_s=0.5)),
        ("slow:24h", Cue(after_s=86400)),
        ("errored:api_error", Cue(error="api_error")),
        ("errored:api_error:It broke.", Cue(error="api_error", message="It broke.")),
        ("overloaded_error", Cue(error="overloaded_error")),
        ("fail:overloaded_error", Cue(error="overloaded_error", times=1)),
        ("fail:overloaded_error:2", Cue(error="overloaded_error", times=2)),
        ('fail:rate_limit_error:2:"a; b + c: d"', Cue(error="rate_limit_error", times=2, message="a; b + c: d")),
        ("stop:refusal", Cue(stop="refusal")),
        ("refusal", Cue(stop="refusal")),
        ("say:a=b", Cue(text="a=b")),
        ('say:"line\\nline"', Cue(text="line\nline")),
        ("say:", Cue(text="")),
        ("call:lookup", Cue(tool="lookup")),
        ('call:lookup:{"a": [1, "; + }"], "b": {}}', Cue(tool="lookup", input={"a": [1, "; + }"], "b": {}})),
        ("slow:1 + say:No. + refusal", Cue(after_s=1, text="No.", stop="refusal")),
        ("doc-*=refusal; *=slow:1", Cue(stop="refusal")),
        ("other-*=refusal; *=slow:1", Cue(after_s=1)),
        ("other-*=refusal; slow:1", Cue(after_s=1)),
        ("other-*=refusal", PLAIN),
        ("doc-?=refusal", Cue(stop="refusal")),
        ("doc-1=ok; *=never", PLAIN),
        ("*@claude-haiku-*=refusal", Cue(stop="refusal")),
        ("*@claude-opus-*=refusal", PLAIN),
        ("@claude-haiku-*=refusal", Cue(stop="refusal")),
        ("doc-*=say:a=b", Cue(text="a=b")),
    ],
)
def test_a_line(line: str, expected: Cue) -> None:
    """Each action, alone and joined, and each kind of pattern."""
    assert cue(line) == expected


@pytest.mark.parametrize("type_", ERROR_TYPES)
def test_every_error_type(type_: str) -> None:
    """All nine types of a row can be asked for."""
    assert cue(f"errored:{type_}") == Cue(error=type_)


@pytest.mark.parametrize("reason", STOP_REASONS)
def test_every_stop_reason(reason: str) -> None:
    """All stop reasons can be asked for."""
    assert cue(f"stop:{reason}") == Cue(stop=reason)


@pytest.mark.parametrize(
    ("line", "text", "fits"),
    [
        ("*~refund=refusal", "my refund, please", True),
        ("*~refund=refusal", "my money, please", False),
        ("~refund=refusal", "my refund, please", True),
        ('*~"a = b: c"=refusal', "if a = b: c", True),
        ("*~/^order [0-9]+$/=refusal", "order 17", True),
        ("*~/^order [0-9]+$/=refusal", "an order 17", False),
        ("*~/a=b;c+d/=refusal", "a=b;ccd", True),
        ("other~refund=refusal", "my refund, please", False),
    ],
)
def test_patterns_of_the_prompt(line: str, text: str, *, fits: bool) -> None:
    """A text or a regular expression in the prompt."""
    assert (cue(line, text=text) == Cue(stop="refusal")) is fits


def test_the_prompt_is_only_written_if_a_rule_asks_for_it() -> None:
    """Most rules look at names alone."""
    script = Script(rules_of("other~x=refusal; doc-*=slow:1"))

    def text() -> str:
        raise AssertionError

    assert script.cue(custom_id="doc-1", model="m", text=text) == Cue(after_s=1)


def test_answers_by_a_regular_expression() -> None:
    """Groups of the match stand in the answer; other braces stay."""
    rules = [{"matches": r"(?P<city>\w+) in (\d+)", "say": '{"city": "{city}", "year": {2}, "all": "{0}", "x": {y}}'}]

    found = cue(rules, text="Paris in 2026?")

    assert found.text == '{"city": "Paris", "year": 2026, "all": "Paris in 2026", "x": {y}}'


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ({"custom_id": "doc-*", "do": "fail:api_error:3"}, "doc-*=fail:api_error:3"),
        ({"error": "api_error", "times": 3, "message": "No."}, "fail:api_error:3:No."),
        ({"after": "never"}, "never"),
        ({"after": "2m", "stop": "refusal"}, "slow:120+refusal"),
        ({"after": 2}, "slow:2"),
        ({"say": "Hi."}, "say:Hi."),
        ({"call": "t", "input": {"a": 1}}, 'call:t:{"a": 1}'),
        ({"contains": "weather", "do": "never"}, "~weather=never"),
        ({"model": "claude-haiku-*", "do": "ok"}, "@claude-haiku-*=ok"),
    ],
)
def test_a_table_means_the_same_as_a_line(table: dict[str, Any], line: str) -> None:
    """The file and the API spell out what a line says."""
    assert cue([table], text="the weather") == cue(line, text="the weather")


def test_precedence() -> None:
    """The header comes before what was set, and that before the file; the first that fits decides alone."""
    script = Script(rules_of("*=say:file"))
    script.put(rules_of("doc-*=slow:1; doc-*=say:second"))
    script.prepend(rules_of("new-*=say:prepended"))

    def says(custom_id: str, header: str = "") -> Cue:
        return script.cue(custom_id=custom_id, model="m", text=str, header=header)

    assert says("doc-1", header="doc-*=say:header") == Cue(text="header")
    assert says("doc-1", header="img-*=say:header") == Cue(after_s=1)
    assert says("new-1") == Cue(text="prepended")
    assert says("img-1") == Cue(text="file")
    script.clear()
    assert says("doc-1") == Cue(text="file")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("refuse", '"refuse": "refuse" is no action: there are ok, errored:TYPE'),
        ("slow:soon", "'soon' is no time"),
        ("slow:-1", "'-1' is no time"),
        ("errored:oops", '"oops" is no error type: there are invalid_request_error'),
        ("fail:api_error:0", '"0": how many times is a whole number from 1'),
        ("fail:api_error:many", '"many": how many times'),
        ("stop:now", '"now" is no stop reason'),
        ("call:", "behind it stands the name of a tool"),
        ("call:t:[1]", "the input of a tool is a JSON object"),
        ("call:t:{no}", "is no JSON"),
        ('say:"open', "is opened and never closed"),
        ("call:t:{", "is opened and never closed"),
        ("a b=ok", '"a b" is no pattern'),
        ("doc~=ok", "behind ~ stands a text"),
        ("*~/(/=ok", '"(" is no regular expression'),
        ("ok; nope", '"nope": "nope" is no action'),
        (["ok", "nope"], 'rule 2: "nope": "nope" is no action'),
        ([{"do": "nope"}], 'rule 1: "nope" is no action'),
        ([{"what": 1}], "rule 1: what: no such key; there are after"),
        ([{"say": 1}], 'rule 1: say: must be text, not "1"'),
        ([{"input": 1}], "rule 1: input: must be a table"),
        ([{"times": True}], 'rule 1: "True": how many times'),
        ([7], "rule 1: is neither a line nor a table"),
        (7, "a script is a line of text, or a list of rules"),
    ],
)
def test_what_is_wrong(given: Any, complaint: str) -> None:
    """The message names the rule and shows the part that is wrong."""
    with pytest.raises(ScriptError) as caught:
        rules_of(given)
    assert complaint in str(caught.value)


def test_a_file(tmp_path: Path) -> None:
    """Rules and faults stand in tables of their own; anything else is named."""
    file = tmp_path / "script.toml"
    file.write_text('[[rule]]\ncustom_id = "doc-*"\ndo = "refusal"\n[[fault]]\ndo = "create=529"\n', encoding="utf-8")
    assert cue(read_script(file)["rule"]) == Cue(stop="refusal")
    assert read_script(file)["fault"] == [{"do": "create=529"}]
    for text, complaint in (("[x]\n", "x: a script has"), ("[", "script.toml: "), ("rules = 1", "rules: a script has")):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ScriptError, match=complaint.replace("[", r"\[")):
            read_script(file)
    with pytest.raises(ScriptError, match="No such file"):
        read_script(tmp_path / "nothing")


def test_a_line_is_shown_as_it_was_written() -> None:
    """`source` is what people see when they ask for the rules."""
    assert [rule.source for rule in rules_of_line("doc-*=refusal; slow:1")] == ["doc-*=refusal", "slow:1"]
