"""Check of stages: validate the lines of the first stage, and for the others the lines that will be made of these.

A later stage reads records that do not exist yet. So each line gets a made-up answer, and goes on as its record would.
That finds a template with a field that no record will have, before the stage before it is paid for.
"""

import re
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

import orjson

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import ExitCode, LlmblastError
from llmblast.input_paths import shown_input
from llmblast.job.check import LineChecker, items_of, teller_of
from llmblast.job.record_keys import RecordKeys
from llmblast.models import Answer, Failure, Reply, Request, Success
from llmblast.reading import key_of
from llmblast.reading.input_places import LINE
from llmblast.stage_loading import StageSettings
from llmblast.writing import render

_ANSWER = "An answer of some length, as a model would give it. " * 8
_DEPENDS_ON_ANSWER = re.compile(r"\b(?:parsed|body)\b|\b(?:response|result)\s*[\[.]|\{%")
"""Places of a template whose values no made-up answer can have."""


async def check_stages(stages: Sequence[StageSettings]) -> ExitCode:
    """Write bad lines and a summary for each stage; see `job.check`. Raises LlmblastError."""
    origin = shown_input(stages[0].settings.all_inputs[0])
    checkers = [_Stage(stage, origin, is_first=index == 0) for index, stage in enumerate(stages)]
    async with aclosing(items_of(checkers[0].checker)) as items:
        async for item in items:
            _check(checkers, 0, item)
    has_bad = any(stage.checker.estimate.malformed for stage in checkers)
    exit_code = ExitCode.SOME_FAILED if has_bad else ExitCode.OK
    settings = stages[0].settings
    if settings.json:
        values = [{"name": stage.name, **stage.checker.as_values()} for stage in checkers]
        sys.stdout.write(f"{orjson.dumps({'exit_code': int(exit_code), 'stages': values}).decode()}\n")
    elif not settings.quiet:
        parts = ("\n".join([f"stage {stage.name}", *stage.checker.summary()]) for stage in checkers)
        sys.stdout.write("\n\n".join(parts) + "\n")
    return exit_code


def endpoints_of(stages: Sequence[StageSettings]) -> tuple[EndpointSettings, ...]:
    """Return the endpoints of all stages, with the names of their stages before theirs, and their models."""
    return tuple(
        replace(endpoint, name=f"{stage.name}/{endpoint.name}", model=endpoint.model or stage.settings.model)
        for stage in stages
        for endpoint in stage.settings.endpoints
    )


class _Stage:
    """The checker of one stage; `origin` names the input that the lines come from."""

    def __init__(self, stage: StageSettings, origin: str, *, is_first: bool) -> None:
        settings = stage.settings
        self.name = stage.name
        self.record_keys = RecordKeys(may_mix=False)
        self.record_keys.is_stream = True
        texts = f"{settings.prompt} {settings.system}"
        self.is_certain = is_first or _DEPENDS_ON_ANSWER.search(texts) is None
        try:
            self.checker = LineChecker(settings, teller_of(settings))
        except LlmblastError as error:
            raise type(error)(f"stage {stage.name}: {error}") from None
        if not is_first:
            place = f"stage {stage.name}: {origin}"
            self.checker.parser.take_rows_of(place, LINE, (), is_typed=True)

    def record_of(self, request: Request) -> bytes:
        """Return the record that a line would have with some answer."""
        settings = self.checker.settings
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        parsed = b"{}" if settings.expect or settings.schema else None
        success = Success(request, Answer(_ANSWER, "stop", usage, 1, 1, "model"), Reply(200, body=b"{}"), "endpoint")
        success.parsed = parsed
        output_format = None if settings.output_format == "auto" else settings.output_format
        return render(success, settings.echo, settings.body, output_format).rstrip(b"\n")


def _check(stages: Sequence[_Stage], index: int, item: Request | Failure) -> None:
    """Check a line of a stage, and what the later stages will get for it."""
    stage = stages[index]
    if isinstance(item, Failure) and not stage.is_certain:
        return
    for repeat in stage.checker.add(item):
        following = index + 1
        if following == len(stages) or isinstance(item, Failure):
            continue
        is_repeat = stage.checker.settings.repeat > 1
        text = stage.record_of(replace(item, repeat=repeat) if is_repeat else item)
        number, key, _ = stages[following].record_keys.find(item.number, key_of(text), text)
        _check(stages, following, stages[following].checker.parser.parse(number, key, text))
