"""Settings of stages: which table holds for which stage, and errors that name the place."""

from pathlib import Path
from typing import Any

import pytest

from llmblast.errors import UsageError
from llmblast.setting_loading import load
from llmblast.settings import Settings
from llmblast.stage_loading import RUN_ONLY, load_stages

TWO = """
rps = 5
model = "m"
{above}
[[endpoints]]
url = "mock:"

[[stage]]
name = "draft"
{first}

[[stage]]
name = "judge"
prompt = "Judge: {{response}}"
{second}
"""


@pytest.fixture
def settings_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads two stages: `settings_of(second="rps = 1", flags={"limit": 3})`."""
    monkeypatch.chdir(tmp_path)

    def load_two(
        above: str = "", first: str = "", second: str = "", flags: dict[str, Any] | None = None
    ) -> tuple[Settings, ...]:
        (tmp_path / "two.toml").write_text(TWO.format(above=above, first=first, second=second))
        return tuple(stage.settings for stage in load_stages(flags or {}, "two.toml", {}))

    return load_two


def test_what_stands_above_the_tables_holds_for_all(settings_of: Any) -> None:
    """Unless a stage has its own. Each has its files, and reads those of the one before it."""
    draft, judge = settings_of(second='rps = 1\n[[stage.endpoints]]\nurl = "mock:?latency=1"')

    assert (draft.rps, draft.model, draft.endpoints[0].url, draft.prompt) == (5, "m", "mock:", None)
    assert (judge.rps, judge.model, judge.endpoints[0].url) == (1, "m", "mock:?latency=1")
    assert (draft.save, draft.errors_path, draft.input) == ("draft.jsonl", "draft.errors.jsonl", ("-",))
    assert (judge.save, judge.errors_path, judge.input) == ("judge.jsonl", "judge.errors.jsonl", ("draft.jsonl",))


def test_what_is_about_the_input_holds_for_the_first_stage(settings_of: Any) -> None:
    """A later one reads records, all of them."""
    draft, judge = settings_of(
        above='format = "csv"\nrepeat = 3\nlimit = 4\nmap = {input = "question"}', flags={"input": ["a.csv"]}
    )

    assert (draft.format, draft.repeat, draft.limit, draft.map) == ("csv", 3, 4, {"input": "question"})
    assert (judge.format, judge.repeat, judge.limit, judge.map) == ("auto", 1, None, {})
    assert (draft.input, judge.input) == (("a.csv",), ("draft.jsonl",))


@pytest.mark.parametrize("flags", [{}, {"save": "out.jsonl"}])
def test_the_output_of_all_is_that_of_the_last_stage(settings_of: Any, flags: dict[str, Any]) -> None:
    """Above the tables or on the command line."""
    draft, judge = settings_of(above='save = "out.jsonl"' if not flags else "", flags=flags)

    assert (draft.save, judge.save) == ("draft.jsonl", "out.jsonl")


def test_the_command_line_goes_before_the_tables(settings_of: Any) -> None:
    """As before any other setting of the file."""
    draft, judge = settings_of(second="rps = 1", flags={"rps": "7", "endpoints": ["mock:?latency=2"]})

    assert (draft.rps, judge.rps) == (7, 7)
    assert draft.endpoints[0].url == judge.endpoints[0].url == "mock:?latency=2"


@pytest.mark.parametrize("own", ["prompt", "prompt_file"])
def test_a_stage_may_give_its_text_in_the_other_way(settings_of: Any, tmp_path: Path, own: str) -> None:
    """In the line or in a file: that of the stage counts."""
    (tmp_path / "text.txt").write_text("from a file {response}\n")
    texts = {"prompt": 'prompt = "of the line {response}"', "prompt_file": 'prompt_file = "text.txt"'}
    other = "prompt_file" if own == "prompt" else "prompt"

    draft, judge = settings_of(above=texts[other], first=texts[own])

    assert draft.prompt == ("of the line {response}" if own == "prompt" else "from a file {response}")
    assert judge.prompt == "Judge: {response}"


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"second": "rps = 0"}, "two.toml: stage[1].rps: 0 is not allowed: it must be greater than 0"),
        ({"second": 'rps = "fast"'}, "two.toml: stage[1].rps: 'fast' is not a number"),
        ({"second": "rsp = 3"}, "two.toml: stage[1]: unknown setting rsp; did you mean rps?"),
        ({"first": "nmae = 3"}, "two.toml: stage[0]: unknown setting nmae; did you mean name?"),
        ({"first": 'url = "mock:"'}, "two.toml: stage[0]: unknown setting url: write [[stage.endpoints]]"),
        ({"above": "rsp = 3"}, "two.toml: unknown setting rsp; did you mean rps?"),
        ({"above": "burst = -3"}, "two.toml: burst: -3 is not allowed"),
        ({"second": "endpoints = 3"}, "two.toml: stage[1].endpoints: write one [[stage.endpoints]] table for each"),
        (
            {"second": '[[stage.endpoints]]\nurl = "mock:"\nrps = -1'},
            "two.toml: stage[1].endpoints[0].rps: -1 is not allowed",
        ),
        (
            {"second": '[[stage.endpoints]]\nurl = "mock:"\nrsp = 1'},
            "two.toml: stage[1].endpoints[0]: unknown setting rsp",
        ),
        ({"second": 'format = "csv"'}, "two.toml: stage[1].format: its input are the records"),
        ({"above": 'timeline = "t.jsonl"'}, "timeline: is one file for several stages"),
        ({"first": 'save = "-"'}, "-: is the output of stage draft, which the next stage cannot read"),
        ({"second": '[[stage]]\nname = "judge"\nprompt = "x"'}, "stage[2].name: judge is the name of another stage"),
        ({"second": '[[stage]]\nname = "a/b"\nprompt = "x"'}, "stage[2].name: is not a name"),
        ({"second": '[[stage]]\nname = "last"'}, "two.toml: stage[2].prompt: is missing"),
        *(({"first": f"{name} = 1"}, f"two.toml: stage[0].{name}: holds for the whole run") for name in RUN_ONLY),
    ],
)
def test_an_error_names_the_place(settings_of: Any, tables: dict[str, str], message: str) -> None:
    """The table of the stage, counted like those of endpoints."""
    with pytest.raises(UsageError) as raised:
        settings_of(**tables)

    assert message in str(raised.value)


@pytest.mark.parametrize("text", ["stage = 3", "stage = []", "[stage]\nrps = 3", "stage = [1]"])
def test_stages_are_tables(tmp_path: Path, text: str) -> None:
    """Written with two brackets."""
    (tmp_path / "bad.toml").write_text(text)

    with pytest.raises(UsageError, match=r"bad\.toml: stage: is not a table: write \[\[stage\]\]"):
        load_stages({}, str(tmp_path / "bad.toml"), {})


def test_a_file_without_stages_is_one_stage_without_a_name(tmp_path: Path) -> None:
    """As it is for a run of its own."""
    (tmp_path / "plain.toml").write_text('rps = 3\n[[endpoints]]\nurl = "mock:"')

    (stage,) = load_stages({}, str(tmp_path / "plain.toml"), {})

    assert (stage.name, stage.settings) == ("", load({}, str(tmp_path / "plain.toml"), {}))


def test_stages_without_a_name_are_numbered(tmp_path: Path) -> None:
    """Their files, too."""
    (tmp_path / "two.toml").write_text('[[stage]]\nrps = 3\n[[stage]]\nprompt = "{response}"')

    stages = load_stages({}, str(tmp_path / "two.toml"), {})

    assert [(stage.name, stage.settings.save) for stage in stages] == [
        ("stage1", "stage1.jsonl"),
        ("stage2", "stage2.jsonl"),
    ]
