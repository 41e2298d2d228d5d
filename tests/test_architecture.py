"""The map of the code, kept true: which room imports which, where third-party packages live, what a command loads."""

import ast
import fcntl
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import get_args

import pytest

from llmblast import settings
from llmblast.errors import ExitCode
from llmblast.providers import PROVIDERS
from llmblast.reading.formats import FORMATS as LINE_FORMATS
from llmblast.reading.splitters import SPLITTERS, TABLES
from llmblast.writing import FORMATS as RECORD_FORMATS
from tests.conftest import ROOT, unmeasured

pytestmark = pytest.mark.no_cover  # long in itself, and coverage would make it four times as long

STATIONS = {
    *("reading", "checking_answers", "caching", "scheduling", "providers", "sending", "writing", "watching", "mocking"),
    "batching",
}
GROUND = {
    *("settings", "endpoint_settings", "api_paths", "models", "provider_contract"),
    *("errors", "locks", "pipes", "fence", "hiding", "http_time", "urls"),
    *("results", "option_types", "input_paths", "units", "moments"),
}
MAY_IMPORT = {
    **{room: {room, *GROUND} for room in STATIONS},
    "job": {"job", "setting_loading", "stage_loading", *STATIONS, *GROUND},
    "converting": {"converting", "reading", "providers", "writing", *GROUND},
    "cli": {
        "cli",
        "converting",
        "job",
        "mocking",
        "watching",
        "setting_files",
        "setting_loading",
        "setting_option",
        "setting_values",
        "stage_loading",
        *GROUND,
    },
    "settings": {"endpoint_settings", "setting_option", "setting_values"},
    "endpoint_settings": {"setting_option", "setting_values"},
    "api_paths": {"urls"},
    "provider_contract": {"models"},
    "setting_loading": {
        "api_paths",
        "endpoint_settings",
        "errors",
        "hiding",
        "known_hosts",
        "settings",
        "setting_files",
        "setting_option",
        "setting_places",
        "setting_values",
        "units",
        "urls",
    },
    "stage_loading": {"errors", "pipes", "settings", "setting_loading", "setting_values"},
    "api": {"api", "job", "running", "setting_loading", "setting_option", *GROUND},
    "pipelines": {"api", "job", "option_types", "running", "stage_loading", *GROUND},
    "running": {"errors"},
    "results": {"errors"},
    "option_types": {"endpoint_settings", "settings"},
    "setting_files": {"errors", "setting_option"},
    "setting_option": set[str](),
    "setting_places": {"setting_option"},
    "setting_values": {"moments", "setting_option", "units"},
    "units": set[str](),
    "moments": {"units"},
    "hiding": set[str](),
    "http_time": {"models"},
    "urls": set[str](),
    "input_paths": {"errors"},
    "known_hosts": {"hiding", "urls"},
    "locks": {"errors"},
    "pipes": {"errors"},
    "models": set[str](),
    "fence": set[str](),
    "errors": set[str](),
    "__main__": {"cli"},
    "__init__": {"api", "endpoint_settings", "errors", "pipelines", "results", "settings"},
}
AT_HOME = {
    "typer": {"cli"},
    "rich": {"watching"},
    "aiohttp": {"sending", "mocking", "reading", "batching"},
    "obstore": {"reading"},
    "pyarrow": {"reading", "converting"},
    "yarl": {"sending"},
    "python_socks": {"sending"},
    "httptools": {"sending"},
    "backports": {"sending", "reading"},
    "compression": {"sending", "reading"},
    "tenacity": {"sending"},
    "botocore": {"providers", "mocking"},
    "aiofiles": {"reading"},
    "minijinja": {"reading"},
    "uvloop": {"cli", "api"},
    "jsonschema_rs": {"checking_answers"},
    "pydantic": {"setting_loading"},
    "orjson": {
        *("reading", "checking_answers", "providers", "sending", "writing", "mocking", "job", "cli", "watching"),
        *("converting", "caching", "batching"),
    },
}


def modules() -> list[Path]:
    return sorted((ROOT / "llmblast").rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "llmblast").parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[str]:
    return imports_in(ast.parse(path.read_text()))


def imports_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    """cli -> job -> stations -> settings, records, errors, locks; stations do not know each other."""
    rooms = {name.split(".")[1] for name in imports_of(path) if name.startswith("llmblast.")}

    assert rooms <= MAY_IMPORT[room_of(path)]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_third_party_packages_stay_in_their_rooms(path: Path) -> None:
    """Each package has a home; a new one needs a line in the table and a reason in pyproject.toml."""
    packages = {name.split(".")[0] for name in imports_of(path)} - set(sys.stdlib_module_names) - {"llmblast"}

    assert {package: room_of(path) in AT_HOME.get(package, ()) for package in packages} == dict.fromkeys(packages, True)


OF_AN_API = re.compile(
    r"""["'](?:choices|delta|image_url|content_block|completion_tokens_details|cache_read_input_tokens"""
    r"""|prompt_eval_count|stop_reason|stop_sequences|base_resp|anthropic-version|x-api-key|api\.openai\.com)["']"""
    r"""|x-ratelimit-(?:limit|remaining|reset)-|anthropic-ratelimit-|\.get\(["'](?:finish_reason|prompt_tokens)"""
)
"""Names that only somebody uses who knows an API; those that records have, too, only where they are read."""
MAY_KNOW_APIS = {"providers", "mocking", "reading", "batching"}
"""In `reading`, formats describe files, whose lines are bodies of APIs."""


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_providers_know_the_names_of_an_api(path: Path) -> None:
    """A new API must not need a change in any other room."""
    if room_of(path) not in MAY_KNOW_APIS:
        assert OF_AN_API.findall(_code_of(path)) == []


def test_names_of_an_api_are_found() -> None:
    """In a reply's reader, say."""
    assert OF_AN_API.search(_code_of(ROOT / "llmblast" / "providers" / "openai.py"))
    assert OF_AN_API.search(_code_of(ROOT / "llmblast" / "providers" / "anthropic.py"))


MAY_NAME_KINDS = {
    *("known_hosts.py", "models.py", "endpoint_settings.py", "settings.py"),
    *("converting/batch_results.py", "writing/formats.py"),
    "batching/__init__.py",
    *("providers/conversations.py", "providers/seeds.py", "providers/translated_replies.py", "reading/formats.py"),
    *("providers/answers_as_chats.py", "providers/prompt_starts.py"),
    *("providers/aws_signing.py", "reading/remote.py"),
}
"""Tables with a line for each provider or format, defaults, and two whose names are also those of services."""


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_kind_of_provider_is_named_in_its_file_and_in_tables_only(path: Path) -> None:
    """What differs between providers is a method or an attribute of them: no `if kind == ...`."""
    place = str(path.relative_to(ROOT / "llmblast"))
    own = {kind for kind, provider in PROVIDERS.items() if type(provider).__module__ == module_name(path)}
    texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}

    if place not in MAY_NAME_KINDS and room_of(path) != "mocking":
        assert texts & PROVIDERS.keys() <= own


def test_each_value_of_a_format_setting_has_its_line_in_a_table() -> None:
    """And each line of a table has its value: a format that cannot be chosen is dead code."""
    assert set(get_args(settings.Format)) == {"auto", *LINE_FORMATS, *SPLITTERS, *TABLES}
    assert set(settings.FILE_FORMATS) == {*SPLITTERS, *TABLES}
    assert set(get_args(settings.OutputFormat)) == {"auto", *RECORD_FORMATS}


def _code_of(path: Path) -> str:
    """Return the code without docstrings and comments."""
    return ast.unparse(_WithoutDocstrings().visit(ast.parse(path.read_text())))


class _WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Expr(ast.Constant(...)) if is_text else node


def run_and_tell_what_it_loads(
    folder: Path, environment: dict[str, str], command: list[str]
) -> "subprocess.CompletedProcess[str]":
    """The last line of its standard output names the modules; coverage would load some of its own."""
    script = (
        "import sys\n"
        f"sys.argv = ['llmblast', *{command!r}]\n"
        "from llmblast.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('loaded', *sys.modules)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=unmeasured(environment),
        capture_output=True,
        text=True,
        check=False,
    )


ONLY_WHERE_ASKED_FOR = {
    *("aiohttp", "rich", "sqlite3", "pyarrow", "obstore", "minijinja", "botocore", "jsonschema_rs", "backports.zstd"),
    *(f"llmblast.job.{name}" for name in ("answer_review", "announcing_reader", "repeats", "single_sends")),
    *(
        f"llmblast.reading.{name}"
        for name in ("decompression", "field_map", "media", "remote", "sampling", "splitters")
    ),
    *(
        "llmblast.batching",
        "llmblast.caching",
        "llmblast.checking_answers",
        "llmblast.converting",
        "llmblast.reading.template",
    ),
    *("llmblast.providers.structured_outputs", "llmblast.writing.ordered_writer", "llmblast.writing.waiting_file"),
}
"""What a run loads only with the option, the line or the input that needs it."""


@pytest.mark.parametrize(
    ("command", "unwanted"),
    [
        (["--help"], {"aiohttp", "rich", "orjson", "aiofiles", "tenacity", "uvloop", "asyncio"}),
        (["convert", "--help"], {"pydantic", "aiohttp", "rich", "orjson", "asyncio", "pyarrow"}),
        (["run", "--help"], {"pydantic", "aiohttp", "rich", "orjson", "aiofiles", "tenacity", "uvloop", "asyncio"}),
        (["config", "show"], {"aiohttp", "rich", "aiofiles", "tenacity", "uvloop", "asyncio"}),
        (["check", "/dev/null"], {*ONLY_WHERE_ASKED_FOR, "tenacity", "yarl", "llmblast.sending"}),
        (["run", "/dev/null", "-u", "http://127.0.0.1:9/v1", "-o", "save.jsonl"], ONLY_WHERE_ASKED_FOR),
        (["run", "/dev/null", "-u", "http://localhost:9/v1", "-o", "save.jsonl"], {"rich", "aiohttp"}),
        (["run", "/dev/null", "-u", "https://127.0.0.1:9/v1", "-o", "save.jsonl"], {"rich", "aiohttp.web"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_imports_only_what_it_needs(
    tmp_path: Path, environment: dict[str, str], command: list[str], unwanted: set[str]
) -> None:
    """Start-up time is part of every run from cron or in a pipeline."""
    done = run_and_tell_what_it_loads(tmp_path, environment, command)

    assert done.returncode == 0, done.stderr
    assert not unwanted & set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("locked", ["save.jsonl", "errors.jsonl"])
def test_a_start_on_a_locked_output_ends_before_it_loads_much(
    tmp_path: Path, environment: dict[str, str], locked: str
) -> None:
    """Where a clock starts the same run again and again, it should cost little."""
    with (tmp_path / locked).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        command = ["run", "/dev/null", "-u", "http://127.0.0.1:9/v1"]
        done = run_and_tell_what_it_loads(tmp_path, environment, command)

    assert done.returncode == ExitCode.OUTPUT_BLOCKED, done.stderr
    assert not {"asyncio", "aiohttp", "uvloop", "orjson"} & set(done.stdout.splitlines()[-1].split())
    assert [path.name for path in tmp_path.iterdir()] == [locked]


def test_the_visible_top_level_is_what_the_readme_says() -> None:
    """Everything else is in dot files and folders."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    visible = {name.split("/")[0] for name in tracked.splitlines() if not name.startswith(".")}

    assert visible == {"pyproject.toml", "README.md", "llmblast", "tests", "sample_data", "scripts"}


MAX_ATTRIBUTES = 14
RECORD_DECORATORS = {"dataclass"}


def attributes_of(node: ast.ClassDef) -> set[str]:
    """All attributes that a class declares, or that its methods assign to `self`."""
    declared = {
        item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    stored = (
        name
        for name in ast.walk(node)
        if isinstance(name, ast.Attribute) and isinstance(name.ctx, ast.Store) and isinstance(name.value, ast.Name)
    )
    return declared | {name.attr for name in stored if isinstance(name.value, ast.Name) and name.value.id == "self"}


def is_record(node: ast.ClassDef) -> bool:
    """Whether a class is a dataclass or a typed dictionary: a record may have as many fields as it needs."""
    names = {name.id for decorator in node.decorator_list for name in ast.walk(decorator) if isinstance(name, ast.Name)}
    bases = {name.id for base in node.bases for name in ast.walk(base) if isinstance(name, ast.Name)}
    return bool(names & RECORD_DECORATORS) or "TypedDict" in bases or any(base.endswith("Options") for base in bases)


def test_no_class_has_too_many_attributes() -> None:
    """A class with more holds two ideas: split it."""
    classes = [
        (f"{path.relative_to(ROOT)}:{node.name}", attributes_of(node))
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and not is_record(node)
    ]

    assert {name: len(found) for name, found in classes if len(found) > MAX_ATTRIBUTES} == {}


def test_no_modules_import_each_other() -> None:
    """A circle of imports is one module in several files."""
    assert circle_in({module_name(path): path.read_text() for path in modules()}) == []


@pytest.mark.parametrize(
    "code",
    [
        "from llmblast.a import name",
        "from llmblast import a",
        "import llmblast.a",
        "def call():\n    from llmblast.a import name",
    ],
)
def test_a_circle_is_found_through_any_import(code: str) -> None:
    """Whether it stands in a function or not."""
    circle = circle_in({"llmblast.a": "from llmblast.b import name", "llmblast.b": code})

    assert set(circle) == {"llmblast.a", "llmblast.b"}


def test_an_import_for_mypy_alone_makes_no_circle() -> None:
    """It does not run."""
    code = "if TYPE_CHECKING:\n    from llmblast.a import name"

    assert circle_in({"llmblast.a": "from llmblast.b import name", "llmblast.b": code}) == []


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def circle_in(code: dict[str, str]) -> list[str]:
    """Return modules that import each other, the first one at the end again; none without a circle."""
    names = set(code)
    try:
        TopologicalSorter({name: imported_modules(text, names) for name, text in code.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def imported_modules(code: str, names: set[str]) -> set[str]:
    """Return which modules of `names` the code imports, as a whole or a name of them, but for mypy alone."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    return {name if name in names else name.rpartition(".")[0] for name in imports_in(tree)} & names
