"""Settings: what they are made of, and what a person is told when one is wrong."""

from pathlib import Path

import pytest

from llmblast.errors import UsageError
from llmblast.settings import Settings, base_url, default_of, load, parse_endpoint, parse_max_errors


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
    ],
)
def test_the_base_of_a_url(url: str, base: str) -> None:
    """People paste what they have: with or without /v1, with or without the path."""
    assert base_url(url) == base


def test_endpoints_get_names_of_their_own() -> None:
    """Host and port, with a number where that is not enough."""
    settings = load({"endpoints": ["http://a:1/v1", "http://a:1/v1", "mock:", "http://b/v1,name=mine"]})

    assert [endpoint.name for endpoint in settings.endpoints] == ["a:1", "a:1-2", "mock", "mine"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"endpoints": ["http://a/v1,name=x", "http://b/v1,name=x"]}, "the name 'x' stands twice"),
        ({"endpoints": ["http://user:secret@a/v1"]}, "no key in a URL"),
        ({"endpoints": ["http://a:99999/v1"]}, "not a URL"),
        ({"endpoints": ["ftp://a/v1"]}, "not a URL"),
        ({"endpoints": ["mock:latency=1"]}, "parameters follow a question mark"),
        ({"endpoints": ["http://a/v1,key_refresh=0"]}, "endpoints[0].key_refresh: '0' will not do"),
        ({"endpoints": ["http://a/v1,key_refresh=9"]}, "add key_command=COMMAND or key_file=FILE."),
        ({"endpoints": ["http://a/v1,key_refresh=9,key_file=f,key_env=K"]}, "take key_env out, which goes before"),
        ({"endpoints": [{"weight": 1}]}, "endpoints[0].url: is missing. Add it."),
        ({"timeout": 0}, "--timeout: 0 will not do: it should be greater than 0"),
        ({"concurrency": 0}, "--concurrency: 0 will not do"),
        ({"max_errors": "101%"}, "--max-errors '101%'"),
        ({"disk_wait": -1}, "--disk-wait: -1 will not do: it should be greater than or equal to 0"),
        ({"disk_wait": "5m"}, "--disk-wait: '5m' will not do: it should be a valid number"),
        ({"disk_wait": float("nan")}, "--disk-wait: nan will not do"),
        ({"disk_wait": float("inf")}, "--disk-wait: inf will not do: it should be less than 1000000000"),
    ],
)
def test_a_wrong_value_is_named(flags: dict[str, object], sentence: str) -> None:
    """Place, what is wrong, and how it is right; never a secret."""
    with pytest.raises(UsageError) as caught:
        load(flags)

    assert sentence in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("endpoints = 3\n", "write one [[endpoints]] table for each"),
        ("rps = 'fast'\n", "rps: 'fast' will not do"),
        ("[[endpoints]]\nurl = 'http://a/v1'\nrsp = 3\n", "endpoints[0].rsp: unknown setting. Did you mean 'rps'?"),
        ("zzzzzz = 3\n", "zzzzzz: unknown setting. Known are: rps, rpm"),
        ("disk_wait = -0.5\n", "disk_wait: -0.5 will not do: it should be greater than or equal to 0"),
        ("disk_wait = '1 min'\n", "disk_wait: '1 min' will not do: it should be a valid number"),
        ("spool = 3\n", "spool: 3 will not do: it should be a valid string"),
        ("spol = 'place'\n", "spol: unknown setting. Did you mean 'spool'?"),
        ("rps = \n", "not TOML"),
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

    with pytest.raises(UsageError, match="it is not UTF-8 text"):
        load({}, str(path))


def test_a_flag_goes_before_the_file(tmp_path: Path) -> None:
    """And what is not given is left to the file; `--url` replaces the file's endpoints."""
    path = tmp_path / "mine.toml"
    path.write_text("rps = 5\nmodel = 'm'\n[[endpoints]]\nurl = 'http://a/v1'\n")

    settings = load({"rps": 7.0, "model": None, "endpoints": ["mock:"]}, str(path))

    assert (settings.rps, settings.model, [e.url for e in settings.endpoints]) == (7.0, "m", ["mock:"])


def test_what_url_takes() -> None:
    """Names with a dash or an underscore; values are checked with all the others."""
    assert parse_endpoint("http://a/v1,key-env=K, rps = 5") == {"url": "http://a/v1", "key_env": "K", "rps": "5"}


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


def test_only_settings_have_defaults() -> None:
    """A misspelt name in a help text is a defect."""
    with pytest.raises(KeyError):
        default_of("rsp")
