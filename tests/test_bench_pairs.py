"""The paired benchmark: its command templates, the check of the other's lines, ratios, and what it starts."""

import math
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import orjson
import pytest
from bench import make_parser, measuring
from bench_against import (
    LineCheck,
    TemplateError,
    check_lines,
    check_template,
    fill_template,
    find_contenders,
    known_contenders,
)
from bench_clients import CLIENTS, answer_all
from bench_pairs import MAX_CASE_S, Tree, in_turns, pair_figures, ratio
from bench_runs import measure
from bench_table import EXIT_TERMINATED, FailedRunError

from llmblast.mocking.server import MockServer
from llmblast.mocking.settings import MockSettings

ROOT = Path(__file__).resolve().parent.parent


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_placeholders_are_quoted_for_the_shell() -> None:
    """A path with a space or a quote stays one word."""
    command = fill_template("tool {input} -n {n} > {output}", {"input": "/my 'own'/in", "n": 7, "output": "/out"})

    assert command == """tool '/my '"'"'own'"'"'/in' -n 7 > /out"""


def test_a_value_is_not_read_as_a_template() -> None:
    """A path that looks like a placeholder is not replaced again."""
    assert fill_template("{input} {output}", {"input": "{output}", "output": "o"}) == "'{output}' o"


@pytest.mark.parametrize("braces", ["${HOME}", "awk '{print}'", "echo {1,2}", "jq '{id: .id}'", "${output}"])
def test_braces_of_the_shell_stay(braces: str) -> None:
    """Only known names in braces are placeholders, and none behind a dollar."""
    command = f"{braces} {{input}} {{output}}"

    check_template(command)

    assert fill_template(command, {"input": "i", "output": "o"}) == f"{braces} i o"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("tool {inputs} {output}", "unknown placeholder {inputs}; use {input}"),
        ("tool {input} {ouput}", "unknown placeholder {ouput}; use {output}"),
        ("tool {input} {output} -c {Concurrency}", "unknown placeholder {Concurrency}; use {concurrency}"),
        ("tool > {output}", "use {input} or {input_chat}"),
        ("tool {input_chat}", "use {output}"),
    ],
)
def test_a_bad_template_is_refused_with_the_fix(command: str, message: str) -> None:
    """Before anything is measured."""
    with pytest.raises(TemplateError) as caught:
        check_template(command)

    assert message in str(caught.value)


def test_every_known_contender_has_a_valid_template() -> None:
    """The table is data; wrk alone is no command that writes lines."""
    for contender in known_contenders().values():
        if contender.name != "wrk":
            check_template(contender.command)
        assert all("==" in package for package in contender.packages)


def test_contenders_are_found_by_name_or_are_commands() -> None:
    """`all` stands for all that are known; a misspelt name is not run as a command."""
    command = "tool {input} {output}"

    assert [each.name for each in find_contenders(["openai", command])] == ["openai", command]
    assert [each.name for each in find_contenders(["all"])] == list(known_contenders())
    with pytest.raises(TemplateError, match="flexlm: no such name"):
        find_contenders(["flexlm"])


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ('{"a": 1}\n[1, {}]\n{"a": 2}\n', LineCheck(3, 3, 0, 0)),
        ('{"a": 1}\n\n{"a": 1}\n  \n{"a": 2}', LineCheck(3, 3, 0, 0)),
        ('{"a": 1}\n{"a": 1}\n', LineCheck(3, 2, 0, 0)),
        ('{"a": 1}\n{"a": 1}{"a": 2}\n', LineCheck(3, 1, 1, 0)),
        ('{"a": 1}\n{"a": 1}\n{"a": ', LineCheck(3, 2, 1, 0)),
        ('{"a": 1}\n12\n"rest"\n', LineCheck(3, 1, 2, 0)),
        ('{"a": 1}\n' * 4, LineCheck(3, 4, 0, 0)),
        ("", LineCheck(3, 0, 0, 0)),
    ],
)
def test_lines_are_whole_corrupt_or_missing(tmp_path: Path, text: str, check: LineCheck) -> None:
    """Two records in one line, half a record, a rest that is valid JSON by chance: none of them is a line."""
    assert check_lines(written(tmp_path / "out.jsonl", text), 3) == check


def test_what_a_check_tells() -> None:
    """Corrupt lines are there, so they are not missing; what is beyond the input is no work."""
    lossy, verbose = LineCheck(10, 6, 1, 2), LineCheck(10, 12, 0, 0)

    assert (lossy.answered, lossy.missing, lossy.surplus) == (4, 3, 0)
    assert str(lossy) == "6 of 10 lines are whole, 3 missing lines, 1 corrupt lines, 2 unanswered lines"
    assert (verbose.answered, verbose.missing, verbose.surplus) == (10, 0, 2)


def test_a_recorded_error_is_no_answer(tmp_path: Path) -> None:
    """A tool that writes an error for each line is not fast."""
    output = written(tmp_path / "out.jsonl", '{"r": "the end."}\n{"error": "refused"}\n')

    assert check_lines(output, 2, b"the end.") == LineCheck(2, 2, 0, 1)


def test_a_missing_output_is_a_failed_run(tmp_path: Path) -> None:
    """The message names the placeholder that the command did not heed."""
    with pytest.raises(FailedRunError, match=r"did not write \{output\}"):
        check_lines(tmp_path / "absent", 1)


def test_ratios_are_of_pairs_and_not_of_medians() -> None:
    """A machine that is twice as slow for one pair changes no ratio."""
    figure = ratio("rate", [200.0, 100.0, 210.0], [100.0, 50.0, 100.0])

    assert figure.value == 2.0
    assert figure.told == "rate 2.00 x (2.00 to 2.10; ours 200/s, theirs 100/s)"


def test_a_pair_tells_what_both_sides_have() -> None:
    """wrk has no CPU time that compares."""
    pairs = [({"rate": 300.0, "CPU a request": 50.0}, {"rate": 100.0}), ({"rate": 100.0}, {"rate": 100.0})]

    assert [figure.told for figure in pair_figures(pairs)] == [
        "pairs 2",
        "rate 2.00 x (1.00 to 3.00; ours 200/s, theirs 100/s)",
    ]


def test_a_cost_of_nothing_has_no_ratio() -> None:
    """A clock too coarse for the other side is no miracle."""
    assert math.isnan(ratio("CPU a request", [1.0], [0.0]).value)


def test_both_sides_take_turns_and_end_in_time() -> None:
    """No pair begins after the limit of a case, and one that has begun is kept."""
    numbers: Iterator[int] = count()
    times = iter([0.0, 1.0, MAX_CASE_S])

    pairs = in_turns(7, lambda: next(numbers), lambda: next(numbers), lambda: next(times))

    assert pairs == [(0, 1), (2, 3)]


def test_a_process_that_a_command_leaves_behind_is_ended(tmp_path: Path) -> None:
    """It holds the other end of a pipe, which has an end as soon as it is gone."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    measure("/bin/sh", "-c", f"exec 3> {pipe}; sleep 1000 &")

    assert select.select([reader], [], [], 30)[0]
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_command_that_is_too_slow_is_ended_and_says_so() -> None:
    """With all that it started."""
    with pytest.raises(FailedRunError, match=r"did not end within 0\.2 s: last words"):
        measure("/bin/sh", "-c", "echo last words; sleep 1000; true", longest_s=0.2)


def test_cpu_time_counts_the_children_of_a_command() -> None:
    """A shell takes next to none itself."""
    burn = "import time\nwhile time.process_time() < 0.2: pass"

    assert measure("/bin/sh", "-c", f"{sys.executable} -c '{burn}'; true").cpu_s >= 0.2


def test_a_tree_is_run_from_its_own_folder(tmp_path: Path) -> None:
    """Neither the present folder nor what is installed comes before it."""
    (tmp_path / "llmblast").mkdir()
    written(tmp_path / "llmblast/__init__.py", "")
    written(tmp_path / "llmblast/__main__.py", "print('llmblast 7.7')")

    assert Tree(tmp_path).described() == f"{tmp_path}: llmblast 7.7"
    assert Tree(ROOT).described().startswith(f"{ROOT}: llmblast ")


def test_a_tree_without_the_package_is_told(tmp_path: Path) -> None:
    """Else the installed one would be measured in its place."""
    with pytest.raises(FailedRunError, match="holds no llmblast that can be imported"):
        Tree(tmp_path).described()


@pytest.mark.parametrize("client", CLIENTS)
async def test_each_client_answers_every_line(client: str, tmp_path: Path) -> None:
    """What is compared with does the whole work."""
    lines = "".join(f'{{"id": "row-{number}", "input": "Number {number}"}}\n' for number in range(20))
    prompts, output = written(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"

    async with MockServer(MockSettings.from_query("latency=0")) as server:
        await answer_all(client, prompts, server.url, output, 8)

    assert check_lines(output, 20, b'"response"') == LineCheck(20, 20, 0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--against", "tool {input}"], "use {output}"),
        (["--against", "wrk", "tls"], "CASE"),
        (["--against", "wrk", "--tree", str(ROOT)], "--tree"),
        (["--tree", "/"], "holds no llmblast/"),
        (["--ours", str(ROOT)], "--ours goes with --tree"),
        (["--concurrency", "9"], "--concurrency goes with --against"),
        (["--profile", "tls"], "CASE"),
        (["--tree", str(ROOT), "memory"], "no such case"),
        (["--runs", "0", "--tree", str(ROOT)], "--runs"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """None is parsed and ignored, and nothing is started."""
    parser = make_parser()

    with pytest.raises(SystemExit):
        measuring(parser, parser.parse_args(options))

    assert message in capsys.readouterr().err


def start_bench(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = (sys.executable, str(ROOT / "scripts/bench.py"), *words, "--lines", "10", "--runs", "1")
    environ = {**os.environ, "BENCH_SERVER": "mock"}
    return subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, text=True)


def test_a_command_is_compared_and_its_losses_are_told(tmp_path: Path) -> None:
    """From the template to the table and the file; the command here loses a line and breaks another."""
    client = f"{{python}} {ROOT}/scripts/bench_clients.py aiohttp {{input}} {{url}} {{output}} {{concurrency}}"
    lossy = f"{client} && sed -i '1d; 2s/.$//' {{output}}"

    with start_bench(tmp_path, "--against", lossy, "--concurrency", "4") as process:
        table = process.stdout.read() if process.stdout else ""

    [row] = orjson.loads((tmp_path / ".work/bench/against.json").read_bytes())["rows"]
    [[ours, theirs]] = row["pairs"]
    assert process.returncode == 0
    assert "their missing lines in all runs 1" in table
    assert "their corrupt lines in all runs 1" in table
    assert (row["command"], row["lines"], row["in_flight"]) == (lossy, 10, 4)
    assert (ours["missing lines"], theirs["missing lines"], theirs["corrupt lines"]) == (0, 1, 1)
    assert theirs["rate"] > 0
    assert not (tmp_path / ".work/bench/theirs").exists()


def test_two_trees_are_compared(tmp_path: Path) -> None:
    """Of one tree with itself only the file is of interest."""
    with start_bench(tmp_path, "--tree", str(ROOT), "help", "throughput:256") as process:
        table = process.stdout.read() if process.stdout else ""

    rows = orjson.loads((tmp_path / ".work/bench/against.json").read_bytes())["rows"]
    assert process.returncode == 0
    assert [row["case"] for row in rows] == ["tree:throughput:256", "tree:help"]
    assert table.startswith(f"ours:   {ROOT}: llmblast")


def test_a_terminated_benchmark_leaves_nothing_behind(tmp_path: Path) -> None:
    """The command that runs at that moment ends with it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    with start_bench(tmp_path, "--against", f"exec 3> {pipe}; sleep 1000 # {{input}} {{output}}") as process:
        reader = os.open(pipe, os.O_RDONLY)
        process.terminate()

        assert process.wait(30) == EXIT_TERMINATED
    assert select.select([reader], [], [], 30)[0]
    assert os.read(reader, 1) == b""
    os.close(reader)
