"""A resumed run with other settings: what counts as other, what a person is told, and what never stops a run."""

import os
from pathlib import Path
from typing import Any

import pytest

from llmblast.endpoint_settings import CustomSettings, EndpointSettings
from llmblast.errors import UsageError
from llmblast.job.fingerprint import check_settings, keep_settings
from llmblast.mocking.server import ScriptedReply
from llmblast.settings import Settings
from tests.conftest import RunLlmblast, StartMock, records, write_prompts

GPU1 = EndpointSettings(url="http://gpu1/v1", name="gpu1")
GPU2 = EndpointSettings(url="http://gpu2/v1", name="gpu2")
ANSWER = '{"key":"0123456789abcdef","response":"yes"}\n'


def endpoint(name: str, model: str | None = None) -> EndpointSettings:
    return EndpointSettings(url=f"http://{name}/v1", name=name, model=model)


def custom(name: str, text: str) -> EndpointSettings:
    described = CustomSettings(body={"in": text}, text="/out")
    return EndpointSettings(url=f"http://{name}/v1", name=name, custom=described)


def check(tmp_path: Path, **settings: Any) -> str | None:
    """Goes on as a run does: compares, and keeps the settings once there is something to write."""
    made = Settings(**{"save": str(tmp_path / "save.jsonl"), "endpoints": (GPU1,), **settings})
    check_settings(made)
    return keep_settings(made)


def complaint(tmp_path: Path, before: dict[str, Any], now: dict[str, Any]) -> str:
    """What a run with `now` is told where one with `before` has left an answer; empty if it may go on."""
    (tmp_path / "save.jsonl").touch()
    check(tmp_path, **before)
    (tmp_path / "save.jsonl").write_text(ANSWER)
    try:
        check(tmp_path, **now)
    except UsageError as error:
        return str(error)
    return ""


def test_lines_that_wait_for_a_batch_count_as_answers(tmp_path: Path) -> None:
    """Their records would show the requests of the new settings beside answers to the old ones."""
    save = tmp_path / "save.jsonl"
    save.touch()
    check(tmp_path, prompt="{a}")
    assert check(tmp_path, prompt="{b}") is None
    (tmp_path / "save.jsonl.batches").mkdir()
    for name in ("journal.jsonl", "lb1.lines"):
        (tmp_path / "save.jsonl.batches" / name).touch()

    with pytest.raises(UsageError, match=r"prompt was '{b}', is '{c}'"):
        check(tmp_path, prompt="{c}")


@pytest.mark.parametrize(
    ("before", "now", "change"),
    [
        ({"system": "Be brief."}, {"system": "Be kind."}, "system was 'Be brief.', is 'Be kind.'"),
        ({}, {"system": "Be kind."}, "system was not set, is 'Be kind.'"),
        ({"prompt": "{a}"}, {"prompt": "{b}"}, "prompt was '{a}', is '{b}'"),
        ({"format": "raw"}, {}, "format was 'raw', is 'auto'"),
        ({"params": {"n": 1, "seed": 5}}, {"params": {"n": 2, "seed": 5}}, "settings: params.n was '1', is '2': "),
        ({"params": {"stop": ["a", "b"]}}, {"params": {}}, """params.stop was '["a","b"]', is not set"""),
        ({"model": "a"}, {"model": "b"}, "model of gpu1 was 'a', is 'b'"),
        ({"endpoints": (endpoint("x", "a"),)}, {"endpoints": (endpoint("x"),)}, "model of x was 'a', is not set"),
        ({"model": "a"}, {"model": "b", "endpoints": (GPU2,)}, "model was 'a', is 'b'"),
        (
            {"endpoints": (custom("x", "{prompt}"),)},
            {"endpoints": (custom("x", "Q: {prompt}"),)},
            """custom body of x was '{"in":"{prompt}"}', is '{"in":"Q: {prompt}"}'""",
        ),
        ({"system": "a", "model": "a"}, {"system": "b", "model": "b"}, "is 'b'; system was 'a', is 'b'"),
    ],
)
def test_a_change_of_what_is_sent_is_named(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], change: str
) -> None:
    """The setting, its former value and its present one."""
    assert change in complaint(tmp_path, before, now)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"endpoints": (GPU1,)}, {"endpoints": (GPU1, GPU2)}),
        ({"endpoints": (GPU1, GPU2)}, {"endpoints": (GPU2,)}),
        ({"endpoints": (GPU1,), "model": "a"}, {"endpoints": (GPU1, endpoint("gpu3", "b")), "model": "a"}),
        ({"endpoints": (GPU1,), "model": "a"}, {"endpoints": (endpoint("gpu1", "a"),)}),
        ({"params": {"a": 1, "b": {"c": 1, "d": 2}}}, {"params": {"b": {"d": 2, "c": 1}, "a": 1}}),
        ({"system": ""}, {}),
        ({}, {"rps": 5.0, "tpm": 1e6, "concurrency": 9, "route": "fastest", "max_attempts": 1, "timeout": 1.0}),
        ({}, {"limit": 5, "echo": False, "body": "always", "retry_errors": "all", "media_root": "/tmp"}),
        ({"system": "a"}, {"system": "b", "changed_settings": "ok"}),
    ],
)
def test_what_no_answer_depends_on_may_change(tmp_path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """More endpoints, other limits, the same thing said differently; and whatever the person says is meant."""
    assert complaint(tmp_path, before, now) == ""


def test_long_values_are_shown_where_they_part(tmp_path: Path) -> None:
    """Cut short on both sides."""
    start, end = "You are a helpful assistant. " * 20, " And so on." * 50

    told = complaint(tmp_path, {"system": f"{start}Be brief.{end}"}, {"system": f"{start}Be kind.{end}"})

    assert "system was '…stant. Be brief. And so on." in told
    assert "is '…stant. Be kind. And so on." in told
    assert len(told) < 400


def test_control_characters_do_not_reach_a_terminal(tmp_path: Path) -> None:
    """A template or a system message may come from anywhere."""
    told = complaint(tmp_path, {"system": "\x1b[31mred\x07"}, {"system": "\u202egreen", "params": {"\x1b[2J": 1}})

    assert told.isprintable()


@pytest.mark.parametrize("kept", ["", "not JSON", "[]", '{"system"', "\x00" * 50])
def test_a_damaged_file_stops_nothing(tmp_path: Path, kept: str) -> None:
    """It counts as missing, and is whole again afterwards."""
    (tmp_path / "save.jsonl").write_text(ANSWER)
    (tmp_path / "save.jsonl.settings").write_text(kept)

    assert check(tmp_path, system="a") is None
    with pytest.raises(UsageError):
        check(tmp_path, system="b")


def test_settings_that_cannot_be_kept_are_told_and_stop_nothing(tmp_path: Path) -> None:
    """Here a directory is in the way."""
    (tmp_path / "save.jsonl.settings").mkdir()

    note = check(tmp_path, system="a")

    assert note is not None
    assert "save.jsonl.settings: cannot be written: Is a directory" in note
    assert [path.name for path in tmp_path.iterdir()] == ["save.jsonl.settings"]


def test_each_change_has_to_be_meant(tmp_path: Path) -> None:
    """What was accepted last is what the next run is compared with."""
    assert complaint(tmp_path, {"system": "a"}, {"system": "b", "changed_settings": "ok"}) == ""

    assert check(tmp_path, system="b") is None
    with pytest.raises(UsageError, match="system was 'b', is 'a'"):
        check(tmp_path, system="a")


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    """As the output files are."""
    check(tmp_path, system="a")

    assert (tmp_path / "save.jsonl.settings").stat().st_mode & 0o777 == 0o600


def test_a_run_with_other_settings_stops_before_it_touches_anything(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Exit code 2, one sentence, nothing sent; transient errors stay where they are until a run may go on."""
    server = start_mock(script=lambda index, body: ScriptedReply(500, b"{}") if index % 2 else None)
    write_prompts(tmp_path / "prompts.jsonl", 10)
    arguments = ("run", "prompts.jsonl", "-u", server.url, "-a", "1")
    llmblast(*arguments, "--params", '{"temperature": 0}')
    before = {name: (tmp_path / name).read_bytes() for name in ("save.jsonl", "errors.jsonl")}

    stopped = llmblast(*arguments, "--params", '{"temperature": 1}')

    assert stopped.returncode == 2
    assert len(stopped.stderr.splitlines()) == 1
    assert "save.jsonl: its answers were made with other settings: params.temperature was '0', is '1'" in stopped.stderr
    assert server.received == 10
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("way", [["--changed-settings", "ok"], ["--overwrite"]])
def test_a_person_may_mix_or_start_anew(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, way: list[str]
) -> None:
    """Either is said once; the same command goes on without it afterwards."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 20)
    first = llmblast("run", "prompts.jsonl", "-u", server.url, "--limit", "5", "--system", "a")

    meant = llmblast("run", "prompts.jsonl", "-u", server.url, "--limit", "10", "--system", "b", *way)
    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--system", "b")

    assert [first.returncode, meant.returncode, done.returncode] == [0, 0, 0]
    assert len(records(tmp_path / "save.jsonl")) == 20


def test_without_an_answer_there_is_nothing_to_mix(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Parameters that no line was answered with are there to be mended; the lines wait for that."""
    server = start_mock(script=lambda index, body: ScriptedReply(400, b"{}") if b'"n":0' in body else None)
    write_prompts(tmp_path / "prompts.jsonl", 5)
    refused = llmblast("run", "prompts.jsonl", "-u", server.url, "--params", '{"n":0}')

    mended = llmblast("run", "prompts.jsonl", "-u", server.url, "--params", '{"n":1}')

    assert (refused.returncode, mended.returncode) == (77, 0)


def test_standard_output_has_no_settings_beside_it(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Nothing is resumed there, so nothing is kept."""
    write_prompts(tmp_path / "prompts.jsonl", 5)

    done = llmblast("run", "prompts.jsonl", "-u", start_mock().url, "-o", "-")

    assert done.returncode == 0
    assert not list(tmp_path.glob("*.settings"))


def test_settings_are_kept_with_the_first_answer(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """A run that is refused, has nothing to do or gets no answer leaves those that made the answers."""
    server = start_mock(script=lambda index, body: ScriptedReply(500, b"{}") if index >= 2 else None)
    write_prompts(tmp_path / "prompts.jsonl", 2)
    run = ("run", "prompts.jsonl", "-u", server.url, "-a", "1", "--changed-settings", "ok")
    llmblast(*run, "--system", "a")
    kept = (tmp_path / "save.jsonl.settings").read_bytes()

    nothing_to_do = llmblast(*run, "--system", "b")
    write_prompts(tmp_path / "prompts.jsonl", 3)
    no_answer = llmblast(*run, "--system", "b")
    stopped = llmblast("run", "prompts.jsonl", "-u", server.url, "--system", "b")

    assert [nothing_to_do.returncode, no_answer.returncode, stopped.returncode] == [0, 3, 2]
    assert (tmp_path / "save.jsonl.settings").read_bytes() == kept


@pytest.mark.parametrize("name", ["save.jsonl.settings", "save.jsonl.limits", "save.jsonl.spool", "errors.jsonl.spool"])
def test_a_pipe_in_place_of_a_side_file_is_told_before_anything_changes(
    tmp_path: Path, llmblast: RunLlmblast, name: str
) -> None:
    """Not even by a person who starts anew; and nothing hangs."""
    write_prompts(tmp_path / "prompts.jsonl", 1)
    (tmp_path / "save.jsonl").write_text(ANSWER)
    os.mkfifo(tmp_path / name)

    done = llmblast("run", "prompts.jsonl", "-u", "mock:", "--overwrite")

    assert done.returncode == 73
    assert f"{name}: is a pipe or device, but llmblast needs a file there: remove it" in done.stderr
    assert (tmp_path / "save.jsonl").read_text() == ANSWER


def test_a_link_in_place_of_a_side_file_is_not_followed(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """What it leads to is not changed, nor taken for settings."""
    write_prompts(tmp_path / "prompts.jsonl", 1)
    (tmp_path / "mine").write_text('{"system":"other"}')
    (tmp_path / "save.jsonl").write_text(ANSWER)
    for suffix in ("settings", "limits", "spool", "settings.new", "limits.new"):
        (tmp_path / f"save.jsonl.{suffix}").symlink_to("mine")

    done = llmblast("run", "prompts.jsonl", "-u", "mock:")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine").read_text() == '{"system":"other"}'
