"""The fence: each part that only advises is reported once, and nothing is hidden where nothing reports."""

import pytest

from llmblast.fence import Fence


def test_each_part_is_reported_once() -> None:
    """With its first defect; a part may fail again, with every reply."""
    reports: list[tuple[str, str]] = []
    fence = Fence(lambda part, error: reports.append((part, str(error))))

    for part, message in (("a", "first"), ("a", "second"), ("b", "third")):
        fence.switch_off(part, ValueError(message))

    assert reports == [("a", "first"), ("b", "third")]


def test_the_run_goes_on_behind_a_part_that_failed() -> None:
    """What returns a value has a fallback there."""
    reports: list[str] = []
    fence = Fence(lambda part, error: reports.append(part))

    def summary() -> str:
        with fence.around("the summary"):
            return str(1 // len(reports[:0]))
        return "fallback"

    assert (summary(), reports) == ("fallback", ["the summary"])


def test_an_interrupt_is_no_defect() -> None:
    """Ctrl-C and the end of a task pass every fence."""
    fence = Fence(lambda part, error: None)

    with pytest.raises(KeyboardInterrupt), fence.around("a"):
        raise KeyboardInterrupt


def test_without_a_report_the_defect_comes_out() -> None:
    """So that the tests of a part fail where the part does."""
    with pytest.raises(ValueError, match="a defect"), Fence().around("a"):
        raise ValueError("a defect")
