"""The sample files hold what the demo and the documentation say they hold."""

from collections import Counter
from math import floor
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.mocking.settings import MockSettings
from llmblast.models import Failure, Request
from llmblast.reading import LineSplitter, key_of
from llmblast.setting_loading import load
from llmblast.settings import Settings
from tests.openai_provider import RequestParser

SAMPLES = Path(__file__).parents[2] / "sample_data"

GOOD_LINES = [1, 3, 9, 13, 19, 25, 28, 31]
BLANK_LINES = [5, 16, 29]
BAD_LINES = {
    2: "ends too early",
    4: "like HTML",
    6: "not a JSON object",
    7: "not a JSON object",
    8: "not a JSON object",
    10: "nothing to send",
    11: "nothing to send",
    12: '"input" must be a string',
    14: "invalid UTF-8",
    15: "not JSON",
    17: "nested too deep",
    18: "a broken escape",
    20: "trailing comma",
    21: "not JSON",
    22: "more than one object on the line",
    23: '"url" must be',
    24: '"method" must be',
    26: '"stream"',
    27: '"priority" must be',
    30: "control character",
}


def objects(name: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (SAMPLES / name).read_bytes().splitlines()]


def text_of(prompt: dict[str, Any]) -> str:
    return str(prompt["input"] if "input" in prompt else prompt["prompt"])


def parsed(name: str) -> dict[int, Request | Failure]:
    splitter, parser = LineSplitter(), RequestParser(Settings())
    lines = splitter.feed((SAMPLES / name).read_bytes()) + splitter.finish()
    return {number: parser.parse(number, key_of(text), text) for number, text in lines}


@pytest.fixture
def endpoints() -> dict[str, EndpointSettings]:
    return {endpoint.name: endpoint for endpoint in load({}, str(SAMPLES / "endpoints.toml")).endpoints}


def mock_of(endpoint: EndpointSettings) -> MockSettings:
    return MockSettings.from_query(endpoint.url.removeprefix("mock:?"))


def test_the_folder_holds_the_sample_files_only() -> None:
    """Outputs of a run that somebody tried out here do not slip in."""
    assert sorted(path.name for path in SAMPLES.iterdir()) == [
        "batch.jsonl",
        "endpoints.toml",
        "judge.toml",
        "malformed.jsonl",
        "prompts.jsonl",
    ]


def test_there_are_enough_prompts_and_no_two_are_the_same() -> None:
    """A demo at 40 requests a second lasts some seconds, and no line stands there twice."""
    texts = [text_of(prompt) for prompt in objects("prompts.jsonl")]

    assert len(texts) >= 220
    assert len(set(texts)) == len(texts)


def test_prompt_ids_are_unique_and_a_few_lines_have_none() -> None:
    """Both kinds of record ids occur: the line's own and its number."""
    ids = [prompt["id"] for prompt in objects("prompts.jsonl") if "id" in prompt]

    assert len(set(ids)) == len(ids)
    assert 200 < len(ids) < len(objects("prompts.jsonl"))


def test_the_prompts_are_short_and_long_and_of_many_kinds() -> None:
    """Languages, tasks and lengths vary as they do in real work."""
    prompts = objects("prompts.jsonl")
    lengths = sorted(len(text_of(prompt)) for prompt in prompts)
    languages = Counter(prompt["lang"] for prompt in prompts)
    tasks = Counter(prompt["task"] for prompt in prompts)

    assert lengths[0] >= 30
    assert lengths[0] < 60
    assert 2500 < lengths[-1] <= 3000
    assert len([language for language, count in languages.items() if count >= 5]) >= 12
    assert tasks.keys() >= {"classification", "extraction", "summary", "translation", "rewriting", "code", "sql"}


def test_the_prompts_use_every_optional_field_that_text_lines_have() -> None:
    """System messages, parameters, priorities and both names of the text."""
    seen = Counter(name for prompt in objects("prompts.jsonl") for name in prompt)

    assert seen["system"] > 20
    assert 100 < seen["params"] < len(objects("prompts.jsonl"))
    assert seen["priority"] >= 3
    assert seen["input"] > seen["prompt"] > 0
    assert {prompt["priority"] for prompt in objects("prompts.jsonl") if "priority" in prompt} == {-1}


def test_the_batch_file_asks_for_the_same_as_the_prompts_line_by_line() -> None:
    """Same order, same messages, same parameters; lines without an id are called after their number."""
    expected = [
        {
            "custom_id": prompt.get("id", f"prompt-{number}"),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "gpt-4o-mini",
                "messages": [
                    *([{"role": "system", "content": prompt["system"]}] if "system" in prompt else []),
                    {"role": "user", "content": text_of(prompt)},
                ],
                **prompt.get("params", {}),
            },
        }
        for number, prompt in enumerate(objects("prompts.jsonl"), 1)
    ]

    assert objects("batch.jsonl") == expected
    assert len({line["custom_id"] for line in expected}) == len(expected)


@pytest.mark.parametrize(("name", "output_format"), [("prompts.jsonl", "llmblast"), ("batch.jsonl", "openai-batch")])
def test_every_line_of_the_good_files_becomes_a_request(name: str, output_format: str) -> None:
    """None is refused, and each is taken for the format that its file is an example of."""
    outcomes = parsed(name)

    assert [outcome for outcome in outcomes.values() if isinstance(outcome, Failure)] == []
    assert {outcome.output_format for outcome in outcomes.values() if isinstance(outcome, Request)} == {output_format}
    assert list(outcomes) == list(range(1, len(objects("prompts.jsonl")) + 1))


def test_exactly_the_stated_lines_of_the_malformed_file_are_refused() -> None:
    """The good ones between them become requests; blank lines are neither."""
    outcomes = parsed("malformed.jsonl")

    assert [number for number, outcome in outcomes.items() if isinstance(outcome, Request)] == GOOD_LINES
    assert [number for number, outcome in outcomes.items() if isinstance(outcome, Failure)] == list(BAD_LINES)
    assert [number for number in range(1, GOOD_LINES[-1] + 1) if number not in outcomes] == BLANK_LINES


@pytest.mark.parametrize(("number", "reason"), BAD_LINES.items())
def test_a_bad_line_is_refused_for_its_own_reason(number: int, reason: str) -> None:
    """Each line shows the one mistake that it was written for."""
    outcome = parsed("malformed.jsonl")[number]

    assert isinstance(outcome, Failure)
    assert outcome.error.startswith(f"standard input:{number}:")
    assert reason in outcome.error


def test_the_malformed_file_has_the_byte_level_oddities_that_editors_like_to_mend() -> None:
    """BOM, CRLF, Latin-1, a raw U+2028, depth, length and the missing last newline survive in the repository."""
    data = (SAMPLES / "malformed.jsonl").read_bytes()
    lines = data.split(b"\n")

    assert data.startswith(b"\xef\xbb\xbf{")
    assert [number for number, line in enumerate(lines, 1) if line.endswith(b"\r")] == [3, 13, 16, 27]
    assert b"\xfc" in lines[13]
    assert b"NaN" in lines[14]
    assert lines[16].count(b"[") == 2000
    assert "\u2028".encode() in lines[18]
    assert len(lines[27]) > 20_000
    assert lines[-1].endswith(b"}")


def test_the_endpoints_file_has_three_weighted_endpoints_with_limits(endpoints: dict[str, EndpointSettings]) -> None:
    """Weights 3 to 2 to 1, each with requests, tokens and concurrency of its own."""
    assert {name: endpoint.weight for name, endpoint in endpoints.items()} == {"large": 3, "medium": 2, "small": 1}
    for endpoint in endpoints.values():
        assert endpoint.is_mock
        assert None not in (endpoint.rps, endpoint.tpm, endpoint.concurrency, endpoint.model)


def test_the_endpoints_file_caps_the_whole_run_below_the_sum_of_its_endpoints(
    endpoints: dict[str, EndpointSettings],
) -> None:
    """The run's own caps bind, so that the demo shows both levels of limits."""
    settings = load({}, str(SAMPLES / "endpoints.toml"))

    assert settings.rps == 40
    assert settings.rps < sum(endpoint.rps or 0 for endpoint in endpoints.values())
    assert settings.tpm is not None
    assert settings.tpm < sum(endpoint.tpm or 0 for endpoint in endpoints.values())
    assert settings.concurrency < sum(endpoint.concurrency or 0 for endpoint in endpoints.values())


@pytest.mark.parametrize("name", ["large", "medium", "small"])
def test_an_endpoint_can_carry_its_share_of_the_rate(name: str, endpoints: dict[str, EndpointSettings]) -> None:
    """Otherwise the shares of the demo would not be those of the weights."""
    endpoint, weights = endpoints[name], sum(endpoint.weight for endpoint in endpoints.values())
    share_rps = 40 * endpoint.weight / weights
    slowest_s = mock_of(endpoint).latency * (1 + mock_of(endpoint).jitter)

    assert endpoint.rps is not None
    assert endpoint.rps > share_rps
    assert endpoint.concurrency is not None
    assert endpoint.concurrency > share_rps * slowest_s


@pytest.mark.parametrize("name", ["large", "medium", "small"])
def test_the_mock_allows_a_little_more_than_its_endpoint_asks_for(
    name: str, endpoints: dict[str, EndpointSettings]
) -> None:
    """Even a window that catches the whole burst sees no request too many, so the demo meets no 429."""
    endpoint, mock = endpoints[name], mock_of(endpoints[name])

    assert endpoint.rps is not None
    assert endpoint.burst is not None
    assert mock.rps is not None
    assert floor(endpoint.rps * (1 + endpoint.burst)) + 1 <= mock.rps
    assert mock.rps <= 1.5 * endpoint.rps
    assert mock.tpm is not None
    assert mock.tpm > (endpoint.tpm or 0)
    assert mock.concurrency is not None
    assert mock.concurrency > (endpoint.concurrency or 0)


def test_the_endpoints_file_shows_a_real_endpoint_that_loads_once_uncommented(tmp_path: Path) -> None:
    """The commented-out example is valid, reached by https, and names the variable of its key instead of the key."""
    head, _, example = (SAMPLES / "endpoints.toml").read_text().rpartition("# [[endpoints]]\n")
    uncommented = "[[endpoints]]\n" + "\n".join(line.removeprefix("# ") for line in example.splitlines())
    config = tmp_path / "endpoints.toml"
    config.write_text(head + uncommented)

    endpoint = load({}, str(config)).endpoints[-1]

    assert endpoint.url.startswith("https://")
    assert endpoint.key_env == "LLM_API_KEY"
