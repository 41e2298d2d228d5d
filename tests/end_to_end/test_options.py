"""Options are made from the fields of the settings: one field is an option, a variable, and a setting of TOML files."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.main import get_command

from llmblast.cli.main import app
from llmblast.setting_option import Group, is_shown, options_of, variable_of
from llmblast.setting_values import FileList, Switch, kind_of
from llmblast.settings import Settings
from tests.conftest import ROOT, RunLlmblast

RunCopy = Callable[..., str]
NEW_FIELD = (
    '    tempo: Annotated[int, Ge(1)] = option(3, "-t --tempo", "Retries", "Beats of the drum.", in_check=True)\n'
    '    drum: Literal["snare", "bass"] = option("bass", "--drum", "Display", "Kind of drum: {choices}.")\n'
)
BEFORE = "    processes: "


@pytest.fixture(scope="module")
def run_copy(tmp_path_factory: pytest.TempPathFactory) -> RunCopy:
    """Return what a command prints in a copy of the program whose settings have two more fields."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "llmblast", folder / "llmblast", ignore=shutil.ignore_patterns("__pycache__"))
    source = folder / "llmblast" / "settings.py"
    source.write_text(source.read_text().replace(BEFORE, NEW_FIELD + BEFORE))

    def run(*arguments: str, **variables: str) -> str:
        environment = {**os.environ, **variables, "PYTHONPATH": str(folder), "COLUMNS": "200"}
        done = subprocess.run(
            [sys.executable, "-m", "llmblast", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    return run


def test_a_new_field_is_in_the_help(run_copy: RunCopy) -> None:
    """In its group, with its choices and defaults; `check` has only those that say so."""
    run, check = run_copy("run", "--help"), run_copy("check", "--help")

    retries = run.split("Retries:\n")[1].split("\n\n")[0]
    assert ["-t, --tempo N", "Beats of the drum. [default: 3]"] in [
        [part.strip() for part in line.split("  ") if part] for line in retries.splitlines()
    ]
    assert "Kind of drum: snare or bass. [default: bass]" in run
    assert ("--tempo" in check, "--drum" in check) == (True, False)


def test_a_new_field_is_read_from_all_places(run_copy: RunCopy, tmp_path: Path) -> None:
    """Flag, variable and file, in this order."""
    file = tmp_path / "mine.toml"
    file.write_text("tempo = 4\n")
    show = ("config", "show")

    from_file = run_copy(*show, "-c", str(file))
    from_variable = run_copy(*show, "-c", str(file), LLMBLAST_TEMPO="5")
    from_flag = run_copy(*show, "-c", str(file), "-t", "6k", LLMBLAST_TEMPO="5")

    told = [tomllib.loads(text)["tempo"] for text in (run_copy(*show), from_file, from_variable, from_flag)]
    assert told == [3, 4, 5, 6000]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tempo", "0"], "llmblast: --tempo: 0 is not allowed: it must be at least 1\n"),
        (["--tempo", "x"], "llmblast: --tempo: 'x' is not a whole number: write it like 5 or 10k\n"),
        (["--drum", "big"], "llmblast: --drum: 'big' is not one of snare, bass\n"),
        (["--temp", "1"], "llmblast: --temp: unknown option; did you mean --tempo?\n"),
    ],
)
def test_a_new_field_is_checked(run_copy: RunCopy, arguments: list[str], sentence: str) -> None:
    """With the same words as all others."""
    assert run_copy("config", "show", *arguments) == sentence


def test_the_choices_of_a_new_field_complete(run_copy: RunCopy) -> None:
    """In the shell."""
    completed = run_copy(_LLMBLAST_COMPLETE="complete_bash", COMP_WORDS="llmblast run --drum ", COMP_CWORD="3")

    assert completed.split() == ["snare", "bass"]


@pytest.mark.parametrize("name", [entry.name for entry in fields(Settings)])
def test_each_setting_is_an_option(name: str) -> None:
    """Its long name, its variable and its name in TOML are that of the field; `--url` alone differs."""
    entry, option = options_of(Settings)[name]
    (param,) = (param for param in _params("run") if param.name == name)
    long_name = next(flag for flag in option.names if flag.startswith("--")).partition("/")[0]

    assert long_name == ("--url" if name == "endpoints" else f"--{name.replace('_', '-')}")
    is_read_by_typer = not isinstance(kind_of(entry.type), FileList)  # typer would split names of files at spaces
    assert (param.envvar, param.rich_help_panel) == (variable_of(name) if is_read_by_typer else None, option.group)
    assert bool(param.metavar) == (not isinstance(kind_of(entry.type), Switch))


def test_only_names_of_the_older_tool_are_hidden(llmblast: RunLlmblast) -> None:
    """They are accepted, but `--help` does not show them."""
    names = [flag for _, option in options_of(Settings).values() for flag in option.names]
    hidden = [flag for flag in names if not is_shown(flag)]
    help_text = llmblast("run", "--help").stdout

    assert hidden == [
        "--max_requests_per_second",
        "--max_requests_per_minute",
        "--max_tokens_per_minute",
        "--requests_filepath",
        "--save_filepath",
        "--request_url",
        "--max_attempts",
    ]
    assert [flag for flag in hidden if flag in help_text] == []
    assert [flag for flag in names if is_shown(flag) and flag.replace("/", " / ") not in help_text] == []


def test_the_help_begins_with_three_examples(llmblast: RunLlmblast) -> None:
    """Then come the options, in their groups."""
    for command in ([], ["run"]):
        before_options = llmblast(*command, "--help", COLUMNS="120").stdout.split(":\n", 2)
        assert before_options[0].endswith("Examples")
        assert len(before_options[1].split("\n\n")[0].splitlines()) == 3

    text = llmblast("run", "--help").stdout
    places = [text.index(f"\n{group}:\n") for group in get_args(Group)]
    assert places == sorted(places)


def _params(command: str) -> list[Any]:
    params: list[Any] = get_command(app).commands[command].params  # type: ignore[attr-defined] # a group
    return params
