"""Texts of settings that are in files."""

from pathlib import Path
from typing import Any

import pytest

from llmblast.errors import UsageError
from llmblast.setting_files import MAX_BYTES
from llmblast.setting_loading import load


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"Say {a}\n", "Say {a}"),
        (b"Say {a}\r\n", "Say {a}"),
        (b"Say\n{a}\n\n", "Say\n{a}\n"),
        (b"\xef\xbb\xbfSay {a} \xc3\xa9", "Say {a} é"),
    ],
)
def test_the_content_of_a_file_is_the_setting(tmp_path: Path, content: bytes, text: str) -> None:
    """Without a byte order mark and the newline at its end."""
    (tmp_path / "p.txt").write_bytes(content)
    path = str(tmp_path / "p.txt")

    settings = load({"prompt_file": path, "system_file": path})

    assert (settings.prompt, settings.system) == (text, text)
    assert settings.prompt_option == f"--prompt-file {path}"


@pytest.mark.parametrize("name", ["prompt", "system"])
def test_a_flag_overrides_the_text_of_the_other_form_in_a_toml_file(tmp_path: Path, name: str) -> None:
    """As it overrides the same setting."""
    (tmp_path / "p.txt").write_text("file {a}")
    (tmp_path / "text.toml").write_text(f'{name} = "toml {{a}}"')
    (tmp_path / "file.toml").write_text(f'{name}_file = "{tmp_path}/p.txt"')

    in_file = load({f"{name}_file": str(tmp_path / "p.txt")}, str(tmp_path / "text.toml"))
    in_flag = load({name: "flag {a}"}, str(tmp_path / "file.toml"))
    in_toml = load({}, str(tmp_path / "file.toml"))

    assert [getattr(settings, name) for settings in (in_file, in_flag, in_toml)] == ["file {a}", "flag {a}", "file {a}"]
    assert getattr(in_flag, f"{name}_file") is None


def test_a_flag_overrides_a_variable_with_the_text_in_the_other_form(tmp_path: Path) -> None:
    """As it overrides the variable of the same setting."""
    (tmp_path / "p.txt").write_text("file {a}")
    path = str(tmp_path / "p.txt")

    in_file = load({"prompt": "variable {a}", "prompt_file": path}, environ={"LLMBLAST_PROMPT": "variable {a}"})
    in_flag = load({"prompt": "flag {a}", "prompt_file": path}, environ={"LLMBLAST_PROMPT_FILE": path})

    assert (in_file.prompt, in_flag.prompt) == ("file {a}", "flag {a}")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"prompt_file": "{dir}/missing"}, "--prompt-file .*missing: cannot be read: No such file.*: name an existing"),
        ({"prompt_file": "{dir}"}, "--prompt-file .*: cannot be read: Is a directory"),
        ({"prompt_file": ""}, "--prompt-file: is empty: name a file"),
        ({"system_file": "{dir}/latin1"}, "--system-file .*: invalid UTF-8: save the file as UTF-8"),
        ({"system_file": "{dir}/huge"}, "--system-file .*: has more than 16 MiB"),
        ({"system_file": "{dir}/a", "system": "x"}, "--system and --system-file both give the text"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, flags: dict[str, Any], reason: str) -> None:
    """With the option and what to do."""
    (tmp_path / "latin1").write_bytes(b"\xe9")
    (tmp_path / "a").write_text("a")
    (tmp_path / "huge").touch()
    with (tmp_path / "huge").open("r+b") as file:
        file.truncate(MAX_BYTES + 1)

    with pytest.raises(UsageError, match=reason):
        load({name: value.format(dir=tmp_path) for name, value in flags.items()})


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("input=question,id=row", {"input": "question", "id": "row"}),
        (" input = my question , id=a=b", {"input": "my question", "id": "a=b"}),
        ({"input": "question"}, {"input": "question"}),
    ],
)
def test_a_map_is_a_list_of_pairs_or_a_table(value: object, names: dict[str, str]) -> None:
    """The first equals sign of a pair counts."""
    assert load({"map": value}).map == names


@pytest.mark.parametrize("value", ["input", "=question", "input=", "input=a,input=b", ["input"], {"input": 5}])
def test_a_map_that_is_no_list_of_pairs_is_refused(value: object) -> None:
    """With the way to write it."""
    with pytest.raises(UsageError, match=r"^(--)?map.*(input=question|names input twice|not a table|not a string)"):
        load({"map": value})


@pytest.mark.parametrize(
    ("value", "weights"),
    [("a=1,b=2.5", {"a": 1, "b": 2.5}), (" a = 2k ", {"a": 2000}), ({"a": 3}, {"a": 3}), ("a=b=2", {"a=b": 2})],
)
def test_shares_are_a_list_of_weights_or_a_table(value: object, weights: dict[str, float]) -> None:
    """The last equals sign of a pair counts."""
    assert load({"share": value}).share == weights


@pytest.mark.parametrize("value", ["a", "=1", "a=", "a=x", "a=0", "a=-1", "a=1,a=2", ["a"], {"a": "x"}, {"a": 0}])
def test_shares_that_are_no_weights_are_refused(value: object) -> None:
    """With the way to write them."""
    with pytest.raises(
        UsageError, match=r"^(--)?share.*(a=1,b=2|names a twice|greater than 0|not a table|not a number)"
    ):
        load({"share": value})


@pytest.mark.parametrize(
    ("value", "reserve"), [("10%", 0.1), ("0%", 0.0), ("8", 8.0), (8, 8.0), ("0.25", 0.25), (0.25, 0.25)]
)
def test_a_reserve_is_a_share_or_a_number_of_slots(value: object, reserve: float) -> None:
    """By default it is learned."""
    assert load({"reserve": value}).reserve == reserve
    assert load({}).reserve is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("reserve", "100%"), ("reserve", "2.5"), ("reserve", "x"), ("deferred_floor", "100%"), ("deferred_floor", "-5%")],
)
def test_a_share_is_below_one(name: str, value: str) -> None:
    """A reserve of all slots would hold back deferred lines for ever."""
    with pytest.raises(UsageError, match="share"):
        load({name: value})


def test_the_floor_of_deferred_lines_is_a_share() -> None:
    """In percent or as a number."""
    assert [load({"deferred_floor": value}).deferred_floor for value in ("10%", 0.1, "0")] == [0.1, 0.1, 0.0]
