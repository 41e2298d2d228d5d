"""Summary: report the results of a run, as a short text for a person or as a dict for `--json`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmblast.watching.costs import BATCH, FLEX, Cost, money
from llmblast.watching.counters import Counters, EndpointCounters, ErrorKind
from llmblast.watching.formatting import count, duration, latency, percent, rate, short, utilisation
from llmblast.watching.limit_names import limit_in_words, waits_in_words
from llmblast.watching.limits_view import LimitsView
from llmblast.watching.sanitize import sanitize_text
from llmblast.watching.tables import MAX_ENDPOINT_ROWS, align, cell_width, cut, endpoint_table, endpoints_to_show

QUANTILES = (0.5, 0.95, 0.99)
_MAX_ERRORS = 5
_MAX_USED = 6
_MIN_WAIT_SHARE = 0.005
"""Share of the run's duration from which on a wait for a limit is shown."""
_MIN_SPAN_S = 1.0
"""In a shorter time, sends only show how fast a queue was emptied, so the whole duration counts."""
_LABEL_WIDTH = 10
_MAX_TEXT_LENGTH = 4000
_MESSAGE_INDENT = " " * 6
_BAD_LINE = "bad_line"
_WAYS = {BATCH: "batches", FLEX: "the flex tier"}
_PLACE = re.compile(r"^.+?:(?:[a-z]+ )?(\d+)(?::\d+)?: ")


@dataclass(frozen=True, slots=True)
class OutputFiles:
    """Files of answers and errors, None if there is no file, with the records of earlier runs in them."""

    answers: str | None = None
    errors: str | None = None
    answers_before: int = 0
    errors_before: int = 0
    flagged_command: str | None = None
    """Command that shows the answers that were cut off or filtered."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a run. `verdict` says in one line how it ended, `next_command` is the command to type next,
    `next_when` the condition for that.
    """

    counters: Counters
    duration_s: float
    limits: LimitsView
    verdict: str
    next_command: str | None = None
    next_when: str = ""
    files: OutputFiles = OutputFiles()

    def as_text(self, width: int = 80) -> str:
        """Return plain text in lines of at most `width` columns.

        Verdict, paths, commands and error messages are never cut: people act on them or copy them.
        """
        lines = [sanitize_text(self.verdict, _MAX_TEXT_LENGTH), *_wrapped("lines", self._line_facts(), width)]
        lines += self._file_lines(width)
        for label, facts in self._facts():
            lines += _wrapped(label, facts, width)
        endpoints = self.counters.endpoints
        if len(endpoints) > 1 or any(endpoint.state for endpoint in endpoints):
            lines += ["", *_endpoint_lines(endpoints, width)]
        if self.counters.error_kinds:
            lines += ["", *self._error_lines(width)]
        if self.next_command:
            when = f"{sanitize_text(self.next_when)}: " if self.next_when else ""
            lines += ["", f"next: {when}{sanitize_text(self.next_command, _MAX_TEXT_LENGTH)}"]
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """Return the summary as plain values: seconds, counts, shares between 0 and 1; None where there is no value."""
        counters = self.counters
        sent_in_all = sum(endpoint.sent for endpoint in counters.endpoints)
        return {
            "verdict": sanitize_text(self.verdict, _MAX_TEXT_LENGTH),
            "next_command": sanitize_text(self.next_command, _MAX_TEXT_LENGTH) if self.next_command else None,
            "duration_s": round(self.duration_s, 3),
            "lines": {
                "read": counters.lines_read,
                "skipped": counters.skipped,
                "skipped_failed": counters.skipped_failed,
                "repeats": counters.repeats,
                "answered": counters.succeeded,
                "cached": counters.cached,
                "batched": counters.batched,
                "in_batches": counters.batch_lines,
                "late": counters.late,
                "flagged": counters.flagged,
                "failed": counters.failed,
                "malformed": counters.malformed,
                "pending": counters.pending,
            },
            "requests": {
                "sent": counters.sent,
                "retries": counters.retries,
                "hedged": counters.hedged,
                "rate_limited": counters.rate_limited,
                "maybe_billed": counters.maybe_billed,
                "abandoned": counters.abandoned,
                "per_second": _rounded(self._requests_per_s, 3),
            },
            "answers": {
                "invalid": counters.invalid,
                "repairs": counters.repairs,
                "escalated": counters.escalated,
                "invalid_prompt_tokens": counters.invalid_prompt_tokens,
                "invalid_completion_tokens": counters.invalid_completion_tokens,
            },
            "tokens": {
                "prompt": counters.prompt_tokens,
                "completion": counters.completion_tokens,
                "cached": counters.cached_tokens,
                "per_minute": _rounded(self._tokens_per_min, 1),
            },
            "cost": None if counters.cost is None else _cost_json(counters.cost),
            "latency_s": {f"p{share * 100:.0f}": _rounded(counters.latency.quantile(share), 6) for share in QUANTILES},
            "waited_s": {sanitize_text(name): round(waited_s, 3) for name, waited_s in self.limits.waited().items()},
            "used": {sanitize_text(name): round(share, 4) for name, share in self.limits.used().items()},
            "endpoints": [_endpoint_json(endpoint, sent_in_all) for endpoint in counters.endpoints],
            "errors": [
                {
                    "code": sanitize_text(code),
                    "count": kind.count,
                    "first_line": kind.first_line,
                    "message": sanitize_text(kind.message),
                }
                for code, kind in self._top_errors
            ],
        }

    @property
    def _requests_per_s(self) -> float | None:
        counters = self.counters
        if counters.first_sent_s is None or counters.last_sent_s is None:
            return None
        span_s = counters.last_sent_s - counters.first_sent_s
        if span_s >= _MIN_SPAN_S:
            # Between the first and the last send there is one interval less than there are sends.
            return (counters.sent - 1) / span_s
        return counters.sent / self.duration_s if self.duration_s > 0 else None

    @property
    def _tokens_per_min(self) -> float | None:
        return self.counters.tokens / self.duration_s * 60 if self.duration_s > 0 else None

    @property
    def _top_errors(self) -> list[tuple[str, ErrorKind]]:
        kinds = self.counters.error_kinds.items()
        return sorted(kinds, key=lambda item: (-item[1].count, item[1].first_line))[:_MAX_ERRORS]

    def _facts(self) -> list[tuple[str, list[str]]]:
        facts = [("requests", self._request_facts()), ("time", self._time_facts())]
        if self.counters.invalid:
            facts.insert(1, ("repairs", self._repair_facts()))
        if self.counters.tokens:
            facts.append(("tokens", self._token_facts()))
            facts.append(("cost", self._cost_facts()))
        if self.counters.latency.count:
            values = [(share, self.counters.latency.quantile(share)) for share in QUANTILES]
            facts.append(("latency", [f"p{share * 100:.0f} {latency(value)}" for share, value in values]))
        if self.counters.sent:
            facts.append(("waiting", self._wait_facts()))
        facts.append(("limits", self._used_facts()))
        return [(label, parts) for label, parts in facts if parts]

    def _line_facts(self) -> list[str]:
        counters = self.counters
        facts = [f"{count(counters.lines_read)} read"]
        if counters.skipped:
            facts.append(f"{count(counters.skipped)} skipped ({self._skipped_how})")
        if counters.repeats:
            facts.append(_plural(counters.repeats, "repeat", "repeats"))
        ways = [
            *([f"{count(counters.batched)} by batch"] if counters.batched else []),
            *([f"{count(counters.cached)} without a request"] if counters.cached else []),
        ]
        how = f" ({', '.join(ways)})" if ways else ""
        facts.append(f"{count(counters.succeeded)} answered{how}")
        if counters.late:
            facts.append(f"{count(counters.late)} of them late")
        malformed = f" ({_plural(counters.malformed, 'bad line', 'bad lines')})" if counters.malformed else ""
        facts.append(f"{count(counters.failed)} failed{malformed}")
        return facts + self._pending_facts()

    def _file_lines(self, width: int) -> list[str]:
        """Return the lines about the outputs: numbers of records, and the command that shows incomplete answers."""
        counters, files = self.counters, self.files
        answers = counters.succeeded + files.answers_before
        errors = counters.failed + files.errors_before
        facts = (
            [_plural(answers, "answer", "answers") + f" in {_path(files.answers)}"] if files.answers and answers else []
        )
        if files.errors and errors:
            facts.append(_plural(errors, "error", "errors") + f" in {_path(files.errors)}")
        lines = _wrapped("files", facts, width, may_cut=False) if facts else []
        return lines + (self._flagged_lines(width) if counters.flagged else [])

    def _flagged_lines(self, width: int) -> list[str]:
        command = sanitize_text(self.files.flagged_command or "", _MAX_TEXT_LENGTH)
        what = f"{count(self.counters.flagged)} hit max_tokens or a filter{':' if command else ''}"
        *lines, last = _wrapped("cut off", [what], width)
        if cell_width(last) + 1 + cell_width(command) > width:
            return [*lines, last, " " * _LABEL_WIDTH + command] if command else [*lines, last]
        return [*lines, f"{last} {command}".rstrip()]

    @property
    def _skipped_how(self) -> str:
        failed = self.counters.skipped_failed
        if not failed:
            return "finished earlier"
        answered = self.counters.skipped - failed
        return f"{count(answered)} answered, {count(failed)} failed earlier; --retry-errors all tries those again"

    def _pending_facts(self) -> list[str]:
        pending = self.counters.pending
        if not self.counters.has_unread_input:
            return [f"{count(pending)} pending"] if pending else []
        return [f"{count(pending)} read and pending"] * bool(pending) + ["the rest of the input not read"]

    def _request_facts(self) -> list[str]:
        counters = self.counters
        if not counters.sent:
            return ["none sent"]
        facts = [f"{count(counters.sent)} sent", _plural(counters.retries, "retry", "retries")]
        facts.append(f"{count(counters.rate_limited)} x 429")
        if counters.flex_refusals:
            facts.append(f"{count(counters.flex_refusals)} refused by the flex tier")
        if counters.hedged:
            facts.append(f"{count(counters.hedged)} hedged")
        if counters.maybe_billed:
            facts.append(f"{count(counters.maybe_billed)} maybe billed")
        if counters.abandoned:
            facts.append(f"{count(counters.abandoned)} dropped, maybe billed")
        return facts

    def _repair_facts(self) -> list[str]:
        """Return the facts about answers that did not fit: they were paid for, too."""
        counters = self.counters
        facts = [_plural(counters.repairs, "repair", "repairs")]
        if counters.escalated:
            facts.append(f"{count(counters.escalated)} escalated")
        facts.append(_plural(counters.invalid, "invalid answer", "invalid answers"))
        prompt, completion = counters.invalid_prompt_tokens, counters.invalid_completion_tokens
        return facts + ([f"{count(prompt)} + {count(completion)} tokens for these"] if prompt or completion else [])

    def _time_facts(self) -> list[str]:
        per_s = self._requests_per_s
        return [duration(self.duration_s)] + ([f"{rate(per_s)} requests/s"] if per_s is not None else [])

    def _token_facts(self) -> list[str]:
        counters, per_min = self.counters, self._tokens_per_min
        facts = [f"{count(counters.prompt_tokens)} in", f"{count(counters.completion_tokens)} out"]
        if counters.cached_tokens:
            share = percent(counters.cached_tokens, counters.prompt_tokens)
            facts.insert(1, f"{count(counters.cached_tokens)} of them cached ({share})")
        return facts + ([f"{short(per_min)}/min"] if per_min is not None else [])

    def _cost_facts(self) -> list[str]:
        """Return what the run cost, and what it saved against direct sends and against prompts that are not cached."""
        cost = self.counters.cost
        if cost is None:
            return []
        facts = [money(cost.total)]
        facts += [f"{money(saved)} saved by {_WAYS[way]}" for way, saved in cost.saved_by_way.items() if saved > 0]
        if cost.saved_by_cache > 0:
            facts.append(f"{money(cost.saved_by_cache)} saved by cached tokens")
        without = sum(endpoint.prices is None and endpoint.tokens > 0 for endpoint in self.counters.endpoints)
        if without:
            facts.append(f"without {_plural(without, 'endpoint that has', 'endpoints that have')} no price")
        return facts

    def _wait_facts(self) -> list[str]:
        least_s = _MIN_WAIT_SHARE * self.duration_s
        facts = waits_in_words(self.limits.waited(), self.duration_s, least_s)
        return facts or ["no limit held the run back"]

    def _used_facts(self) -> list[str]:
        """Return the used shares of limits, the most used first: raise that one for more speed."""
        used = sorted(self.limits.used().items(), key=lambda item: -item[1])
        facts = [f"{limit_in_words(name)} {utilisation(share)}" for name, share in used if share > 0]
        others = len(facts) - _MAX_USED
        facts[:1] = [f"used: {fact}" for fact in facts[:1]]
        return [*facts[:_MAX_USED], f"and {count(others)} more"] if others > 0 else facts

    def _error_lines(self, width: int) -> list[str]:
        top = self._top_errors
        heads = align([[f"{count(kind.count)} x", sanitize_text(code, 40)] for code, kind in top], [True, False])
        heads_width = max(map(cell_width, heads))
        lines = ["errors"]
        for head, (code, kind) in zip(heads, top, strict=True):
            message, where = _message(code, kind), f"first at {_place(kind)}:"
            line = f"  {head}{' ' * (heads_width - cell_width(head))}  {where} {message}"
            if cell_width(line) <= width:
                lines.append(line)
            else:
                lines += [cut(f"  {head}  {where}", width), _MESSAGE_INDENT + message]
        others = len(self.counters.error_kinds) - len(top)
        return lines + ([f"  ... and {_plural(others, 'other kind', 'other kinds')}"] if others else [])


def _endpoint_lines(endpoints: Sequence[EndpointCounters], width: int) -> list[str]:
    """Return the table, and below it the states that were cut in it: people act on them."""
    table = endpoint_table(endpoints, width)
    shown = endpoints_to_show(endpoints, MAX_ENDPOINT_ROWS)
    told = [endpoint for endpoint in shown if endpoint.state]
    states = [(sanitize_text(endpoint.name), sanitize_text(endpoint.state)) for endpoint in told]
    return table + [f"{name}: {state}" for name, state in states if not any(row.endswith(state) for row in table)]


def _place(kind: ErrorKind) -> str:
    if kind.first_file is None:
        return f"line {count(kind.first_line)}"
    return f"{_path(kind.first_file)}:{kind.first_line}"


def _message(code: str, kind: ErrorKind) -> str:
    """Return the message in one line, without the place of a bad line, which the summary shows anyway."""
    message = " ".join(sanitize_text(kind.message).split())
    place = _PLACE.match(message) if code == _BAD_LINE else None
    return message[place.end() :] if place is not None and int(place[1]) == kind.first_line else message


def _endpoint_json(endpoint: EndpointCounters, sent_in_all: int) -> dict[str, object]:
    return {
        "name": sanitize_text(endpoint.name),
        "weight": endpoint.weight,
        "state": sanitize_text(endpoint.state),
        "sent": endpoint.sent,
        "share": round(endpoint.sent / sent_in_all, 4) if sent_in_all else 0.0,
        "succeeded": endpoint.succeeded,
        "batched": endpoint.batched,
        "errors": endpoint.errors,
        "rate_limited": endpoint.rate_limited,
        "tokens": endpoint.tokens,
        "latency_p50_s": _rounded(endpoint.latency.quantile(0.5), 6),
    }


def _cost_json(cost: Cost) -> dict[str, object]:
    saved = {way: round(amount, 6) for way, amount in cost.saved_by_way.items()}
    return {"total": round(cost.total, 6), "saved": {**saved, "cache": round(cost.saved_by_cache, 6)}}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _plural(number: int, one: str, many: str) -> str:
    return f"{count(number)} {one if number == 1 else many}"


def _path(path: str) -> str:
    return sanitize_text(path, _MAX_TEXT_LENGTH)


def _wrapped(label: str, facts: list[str], width: int, *, may_cut: bool = True) -> list[str]:
    """Return the label and its facts in lines, which break between two facts if possible."""
    lines = [label.ljust(_LABEL_WIDTH)]
    for index, fact in enumerate(facts):
        text = fact + ("," if index < len(facts) - 1 else "")
        is_whole = cell_width(text) <= width - _LABEL_WIDTH or not may_cut
        for piece in [text] if is_whole else text.split():
            if len(lines[-1]) > _LABEL_WIDTH and cell_width(lines[-1]) + 1 + cell_width(piece) > width:
                lines.append(" " * _LABEL_WIDTH)
            lines[-1] += piece if len(lines[-1]) == _LABEL_WIDTH else f" {piece}"
    return [cut(line, width) for line in lines] if may_cut else lines
