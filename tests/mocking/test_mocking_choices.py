"""Several choices, stop sequences, log probabilities, echoes, token ids, packed vectors."""

import struct
from base64 import b64decode
from typing import Any

import orjson
import pytest

from llmblast.mocking.answers import Answers
from llmblast.mocking.settings import MockSettings

PROMPT = "the lighthouse keeper counts ships in the fog"
SETTINGS = MockSettings(tokens=40)


def ask(operation: str, **asked: Any) -> Any:
    """The parsed reply to a body made of `asked`."""
    answer = Answers(SETTINGS).answer(operation, orjson.dumps(asked))
    assert answer.status == 200, answer.body
    return orjson.loads(answer.body)


def chat(**asked: Any) -> Any:
    return ask("chat/completions", messages=[{"role": "user", "content": PROMPT}], **asked)


def texts(reply: Any) -> list[str]:
    return [choice["text"] if "text" in choice else choice["message"]["content"] for choice in reply["choices"]]


def test_n_choices_are_n_different_answers() -> None:
    """The first is the one that a single choice would be, and all are paid for."""
    reply = chat(n=5)

    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3, 4]
    assert len(set(texts(reply))) == 5
    assert texts(reply)[0] == texts(chat())[0]
    assert reply["usage"]["completion_tokens"] == sum(len(text.split()) for text in texts(reply))


def test_a_seed_decides_the_answer() -> None:
    """The same one again, others with another seed."""
    assert texts(chat(seed=7)) == texts(chat(seed=7)) != texts(chat(seed=8))
    assert len({texts(chat(seed=seed))[0] for seed in (-1, 0, 1)}) == 3


@pytest.mark.parametrize("stop", ["keeper", ["nowhere", "keeper"], ["ships", "keeper"]])
def test_an_answer_ends_before_a_stop_sequence(stop: object) -> None:
    """The sequence itself is not said."""
    whole = texts(chat())[0]
    reply = chat(stop=stop)

    (text,) = texts(reply)
    assert whole.startswith(text)
    assert "keeper" not in text
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens"] == len(text.split()) < len(whole.split())


def test_max_tokens_and_stop_hold_together() -> None:
    """What comes first ends the answer and names the reason."""
    assert chat(stop="keeper", max_tokens=1)["choices"][0]["finish_reason"] == "length"
    assert chat(stop="keeper", max_tokens=39)["choices"][0]["finish_reason"] == "stop"


def test_log_probabilities_of_a_chat_have_each_token_and_its_alternatives() -> None:
    """Joined, the tokens are the text."""
    reply = chat(logprobs=True, top_logprobs=3, max_tokens=6)

    entries = reply["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == texts(reply)[0]
    assert len(entries) == 6
    for entry in entries:
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert [top["logprob"] for top in entry["top_logprobs"]] == sorted(
            (top["logprob"] for top in entry["top_logprobs"]), reverse=True
        )
        assert (entry["top_logprobs"][0]["token"], len(entry["top_logprobs"])) == (entry["token"], 3)
        assert entry["logprob"] <= 0


def test_without_alternatives_the_list_of_them_is_empty() -> None:
    """And without log probabilities there are none at all."""
    assert chat(logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    assert chat(logprobs=False)["choices"][0]["logprobs"] is None


def test_log_probabilities_of_a_completion_have_the_older_form() -> None:
    """The offsets count from the prompt's beginning, which an echo shows."""
    alone = ask("completions", prompt=PROMPT, logprobs=2, max_tokens=4)["choices"][0]
    echoed = ask("completions", prompt=PROMPT, logprobs=0, max_tokens=4, echo=True)["choices"][0]

    assert "".join(alone["logprobs"]["tokens"]) == alone["text"]
    assert alone["logprobs"]["text_offset"][0] == len(PROMPT)
    assert [len(tops) for tops in alone["logprobs"]["top_logprobs"]] == [2] * 4
    assert "".join(echoed["logprobs"]["tokens"]) == echoed["text"] == PROMPT + alone["text"]
    assert (echoed["logprobs"]["token_logprobs"][0], echoed["logprobs"]["text_offset"][0]) == (None, 0)
    assert echoed["logprobs"]["top_logprobs"] is None


def test_an_echo_is_not_paid_for_as_output() -> None:
    """Only what is new is."""
    usage = ask("completions", prompt=PROMPT, max_tokens=4, echo=True)["usage"]

    assert usage["completion_tokens"] == 4


def test_no_output_at_all_can_be_asked_for() -> None:
    """With an echo that is how log probabilities of a text are had."""
    reply = ask("completions", prompt=PROMPT, max_tokens=0, echo=True, logprobs=1)

    assert texts(reply) == [PROMPT]
    assert (reply["choices"][0]["finish_reason"], reply["usage"]["completion_tokens"]) == ("length", 0)


def test_what_comes_before_a_suffix_has_words_of_both() -> None:
    """The suffix itself is not repeated at the end, and counts as prompt."""
    reply = ask("completions", prompt="ships", suffix="lighthouses and birds")

    assert {"ships", "birds"} <= set(texts(reply)[0].replace(".", "").split())
    assert reply["usage"]["prompt_tokens"] == 1 + 5


def test_each_prompt_has_its_choices_in_order() -> None:
    """All of the first prompt, then all of the second."""
    reply = ask("completions", prompt=["ships", "birds"], n=2)

    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert ["ships" in text for text in texts(reply)] == [True, True, False, False]


def test_the_best_of_several_costs_all_of_them() -> None:
    """As the API counts."""
    one = ask("completions", prompt=PROMPT, n=1, max_tokens=5)["usage"]["completion_tokens"]
    best = ask("completions", prompt=PROMPT, n=1, best_of=4, max_tokens=5)

    assert (len(best["choices"]), best["usage"]["completion_tokens"]) == (1, 4 * one)


def test_token_ids_are_prompts_and_inputs() -> None:
    """A list of numbers is one prompt, a list of lists is several; each number is a token."""
    one = ask("completions", prompt=[11, 12, 13])
    two = ask("completions", prompt=[[11, 12], [13]])
    vectors = ask("embeddings", input=[[11, 12], [13]])
    single = ask("embeddings", input=[11, 12])

    assert (len(one["choices"]), one["usage"]["prompt_tokens"]) == (1, 3)
    assert (len(two["choices"]), two["usage"]["prompt_tokens"]) == (2, 3)
    assert "11" in texts(two)[0]
    assert "13" in texts(two)[1]
    assert (len(vectors["data"]), vectors["usage"]["prompt_tokens"]) == (2, 3)
    assert single["data"][0]["embedding"] == vectors["data"][0]["embedding"]


def test_packed_vectors_hold_the_same_numbers() -> None:
    """Little-endian floats of 32 bits, in base64."""
    plain = ask("embeddings", input="ships", dimensions=5, encoding_format="float")["data"][0]["embedding"]
    packed = ask("embeddings", input="ships", dimensions=5, encoding_format="base64")["data"][0]["embedding"]

    assert struct.unpack("<5f", b64decode(packed)) == pytest.approx(plain, abs=1e-6)
