"""All texts that the program may show, in one file to be read at one sitting: tests/texts.txt.

A text is a string of three words and more, docstrings and patterns apart. After a change, write the file anew with
`.venv/bin/python -m tests.test_texts`, and read what `git diff` shows as somebody would who has seen the README only.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.no_cover  # long in itself, and coverage would make it four times as long

TEXTS = ROOT / "tests" / "texts.txt"
MIN_WORDS = 3
_PATTERN = re.compile(r"\\[bdswBDSW.]|\(\?|\[\^|\{\{")
_HARD_TO_READ = re.compile(
    r"\b(?:we|us|our|whoever|nobody|somebody|will not do|will do|in vain|refuses us|let in|takes? in|taken in"
    r"|takes them|twin|kept connection|anew|mend|stands? (?:in|twice|on)|is that of|goes before|of its own"
    r"|(?<!there )is no|none of HTTP|has no such|asked for again|so many|so long|was told|no second place"
    r"|were looked at)\b"
)


def texts_of(path: Path) -> Iterator[str]:
    """Yield the texts of a module, in their order, with `{...}` for what is filled in."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part != node
    }
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant | ast.JoinedStr)]
    for node in sorted(strings, key=lambda node: (node.lineno, node.col_offset)):
        if id(node) not in docstrings and id(node) not in inside and _is_text(text := _render(node)):
            yield " ".join(text.split())


def _render(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_render, node.values))
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    assert isinstance(node, ast.FormattedValue)
    return f"{{{ast.unparse(node.value)}}}"


def _is_text(text: str) -> bool:
    words = re.findall(r"[A-Za-z]{2,}", re.sub(r"\{[^}]*\}", "", text))
    return " " in text.strip() and len(words) >= MIN_WORDS and not _PATTERN.search(text)


def all_texts() -> str:
    """Return the whole list."""
    parts = []
    for path in sorted((ROOT / "llmblast").rglob("*.py")):
        found = list(texts_of(path))
        if found:
            parts.append("\n".join([f"# {path.relative_to(ROOT)}", *found]))
    return "\n\n".join(parts) + "\n"


def test_the_list_of_texts_is_up_to_date() -> None:
    """Whoever changes one sees all around it."""
    assert TEXTS.read_text() == all_texts(), "write it anew: .venv/bin/python -m tests.test_texts"


@pytest.mark.parametrize("line", [line for line in TEXTS.read_text().splitlines() if not line.startswith("#")])
def test_a_text_has_no_word_that_is_read_twice(line: str) -> None:
    """Plain words: who does what is named."""
    assert not _HARD_TO_READ.search(line)


if __name__ == "__main__":
    TEXTS.write_text(all_texts())
