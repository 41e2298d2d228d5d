"""Runs whose lines go through the batch API of a provider: each line is answered once, or in errors once."""

import json
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmblast.mocking.error_replies import BadRequestError
from llmblast.mocking.openai_batches import OpenAILines
from tests.conftest import RunLlmblast, StartMock, records, write_prompts
from tests.faults.batch_checker import complaints, ledger_events, write_batch_lines
from tests.processes import let_run, start_run

FORMS = {
    "openai": "{root}/v1",
    "openai-responses": "{root}/v1,kind=openai-responses",
    "anthropic": "{root}/v1,kind=anthropic",
    "gemini": "{root}/v1beta,kind=gemini",
    "azure": "{root}/openai/deployments/m,kind=azure",
}


def journal_steps(folder: Path) -> list[str]:
    lines = (folder / "save.jsonl.batches" / "journal.jsonl").read_bytes().splitlines()
    return [json.loads(line)["step"] for line in lines]


def without_origin(records: list[dict[str, object]]) -> list[dict[str, object]]:
    """What records through a batch have in common with those of direct requests, in the order of the lines."""
    own = {"via", "batch", "latency"}
    kept = [{name: value for name, value in record.items() if name not in own} for record in records]
    return sorted(kept, key=lambda record: str(record["key"]))


@pytest.mark.parametrize("form", FORMS)
def test_lines_go_by_batch_and_have_the_records_of_a_direct_run(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, form: str
) -> None:
    """For each form of batch API; only `via`, `batch` and `latency` differ."""
    server = start_mock("latency=0&batch_delay=0.2")
    url = FORMS[form].format(root=server.url.removesuffix("/v1"))
    write_prompts(tmp_path / "prompts.jsonl", 50)

    direct = llmblast("run", "prompts.jsonl", "-u", url, "-m", "m", "-o", "direct.jsonl")
    batch = llmblast("run", "prompts.jsonl", "-u", url, "-m", "m", "--defer", "batch")

    assert (direct.returncode, batch.returncode) == (0, 0), direct.stderr + batch.stderr
    found = records(tmp_path / "save.jsonl")
    assert without_origin(found) == without_origin(records(tmp_path / "direct.jsonl"))
    assert {record["via"] for record in found} == {"batch"}
    assert len({record["batch"] for record in found}) == 1


@pytest.mark.parametrize(
    ("trouble", "directly", "words"),
    [
        ("batch_expire=0.3", 90, " expired without an answer to 90 of 300 lines: they are sent directly"),
        ("batch_fail=0.1", 30, " of 300 lines: they are sent directly"),
        ("batch_reject=1", 300, "; 300 lines are sent directly"),
    ],
)
def test_what_a_batch_ends_without_is_sent_directly(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, trouble: str, directly: int, words: str
) -> None:
    """A batch that expires, failed lines, a file that is rejected: what it has answered is not sent again.

    A message tells how many lines are sent directly, at the full price, and why.
    """
    ledger = tmp_path / "ledger.jsonl"
    server = start_mock(f"latency=0&batch_delay=0.2&{trouble}&ledger={ledger}")
    write_batch_lines(tmp_path / "prompts.jsonl", 300)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--defer", "batch")

    assert done.returncode == 0, done.stderr
    assert complaints(tmp_path, ledger) == []
    sent = [e for e in ledger_events(ledger, "received") if e["path"].endswith("/chat/completions")]
    assert abs(len(sent) - directly) <= directly / 2 if directly < 300 else len(sent) == directly
    assert done.stderr.count(words) == 1, done.stderr
    vias = Counter(record.get("via") for record in records(tmp_path / "save.jsonl"))
    assert vias == Counter({"batch": 300 - len(sent), None: len(sent)}) - Counter()


def test_an_invalid_line_gets_its_error_and_the_others_their_answers(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    server = start_mock("latency=0&batch_delay=0.2")
    write_prompts(tmp_path / "prompts.jsonl", 20)
    with (tmp_path / "prompts.jsonl").open("a") as file:
        file.write('{"messages":[{"role":"nobody","content":"x"}]}\nno JSON\n')

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-m", "m", "--defer", "batch")

    assert done.returncode == 3, done.stderr
    assert len(records(tmp_path / "save.jsonl")) == 20
    errors = {record["line"]: record for record in records(tmp_path / "errors.jsonl")}
    assert set(errors) == {21, 22}
    assert errors[21]["via"] == "batch"
    assert errors[21]["status"] == 400


def test_a_file_with_an_invalid_line_is_started_again_without_it(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider rejects the whole file for it; the line is sent directly, where it gets its own answer or error."""
    read = OpenAILines.read

    def read_or_reject(form: OpenAILines, batch: Any, line: Any, number: int) -> Any:
        if "Question 7?" in json.dumps(line):
            raise BadRequestError("This line is not liked.", "body", "invalid_body")
        return read(form, batch, line, number)

    monkeypatch.setattr(OpenAILines, "read", read_or_reject)
    ledger = tmp_path / "ledger.jsonl"
    server = start_mock(f"latency=0&batch_delay=0.2&ledger={ledger}")
    write_batch_lines(tmp_path / "prompts.jsonl", 20)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--defer", "batch")

    assert done.returncode == 0, done.stderr
    assert "the batch is started again without its invalid lines" in done.stderr
    vias = {record["line"]: record.get("via") for record in records(tmp_path / "save.jsonl")}
    assert vias == {line: None if line == 8 else "batch" for line in range(1, 21)}


def test_a_batch_beyond_the_queue_of_the_provider_is_split(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Its halves go one after the other, and no line goes twice."""
    ledger = tmp_path / "ledger.jsonl"
    server = start_mock(f"latency=0&batch_delay=0.2&batch_queue=60&ledger={ledger}")
    write_batch_lines(tmp_path / "prompts.jsonl", 50, copies=2)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--defer", "batch")

    assert done.returncode == 0, done.stderr
    assert complaints(tmp_path, ledger) == []
    found = records(tmp_path / "save.jsonl")
    assert {record["via"] for record in found} == {"batch"}
    assert len({record["batch"] for record in found}) == 2


def test_a_detached_run_is_collected_from_a_copy_of_its_folder(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """The input is not needed: the folder has the lines. Other settings would not match the answers."""
    ledger = tmp_path / "ledger.jsonl"
    server = start_mock(f"latency=0&batch_delay=1&ledger={ledger}")
    (tmp_path / "here").mkdir()
    write_batch_lines(tmp_path / "here" / "prompts.jsonl", 100, copies=2)
    arguments = ("-u", server.url, "--defer", "batch")
    started = llmblast("run", "here/prompts.jsonl", "-o", "here/save.jsonl", *arguments, "--detach")
    assert started.returncode == 5, started.stderr
    assert "200 lines wait for 1 batch at the provider: run the same command again" in started.stderr
    assert records(tmp_path / "here" / "save.jsonl") == []
    shutil.move(tmp_path / "here", tmp_path / "there")

    other = llmblast("run", "-", "-o", "there/save.jsonl", *arguments, "--system", "Be brief.", stdin="")
    collected = llmblast("run", "-", "-o", "there/save.jsonl", *arguments, stdin="")

    assert (other.returncode, collected.returncode) == (2, 0), collected.stderr
    assert "its batches were made with other settings: system was not set, is 'Be brief.'" in other.stderr
    assert complaints(tmp_path / "there", ledger) == []
    assert len(ledger_events(ledger, "batch_started")) == 1


def test_open_batches_are_not_collected_with_other_settings(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Their records would show prompts that were never sent, so no option allows it. Afterwards it is allowed."""
    server = start_mock("latency=0&batch_delay=0.2")
    write_prompts(tmp_path / "prompts.jsonl", 5)
    arguments = ("run", "prompts.jsonl", "-u", server.url, "-m", "m", "--defer", "batch")
    others = (*arguments, "--system", "Be brief.", "--changed-settings", "ok")
    llmblast(*arguments, "--detach")

    refused = llmblast(*others)
    collected = llmblast(*arguments)
    write_prompts(tmp_path / "prompts.jsonl", 6)
    mixed = llmblast(*others)

    assert (refused.returncode, collected.returncode, mixed.returncode) == (2, 0, 0), mixed.stderr
    assert (
        "restore these to collect the answers, or give the batches up by removing save.jsonl.batches" in refused.stderr
    )
    assert len(records(tmp_path / "save.jsonl")) == 6


def test_batches_at_an_endpoint_that_is_not_named_lead_to_no_command(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """The same command would end in the same way."""
    server, other = start_mock("latency=0&batch_delay=30"), start_mock("latency=0")
    write_prompts(tmp_path / "prompts.jsonl", 5)
    arguments = ("run", "prompts.jsonl", "-m", "m", "--defer", "batch")
    detached = llmblast(*arguments, "-u", server.url, "--detach")

    done = llmblast(*arguments, "-u", other.url)

    assert (detached.returncode, done.returncode) == (5, 5)
    assert "which is none of the endpoints: name it again to collect them" in done.stderr
    assert ("next:" in detached.stderr, "next:" in done.stderr) == (True, False)


def test_a_later_stage_of_a_detached_run_tells_where_its_lines_are(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    server = start_mock("latency=0&batch_delay=0.5")
    write_prompts(tmp_path / "prompts.jsonl", 5)
    prompts = {"draft": "{input}", "judge": "{response}", "last": "{response}"}
    stages = "".join(f'[[stage]]\nname = "{name}"\nprompt = "{text}"\n' for name, text in prompts.items())
    endpoint = f'[[endpoints]]\nurl = "{server.url}"\n'
    (tmp_path / "run.toml").write_text(f'model = "m"\ndefer = "batch"\n{endpoint}{stages}')

    done = llmblast("run", "prompts.jsonl", "--config", "run.toml", "--detach")

    assert done.returncode == 5, done.stderr
    assert "stage judge: 5 lines wait in stage draft\nthere are no lines yet: they wait in stage draft\n" in done.stderr
    assert "stage last\nthere are no lines yet: they wait in stage draft\n" in done.stderr


def test_ctrl_c_leaves_the_batches_to_the_next_run(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    ledger = tmp_path / "ledger.jsonl"
    server = start_mock(f"latency=0&batch_delay=1.5&ledger={ledger}")
    write_batch_lines(tmp_path / "prompts.jsonl", 100)
    arguments = ("prompts.jsonl", "-u", server.url, "--defer", "batch")
    process = start_run(tmp_path, environment, *arguments)
    while not (tmp_path / "save.jsonl.batches" / "journal.jsonl").exists() or "started" not in journal_steps(tmp_path):
        assert process.poll() is None, "the run was over too early"
        let_run(process, 0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()

    done = llmblast("run", *arguments)

    assert process.returncode == 130
    assert "1 batch at the provider with 100 lines goes on" in told
    assert done.returncode == 0, done.stderr
    assert complaints(tmp_path, ledger) == []
    assert len(ledger_events(ledger, "batch_started")) == 1


def test_a_batch_that_will_not_make_the_deadline_is_cancelled_and_its_rest_sent_directly(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """What the batch has finished by then counts, and is not sent again."""
    ledger = tmp_path / "ledger.jsonl"
    server = start_mock(f"latency=0&batch_delay=20&ledger={ledger}")
    write_batch_lines(tmp_path / "prompts.jsonl", 200)

    done = llmblast(
        "run", "prompts.jsonl", "-u", server.url, "--defer", "batch", "--deadline", "10", "--rps", "200", "--json"
    )

    assert done.returncode == 0, done.stderr
    assert complaints(tmp_path, ledger) == []
    summary = json.loads(done.stdout)
    assert 0 < summary["lines"]["batched"] < 200
    assert summary["duration_s"] < 10
    assert "cancelling" in journal_steps(tmp_path)


def test_lines_without_time_for_a_batch_are_sent_directly(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    ledger = tmp_path / "ledger.jsonl"
    server = start_mock(f"latency=0&ledger={ledger}")
    write_batch_lines(tmp_path / "prompts.jsonl", 300)
    arguments = ("-u", server.url, "--defer", "batch", "--deadline", "3", "--rps", "150")

    done = llmblast("run", "prompts.jsonl", *arguments)

    assert done.returncode == 0, done.stderr
    assert ledger_events(ledger, "batch_started") == []
    assert "there is no time for a batch before the deadline; 300 lines are sent directly" in done.stderr


def test_immediate_lines_go_directly_while_the_others_go_by_batch(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """With --defer batch, lines that say nothing can wait; with `defer` on an endpoint, only those that say so."""
    server = start_mock("latency=0&batch_delay=0.2")
    classes = ["immediate", "deferred", None]
    lines = [{"input": f"Question {n}?", **({"priority": c} if (c := classes[n % 3]) else {})} for n in range(30)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    llmblast("run", "prompts.jsonl", "-u", server.url, "-m", "m", "--defer", "batch", "-o", "all.jsonl")
    llmblast("run", "prompts.jsonl", "-u", f"{server.url},defer=batch", "-m", "m", "-o", "some.jsonl")

    by_batch = {
        name: {classes[(record["line"] - 1) % 3] for record in records(tmp_path / name) if record.get("via")}
        for name in ("all.jsonl", "some.jsonl")
    }
    assert by_batch == {"all.jsonl": {"deferred", None}, "some.jsonl": {"deferred"}}


@pytest.mark.parametrize("option", ["--ordered", "--dedupe", "--cache=cache.db"])
def test_batches_work_with_order_and_cached_answers(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, option: str
) -> None:
    """Detached, and collected by a second run: each of twice the same lines has its answer."""
    ledger = tmp_path / "ledger.jsonl"
    server = start_mock(f"latency=0&batch_delay=0.5&ledger={ledger}")
    write_batch_lines(tmp_path / "prompts.jsonl", 50, copies=2)
    arguments = ("run", "prompts.jsonl", "-u", server.url, "--defer", "batch", option)

    started = llmblast(*arguments, "--detach")
    done = llmblast(*arguments)

    assert started.returncode == 5, started.stderr
    assert done.returncode == 0, done.stderr
    lines = [record["line"] for record in records(tmp_path / "save.jsonl")]
    assert sorted(lines) == list(range(1, 101))
    paid = [entry for entry in ledger_events(ledger, "batch_line") if entry["billed"]]
    assert len(paid) == (100 if option == "--ordered" else 50)
    if option == "--ordered":
        assert lines == sorted(lines)


def test_rows_of_a_table_go_by_batch(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """A later run parses them as rows again, with the template of the run."""
    server = start_mock("latency=0&batch_delay=0.5")
    (tmp_path / "prompts.csv").write_text("text,note\nfirst,a\nsecond,b\n")
    arguments = ("run", "prompts.csv", "-u", server.url, "-m", "m", "--prompt", "Sum up: {text}", "--defer", "batch")

    llmblast(*arguments[:-2], "-o", "direct.jsonl")
    llmblast(*arguments, "--detach")
    done = llmblast(*arguments)

    assert done.returncode == 0, done.stderr
    found = records(tmp_path / "save.jsonl")
    assert without_origin(found) == without_origin(records(tmp_path / "direct.jsonl"))
    assert {(record["note"], record["via"]) for record in found} == {("a", "batch"), ("b", "batch")}


def test_batches_are_listed_awaited_and_cancelled(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """The journal tells of them without an endpoint; to wait and to cancel, the endpoint has to be named."""
    server = start_mock("latency=0&batch_delay=30")
    write_prompts(tmp_path / "prompts.jsonl", 30)
    run = ("run", "prompts.jsonl", "-u", server.url, "-m", "m", "--defer", "batch")
    llmblast(*run, "--detach")

    listed = llmblast("batches")
    refused = llmblast("batches", "wait")
    cancelled = llmblast("batches", "cancel", "save.jsonl", "-u", server.url)
    awaited = llmblast("batches", "wait", "-u", server.url, "--json")
    done = llmblast(*run)

    assert " started " in listed.stdout
    assert "cancelling: the next run with save.jsonl collects its answers" in cancelled.stderr
    assert (refused.returncode, cancelled.returncode, awaited.returncode) == (2, 0, 0)
    assert "name the endpoint" in refused.stderr
    assert json.loads(awaited.stdout)[0]["state"] == "cancelled"
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "save.jsonl")) == 30


def test_a_server_without_batches_gets_the_lines_directly(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """As most servers of one's own: the answer to the first upload is 404."""
    server = start_mock("latency=0", script=None)
    write_prompts(tmp_path / "prompts.jsonl", 50)

    done = llmblast("run", "prompts.jsonl", "-u", f"{server.url}/nowhere,kind=openai", "-m", "m", "--defer", "batch")

    assert "sent directly" in done.stderr


def test_waiting_for_a_batch_that_was_not_started_says_what_to_do(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """It would never end."""
    folder = tmp_path / "save.jsonl.batches"
    folder.mkdir()
    packed = {"mark": "lb1", "step": "packed", "endpoint": "e", "path": "chat/completions", "lines": 3, "bytes": 9}
    (folder / "journal.jsonl").write_text(json.dumps({**packed, "model": "m", "at": 1_800_000_000.0}) + "\n")
    (folder / "lb1.lines").touch()

    done = llmblast("batches", "wait")

    assert done.returncode == 0
    assert "1 batch with 3 lines: not started yet: run the same llmblast run command again" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["lst", "there.jsonl"], 2, "lst: is not a file of answers, nor one of list, wait, cancel; did you mean list?"),
        (["wiat"], 2, "did you mean wait?"),
        (["wait", "missing.jsonl"], 66, "missing.jsonl: no such file, and no folder missing.jsonl.batches"),
        (["there.jsonl"], 0, ""),
        ([], 0, ""),
    ],
)
def test_a_misspelled_action_or_file_of_batches_is_an_error(
    tmp_path: Path, llmblast: RunLlmblast, words: list[str], code: int, message: str
) -> None:
    """It does not look like an output whose batches have all ended."""
    (tmp_path / "there.jsonl").touch()

    done = llmblast("batches", *words)

    assert done.returncode == code
    assert message in done.stderr


def test_batches_need_a_file_of_answers(tmp_path: Path, llmblast: RunLlmblast) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 1)

    done = llmblast("run", "prompts.jsonl", "-u", "mock:", "-o", "-", "--defer", "batch")

    assert done.returncode == 2
    assert "--defer batch: needs a file of answers" in done.stderr


def test_an_output_with_batches_under_way_is_not_overwritten(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    server = start_mock("latency=0&batch_delay=0.5")
    write_prompts(tmp_path / "prompts.jsonl", 5)
    arguments = ("run", "prompts.jsonl", "-u", server.url, "-m", "m", "--defer", "batch")
    llmblast(*arguments, "--detach")

    refused = llmblast(*arguments, "--overwrite")
    collected = llmblast(*arguments)
    repeated = llmblast(*arguments, "--overwrite")

    assert refused.returncode == 73
    assert "1 batch is under way for it" in refused.stderr
    assert (collected.returncode, repeated.returncode) == (0, 0)
    assert len(records(tmp_path / "save.jsonl")) == 5
