"""The hot path of a plain line: what is decided once for a run costs no call for each line."""

import sys
from collections.abc import Callable
from types import FrameType

import orjson
import pytest

from llmblast.job.input_reader import make_parser
from llmblast.models import Answer, Reply, Request, Success
from llmblast.providers import DEFAULT_PROVIDER
from llmblast.settings import Settings
from llmblast.writing import render

MAX_CALLS_TO_PARSE = 19
MAX_CALLS_TO_RECORD = 15
"""Each is some 50 ns without the compiled build: raise one only for what every run needs."""
LINE = b'{"id":7,"input":"2+2?","topic":"sums"}'
REPLY = {"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 5}}


def calls_in(work: Callable[[], object]) -> list[str]:
    """Return the functions of llmblast that run, in their order, after a first time without counting."""
    work()
    names: list[str] = []

    def note(frame: FrameType, event: str, arg: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith("llmblast."):
            names.append(f"{module.removeprefix('llmblast.')}:{frame.f_code.co_qualname}")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return names


@pytest.mark.pure
def test_a_plain_line_is_parsed_with_few_calls() -> None:
    """Maps, templates, choices, media and checks of answers are looked for without a call."""
    parser = make_parser(Settings(), [DEFAULT_PROVIDER])

    calls = calls_in(lambda: parser.parse(1, "0" * 16, LINE))

    assert len(calls) <= MAX_CALLS_TO_PARSE, calls


@pytest.mark.pure
def test_a_plain_reply_is_read_and_recorded_with_few_calls() -> None:
    """Repeats, files, repairs and cached answers cost a record nothing where there are none."""
    request = make_parser(Settings(), [DEFAULT_PROVIDER]).parse(1, "0" * 16, LINE)
    reply = Reply(200, body=orjson.dumps(REPLY))
    assert isinstance(request, Request)

    def work() -> None:
        answer = DEFAULT_PROVIDER.read_answer(request, reply)
        assert isinstance(answer, Answer)
        render(Success(request, answer, reply, "one"))

    calls = calls_in(work)

    assert len(calls) <= MAX_CALLS_TO_RECORD, calls
