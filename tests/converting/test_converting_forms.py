"""Requests and results in the forms of llmblast, OpenAI's and Anthropic's batches, to each other."""

import json
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from anthropic.types.messages import MessageBatchIndividualResponse
from openai.types.chat import ChatCompletion
from pydantic import TypeAdapter

from llmblast.converting import Conversion, convert
from llmblast.converting.columns import RESULT_COLUMNS
from llmblast.models import Outcome
from llmblast.settings import Settings
from llmblast.writing import render
from tests.converting.test_converting_files import convert_file, read_rows, write_rows
from tests.writing.writing_samples import a_failure, a_success

MODEL = Settings(model="m")
SIMPLE: list[dict[str, Any]] = [
    {"id": "a", "input": "Hi", "system": "Be brief.", "params": {"temperature": 0, "max_tokens": 5}, "team": "x"},
    {"id": "b", "input": "See", "images": ["https://example.com/a.png"], "params": {"max_tokens": 5}, "n": 1.5},
    {"id": "c", "input": "Long", "params": {"max_tokens": 5}, "big": 123456789012345678901234567890},
]
OPENAI_BODY = orjson.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "4"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    }
)


def through(tmp_path: Path, rows: list[dict[str, Any]], *forms: str, **options: Any) -> list[dict[str, Any]]:
    path = write_rows(tmp_path / "0.jsonl", rows)
    for number, form in enumerate(forms, 1):
        target = tmp_path / f"{number}.jsonl"
        target.unlink(missing_ok=True)
        convert_file(path, target, form=form, **options)
        path = target
    return read_rows(path)


@pytest.mark.parametrize(
    "forms",
    [
        ("openai-batch", "simple"),
        ("anthropic-batch", "simple"),
        ("openai-batch", "anthropic-batch", "openai-batch", "simple"),
        ("raw", "openai-batch", "simple"),
    ],
)
def test_simple_lines_come_back_from_other_forms(tmp_path: Path, forms: tuple[str, ...]) -> None:
    """Ids, system messages, images, parameters and own fields."""
    rows = (
        SIMPLE if "raw" not in forms else [{k: row[k] for k in row if k in ("id", "input", "params")} for row in SIMPLE]
    )

    assert through(tmp_path, rows, *forms, settings=MODEL) == rows


@pytest.mark.parametrize("form", ["simple", "openai-batch", "anthropic-batch", "raw"])
def test_a_line_keeps_its_priority_deadline_and_tenant(tmp_path: Path, form: str) -> None:
    """They stand beside the request in each form."""
    terms: list[dict[str, Any]] = [
        {"priority": "deferred", "deadline": "2h", "tenant": "a"},
        {"priority": "immediate"},
        {"priority": -7},
    ]
    rows = [{"id": str(number), "input": "Hi", **own} for number, own in enumerate(terms)]
    if form == "raw":
        rows.pop()  # a number is the API's own there

    first = through(tmp_path, rows, form)
    again = through(tmp_path, first, form)

    for row, second, own in zip(first, again, terms, strict=False):
        assert {name: row.get(name) for name in own} == own
        assert second == row


def test_a_number_of_the_api_stays_in_its_request(tmp_path: Path) -> None:
    """As vLLM's `priority`."""
    raw = {"id": "a", "model": "m", "messages": [{"role": "user", "content": "Hi"}], "priority": 3}

    [batch] = through(tmp_path, [raw], "openai-batch")

    assert batch["body"]["priority"] == 3
    assert "priority" not in batch


def test_a_simple_line_becomes_a_line_of_each_batch(tmp_path: Path) -> None:
    """With every member that the APIs ask for."""
    row = {"input": "Hi", "team": "x"}

    assert through(tmp_path, [row], "openai-batch", settings=MODEL) == [
        {
            "custom_id": "1",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": [{"role": "user", "content": "Hi"}]},
            "team": "x",
        }
    ]
    assert through(tmp_path, [row], "anthropic-batch", settings=MODEL) == [
        {
            "custom_id": "1",
            "params": {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4096},
            "team": "x",
        }
    ]


def test_the_rows_of_a_table_become_requests(tmp_path: Path) -> None:
    """With a template, as in a run."""
    (tmp_path / "a.csv").write_text("name,lang\nRome,fr\nParis,de\n")

    options: dict[str, Any] = {"form": "openai-batch", "settings": Settings(prompt="{name} in {lang}", model="m")}
    convert_file(tmp_path / "a.csv", tmp_path / "b.jsonl", **options)

    assert [row["body"]["messages"][0]["content"] for row in read_rows(tmp_path / "b.jsonl")] == [
        "Rome in fr",
        "Paris in de",
    ]


def test_requests_that_the_simple_form_cannot_say_stay_raw(tmp_path: Path) -> None:
    """Several messages, a model of their own, or another API than chat."""
    rows: list[dict[str, Any]] = [
        {
            "custom_id": "a",
            "body": {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]},
        },
        {"custom_id": "b", "body": {"model": "other", "messages": [{"role": "user", "content": "1"}]}},
        {"custom_id": "c", "url": "/v1/embeddings", "body": {"input": "x"}},
    ]

    assert through(tmp_path, rows, "simple") == [{"id": row["custom_id"], **row["body"]} for row in rows]


@pytest.mark.parametrize(
    ("row", "form", "message"),
    [
        ({"input": "a", "params": {"seed": 1}}, "anthropic-batch", 'no parameter like "seed"'),
        ({"custom_id": "a", "url": "/v1/embeddings", "body": {"input": "x"}}, "anthropic-batch", "has no form in"),
        ({"nothing": 1}, "openai-batch", "nothing to send"),
        ({"input": "a", "priority": 5}, "raw", 'a number as "priority" is the API'),
        ({"input": "a"}, "llmblast", "a request, which has no form as a result"),
        ({"key": "0", "line": 1, "id": 1, "response": "x"}, "simple", "a record without its request"),
    ],
)
def test_a_row_that_has_no_such_form_is_named(tmp_path: Path, row: dict[str, Any], form: str, message: str) -> None:
    """With its line and the reason."""
    through(tmp_path, [SIMPLE[0] if form != "llmblast" else {"key": "", "line": 1, "error": "x"}, row], form)

    [errors] = tmp_path.glob("*.errors.jsonl")
    assert re.search(rf"0\.jsonl:2:(\d+:)? .*{message}", orjson.loads(errors.read_bytes())["error"])


def llmblast_records() -> list[dict[str, Any]]:
    successes = [
        a_success(1, body=OPENAI_BODY, extra={"team": "x", "model": "mine"}),
        a_success(2, body=OPENAI_BODY, says_more=True),
        a_success(3, [[0.5, 1.0]]),
    ]
    successes[1].maybe_billed = 1
    outcomes: list[Outcome] = [*successes, a_failure(4), a_failure(5, b"bad", body=b"<html>")]
    return [orjson.loads(render(outcome)) for outcome in outcomes]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_records_come_back_from_a_table(tmp_path: Path, kind: str) -> None:
    """Answers and errors together, with own fields and raw replies."""
    source = write_rows(tmp_path / "save.jsonl", llmblast_records())

    convert_file(source, tmp_path / f"b.{kind}")
    convert_file(tmp_path / f"b.{kind}", tmp_path / "c.jsonl")

    assert read_rows(tmp_path / "c.jsonl") == llmblast_records()


@pytest.mark.parametrize("count", [1, 5])
def test_a_table_of_results_always_has_the_same_columns(tmp_path: Path, count: int) -> None:
    """Whatever happened in the run; other counts follow those of usage, own fields come last."""
    parquet = pytest.importorskip("pyarrow.parquet")
    records = llmblast_records()[:count]
    records[0]["usage"]["cached"] = 1
    source = write_rows(tmp_path / "save.jsonl", records)

    convert_file(source, tmp_path / "b.parquet")

    schema = parquet.read_schema(tmp_path / "b.parquet")
    names = [name for name in schema.names if name not in ("usage.cached", "team", "fields", "request_base64")]
    assert names == list(RESULT_COLUMNS)
    assert schema.names.index("usage.cached") == schema.names.index("usage.total_tokens") + 1
    assert schema.names[-1] in ("team", "fields")
    types = {name: str(schema.field(name).type) for name in ("line", "usage.prompt_tokens", "latency", "transient")}
    assert types == {
        "line": "int64",
        "usage.prompt_tokens": "int64",
        "latency": "double",
        "transient": "bool",
    }


def test_an_answer_becomes_a_result_of_each_batch(tmp_path: Path) -> None:
    """Also where its reply was not kept; the official clients' types take both."""
    answers = llmblast_records()[:2]

    openai = through(tmp_path, answers, "openai-batch")
    anthropic = through(tmp_path, answers, "anthropic-batch")

    for row in openai:
        assert {name: type(row[name]) for name in ("id", "custom_id", "error")} == {
            "id": str,
            "custom_id": str,
            "error": type(None),
        }
        assert {name: type(value) for name, value in row["response"].items()} == {
            "status_code": int,
            "request_id": str,
            "body": dict,
        }
        TypeAdapter(ChatCompletion).validate_json(json.dumps(row["response"]["body"]), strict=True)
    for row in anthropic:
        result = {name: row[name] for name in ("custom_id", "result")}
        TypeAdapter(MessageBatchIndividualResponse).validate_json(json.dumps(result), strict=True)
    assert openai[0]["team"] == anthropic[0]["team"] == "x"


@pytest.mark.parametrize("forms", [("openai-batch", "llmblast"), ("anthropic-batch", "openai-batch", "llmblast")])
def test_an_answer_comes_back_from_the_batches(tmp_path: Path, forms: tuple[str, ...]) -> None:
    """What it said, of which line, and the own fields."""
    records = llmblast_records()
    told = ("key", "line", "id", "response", "finish_reason", "usage", "model", "error", "code", "transient", "request")
    answers = [records[0], records[1], records[3]]
    for answer in answers[:2]:
        answer["usage"]["total_tokens"] = 4

    found = through(tmp_path, answers, *forms)

    for before, after in zip(answers, found, strict=True):
        assert {name: after.get(name) for name in told} == {name: before.get(name) for name in told}
    assert (found[0]["team"], found[0]["fields"]) == ("x", {"model": "mine"})


def test_results_of_the_batch_apis_are_read(tmp_path: Path) -> None:
    """As their documentations show them: answers, errors, and requests that were not processed."""
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [{"type": "text", "text": "Hello!"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 34},
    }
    refusal = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    openai = {"id": "batch_req_1", "custom_id": "r1"}
    rows: list[dict[str, Any]] = [
        {"custom_id": "a", "result": {"type": "succeeded", "message": message}},
        {"custom_id": "b", "result": {"type": "errored", "error": refusal}},
        {"custom_id": "c", "result": {"type": "expired"}},
        {
            **openai,
            "response": {"status_code": 200, "request_id": "r", "body": orjson.loads(OPENAI_BODY)},
            "error": None,
        },
        {
            **openai,
            "response": {"status_code": 400, "request_id": "r", "body": {"error": {"message": "x"}}},
            "error": None,
        },
        {**openai, "response": None, "error": {"code": "batch_expired", "message": "too late"}},
        {
            **openai,
            "response": {"status_code": 200, "request_id": "r", "body": {"data": [{"index": 0, "embedding": [0.5]}]}},
            "error": None,
        },
        {**openai, "response": {"status_code": 200, "request_id": "r", "body": {"results": []}}, "error": None},
    ]

    found = through(tmp_path, rows, "llmblast")

    assert [(row.get("response"), row.get("error"), row.get("code")) for row in found] == [
        ("Hello!", None, None),
        (None, "no", "invalid_request_error"),
        (None, "the request was expired in its batch", "expired"),
        ("4", None, None),
        (None, "x", "http_400"),
        (None, "too late", "batch_expired"),
        ([[0.5]], None, None),
        (None, None, None),
    ]
    assert found[7]["body"] == {"results": []}
    assert found[2]["transient"] is True


def test_errors_become_requests_again(tmp_path: Path) -> None:
    """To mend them and run them once more."""
    assert through(tmp_path, [llmblast_records()[3]], "simple") == [{"input": "2+2?"}]


def test_the_result_of_a_batch_is_a_table_of_results_too(tmp_path: Path) -> None:
    """Its fields have the names of llmblast's records."""
    row = {"custom_id": "a", "response": {"status_code": 200, "body": orjson.loads(OPENAI_BODY)}, "error": None}
    source = write_rows(tmp_path / "a.jsonl", [row])

    conversion = Conversion(
        inputs=[str(source)],
        output=str(tmp_path / "b.csv"),
        fields=["id", "response", "usage.prompt_tokens"],
        settings=Settings(),
    )

    assert convert(conversion).rows == 1
    assert (tmp_path / "b.csv").read_text() == 'id,response,usage.prompt_tokens\na,"""4""",3\n'
