"""Build hook of the wheel: compile the modules that every request passes with mypyc, where LLMBLAST_COMPILE is set.

Without that variable nothing is compiled, and no compiler is needed. Both builds have the same source; the compiled one
holds it as well, for tracebacks. Use `scripts/wheel`, or set the variable where pip installs from this folder.
"""

import os
import re
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

VARIABLE = "LLMBLAST_COMPILE"
COMPILED = {
    "": """
        http_time models provider_contract
    """,
    "job": """
        back_pressure batch_parser decisions departures engine hedged_sends hedging key_refresh line_ends
        redacting_channel refused_lines response_handler result_queue run_end secret_search seen_ids sender
        suspects wait_limit wake_up
    """,
    "providers": """
        anthropic anthropic_messages choices finish_reasons on_demand openai rate_limit_headers rendering usage
    """,
    "reading": """
        anthropic_batch completed_keys dialect_router exact_numbers fields formats lines members openai_batch raw
        request_parser simple terms
    """,
    "scheduling": """
        adaptive_concurrency advertised_rate affinity answer_time breakers class_turns counted_requests deadline_book
        deferral deferred_floor endpoint_pool endpoints even_rate fair_sharing flex_capacity head_wait health
        hill_climber idle_budget immediate_arrivals latency_sample lateness learned_concurrency learned_limits
        learned_rate limit_set limits outcomes own_models parked_lines push_back quota_hold recent refusals rejections
        request_queue request_rate retry_budget routes routing_stats schedule_delay scheduler sequential_test
        setting_aside shared_prefixes slot_reserve tenant_lines tokens traffic waiting_worth warm_prefixes work_class
    """,
    "sending": """
        backoff codings complete_bodies exchange judging keep_alive lean listener pool reply_budget
        reply_reader target verdict
    """,
    "watching": """
        counters
    """,
    "writing": """
        formats record_buffer safe_json stream sync_schedule writer
    """,
}
"""Compiled modules by their folder in the package. A module that is left out stays Python and works the same."""
LIBRARY = "llmblast.compiled"
"""Name of the shared library that holds the code of all modules; beside each module stands a small one that loads it.
"""
BUILD_TOOLS = ("ast-serialize", "librt", "mypy", "mypy-extensions", "pathspec", "setuptools", "types-aiofiles")
"""Packages that the build needs beyond those that llmblast itself needs: mypyc reads the types of all of them."""
OLDEST_GLIBC = (2, 17)
"""Tags for older ones have other names, and no supported Python runs there."""


def compiled_modules() -> list[str]:
    """Return the paths of all compiled modules, relative to the root."""
    return [f"{Path('llmblast', folder, name)}.py" for folder, names in COMPILED.items() for name in names.split()]


def locked_packages(root: Path) -> list[str]:
    """Return the packages that the build needs, each at its locked version."""
    lines = [*_pins(root / "scripts/requirements.txt")]
    known = {_name_of(line) for line in lines}
    tools = [line for line in _pins(root / "scripts/requirements-dev.txt") if _name_of(line) in BUILD_TOOLS]
    return [*lines, *(line for line in tools if _name_of(line) not in known)]


def _pins(lock: Path) -> list[str]:
    """Return `name==version ; marker` of each package in a lock, without the hashes."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    return [line.rstrip(" \\") for line in lines if "==" in line and not line.startswith((" ", "#"))]


def _name_of(pin: str) -> str:
    return pin.partition("==")[0]


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def compile_modules(root: Path, directory: Path) -> list[Path]:
    """Compile the modules into `directory`, and return the libraries there, relative to it."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    previous = Path.cwd()
    os.chdir(root)  # mypy finds modules by their paths
    try:
        extensions = mypycify(
            ["--config-file", "pyproject.toml", "--follow-imports", "silent", *compiled_modules()],
            debug_level=os.environ.get(f"{VARIABLE}_DEBUG", "0"),
            target_dir=str(directory / "c"),
            group_name=LIBRARY,
        )
        command = Distribution({"name": "llmblast", "ext_modules": extensions}).get_command_obj("build_ext")
        command.build_lib = str(directory / "lib")
        command.build_temp = str(directory / "objects")
        command.ensure_finalized()
        command.run()
    finally:
        os.chdir(previous)
    return sorted(path.relative_to(directory / "lib") for path in (directory / "lib").rglob("*") if path.is_file())


def wheel_tag(libraries: Sequence[Path]) -> str:
    """Return the wheel's tag. On Linux with glibc it names the version that the libraries need, not that of the machine
    that builds (PEP 600). They need no other library, so there is nothing to bundle.
    """
    tags = list(sys_tags())
    tag = next((tag for tag in tags if tag.platform.startswith("manylinux_")), tags[0])
    platform = tag.platform
    if platform.startswith("manylinux_"):
        symbols = b"".join(library.read_bytes() for library in libraries)
        needed = [(int(major), int(minor)) for major, minor in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", symbols)]
        machine = re.sub(r"manylinux_\d+_\d+_", "", platform)
        platform = "manylinux_{}_{}_".format(*max(OLDEST_GLIBC, *needed)) + machine
    return f"{tag.interpreter}-{tag.abi}-{platform}"


class CompiledBuildHook(BuildHookInterface[Any]):
    """Put the compiled modules into the wheel beside their sources."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return what a build in an isolated environment has to install first. It has the build backend already, and
        what that needs, at versions of its own, which a lock must not contradict.
        """
        pins = locked_packages(Path(self.root)) if is_asked_for() else []
        return [pin for pin in pins if not _is_installed(_name_of(pin))]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless this is an editable install, which runs the sources."""
        if not is_asked_for() or version == "editable":
            return
        self._directory = tempfile.TemporaryDirectory(prefix="llmblast-build-")
        directory = Path(self._directory.name)
        libraries = compile_modules(Path(self.root), directory)
        build_data["force_include"].update({str(directory / "lib" / library): str(library) for library in libraries})
        build_data["pure_python"] = False
        build_data["tag"] = wheel_tag([directory / "lib" / library for library in libraries])

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the files of the build."""
        if hasattr(self, "_directory"):
            self._directory.cleanup()


def is_asked_for() -> bool:
    """Return whether the variable asks for the compiled build."""
    return os.environ.get(VARIABLE, "") not in ("", "0")
