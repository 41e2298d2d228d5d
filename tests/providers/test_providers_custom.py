"""An API that settings describe: bodies from a template, answers by JSON pointers."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from llmblast.endpoint_settings import CustomSettings, EndpointSettings
from llmblast.errors import UsageError
from llmblast.models import Answer, Prompt, Reply, ReplyError, Request
from llmblast.providers import provider_of
from llmblast.providers.json_pointers import JsonPointer
from llmblast.sending import make_target
from tests.conftest import CANARY, RunLlmblast, StartMock, records, write_prompts
from tests.media_parts import parts_of

ASKED = Request(1, "k", b"", 1, kind="custom e")


def endpoint(
    body: dict[str, Any] | None = None, text: str = "/out", url: str = "https://h/api/generate", **more: Any
) -> EndpointSettings:
    model, headers = more.pop("endpoint_model", None), more.pop("headers", {})
    custom = CustomSettings(body={"input": "{prompt}"} if body is None else body, text=text, **more)
    return EndpointSettings(url=url, name="e", custom=custom, model=model, headers=headers)


def rendered(body: dict[str, Any], prompt: Prompt, model: str | None = None) -> Any:
    return orjson.loads(provider_of(endpoint(body), model).render(prompt)[1])


def test_a_template_is_filled_with_the_parts_of_a_prompt() -> None:
    """A text that is one placeholder keeps the type of its value; what has no value is left out."""
    body = {
        "in": [{"q": "{prompt}"}, "{system}"],
        "m": "{model}",
        "note": "{{Q}}: {prompt} {params}",
        "len": "{params.max_tokens}",
        "top": "{params.top_p}",
        "*": "{params}",
        "fixed": 1,
    }

    found = rendered(body, Prompt('a "b"', None, (), {"max_tokens": 5, "seed": 1}), "m-1")

    assert found == {
        "in": [{"q": 'a "b"'}],
        "m": "m-1",
        "note": '{Q}: a "b" {"seed":1}',
        "len": 5,
        "seed": 1,
        "fixed": 1,
    }


def test_text_with_braces_that_name_nothing_stays() -> None:
    assert rendered({"i": 'Write {"a": 1} for {prompt} { x }'}, Prompt("p", None, (), {})) == {
        "i": 'Write {"a": 1} for p { x }'
    }


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (Prompt("", "s", (), {}), '"{system}"'),
        (Prompt("", None, parts_of(["https://h/a.png"]), {}), '"{images}"'),
        (Prompt("", None, (), {"seed": 1}), '"{params.seed}"'),
        (Prompt("", None, (), {}, "m"), '"{model}"'),
    ],
)
def test_what_has_no_place_in_the_template_makes_a_bad_line(prompt: Prompt, reason: str) -> None:
    assert reason in (provider_of(endpoint()).unsupported_in(prompt) or "")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"body": {"input": "x"}}, 'custom.body: it has no "{prompt}"'),
        ({"body": {"input": "{prompt} {sytem}"}}, "custom.body: {sytem} is unknown"),
        ({"body": {"input": "{prompt}", "*": 1}}, 'a member "*" stands for the parameters'),
        ({"body": {"input": "{prompt}", "m": "{model}"}}, "the model is missing"),
        ({"url": "https://h/{model}/generate"}, "the model is missing"),
        ({"text": "out"}, "custom.text: 'out' is not a JSON pointer"),
        ({"usage": "/a~2"}, "custom.usage: '/a~2' is not a JSON pointer"),
        ({"key_header": "Authorization: Token"}, "custom.key_header: write the header with"),
        ({"headers": {"Authorization": "x"}}, "the header Authorization may hold a key"),
    ],
)
def test_a_description_that_is_not_valid_is_found_at_the_start(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match="endpoint e") as raised:
        provider_of(endpoint(**more))

    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("url", "model", "expected"),
    [
        ("https://h/api/generate?v=1", None, "https://h/api/generate?v=1"),
        ("https://h/api/", None, "https://h/api/"),
        ("https://h", None, "https://h/"),
        ("https://h/models/{model}/generate", "org/m 1", "https://h/models/org/m%201/generate"),
        ("https://h/models/{model}:generate", "m", "https://h/models/m:generate"),
    ],
)
def test_the_url_is_used_as_it_is(url: str, model: str | None, expected: str) -> None:
    settings = endpoint(url=url)
    provider = provider_of(settings, model)
    path, _ = provider.render(Prompt("", None, (), {}))

    assert make_target(settings, model, None, provider).url_of(path) == expected


def test_a_key_goes_into_its_header() -> None:
    settings = endpoint(key_header="Authorization: Token {key}")

    target = make_target(settings, None, "k-1", provider_of(settings))

    assert target.headers["Authorization"] == "Token k-1"


def read(data: object, **pointers: Any) -> Answer | ReplyError:
    return provider_of(endpoint(**pointers)).read_answer(ASKED, Reply(200, body=orjson.dumps(data)))


def test_pointers_find_answer_and_counts() -> None:
    data = {"r": [{"t": "42", "why": "stop"}], "n": {"in": 3, "out": 2}, "v": "m-2"}

    answer = read(
        data,
        text="/r/0/t",
        finish_reason="/r/0/why",
        usage="/n",
        prompt_tokens="/n/in",
        completion_tokens="/n/out",
        model="/v",
    )

    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish_reason, answer.model) == ("42", "stop", "m-2")
    assert (answer.usage, answer.prompt_tokens, answer.completion_tokens) == ({"in": 3, "out": 2}, 3, 2)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"out": None}, "unusable_reply"),
        ({"out": ""}, "empty_answer"),
        ({"failure": {"why": "no", "kind": "QUOTA_EXCEEDED"}}, "QUOTA_EXCEEDED"),
        ([], "unusable_reply"),
    ],
)
def test_a_reply_without_an_answer_is_an_error(data: object, code: str) -> None:
    error = read(data, error="/failure/why", error_code="/failure/kind")

    assert isinstance(error, ReplyError)
    assert error.code == code


def test_pointers_find_errors() -> None:
    provider = provider_of(endpoint(error="/failure/why", error_code="/failure/kind"))

    error = provider.read_error(Reply(429, body=b'{"failure":{"why":"slow down","kind":"RATE_LIMITED"}}'))

    assert (error.message, error.code, error.names[0]) == ("slow down", "RATE_LIMITED", "ratelimited")


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("", {"a/b": [1, {"~": None}], "": 2}),
        ("/a~1b/0", 1),
        ("/a~1b/00", None),
        ("/a~1b/2", None),
        ("/", 2),
        ("/a~1b/1/~0", None),
        ("/x/y", None),
    ],
)
def test_pointers_follow_rfc_6901(pointer: str, expected: object) -> None:
    assert JsonPointer(pointer).find({"a/b": [1, {"~": None}], "": 2}) == expected


CONFIG = """
model = "m"
[[endpoints]]
name = "own"
url = "{url}/chat/completions"
key_env = "CANARY_KEY"
[endpoints.custom]
text = "/choices/0/message/content"
{more}
[endpoints.custom.body]
model = "{{model}}"
messages = [{{role = "user", content = "Q: {{prompt}}"}}]
"*" = "{{params}}"
"""


def test_a_run_sends_to_an_api_that_toml_describes(
    start_mock: StartMock, llmblast: RunLlmblast, tmp_path: Path
) -> None:
    mock = start_mock(f"key={CANARY}&latency=0")
    write_prompts(tmp_path / "prompts.jsonl", 20)
    (tmp_path / "c.toml").write_text(CONFIG.format(url=mock.url, more='finish_reason = "/choices/0/finish_reason"'))

    done = llmblast("run", "prompts.jsonl", "-c", "c.toml", "--params", '{"max_tokens": 4}')

    assert done.returncode == 0, done.stderr
    answers = records(tmp_path / "save.jsonl")
    assert len(answers) == 20
    assert {(answer["finish_reason"], answer["endpoint"]) for answer in answers} <= {("stop", "own"), ("length", "own")}
    assert all(answer["response"] and answer["usage"]["completion_tokens"] <= 4 for answer in answers)
    shown = llmblast("config", "show", "-c", "c.toml").stdout
    assert 'custom = {"body" = {"model" = "{model}"' in shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('error = "x"', "endpoint own: custom.error: 'x' is not a JSON pointer"),
        ('txt = "/a"', "c.toml: endpoints[0].custom: unknown setting txt; did you mean text?"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check"])
def test_check_and_run_find_a_description_that_is_not_valid(
    llmblast: RunLlmblast, tmp_path: Path, command: str, more: str, message: str
) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 1)
    (tmp_path / "c.toml").write_text(CONFIG.format(url="http://127.0.0.1:9", more=more))

    done = llmblast(command, "prompts.jsonl", "-c", "c.toml")

    assert done.returncode == 2
    assert message in done.stderr
