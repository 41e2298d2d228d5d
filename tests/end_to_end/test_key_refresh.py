"""A run asks for its key again at an interval, as a person sets it; what goes wrong with that does not end the run."""

from pathlib import Path

import pytest

from tests.conftest import RunLlmblast, StartMock, records, write_prompts
from tests.processes import is_running

SOURCE = ",name=gpu1,key_command=sh key.sh,key_refresh=0.05"


def test_a_refresh_that_fails_is_told_once_and_the_run_goes_on(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """With the key that it has; what the command printed is told nowhere."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 30)
    script = 'echo x >> asked; echo "$CANARY_KEY"; test $(wc -l < asked) = 1 || { echo "$CANARY_KEY" >&2; exit 3; }\n'
    (tmp_path / "key.sh").write_text(script)

    done = llmblast("run", "prompts.jsonl", "-u", server.url + SOURCE, "--rps", "60", "-q")

    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "save.jsonl")) == 30
    assert len((tmp_path / "asked").read_text().splitlines()) > 3
    assert done.stderr == (
        "endpoint gpu1: key_command failed with exit code 3: run it by hand; "
        "the present key stays in use, next try in 0.05 s\n"
    )


@pytest.mark.parametrize("hang", ["exec sleep 600", "sleep 600 | cat"])
def test_a_refresh_under_way_ends_with_the_run(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, hang: str
) -> None:
    """The command is killed with all that it has started, and nothing is told of it."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 30)
    (tmp_path / "key.sh").write_text(f"test -e first && {{ echo $$ > pid; {hang}; }}; touch first; echo k\n")

    done = llmblast("run", "prompts.jsonl", "-u", server.url + SOURCE, "--rps", "60", "-q")

    assert (done.returncode, done.stderr) == (0, "")
    assert not is_running((tmp_path / "pid").read_text().strip())


@pytest.mark.parametrize("setting", ["key_refresh=9", "key_refresh=9,key_env=K,key_file=f"])
def test_what_cannot_be_asked_again_is_told_at_the_start(tmp_path: Path, llmblast: RunLlmblast, setting: str) -> None:
    """Before anything is sent or created."""
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast("run", "prompts.jsonl", "-u", f"http://127.0.0.1:9/v1,{setting}")

    assert done.returncode == 2
    assert "key_refresh needs a key that can be read again" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]
