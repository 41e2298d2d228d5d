"""Keys of lines that are records of another run."""

import pytest

from llmblast.job.batch_parser import BatchParser
from llmblast.job.record_keys import LineKeys, RecordKeys
from llmblast.models import Answer, Line, Reply, Request, Success
from llmblast.reading import CompletedKeys, key_of
from llmblast.settings import Settings
from llmblast.watching import Counters
from llmblast.writing import FORMATS, render
from tests.openai_provider import RequestParser

pytestmark = pytest.mark.no_cover  # long in itself, and coverage would make it four times as long

KEY = "00000000000000ab"


def record(
    answer: str, *, key: str = KEY, line: int = 7, repeat: int = 0, file: str | None = None, to: str = ""
) -> bytes:
    request = Request(line, key, b"{}", "id", "in", repeat=repeat, file=file)
    success = Success(request, Answer(answer), Reply(200, body=b"{}", latency_s=len(answer)), "endpoint")
    return render(success, output_format=to or None).strip()


def find(keys: RecordKeys, text: bytes, number: int = 99) -> LineKeys:
    return keys.find(number, key_of(text), text)


def stream() -> RecordKeys:
    keys = RecordKeys(may_mix=False)
    keys.is_stream = True
    return keys


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("more", [{}, {"repeat": 3}, {"file": 'a "b" \\ c.jsonl'}, {"repeat": 2, "file": "a"}])
def test_in_a_stream_a_record_counts_by_its_line(to: str, more: dict[str, object]) -> None:
    """Whatever the answer was: the line was asked again."""
    first = find(stream(), record("one answer", to=to, **more))  # type: ignore[arg-type] # of the parameters
    second = find(stream(), record("another", to=to, **more))  # type: ignore[arg-type]

    assert (first.number, first.key) == (second.number, second.key) == (7, first.key)
    assert first.key != find(stream(), record("one answer", to=to)).key or not more


@pytest.mark.parametrize("other", [{"key": "00000000000000ac"}, {"line": 8}, {"repeat": 2}, {"file": "b.jsonl"}])
def test_records_of_other_lines_have_other_keys(other: dict[str, object]) -> None:
    """Also of equal lines: their answers may differ."""
    assert find(stream(), record("a")).key != find(stream(), record("a", **other)).key  # type: ignore[arg-type]


def test_in_a_file_a_record_counts_by_its_bytes() -> None:
    """It keeps them, and the file may hold the records of several runs. Its place is its number."""
    text = record("a")

    found = find(RecordKeys(), text)

    assert found == LineKeys(99, key_of(text), find(stream(), text).key)


def test_two_answers_to_a_line_are_two_lines() -> None:
    """As in `cat model-a.jsonl model-b.jsonl | llmblast run -`."""
    keys = RecordKeys()
    keys.is_stream = True
    first, second = record("of model a"), record("of model b")

    assert find(keys, first).key == find(stream(), first).key
    assert find(keys, second) == LineKeys(99, key_of(second), "")


def test_a_hundred_thousand_lines_are_told_apart() -> None:
    """A line is taken for a second answer once in a thousand times at most."""
    keys = RecordKeys()
    keys.is_stream = True

    found = [find(keys, record("a", key=f"{number:016x}", line=number)) for number in range(1, 100_001)]

    assert sum(not each.other_key for each in found) < 10


@pytest.mark.parametrize(
    "text",
    [
        b'{"key":"mine","line":3,"input":"a"}',
        b'{"key":"00000000000000ab","input":"a"}',
        b'{"key":"00000000000000ab","line":"3"}',
        b'{"key":"00000000000000ab","line":3',
    ],
)
def test_other_lines_count_by_their_bytes(text: bytes) -> None:
    """A field called key makes no record."""
    assert find(stream(), text) == LineKeys(99, key_of(text), "")


@pytest.mark.parametrize("was_stream", [True, False])
@pytest.mark.parametrize("is_stream", [True, False])
def test_a_record_that_was_answered_is_skipped_in_either_way(was_stream: bool, is_stream: bool) -> None:
    """The same records may come by a pipe first and from their file later."""
    text = record("a")
    before = RecordKeys()
    before.is_stream = was_stream
    done = f'{{"key":"{find(before, text).key}","line":7}}'.encode()
    counters = Counters()
    parser = BatchParser(
        RequestParser(Settings(prompt="{response}")),
        counters,
        None,
        CompletedKeys.of_records([done]),
        CompletedKeys([]),
    )
    parser.record_keys.is_stream = is_stream

    batches = list(parser.parse([(1, text), (2, text)]))

    items = [item for batch in batches for item in batch]
    assert (counters.skipped, len(items)) == (1, 1)


def test_a_request_from_a_stream_has_the_number_of_its_line() -> None:
    """So its own record is known again by a third run of the row."""
    parser = BatchParser(RequestParser(Settings(prompt="Judge: {response}")), Counters(), None, None, None)
    parser.record_keys.is_stream = True

    ((item,),) = parser.parse([(1, record("a"))])

    assert isinstance(item, Line)
    assert (item.number, item.input) == (7, "Judge: a")
