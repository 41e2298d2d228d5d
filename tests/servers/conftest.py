"""What the tests against servers of others share."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson
import pytest

from tests.conftest import RunLlmblast, records, write_prompts

LINES = 200


class Outcome(NamedTuple):
    """The end of a run: its exit code, its summary, its records and what it said."""

    exit_code: int
    summary: dict[str, Any]
    answers: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    said: str


class Run(Protocol):
    """Runs `LINES` prompts, or other lines: `run("-u", url, lines=...)`."""

    def __call__(self, *arguments: str, lines: list[Any] | None = None, **environ: str) -> Outcome: ...


@pytest.fixture
def run(tmp_path: Path, llmblast: RunLlmblast) -> Run:
    """Run the real command."""

    def run(*arguments: str, lines: list[Any] | None = None, **environ: str) -> Outcome:
        prompts = tmp_path / "prompts.jsonl"
        write_prompts(prompts, LINES)
        if lines is not None:
            prompts.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        done = llmblast("run", prompts.name, "--json", "--overwrite", *arguments, **environ)
        summary = orjson.loads(done.stdout)
        paths = tmp_path / "save.jsonl", tmp_path / "errors.jsonl"
        answers, errors = (records(path) if path.exists() else [] for path in paths)
        return Outcome(done.returncode, summary, answers, errors, done.stderr)

    return run


class Check(Protocol):
    """Returns the finding of `llmblast check --endpoints` for an endpoint."""

    def __call__(self, endpoint: str, **environ: str) -> dict[str, Any]: ...


@pytest.fixture
def check(llmblast: RunLlmblast) -> Check:
    """Run the real command."""

    def check(endpoint: str, **environ: str) -> dict[str, Any]:
        done = llmblast("check", "--endpoints", "--json", "-u", endpoint, **environ)
        (finding,) = orjson.loads(done.stdout)["endpoints"]
        assert isinstance(finding, dict)
        return finding

    return check
