"""The locks of `scripts/setup`: which versions they pin, and for which Python."""

import re
from collections.abc import Mapping
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from tests.conftest import ROOT

RUN_LOCK = ROOT / "scripts/requirements.txt"
DEV_LOCK = ROOT / "scripts/requirements-dev.txt"
SERVERS_LOCK = ROOT / "scripts/requirements-servers.txt"
"""For scripts/servers; what it pins is not installed here."""
LOCKS = {"run": RUN_LOCK, "dev": DEV_LOCK}

Versions = dict[NormalizedName, str]


def marker_values(python: str) -> dict[str, str]:
    """Return the values of environment markers on this platform with another Python, such as "3.14"."""
    values = {name: str(value) for name, value in default_environment().items()}
    return {**values, "python_version": python, "python_full_version": f"{python}.0"}


def locked_versions(packages: str, markers: Mapping[str, str] | None = None) -> Versions:
    """Return the versions that the lock of `run` or `dev` installs; without `markers`, those of this Python."""
    return versions_in(LOCKS[packages], markers)


def versions_in(lock: Path, markers: Mapping[str, str] | None = None) -> Versions:
    """Return the versions that a lock installs; without `markers`, those of this Python."""
    text = lock.read_text().replace("\\\n", "")
    requirements = [Requirement(re.split(r"\s--hash=", line)[0]) for line in text.splitlines()]
    return {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate(dict(markers or {}))
    }
