"""Templates of prompts and system messages: nested places, Jinja, literal braces, and lines without a field."""

import sys
from typing import Any

import orjson
import pytest

from llmblast.errors import UsageError
from llmblast.models import Failure, Request
from llmblast.settings import Settings
from tests.openai_provider import RequestParser


def result_of(line: dict[str, Any] | bytes, **settings: Any) -> Request | Failure:
    text = line if isinstance(line, bytes) else orjson.dumps(line)
    return RequestParser(Settings(**settings)).parse(1, "0" * 16, text)


def prompt_of(line: dict[str, Any] | bytes, template: str) -> object:
    request = result_of(line, prompt=template)
    assert isinstance(request, Request), request.error
    assert orjson.loads(request.body)["messages"] == [{"role": "user", "content": request.input}]
    return request.input


def refusal(line: dict[str, Any], **settings: Any) -> str:
    result = result_of(line, **settings)
    assert isinstance(result, Failure)
    return result.error


def system_of(system: str, line: dict[str, Any]) -> object:
    request = result_of(line, system=system)
    assert isinstance(request, Request), request.error
    message = orjson.loads(request.body)["messages"][0]
    assert message["role"] == "system"
    return message["content"]


LINE = {"text": "chat", "a": {"b": [{"c": "deep"}, 7], "d": None}, "First Name": "Ann", "n": 5, "ok": True}


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{a.b[0].c}", "deep"),
        ("{a.b[-1]}", "7"),
        ("{a[b][0]['c']}", "deep"),
        ("{a.b}", '[{"c":"deep"},7]'),
        ("{First Name}: {n}", "Ann: 5"),
        ("{{{text}}}", "{chat}"),
        ('Answer {{"label": 1}}: {text}', 'Answer {"label": 1}: chat'),
        ("{{ a.b[0].c }}", "deep"),
        ("{{text}}", "chat"),
        ("{{- text -}}", "chat"),
        ("{{ 'x' ~ n }}, {{ n }}", "x5, 5"),
        ("{{ text | upper }} {single} \\boxed{answer}", "CHAT {single} \\boxed{answer}"),
        ("{% for item in a.b %}{{ item }};{% endfor %}", '{"c":"deep"};7;'),
        ("{% if ok %}{{ a }}{% endif %}", '{"b":[{"c":"deep"},7],"d":null}'),
        ("{% if zz is defined %}{{ zz }}{% else %}{{ ok }}{% endif %}", "true"),
        ('{{ fields["First Name"] }}', "Ann"),
        ("{{ a.d or 'none' }}", "none"),
        ("{{ text }}\n", "chat\n"),
        ("{{ text[1:3] }}", "ha"),
    ],
)
def test_a_template_writes_the_values_of_its_places(template: str, prompt: str) -> None:
    """Values other than texts as JSON, in both syntaxes."""
    assert prompt_of(LINE, template) == prompt


def test_a_field_with_the_whole_name_goes_before_a_nested_value() -> None:
    """As columns of tables have."""
    assert prompt_of({"a.b": "column", "a": {"b": "nested"}}, "{a.b}") == "column"
    assert prompt_of({"a": {"b": "nested"}}, "{a.b}") == "nested"


def test_characters_of_markup_are_not_escaped() -> None:
    """A prompt is no HTML."""
    assert prompt_of({"text": 'a < b & "c" é'}, "{{ text }}") == 'a < b & "c" é'


@pytest.mark.parametrize("template", ["{n} {a.n} {f}", "{{ n }} {{ a.n }} {{ f }}"])
def test_long_integers_keep_their_digits(template: str) -> None:
    """They are ids as a rule."""
    line = b'{"n":123456789012345678901234567890,"a":{"n":9007199254740993},"f":0.5}'

    assert prompt_of(line, template) == "123456789012345678901234567890 9007199254740993 0.5"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{txt}", 'it has no field "txt", which --prompt names: it has: text, a, First Name, n, ok'),
        ("{txt.b}", 'it has no field "txt", which --prompt names as txt.b: it has: text, a, '),
        ("{a.x}", '"a" has no "x": it has: b, d, which --prompt names as a.x'),
        ("{a.b[2]}", '"a.b" has no [2]: it is a list of 2, which'),
        ("{a.b[c]}", '"a.b" has no [c]: it is a list of 2, which'),
        ("{a.d}", '"a" has null as "d", which'),
        ("{text.b}", '"text" has no "b": it is not an object, which'),
        ("{{ txt }}", 'it has no field "txt", which --prompt names: it has: text, a, First Name, n, ok'),
        ("{{ txt.b }}", 'it has no field "txt", which --prompt names'),
        ("{{ a.x.y }}", "{{ a.x.y }} in --prompt names a value that it does not have: it has: text, a"),
        ("{{ a['x'] }}", "{{ a['x'] }} in --prompt names a value that it does not have"),
        ("é{% if txt %}x{% endif %}", 'it has no field "txt", which --prompt names'),
        ("{{ a.d }}", "a value that --prompt writes is null"),
        ("{{ n + text }}", "{{ n + text }} in --prompt cannot be filled: "),
        ("{% for i in range(9999) %}{% for j in range(9999) %}{{ n }}{% endfor %}{% endfor %}", "ran out of fuel"),
        ("{{ text | nothing }}", "{{ text | nothing }} in --prompt cannot be filled: filter nothing is unknown"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(n) }}", "recursion limit exceeded"),
        ("{{ text * 1000000000 }}", "ran out of fuel"),
        ("{{ text.__class__ }}", "names a value that it does not have"),
        ("{{ a.__init__() }}", "insecure method call"),
    ],
)
def test_a_line_without_a_value_is_bad(template: str, reason: str) -> None:
    """The message names what is missing and what is there. Nothing of Python can be reached."""
    assert reason in refusal(LINE, prompt=template)


def test_a_message_about_many_fields_stays_short() -> None:
    """A table may have hundreds of columns."""
    error = refusal({f"column{n}": n for n in range(300)}, prompt="{text}")

    assert "column19 and 280 more" in error
    assert len(error) < 500


@pytest.mark.parametrize("template", ["{{ text", "{% if text %}", "{{ text | nothing( }}", "{% nothing %}"])
def test_a_template_that_is_no_jinja_is_refused_at_once(template: str) -> None:
    """Before a line is read, with the reason."""
    with pytest.raises(UsageError, match=r"--prompt .*: not a Jinja template: .*write fields as \{\{ text \}\}"):
        RequestParser(Settings(prompt=template))


def test_without_the_extra_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates in plain syntax need nothing."""
    monkeypatch.setitem(sys.modules, "minijinja", None)
    monkeypatch.delitem(sys.modules, "llmblast.reading.jinja_template", raising=False)

    assert prompt_of(LINE, "{text} {{}}") == "chat {}"
    with pytest.raises(
        UsageError, match=r"^--prompt: .* need the package minijinja: pip install 'llmblast\[templates\]'"
    ):
        RequestParser(Settings(prompt="{{ text }}"))


@pytest.mark.parametrize(
    ("system", "sent"),
    [
        ("Speak {lang}.", "Speak French."),
        ("Speak {{ lang | upper }}.", "Speak FRENCH."),
        ('Answer as {"label": 1}', 'Answer as {"label": 1}'),
        ('Answer as {"lang"} or {}', 'Answer as {"lang"} or {}'),
        ("if (a) { return lang; }", "if (a) { return lang; }"),
        ("Reason in \\boxed{}.", "Reason in \\boxed{}."),
        ("{% raw %}{{ lang }}{% endraw %}", "{{ lang }}"),
        ("Be brief.", "Be brief."),
    ],
)
def test_a_system_message_may_name_fields_and_show_code(system: str, sent: str) -> None:
    """Braces around anything but a place are sent as they are."""
    assert system_of(system, {"input": "x", "lang": "French"}) == sent


def test_a_system_message_of_a_line_is_no_template() -> None:
    """Nor is that of the settings asked then."""
    request = result_of({"input": "x", "system": "as {it} {{ is }}"}, system="Speak {lang}.")

    assert isinstance(request, Request)
    assert orjson.loads(request.body)["messages"][0]["content"] == "as {it} {{ is }}"


def test_a_line_without_the_field_of_the_system_message_is_bad() -> None:
    """The message names the option, a file too."""
    assert 'no field "lang", which --system names: it has: input' in refusal({"input": "x"}, system="Speak {lang}.")
    settings = {"system": "Speak {lang}.", "system_file": "s.txt"}
    assert 'no field "lang", which --system-file s.txt names' in refusal({"input": "x"}, **settings)


def test_braces_of_json_in_a_prompt_are_told_with_both_ways_to_write_them() -> None:
    with pytest.raises(UsageError, match=r"literal brace as \{\{ or \}\}; or write fields as \{\{ text \}\}"):
        RequestParser(Settings(prompt='Answer as {"label": "x"}: {text}'))
