"""Batch overview: list, await and cancel the batches of an output, without a run: `llmblast batches`.

The journal beside the output says which batches there are; with an endpoint, its API says how far they are, and which
others it has.
"""

import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime

import orjson

from llmblast.batching.api import BatchApiError, BatchState, BatchStatus, NotNow, Unreachable, poll_interval_s
from llmblast.errors import ExitCode, OutputBlockedError, OutputFailedError, UsageError
from llmblast.job.batch_endpoints import BatchEndpoint, open_batch_endpoints
from llmblast.job.batch_folders import folder_of
from llmblast.job.batch_journal import BEFORE_START, BatchEntry, BatchJournal, Step
from llmblast.job.batch_words import words_of_failure
from llmblast.job.endpoint_channels import open_channels, start_mocks
from llmblast.locks import check_unlocked
from llmblast.providers import provider_of_key
from llmblast.sending import EndpointKey
from llmblast.settings import Settings
from llmblast.watching import sanitize_text
from llmblast.watching.tables import align

LISTED_S = 3 * 24 * 3600.0
"""Maximum age of the batches that are listed by the provider."""
MAX_LISTED = 1000


@dataclass(slots=True)
class _Row:
    batch: str
    endpoint: str
    state: str
    lines: int | None
    done: int | None
    created_s: float | None
    save: str | None

    def as_json(self) -> dict[str, object]:
        return {
            "batch": self.batch,
            "endpoint": self.endpoint,
            "state": self.state,
            "lines": self.lines,
            "done": self.done,
            "created": self.created_s,
            "save": self.save,
        }

    def cells(self) -> Sequence[str]:
        created = "" if self.created_s is None else f"{datetime.fromtimestamp(self.created_s):%Y-%m-%d %H:%M}"
        counts = [("" if count is None else f"{count:,}") for count in (self.lines, self.done)]
        return tuple(
            sanitize_text(text) for text in (self.batch, self.endpoint, self.state, *counts, created, self.save or "")
        )


class BatchOverview:
    """The batches of one output. `settings` has the endpoints to ask, none for the journal alone."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._journal = BatchJournal(folder_of(settings.save))
        self._endpoints: dict[str, BatchEndpoint] = {}
        self._problems: dict[str, None] = {}
        """What a person is told at the end, each once."""

    async def show(self, *, waits: bool = False, cancels: bool = False) -> ExitCode:
        """Cancel or await the batches, if asked to, and write a table of them. Raises LlmblastError."""
        if cancels:
            self._check_no_run()
        await asyncio.to_thread(self._journal.load, repairs=cancels)
        async with AsyncExitStack() as stack:
            await self._open_endpoints(stack)
            if waits or cancels:
                self._check_endpoints()
            if cancels:
                try:
                    await self._cancel()
                except OSError as error:
                    raise OutputFailedError(words_of_failure(self._journal.folder, error)) from None
            if waits:
                await self._wait()
            rows = await self._rows()
        self._write(rows)
        sys.stderr.writelines(f"llmblast: {problem}\n" for problem in self._problems)
        return ExitCode.REFUSED if self._problems else ExitCode.OK

    async def _open_endpoints(self, stack: AsyncExitStack) -> None:
        settings, environ = self._settings, self._environ
        model = settings.model
        keys = [EndpointKey(e, environ, time.monotonic, provider_of_key(e, model)) for e in settings.endpoints]
        started = await start_mocks(settings.endpoints, stack)
        channels = open_channels(settings, started, keys, environ, stack)
        found = open_batch_endpoints(settings, started, keys=keys, channels=channels, environ=environ, stack=stack)
        self._endpoints = {endpoint.name: endpoint for endpoint in found}

    @property
    def _in_progress(self) -> list[BatchEntry]:
        return [entry for entry in self._journal.open_entries if entry.is_in_progress]

    def _check_endpoints(self) -> None:
        """Raise UsageError where an endpoint is missing that a batch is at."""
        missing = {entry.endpoint for entry in self._in_progress} - self._endpoints.keys()
        if missing:
            names = ", ".join(sorted(missing))
            raise UsageError(
                f"{self._settings.save}: has batches at {names}: name the endpoint as the run did, by --url or --config"
            )

    def _check_no_run(self) -> None:
        """Raise OutputBlockedError while a run uses the output: the journal is that run's to write."""
        save = self._settings.save
        try:
            check_unlocked(save, "SAVE")
        except OutputBlockedError:
            raise OutputBlockedError(f"{save}: a run is using it: stop that with Ctrl-C first") from None

    async def _cancel(self) -> None:
        """Ask for the end of all batches; the next run collects what they have, and sends the rest directly."""
        record = self._journal.record
        for entry in self._journal.open_entries:
            if entry.step in BEFORE_START:
                await asyncio.to_thread(record, entry, Step.ENDED, end=f"batch {entry.mark} was cancelled")
            elif entry.is_in_progress and entry.batch_id is None:
                self._report(f"{entry.mark}: it is not known whether it was started: run the command first")
            elif entry.is_in_progress and entry.batch_id is not None:
                await self._cancel_at_provider(entry, entry.batch_id)

    async def _cancel_at_provider(self, entry: BatchEntry, batch_id: str) -> None:
        await asyncio.to_thread(self._journal.record, entry, Step.CANCELLING)
        try:
            await self._endpoints[entry.endpoint].api.cancel(batch_id)
        except BatchApiError as error:
            self._report(str(error))
            return
        sys.stderr.write(
            f"{batch_id}: cancelling: the next run with {sanitize_text(self._settings.save)} collects its "
            "answers, and sends the rest directly\n"
        )

    async def _wait(self) -> None:
        """Wait until every batch has ended at its provider. What cannot be reached for now is asked again."""
        waiting = [entry for entry in self._in_progress if entry.batch_id is not None]
        if waiting:
            sys.stderr.write(f"waiting for {_in_words(waiting)}; Ctrl-C ends only this command\n")
        if not_started := [entry for entry in self._journal.open_entries if entry.batch_id is None and not entry.end]:
            sys.stderr.write(f"{_in_words(not_started)}: not started yet: run the same llmblast run command again\n")
        while waiting:
            statuses = [await self._status(entry) for entry in waiting]
            pairs = zip(waiting, statuses, strict=True)
            waiting = [entry for entry, status in pairs if _may_go_on(status)]
            if waiting:
                await asyncio.sleep(min(poll_interval_s(time.time() - entry.started_s) for entry in waiting))

    async def _status(self, entry: BatchEntry) -> BatchStatus | BatchApiError:
        try:
            return await self._endpoints[entry.endpoint].api.status(entry.batch_id or "")
        except BatchApiError as error:
            return error

    def _report(self, problem: str) -> None:
        self._problems[problem] = None

    async def _rows(self) -> list[_Row]:
        rows: list[_Row] = []
        for entry in self._journal.entries.values():
            row = _Row(
                entry.id,
                entry.endpoint,
                entry.step.value,
                entry.lines,
                entry.lines if entry.is_done else None,
                entry.started_s or entry.packed_s,
                self._settings.save,
            )
            if entry.is_in_progress and entry.batch_id is not None and entry.endpoint in self._endpoints:
                status = await self._status(entry)
                if isinstance(status, BatchStatus):
                    row.state, row.done = _state(status), _done(status)
                    if entry.step is Step.CANCELLING and not _has_ended(status):
                        row.state = entry.step.value
                else:
                    self._report(str(status))
            rows.append(row)
        known = {row.batch for row in rows}
        for name, endpoint in self._endpoints.items():
            try:
                rows += [row for row in await self._listed(name, endpoint) if row.batch not in known]
            except BatchApiError as error:
                self._report(str(error))
        return rows

    @staticmethod
    async def _listed(name: str, endpoint: BatchEndpoint) -> list[_Row]:
        """Return what the provider lists, up to a maximum."""
        rows: list[_Row] = []
        async for status in endpoint.api.list(time.time() - LISTED_S):
            total = status.counts.total
            rows.append(_Row(status.id, name, _state(status), total, _done(status), status.created_at_s, None))
            if len(rows) >= MAX_LISTED:
                break
        return rows

    def _write(self, rows: Sequence[_Row]) -> None:
        if self._settings.json:
            sys.stdout.write(f"{orjson.dumps([row.as_json() for row in rows]).decode()}\n")
        elif rows:
            header = ("batch", "endpoint", "state", "lines", "done", "started", "answers in")
            table = align([header, *(row.cells() for row in rows)], (False, False, False, True, True, False, False))
            sys.stdout.writelines(f"{line}\n" for line in table)
        else:
            sys.stdout.write(f"no batches for {sanitize_text(self._settings.save)}\n")


def _in_words(entries: Sequence[BatchEntry]) -> str:
    lines = sum(entry.lines for entry in entries)
    return f"{'1 batch' if len(entries) == 1 else f'{len(entries):,} batches'} with {lines:,} lines"


def _has_ended(status: BatchStatus) -> bool:
    return status.state is BatchState.ENDED


def _may_go_on(status: BatchStatus | BatchApiError) -> bool:
    if isinstance(status, BatchStatus):
        return not _has_ended(status)
    return isinstance(status, NotNow | Unreachable)


def _state(status: BatchStatus) -> str:
    return status.end.value if status.end is not None else status.state.value


def _done(status: BatchStatus) -> int | None:
    counts = (status.counts.succeeded, status.counts.failed)
    return None if counts == (None, None) else sum(count or 0 for count in counts)


async def show_batches(settings: Settings, *, waits: bool, cancels: bool) -> ExitCode:
    """Show the batches of the output that the settings name; see `BatchOverview.show`."""
    return await BatchOverview(settings, os.environ).show(waits=waits, cancels=cancels)
