"""Settings: what they are made of, and what a person is told when one is wrong."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

import pytest

from llmblast.api_paths import API_PATHS, base_url
from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.setting_loading import load, parse_endpoint, parse_max_errors
from llmblast.setting_option import parts_of
from llmblast.setting_values import DURATION, NAMES, Number, WeightMap, kind_of
from llmblast.settings import Settings


def test_defaults_need_nothing() -> None:
    """Every setting has one."""
    settings = load({})

    assert settings == Settings()
    assert settings.errors_path == "errors.jsonl"


@pytest.mark.parametrize(
    ("save", "errors", "path"),
    [
        ("save.jsonl", "", "errors.jsonl"),
        ("out/save.jsonl", "", "out/errors.jsonl"),
        ("out/a.jsonl", "", "out/a.errors.jsonl"),
        ("out.part.aa", "", "out.part.aa.errors.jsonl"),
        ("out.part.ab", "", "out.part.ab.errors.jsonl"),
        ("gpt-4.1", "", "gpt-4.1.errors.jsonl"),
        ("gpt-4.5", "", "gpt-4.5.errors.jsonl"),
        ("save", "", "save.errors.jsonl"),
        ("save.json", "", "save.json.errors.jsonl"),
        ("/", "", "/.errors.jsonl"),
        ("-", "", "errors.jsonl"),
        ("a", "b", "b"),
    ],
)
def test_errors_go_beside_the_save_file(save: str, errors: str, path: str) -> None:
    """Unless they are named; each save file has its own, and only `.jsonl` is taken off its name."""
    assert Settings(save=save, errors=errors).errors_path == path


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/", "http://host:8000/v1"),
        ("https://host/v1/", "https://host/v1"),
        ("https://host/openai/v1/chat/completions", "https://host/openai/v1"),
        ("https://host/v1/completions", "https://host/v1"),
        ("https://host/v1/embeddings", "https://host/v1"),
        ("https://host/v1/chat/completions/", "https://host/v1"),
        ("https://host/chat/completions", "https://host"),
        ("https://host/v1/chat/completions?x=1", "https://host/v1?x=1"),
        ("https://host?x=1", "https://host/v1?x=1"),
        ("https://host/v1#part", "https://host/v1"),
        ("https://host/v1/completions-lab", "https://host/v1/completions-lab"),
        ("https://r.openai.azure.com", "https://r.openai.azure.com/openai/v1"),
        ("https://r.openai.azure.com/openai/v1/", "https://r.openai.azure.com/openai/v1"),
        (
            "https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
            "https://r.openai.azure.com/openai/deployments/d?api-version=2024-10-21",
        ),
        (
            "https://r.openai.azure.com/openai/deployments/d?api-version=2024-10-21",
            "https://r.openai.azure.com/openai/deployments/d?api-version=2024-10-21",
        ),
    ],
)
def test_the_base_of_a_url(url: str, base: str) -> None:
    """People paste what they have: with or without /v1, with or without the path."""
    assert base_url(url) == base


@pytest.mark.parametrize("path", API_PATHS)
def test_every_api_path_at_the_end_of_a_url_is_taken_off(path: str) -> None:
    """Once, and before a query."""
    assert base_url(f"https://host/v1/{path}") == "https://host/v1"
    assert base_url(f"https://host/v1/{path}/?q=1") == "https://host/v1?q=1"
    assert base_url(f"https://host/{path}/{path}") == f"https://host/{path}"


def test_a_new_api_path_needs_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is all that is looked at."""
    monkeypatch.setattr("llmblast.api_paths.API_PATHS", ("generations", "images/generations"))

    assert base_url("https://host/v1/images/generations?a=b") == "https://host/v1?a=b"


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://user:s3cret@h/v1",
        "htp://user:s3cret@h/v1",
        "user:s3cret@h/v1",
        "http://user:s3/cret@h:x/v1",
        "https://h/v1,s3cret",
        "https://user:s3cret@h/v1,rps",
        "https://h/v1,s3cretabc=",
        "https://h/v1,headers=X-Key: s3cret",
        {"url": "https://h/v1", "headers": ["Authorization: s3cret"]},
        {"url": "https://h/v1", "headers": {"Authorization": ["s3cret"]}},
        {"url": ["https://user:s3cret@h/v1"]},
        {"url": "https://h/v1", "key_env": ["s3cret"]},
        {"url": "https://h/v1", "proxy": {"password": "s3cret"}},
        {"url": "https://h/v1", "key_env": "s3cret-s3cret"},
        {"url": "https://h/v1", "proxy": 3, "name": "s3cret"},
        ["s3cret"],
    ],
)
def test_a_secret_in_a_wrong_setting_is_not_repeated(endpoint: object) -> None:
    """Wherever it stands."""
    with pytest.raises(UsageError) as caught:
        load({"endpoints": [endpoint]})

    assert "s3" not in str(caught.value)


def test_endpoints_get_names_of_their_own() -> None:
    """Host and port, with a number where that is not enough."""
    settings = load({"endpoints": ["http://a:1/v1", "http://a:1/v1", "mock:", "http://b/v1,name=mine"]})

    assert [endpoint.name for endpoint in settings.endpoints] == ["a:1", "a:1-2", "mock", "mine"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"endpoints": ["http://a/v1,name=x", "http://b/v1,name=x"]}, "the name 'x' is used twice"),
        ({"endpoints": ["http://user:secret@a/v1"]}, "no key in a URL"),
        ({"endpoints": ["http://a:99999/v1"]}, "not a URL"),
        ({"endpoints": ["ftp://a/v1"]}, "not a URL"),
        ({"endpoints": ["mock:latency=1"]}, "write parameters after a question mark"),
        (
            {"endpoints": ["http://a/v1,key_refresh=0"]},
            "--url http://a/v1,key_refresh=0: 0 is not allowed: it must be greater than 0",
        ),
        ({"endpoints": ["http://a/v1,key_refresh=9"]}, "add key_command=COMMAND or key_file=FILE"),
        ({"endpoints": ["http://a/v1,key_refresh=9,key_file=f,key_env=K"]}, "remove key_env, which overrides"),
        ({"endpoints": [{"weight": 1}]}, "endpoints[0].url: is missing: add it"),
        (
            {"endpoints": [{"name": "grok"}]},
            "endpoints[0].url: is missing: add it, or name a known host; did you mean groq?",
        ),
        ({"timeout": 0}, "--timeout: 0 is not allowed: it must be greater than 0"),
        ({"concurrency": 0}, "--concurrency: 0 is not allowed: it must be at least 1"),
        ({"max_errors": "101%"}, "--max-errors '101%'"),
        ({"disk_wait": -1}, "--disk-wait: -1 is not allowed: it must be at least 0"),
        ({"disk_wait": "5x"}, "--disk-wait: '5x' is not a duration: write seconds, or 90s, 5m or 1h30m"),
        ({"rps": "abc"}, "--rps: 'abc' is not a number"),
        ({"rps": True}, "--rps: true is not a number"),
        ({"limit": "2.5"}, "--limit: '2.5' is not a whole number"),
        ({"limit": "9" * 5000}, "is not a whole number"),
        ({"limit": 10**12}, "--limit: 1000000000000 is not allowed: it must be less than 1000000000000"),
        ({"limit": 10**5000}, "--limit: the number is not allowed: it must be less than 1000000000000"),
        ({"rps": "1e300"}, "--rps: 1e+300 is not allowed: it must be less than 1000000000000"),
        ({"quiet": "perhaps"}, "--quiet: 'perhaps' is neither true nor false"),
        ({"route": "best"}, "--route: 'best' is not one of weighted, least-loaded, fastest"),
        ({"save": ""}, "--save: is empty: name a file"),
        ({"save": "."}, "--save .: is a directory: name a file in it, such as ./save.jsonl"),
        ({"save": "out/"}, "--save out/: is a directory: name a file in it, such as out/save.jsonl"),
        ({"errors": "/"}, "--errors /: is a directory: name a file in it, such as /errors.jsonl"),
        ({"input": ""}, "--input: is empty"),
        ({"input": ["a.jsonl", ""]}, "--input: is empty"),
        ({"input": ["a.jsonl", "b\0"]}, "--input: contains a zero byte"),
        ({"input": ["a.jsonl", 3]}, "input[1]: 3 is not a string"),
        ({"input": ()}, "--input: names no file: name one, or leave it out"),
        ({"input": 3}, "--input: 3 is not a list"),
        ({"max_errors": "nan"}, "--max-errors 'nan': write a count"),
        ({"max_errors": "inf"}, "--max-errors 'inf': write a count"),
        ({"system": "a\0b"}, "--system: contains a zero byte: remove it"),
        ({"save": "a\0b"}, "--save: contains a zero byte"),
        ({"model": "\udcff"}, "--model: is not valid UTF-8"),
        ({"params": {"a": [float("nan")]}}, "contains nan or inf, which JSON does not allow: remove it"),
        ({"endpoints": [3]}, "endpoints[0]: 3 is not a table"),
        ({"endpoints": [{"url": "mock:", "headers": 3}]}, "endpoints[0].headers: is not a table"),
        ({"endpoints": ["mock:,rsp=5"]}, "--url mock:,rsp=5: unknown setting rsp; did you mean rps?"),
        ({"endpoints": ["mock:,rps=5,rps=6"]}, "--url mock:,rps=6: rps is given twice"),
        ({"endpoints": ["mock:,rps=abc"]}, "--url mock:,rps=abc: 'abc' is not a number"),
        ({"endpoints": ["mock:,adaptive=maybe"]}, "--url mock:,adaptive=maybe: 'maybe' is neither true nor false"),
        ({"endpoints": ["http://u:secret@a/v1?key=secret,api_key=secret"]}, "--url http://a/v1,api_key=...: keys are"),
        ({"endpoints": ["mock:,secret"]}, "a part without a name is not a setting"),
        ({"endpoints": ["mock:,rsp=sk-secret-0123456789"]}, "--url mock:,rsp=...: unknown setting rsp"),
        ({"endpoints": ["mock:,=secret"]}, "a part without a name is not a setting"),
        ({"endpoints": ["mock:,authorization=Bearer secret"]}, "authorization=...: unknown setting authorization"),
        ({"rps": "1e-300"}, "--rps: '1e-300' is not allowed: it must be at least 0.000001"),
        ({"rpd": 1e-300}, "--rpd: 1e-300 is not allowed: it must be at least 0.000001"),
        ({"endpoints": ["mock:,tpm=1e-320"]}, "--url mock:,tpm=1e-320: '1e-320' is not allowed: it must be at least"),
        ({"model": " "}, "--model: is empty: write a value, or leave it out"),
        ({"endpoints": ["http://a/v1,key_env="]}, "--url http://a/v1,key_env=...: is empty"),
        ({"endpoints": ["http://a/v1,key_file= "]}, "key_file=...: is empty"),
        ({"endpoints": ["http://a/v1,name="]}, "--url http://a/v1,name=: is empty"),
        ({"endpoints": [{"url": "http://a/v1", "key_command": ""}]}, "endpoints[0].key_command: is empty"),
        ({"endpoints": ["http://a b/v1"]}, "not a URL"),
        ({"endpoints": ["http://a\tb/v1"]}, "not a URL"),
        ({"endpoints": ["http://a\n/v1"]}, "not a URL"),
        ({"endpoints": ["http://a..b/v1"]}, "not a URL"),
        ({"endpoints": ["http://..:8/v1"]}, "not a URL"),
        ({"endpoints": [f"http://{'a' * 64}/v1"]}, "not a URL"),
        ({"endpoints": ["http://${HOST}/v1"]}, "not a URL"),
        ({"endpoints": ["http://<your-host>/v1"]}, "not a URL"),
        ({"disk_wait": float("nan")}, "--disk-wait: nan is not a finite number"),
        ({"disk_wait": float("inf")}, "--disk-wait: inf is not a finite number"),
    ],
)
def test_a_wrong_value_is_named(flags: dict[str, object], sentence: str) -> None:
    """Place, what is wrong, and how it is right; never a secret."""
    with pytest.raises(UsageError) as caught:
        load(flags)

    assert sentence in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_time", "1h30m", 5400),
        ("timeout", "90s", 90),
        ("grace", "0", 0),
        ("burst", "500ms", 0.5),
        ("tpm", "200k", 200_000),
        ("tpm", "2M/h", 2_000_000 / 60),
        ("rps", "5/s", 5),
        ("rps", "120/m", 2),
        ("rpm", "1200/h", 20),
        ("rpd", "1/s", 86_400),
        ("limit", "10k", 10_000),
        ("quiet", "on", True),
        ("max_errors", 5, "5"),
        ("own_fields", "a, b,", ("a", "b")),
    ],
)
def test_values_have_units(tmp_path: Path, name: str, value: object, expected: object) -> None:
    """As a flag, as a variable's text, in `--url` and as a text in a file."""
    path = tmp_path / "mine.toml"
    path.write_text(f"{name} = {value!r}\n")

    assert getattr(load({name: value}), name) == expected
    assert getattr(load({}, str(path)), name) == expected


def test_values_of_url_have_units() -> None:
    """The same grammar."""
    (endpoint,) = load({"endpoints": ["http://a/v1,rps=120/m,tpm=2M,key_refresh=1h,key_file=f,weight=2k"]}).endpoints

    assert (endpoint.rps, endpoint.tpm, endpoint.key_refresh, endpoint.weight) == (2, 2e6, 3600, 2000)


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "10k", 10_000),
        (int | None, "7", 7),
        (float, "1.5k", 1500.0),
        (bool | None, "off", False),
        (str | None, "10k", "10k"),
        (Literal["1", "2"], "1", "1"),
        (Annotated[float, DURATION] | None, "5m", 300.0),
        (Annotated[tuple[str, ...], NAMES], "a, b", ["a", "b"]),
    ],
)
def test_a_field_has_the_kind_of_its_type(annotation: object, text: str, value: object) -> None:
    """Unless its annotation names another kind; so a new setting is one field."""
    assert kind_of(annotation).convert(text) == value


def test_every_number_has_a_kind_with_units() -> None:
    """No number of a setting is read as a text."""
    for entry in (*fields(Settings), *fields(EndpointSettings)):
        if {int, float} & set(parts_of(entry.type)):
            assert isinstance(kind_of(entry.type), Number | WeightMap), entry.name


def test_an_unknown_variable_is_refused() -> None:
    """A misspelt one would be a limit that is not kept."""
    with pytest.raises(UsageError, match="LLMBLAST_RSP: unknown variable; did you mean LLMBLAST_RPS"):
        load({}, environ={"LLMBLAST_RSP": "5", "LLMBLAST_CONFIG": "x"})


def test_a_value_from_a_variable_names_it() -> None:
    """The flag was not typed."""
    with pytest.raises(UsageError, match=r"^LLMBLAST_RPS: 'abc' is not a number"):
        load({"rps": "abc"}, environ={"LLMBLAST_RPS": "abc"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rps = true\n", "rps: true is not a number"),
        ("rps = [5]\n", "rps: [5] is not a number"),
        ("timeout = 2024-01-01\n", "is not a number"),
        ("limit = 2.5\n", "limit: 2.5 is not a whole number"),
        ("overwrite = 3\n", "overwrite: 3 is neither true nor false"),
        ("params = 3\n", "params: 3 is not a table"),
        ("[params]\na = nan\n", "params: {'a': nan} contains nan or inf"),
        ('save = "a\\u0000b"\n', "save: contains a zero byte"),
        ('[[endpoints]]\nurl = "mock:"\nname = "\\u0000"\n', "endpoints[0].name: contains a zero byte"),
        ("own_fields = [1]\n", "own_fields[0]: 1 is not a string"),
        ("endpoints = 3\n", "write one [[endpoints]] table for each"),
        ("rps = 'fast'\n", "rps: 'fast' is not a number: write it like 5, 200k, 5/s, 100/m or 1k/h"),
        ("[[endpoints]]\nurl = 'http://a/v1'\nrsp = 3\n", "endpoints[0]: unknown setting rsp; did you mean rps?"),
        ("zzzzzz = 3\n", "unknown setting zzzzzz; known are rps, rpm"),
        ("disk_wait = -0.5\n", "disk_wait: -0.5 is not allowed: it must be at least 0"),
        ("disk_wait = '1 min'\n", "disk_wait: '1 min' is not a duration"),
        ("spool = 3\n", "spool: 3 is not a string"),
        ("spol = 'place'\n", "unknown setting spol; did you mean spool?"),
        ("rps = \n", "not TOML"),
        (f"limit = {'9' * 5000}\n", "a number is too long"),
        (f"limit = {'[' * 5000}\n", "nested too deep"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    """With the file's name in front."""
    path = tmp_path / "mine.toml"
    path.write_text(text)

    with pytest.raises(UsageError) as caught:
        load({}, str(path))

    assert str(caught.value).startswith(f"{path}: ")
    assert sentence in str(caught.value)


def test_what_a_full_disk_leads_to_is_set_in_the_file_too(tmp_path: Path) -> None:
    """Seconds, with a fraction or 0 for not at all; and a directory, which is the system's where none is named."""
    path = tmp_path / "mine.toml"
    path.write_text("disk_wait = 0\nspool = 'place'\n")

    from_file, flags = load({}, str(path)), load({"disk_wait": 1.5, "spool": "other"}, str(path))

    assert (from_file.disk_wait, from_file.spool) == (0, "place")
    assert (flags.disk_wait, flags.spool) == (1.5, "other")
    assert (load({}).disk_wait, load({}).spool) == (60, None)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    """TOML is UTF-8."""
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(UsageError, match="not TOML: invalid UTF-8"):
        load({}, str(path))


def test_a_flag_goes_before_the_file(tmp_path: Path) -> None:
    """And what is not given is left to the file; `--url` replaces the file's endpoints."""
    path = tmp_path / "mine.toml"
    path.write_text("rps = 5\nmodel = 'm'\n[[endpoints]]\nurl = 'http://a/v1'\n")

    settings = load({"rps": 7.0, "model": None, "endpoints": ["mock:"]}, str(path))

    assert (settings.rps, settings.model, [e.url for e in settings.endpoints]) == (7.0, "m", ["mock:"])


def test_what_url_takes() -> None:
    """Names with a dash or an underscore; values are checked with all the others."""
    assert parse_endpoint("http://a/v1,key-env=K, rps = 5") == {"url": "http://a/v1", "key_env": "K", "rps": 5.0}


@pytest.mark.parametrize(("text", "bound"), [("100", (100, False)), ("5%", (5, True)), ("0", (0, False))])
def test_bounds_of_errors(text: str, bound: tuple[float, bool]) -> None:
    """A count or a share."""
    assert parse_max_errors(text) == bound


@pytest.mark.parametrize("text", ["", "few", "-1", "1.5", "%", "101%"])
def test_a_wrong_bound_of_errors(text: str) -> None:
    """It names both forms."""
    with pytest.raises(UsageError, match="write a count such as 100 or a share such as 5%"):
        parse_max_errors(text)


def test_rates_together() -> None:
    """The run's cap, or the sum of the endpoints' where each has one and it is less."""
    both = load({"endpoints": ["mock:,rps=3", "mock:,rps=4"], "rps": 10.0})
    one = load({"endpoints": ["mock:,rps=3", "mock:"], "rps": 10.0})

    assert (both.together("rps"), one.together("rps"), one.together("tpm")) == (7, 10, None)


@pytest.mark.parametrize("source", ["key_command=c", "key_file=f"])
def test_a_key_is_refreshed_where_it_can_be_asked_for_again(source: str) -> None:
    """By a command or a file; where the built-in provider stands in for a server, its settings may stay."""
    urls = ["http://a/v1", f"http://b/v1,key_refresh=1.5,{source}", "mock:,key_refresh=9", f"mock:,{source}"]

    endpoints = load({"endpoints": urls}).endpoints

    assert [endpoint.key_refresh for endpoint in endpoints] == [None, 1.5, 9, None]
    assert [endpoint.can_refresh_key for endpoint in endpoints] == [False, True, False, False]
