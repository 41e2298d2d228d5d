"""Replies in OpenAI's form that follow from the request and the seed."""

import math
from statistics import mean, median, stdev
from typing import Any

import orjson
import pytest

from llmblast.mocking import wording
from llmblast.mocking.answers import Answers
from llmblast.mocking.models import Models
from llmblast.mocking.settings import MockSettings
from tests.mock_replies import meaning

PROMPT = "Summarise: the lighthouse keeper counts ships in the fog"


def ask(operation: str, settings: MockSettings | None = None, **asked: object) -> tuple[int, Any]:
    """Status and parsed body of the reply to a body made of `asked`."""
    answer = Answers(settings or MockSettings()).answer(operation, orjson.dumps(asked))
    return answer.status, orjson.loads(answer.body)


def chat(content: object, settings: MockSettings | None = None, **asked: object) -> Any:
    """The parsed reply to one user message."""
    status, reply = ask("chat/completions", settings, messages=[{"role": "user", "content": content}], **asked)
    assert status == 200, reply
    return reply


def test_a_chat_reply_is_made_of_the_prompts_words() -> None:
    """Its last words are the prompt's, its form is OpenAI's."""
    reply = chat(PROMPT, model="m")

    choice = reply["choices"][0]
    assert (reply["object"], reply["model"]) == ("chat.completion", "m")
    assert (choice["finish_reason"], choice["message"]["role"]) == ("stop", "assistant")
    assert "lighthouse keeper counts ships" in choice["message"]["content"]


def test_usage_counts_a_quarter_of_the_letters_and_every_word_said() -> None:
    """Prompt tokens are estimated over all messages, completion tokens are the words."""
    messages = [{"role": "system", "content": "a" * 40}, {"role": "user", "content": "b" * 60}]

    _, reply = ask("chat/completions", messages=messages)

    said = len(reply["choices"][0]["message"]["content"].split())
    assert reply["usage"] == {"prompt_tokens": 25, "completion_tokens": said, "total_tokens": 25 + said}


def test_completions_have_the_mean_length_that_is_set() -> None:
    """Between half and one and a half times the mean."""
    lengths = [
        chat(f"{PROMPT} {number}", MockSettings(tokens=40))["usage"]["completion_tokens"] for number in range(500)
    ]

    assert (min(lengths), max(lengths)) == (20, 60)
    assert sum(lengths) / len(lengths) == pytest.approx(40, abs=2)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_cuts_the_answer_short(name: str) -> None:
    """The reply says so by its finish reason."""
    reply = chat(PROMPT, MockSettings(tokens=100), **{name: 5})

    assert reply["choices"][0]["finish_reason"] == "length"
    assert len(reply["choices"][0]["message"]["content"].split()) == 5
    assert reply["usage"]["completion_tokens"] == 5


def test_max_tokens_that_are_enough_change_nothing() -> None:
    """Only what would be said beyond them is cut."""
    assert chat(PROMPT, max_tokens=1000)["choices"] == chat(PROMPT)["choices"]


def test_the_same_request_has_the_same_answer() -> None:
    """Whenever and wherever it is asked; another seed says something else."""
    body = orjson.dumps({"messages": [{"role": "user", "content": PROMPT}]})

    first, again = (Answers(MockSettings()).answer("chat/completions", body) for _ in range(2))
    other = Answers(MockSettings(seed=1)).answer("chat/completions", body)

    assert meaning(first.body) == meaning(again.body) != meaning(other.body)


def test_each_reply_has_its_own_id_and_its_moment() -> None:
    """The same request twice, three seconds apart."""
    moments = iter([1_700_000_000.9, 1_700_000_003.0])
    answers = Answers(MockSettings(), lambda: next(moments))
    body = orjson.dumps({"messages": [{"role": "user", "content": PROMPT}]})

    first, second = (orjson.loads(answers.answer("chat/completions", body).body) for _ in range(2))

    assert (first["created"], second["created"]) == (1_700_000_000, 1_700_000_003)
    assert first["id"] != second["id"]


def test_parts_that_are_no_text_are_passed_over() -> None:
    """A prompt with an image is answered by its text."""
    parts = [{"type": "text", "text": PROMPT}, {"type": "image_url", "image_url": {"url": "data:"}}]

    assert "lighthouse" in chat(parts)["choices"][0]["message"]["content"]


@pytest.mark.parametrize("content", [None, "", "?!"])
def test_a_prompt_without_words_is_answered_all_the_same(content: object) -> None:
    """There is always something to say."""
    assert "nothing in particular" in chat(content)["choices"][0]["message"]["content"]


def test_completions_answer_each_prompt() -> None:
    """One choice for each, in order."""
    status, reply = ask("completions", prompt=["count the ships", "name the birds"], model="m")

    assert status == 200
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    assert "ships" in reply["choices"][0]["text"]
    assert "birds" in reply["choices"][1]["text"]
    assert reply["usage"]["completion_tokens"] == sum(len(choice["text"].split()) for choice in reply["choices"])


def test_embeddings_are_unit_vectors_of_their_text() -> None:
    """One for each input, the same for the same text, as long as asked for."""
    status, reply = ask("embeddings", input=["ships", "birds", "ships"], dimensions=32)

    ships, birds, again = (entry["embedding"] for entry in reply["data"])
    assert status == 200
    assert ships == again != birds
    assert len(ships) == 32
    assert sum(number**2 for number in ships) == pytest.approx(1, abs=1e-4)
    assert reply["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_one_text_gets_one_short_vector() -> None:
    """Eight numbers where nothing else is asked for."""
    _, reply = ask("embeddings", input="ships")

    assert [len(entry["embedding"]) for entry in reply["data"]] == [8]


def test_the_tokens_of_an_answer_are_those_of_its_usage() -> None:
    """The limits charge what the reply tells."""
    body = orjson.dumps({"messages": [{"role": "user", "content": PROMPT}]})

    answer = Answers(MockSettings()).answer("chat/completions", body)

    usage = orjson.loads(answer.body)["usage"]
    assert (answer.prompt_tokens, answer.output_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])


@pytest.mark.parametrize(
    ("operation", "asked", "most"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}]}, 500),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 7}, 7),
        ("completions", {"prompt": ["x", "y"], "max_tokens": 7}, 14),
        ("completions", {"prompt": ["x", "y"]}, 1000),
        ("embeddings", {"input": "x"}, 0),
    ],
)
def test_the_most_output_is_what_the_body_allows_or_the_default(
    operation: str, asked: dict[str, object], most: int
) -> None:
    """Each prompt may have as much; an embedding has none."""
    answer = Answers(MockSettings(max_tokens=500)).answer(operation, orjson.dumps(asked))

    assert answer.most_output_tokens == most


def lengths(settings: MockSettings, count: int = 3000) -> list[int]:
    """The completion tokens of many different prompts."""
    return [chat(f"{PROMPT} {number}", settings)["usage"]["completion_tokens"] for number in range(count)]


def test_sigma_makes_lengths_log_normal_about_the_same_mean() -> None:
    """The median lies below the mean by the factor exp(sigma^2 / 2), and the logarithms have that sigma."""
    drawn = lengths(MockSettings(tokens=200, sigma=1.0))

    assert mean(drawn) == pytest.approx(200, rel=0.08)
    assert median(drawn) == pytest.approx(200 / math.exp(0.5), rel=0.08)
    assert stdev(map(math.log, drawn)) == pytest.approx(1.0, rel=0.05)


def test_log_normal_lengths_follow_from_the_seed_and_the_prompt() -> None:
    """The same again, others with another seed; a reply says as many words as it counts."""
    settings, other = MockSettings(sigma=1.0), MockSettings(sigma=1.0, seed=1)
    reply = chat(PROMPT, settings)

    assert lengths(settings, 50) == lengths(settings, 50) != lengths(other, 50)
    assert len(reply["choices"][0]["message"]["content"].split()) == reply["usage"]["completion_tokens"]


def test_the_longest_replies_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tail without an end would fill the memory."""
    monkeypatch.setattr(wording, "MAX_OUTPUT_TOKENS", 300)

    assert max(lengths(MockSettings(tokens=100, sigma=3.0), 300)) == 300


@pytest.mark.parametrize(
    ("operation", "asked", "param", "code"),
    [
        ("chat/completions", {}, "messages", "missing_required_parameter"),
        ("completions", {}, "prompt", "missing_required_parameter"),
        ("embeddings", {"input": []}, "input", "empty_array"),
        ("embeddings", {"input": "x", "dimensions": 10**6}, "dimensions", "integer_above_max_value"),
    ],
)
def test_a_body_that_will_not_do_gets_a_400(operation: str, asked: dict[str, object], param: str, code: str) -> None:
    """The error names the parameter."""
    answer = Answers(MockSettings()).answer(operation, orjson.dumps(asked))

    reply = orjson.loads(answer.body)
    assert answer.status == 400
    assert reply["error"]["type"] == "invalid_request_error"
    assert (reply["error"]["param"], reply["error"]["code"]) == (param, code)


@pytest.mark.parametrize(("body", "code"), [(b"{", "invalid_json"), (b"", "invalid_json"), (b"[]", "invalid_type")])
def test_a_body_that_is_no_json_object_gets_a_400(body: bytes, code: str) -> None:
    """Before anything else is looked at."""
    answer = Answers(MockSettings()).answer("chat/completions", body)

    assert answer.status == 400
    assert orjson.loads(answer.body)["error"]["code"] == code


def test_the_list_of_models_has_the_one_that_replies_name() -> None:
    """A body without a model is answered by it."""
    assert [model["id"] for model in orjson.loads(Models(None).list_body())["data"]] == [chat(PROMPT)["model"]]
