"""End-to-end tests: the coverage of their processes is measured. They run what no other test runs."""

import pytest


@pytest.fixture(autouse=True)
def _measured(_processes_are_measured: None) -> None:
    """See `_processes_are_measured`."""
