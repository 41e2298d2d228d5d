"""The loop that a run gets: as many open files as the machine allows."""

import subprocess
import sys
import textwrap

import pytest

from tests.conftest import ROOT

SHOW_LIMIT = """
    import resource, sys
    from llmblast.cli.loop import run_loop

    async def show():
        print(*resource.getrlimit(resource.RLIMIT_NOFILE))

    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), 200))
    run_loop(show())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
@pytest.mark.parametrize("soft", [64, 200])
def test_as_many_files_as_allowed_may_be_open(soft: int) -> None:
    """The soft limit is raised to the hard one, which stays."""
    command = [sys.executable, "-c", textwrap.dedent(SHOW_LIMIT), str(soft)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "200 200\n"
