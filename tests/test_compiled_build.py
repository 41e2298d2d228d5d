"""The compiled build: which modules are compiled, when, with what, and for which machines. See `scripts/wheel`."""

import ast
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llmblast import models
from tests.conftest import ROOT, RunLlmblast
from tests.lock_files import DEV_LOCK


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The build hook."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import build_compiled

    return build_compiled


def a_hook(build: ModuleType) -> Any:
    return build.CompiledBuildHook(str(ROOT), {}, None, None, str(ROOT / "dist"), "wheel")


def test_the_table_names_modules_that_exist_each_once_in_order(build: ModuleType) -> None:
    """A module that was renamed would be left out without a word."""
    modules = build.compiled_modules()

    assert [module for module in modules if not (ROOT / module).is_file()] == []
    assert modules == sorted(set(modules), key=lambda module: (str(Path(module).parent), module))


def test_compiled_classes_with_a_length_say_when_they_are_empty(build: ModuleType) -> None:
    """mypyc asks only `__bool__`: without it, an empty object of a class with `__len__` counts as true."""
    classes = [
        (module, node.name, {item.name for item in node.body if isinstance(item, ast.FunctionDef)})
        for module in build.compiled_modules()
        for node in ast.walk(ast.parse((ROOT / module).read_text()))
        if isinstance(node, ast.ClassDef)
    ]

    assert [(module, name) for module, name, methods in classes if "__len__" in methods] != []
    assert [
        (module, name) for module, name, methods in classes if "__len__" in methods and "__bool__" not in methods
    ] == []


def test_errors_of_different_types_have_different_names_in_a_compiled_function(build: ModuleType) -> None:
    """mypyc gives a name the type of the first `except ... as`: a later error of another type ends in a TypeError."""
    functions = [
        (module, node)
        for module in build.compiled_modules()
        for node in ast.walk(ast.parse((ROOT / module).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    assert [(module, function.name) for module, function in functions if len(error_types(function)) > 1] == []


def error_types(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """The types of errors that the most burdened name in a function stands for."""
    types: dict[str, set[str]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.ExceptHandler) and node.name and node.type:
            types.setdefault(node.name, set()).add(ast.unparse(node.type))
    return max(types.values(), key=len, default=set())


@pytest.mark.parametrize("value", [None, "", "0"])
def test_a_build_is_pure_unless_asked_otherwise(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """It needs no compiler and no packages, and its tag stays that of every platform."""
    monkeypatch.delenv(build.VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(build.VARIABLE, value)
    build_data: dict[str, Any] = {"force_include": {}}

    a_hook(build).initialize("standard", build_data)

    assert build_data == {"force_include": {}}
    assert a_hook(build).dependencies() == []


def test_the_compiled_build_takes_locked_versions(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """No newer compiler changes the program unnoticed. What the build backend needs is there, maybe newer."""
    backend = {"hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers"}

    def find_in_isolation(name: str) -> None:
        if name not in backend:
            raise PackageNotFoundError(name)

    monkeypatch.setenv(build.VARIABLE, "1")
    monkeypatch.setattr(build, "distribution", find_in_isolation)

    pins = {pin.partition(";")[0].strip() for pin in a_hook(build).dependencies()}

    names = {pin.partition("==")[0] for pin in pins}
    assert {*build.BUILD_TOOLS, "aiohttp", "orjson"} - backend <= names
    assert names.isdisjoint(backend)
    assert pins <= {line.split()[0] for line in DEV_LOCK.read_text().splitlines() if "==" in line}


def test_an_editable_install_runs_the_sources(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled module beside its source would hide each change of it."""
    monkeypatch.setenv(build.VARIABLE, "1")
    build_data: dict[str, Any] = {"force_include": {}}

    a_hook(build).initialize("editable", build_data)

    assert build_data == {"force_include": {}}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such tags")
@pytest.mark.parametrize(
    ("symbols", "platform"),
    [
        (b"\0GLIBC_2.2.5\0GLIBC_2.14\0", "manylinux_2_17_"),
        (b"\0GLIBC_2.14\0GLIBC_2.38\0GLIBC_2.4\0", "manylinux_2_38_"),
    ],
)
def test_the_tag_names_the_glibc_that_the_libraries_need(
    build: ModuleType, tmp_path: Path, symbols: bytes, platform: str
) -> None:
    """Not that of the machine that builds (PEP 600): an older machine could not install the wheel."""
    library = tmp_path / "x.so"
    library.write_bytes(b"\x7fELF" + symbols)

    tag = build.wheel_tag([library])

    assert tag.startswith(f"cp3{sys.version_info.minor}-")
    assert platform in tag or "manylinux" not in tag


def test_the_version_tells_which_build_it_is(llmblast: RunLlmblast) -> None:
    """A person who measures has to know."""
    is_compiled = str(llmblast_file()).endswith(tuple(EXTENSION_SUFFIXES))

    assert llmblast("--version").stdout.rstrip().endswith("(compiled)" if is_compiled else "(pure Python)")


def test_a_run_does_not_mind_the_variable_of_the_build(build: ModuleType, llmblast: RunLlmblast) -> None:
    """It may be exported still; other unknown variables are refused."""
    assert llmblast("config", "show", **{build.VARIABLE: "1"}).returncode == 0


def llmblast_file() -> str | None:
    return models.__file__


@pytest.mark.long
def test_the_compiled_wheel_works_in_a_fresh_environment() -> None:
    """`scripts/wheel` says so itself; it builds for minutes."""
    done = subprocess.run([ROOT / "scripts/wheel"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert (ROOT / done.stdout.splitlines()[-1]).is_file()
