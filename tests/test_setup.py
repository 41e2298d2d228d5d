"""What was locked installs unchanged later: the locks are complete, and no script chooses a version."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.lock_files import LOCKS, SERVERS_LOCK, locked_versions, marker_values, versions_in

EXTRAS = {"run": ("build",), "dev": ("build", "dev")}
SCRIPTS = [
    ROOT / ".ci/run",
    *sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file() and path.suffix != ".txt"),
]
INSTALL = re.compile(r"\bpip3? (install|download|wheel)\b")
OTHER_INSTALLERS = re.compile(r"\b(pipx|uvx|uv (?!pip compile\b)|curl|wget|npm|conda|easy_install)\b")


def declared_requirements(packages: str) -> list[Requirement]:
    """Return what pyproject.toml requires for a set of packages, its build backend included."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    texts = [*settings["project"]["dependencies"], *settings["build-system"]["requires"]]
    for extra in EXTRAS[packages]:
        texts += settings["project"]["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


def requirements_of(parent: Requirement) -> list[Requirement]:
    """Return the requirements that a package states; none for one that only another Python or platform installs."""
    try:
        return [Requirement(text) for text in requires(parent.name) or ()]
    except PackageNotFoundError:
        return []


def all_requirements(declared: Iterable[Requirement], markers: Mapping[str, str]) -> list[Requirement]:
    """Return the requirements that apply where `markers` hold, and theirs, and so on."""
    found: dict[str, Requirement] = {}
    pending = [(requirement, {""}) for requirement in declared]
    while pending:
        requirement, extras = pending.pop()
        marker = requirement.marker
        applies = marker is None or any(marker.evaluate({**markers, "extra": extra}) for extra in extras)
        if applies and str(requirement) not in found:
            found[str(requirement)] = requirement
            pending += [(child, requirement.extras or {""}) for child in requirements_of(requirement)]
    return list(found.values())


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("packages", LOCKS)
def test_a_lock_pins_all_that_is_required_and_nothing_else(packages: str, python: str) -> None:
    """It is installed without its dependencies, so one that it left out would be missing."""
    markers = marker_values(python)
    locked = locked_versions(packages, markers)

    required = all_requirements(declared_requirements(packages), markers)

    assert {canonicalize_name(requirement.name) for requirement in required} == set(locked)
    assert [
        f"{requirement}, locked: {locked[canonicalize_name(requirement.name)]}"
        for requirement in required
        if not requirement.specifier.contains(locked[canonicalize_name(requirement.name)], prereleases=True)
    ] == []


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_the_servers_to_test_with_are_pinned(python: str) -> None:
    """All that pyproject.toml names, each with its hashes, in a lock of their own: they need other versions."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["servers"]
    locked = versions_in(SERVERS_LOCK, marker_values(python))

    for requirement in map(Requirement, declared):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement
    pins = re.findall(r"^\S+==.*?(?=^\S|\Z)", SERVERS_LOCK.read_text(), re.MULTILINE | re.DOTALL)
    assert len(pins) >= len(locked)
    assert [pin for pin in pins if "--hash=sha256:" not in pin] == []


def test_what_runs_is_tested_with_the_same_versions() -> None:
    """The two locks agree, so that tests say something about what the first one installs."""
    assert locked_versions("run").items() <= locked_versions("dev").items()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_chooses_a_version(path: Path) -> None:
    """Whatever installs takes one lock as it is, or llmblast alone with the locked build backend."""
    commands = [line for line in path.read_text().replace("\\\n", "").splitlines() if not line.lstrip().startswith("#")]
    installs = [command for command in commands if INSTALL.search(command)]
    locked = [command for command in installs if "--no-deps --require-hashes --only-binary :all: " in command]
    built = [command for command in installs if "--no-deps --no-build-isolation " in command]

    assert installs == locked + built
    assert [command for command in commands if OTHER_INSTALLERS.search(command)] == []
    assert [command for command in commands if "scripts/setup lock" in command and " say " not in command] == []


def test_the_set_up_installs_from_locks() -> None:
    """The test above would pass, too, if it looked for the wrong words."""
    assert len(INSTALL.findall((ROOT / "scripts/setup").read_text())) == 2
