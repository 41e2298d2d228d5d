"""The ways to install llmblast, each into an empty environment. No package is newer than the locked one, but for the
releases made up here to show that no script takes them.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.conftest import ROOT, records, unmeasured
from tests.lock_files import DEV_LOCK, Versions, locked_versions

PIP = (sys.executable, "-m", "pip")
BUILD_PACKAGES = ("hatchling", "editables", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers")
PART_OF_VENV = {"pip", "setuptools"}


def run(folder: Path, environment: dict[str, str], *command: str) -> str:
    """Run a command that must succeed; return its standard output."""
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Download the locked packages, hashes compared: all that the tests below can install."""
    folder = tmp_path_factory.mktemp("wheels")
    locked = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--requirement", str(DEV_LOCK))
    run(folder, dict(os.environ), *PIP, "download", "-qq", *locked, "--dest", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder for environments of some 100 MB, which are removed."""
    folder = tmp_path / "place"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def person(environment: dict[str, str], wheels: Path, place: Path) -> dict[str, str]:
    """The environment of a person who has these packages instead of a registry, and nothing of uv's at home."""
    others = ("PIP_", "UV_", "PYTHON", "VIRTUAL_ENV")
    kept = {name: value for name, value in unmeasured(environment).items() if not name.startswith(others)}
    uv = {f"UV_{name}_DIR": str(place / name) for name in ("CACHE", "TOOL", "TOOL_BIN")}
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    python = {"PYTHON": sys.executable, "UV_PYTHON": sys.executable, "UV_PYTHON_DOWNLOADS": "never"}
    return {**kept, **uv, **pip, **python, "UV_FIND_LINKS": str(wheels), "UV_NO_CONFIG": "1"}


@pytest.fixture
def clone(place: Path) -> Path:
    """What an empty clone holds, as far as the set-up needs it."""
    folder = place / "clone"
    for name in ("llmblast", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def small_clone(clone: Path) -> Path:
    """A clone without dependencies, whose lock for what runs holds only the build backend: quick to set up."""
    settings, lock = clone / "pyproject.toml", clone / "scripts/requirements.txt"
    settings.write_text(re.sub(r"(?ms)^dependencies = \[.*?^\]", "dependencies = []", settings.read_text()))
    pins = re.split(r"(?m)^(?=\S)", lock.read_text())
    lock.write_text("".join(pin for pin in pins if pin.startswith(BUILD_PACKAGES)))
    return clone


def assert_runs(llmblast: Path, folder: Path, person: dict[str, str]) -> None:
    """Run the sample prompts as the README does."""
    (folder / "sample_data").symlink_to(ROOT / "sample_data")
    run(folder, person, str(llmblast), "run", "sample_data/prompts.jsonl", "-u", "mock:")
    assert len(records(folder / "save.jsonl")) == 241


def test_pip_installs_it(place: Path, person: dict[str, str]) -> None:
    """Into an empty virtual environment, with the pip that Python brings."""
    run(place, person, sys.executable, "-m", "venv", "venv")

    run(ROOT, person, str(place / "venv/bin/pip"), "install", ".")

    assert_runs(place / "venv/bin/llmblast", place, person)


def test_uv_installs_it_as_a_tool(place: Path, person: dict[str, str]) -> None:
    """With an empty cache and no other tool."""
    run(ROOT, person, str(Path(sys.executable).with_name("uv")), "tool", "install", "--no-index", ".")

    assert_runs(place / "TOOL_BIN/llmblast", place, person)


def write_newer_releases(folder: Path, names: Iterator[str]) -> None:
    """Write an empty wheel of version 9999 for each package."""
    for name in names:
        stem = f"{name.replace('-', '_')}-9999"
        info = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 9999\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }
        with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
            for file, text in info.items():
                wheel.writestr(f"{stem}.dist-info/{file}", text)


def installed_versions(clone: Path, person: dict[str, str], packages: str) -> Versions:
    """Return the packages in the clone's .venv, without llmblast, and without those that any virtual environment has
    unless the lock of `packages` has them, too.
    """
    not_ours = PART_OF_VENV - locked_versions(packages).keys()
    listed = run(clone, person, str(clone / ".venv/bin/pip"), "list", "--format=freeze", "--exclude-editable")
    versions = dict(line.split("==") for line in listed.splitlines())
    return {canonicalize_name(name): version for name, version in versions.items() if name not in not_ours}


def test_an_empty_clone_installs_what_was_locked_although_all_has_newer_releases(
    place: Path, clone: Path, person: dict[str, str], wheels: Path
) -> None:
    """First what runs, as scripts/demo does, then what tests."""
    write_newer_releases(place, iter(locked_versions("dev")))
    person["PIP_FIND_LINKS"] = f"{wheels} {place}"

    run(clone, person, "scripts/setup", "run")
    to_run = installed_versions(clone, person, "run")
    run(clone, person, "scripts/setup")
    to_test = installed_versions(clone, person, "dev")

    assert to_run == locked_versions("run")
    assert to_test == locked_versions("dev")


def test_a_moved_clone_is_set_up_anew(place: Path, small_clone: Path, person: dict[str, str]) -> None:
    """The commands of a virtual environment name the folder in which it was made."""
    run(small_clone, person, "scripts/setup", "run")
    moved = small_clone.rename(place / "moved")

    run(moved, person, "scripts/setup", "run")

    assert run(moved, person, str(moved / ".venv/bin/hatchling"), "version").strip() == version("llmblast")


def test_a_requirement_that_is_not_locked_is_named(small_clone: Path, person: dict[str, str]) -> None:
    """The set-up fails instead of the program, and says what to do."""
    settings = small_clone / "pyproject.toml"
    settings.write_text(settings.read_text().replace("\ndependencies = []", '\ndependencies = ["not-locked>=1"]'))

    done = subprocess.run(
        ["scripts/setup", "run"], cwd=small_clone, env=person, stderr=subprocess.PIPE, text=True, check=False
    )

    assert done.returncode == 1
    assert "requires not-locked" in done.stderr
    assert "run scripts/setup lock" in done.stderr
