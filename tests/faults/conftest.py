"""Fault tests: the processes that they start are not measured, since most are killed, and a killed one writes nothing
of what it has covered.
"""

import os

import pytest


@pytest.fixture(autouse=True)
def _processes_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)
