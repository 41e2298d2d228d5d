"""What a file of `--faults` may say, and what a person is told when it says something else."""

from pathlib import Path

import pytest

from llmblast.errors import UsageError
from llmblast.mocking import fault_file
from llmblast.mocking.fault_file import read_rules
from llmblast.mocking.faults import Rule


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "faults.toml"


def rule(text: str) -> str:
    return f'[[fault]]\nkind = "500"\n{text}'


def test_each_table_is_a_rule(path: Path) -> None:
    """In the order in which they stand there; a status may be written as a number."""
    path.write_text(
        "[[fault]]\nkind = 500\nfrom_s = 3\nto_s = 33\n"
        '[[fault]]\nkind = "reset"\nshare = 0.05\n'
        '[[fault]]\nkind = "slow-body"\nrequests = [1, 7]\nseconds = 0.5\ntimes = 1\nevery = 1\nsends = 2\n'
        'containing = "x"\n'
    )

    assert read_rules(str(path)) == [
        Rule(kind="500", from_s=3, to_s=33),
        Rule(kind="reset", share=0.05),
        Rule(kind="slow-body", requests=(1, 7), seconds=0.5, times=1, every=1, sends=2, containing="x"),
    ]


def test_the_example_of_the_documentation_is_right(path: Path) -> None:
    """It is what somebody copies first."""
    text = (fault_file.__doc__ or "").partition("in TOML.\n")[2]
    path.write_text(text)

    assert [rule.kind for rule in read_rules(str(path))] == ["500", "reset", "black-hole"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[fault]", "faults.toml: not TOML: "),
        ("", "faults.toml: has no rule: write one [[fault]] table for each"),
        ("fault = 5", "faults.toml: has no rule"),
        ("fault = [5]", "faults.toml: has no rule"),
        ("seed = 5", "faults.toml: seed: unknown: write one [[fault]] table for each rule"),
        ("[[fault]]\nshare = 0.5", 'fault 1: kind: is missing: name a fault, such as kind = "500"'),
        ('[[fault]]\nkind = "blackhole"', "fault 1: kind = 'blackhole': unknown: did you mean black-hole?"),
        ('[[fault]]\nkind = "zzz"', "unknown: known are 301, 400, "),
        ("[[fault]]\nkind = true", "fault 1: kind = True: write the name of a fault"),
        (rule("") + rule("sahre = 0.5"), "fault 2: sahre: unknown: did you mean share?"),
        (rule("share = 1.5"), "fault 1: share = 1.5: write a number from 0 to 1"),
        (rule("requests = [0]"), "fault 1: requests = [0]: write a list of whole numbers above 0, such as [1, 7]"),
        (rule("requests = []"), "fault 1: requests = []: write"),
        (rule("every = 0"), "fault 1: every = 0: write a whole number above 0"),
        (rule("sends = true"), "fault 1: sends = True: write a whole number above 0"),
        (rule('containing = ""'), "fault 1: containing = '': write a text"),
        (rule("to_s = -1"), "fault 1: to_s = -1: write seconds"),
        (rule("seconds = nan"), "fault 1: seconds = nan: write seconds"),
        (rule("share = 0.6\n") + rule("share = 0.6"), "all shares together must be at most 1"),
    ],
)
def test_a_wrong_file_is_told_by_place_and_fix(path: Path, text: str, told: str) -> None:
    """One sentence names the table and what would do."""
    path.write_text(text)

    with pytest.raises(UsageError) as caught:
        read_rules(str(path))

    assert told in str(caught.value)


def test_a_file_that_is_no_text_or_not_there_is_told(path: Path, tmp_path: Path) -> None:
    """Not by a traceback."""
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(UsageError, match="not TOML"):
        read_rules(str(path))
    with pytest.raises(UsageError, match=r"cannot be read: No such file or directory: name an existing file"):
        read_rules(str(tmp_path / "none.toml"))


def test_shares_of_some_requests_need_not_add_up(path: Path) -> None:
    """Different requests are meant."""
    path.write_text(rule('share = 0.9\ncontaining = "a"\n') + rule('share = 0.9\ncontaining = "b"\n'))

    assert len(read_rules(str(path))) == 2
