"""Learned limits: what a run has found out about its endpoints is where the next run begins.

They stand in `SAVE.limits`, by URL and model. The file is a hint and no more: a run without it, or with a damaged one,
learns anew, and what stands there is corrected as soon as replies say otherwise.
"""

import os
from collections.abc import Mapping, Sequence
from math import inf, isfinite

from llmblast.hiding import hide_query
from llmblast.scheduling import Endpoint, KnownLimits
from llmblast.settings import EndpointSettings, Settings
from llmblast.writing.side_file import read_side_file, write_side_file

SUFFIX = ".limits"
MAX_AGE_S = 30 * 24 * 3600.0
"""Older ones say nothing: quotas change."""


def known_limits(settings: Settings, wall_now_s: float) -> Sequence[KnownLimits]:
    """Return what earlier runs with this output have learned of each endpoint. Blocks."""
    kept = read_side_file(_path_of(settings)) or {}
    return [_known(kept.get(_name_of(endpoint, settings)), wall_now_s) for endpoint in settings.endpoints]


def keep_limits(settings: Settings, endpoints: Sequence[Endpoint], wall_now_s: float) -> None:
    """Keep what this run has learned, and what earlier runs have of endpoints that it did not use. Blocks; a file that
    cannot be written is no failure.
    """
    path = _path_of(settings)
    before = read_side_file(path) or {}
    kept = dict(before)
    for endpoint, options in zip(endpoints, settings.endpoints, strict=True):
        name = _name_of(options, settings)
        learned = endpoint.known_limits()
        if learned.is_empty:
            if endpoint.traffic.answers:
                kept.pop(name, None)
            continue
        kept[name] = {
            "rps": learned.per_s if isfinite(learned.per_s) else None,
            "concurrency": learned.slots,
            "at": int(wall_now_s),
        }
    if kept != before:
        try:
            write_side_file(path, kept)
        except OSError:
            return


def _path_of(settings: Settings) -> str:
    return f"{os.path.realpath(settings.save)}{SUFFIX}"


def _name_of(endpoint: EndpointSettings, settings: Settings) -> str:
    model, url = endpoint.model or settings.model, hide_query(endpoint.url)
    return f"{url} {model}" if model else url


def _known(value: object, wall_now_s: float) -> KnownLimits:
    if not isinstance(value, Mapping):
        return KnownLimits()
    per_s, slots, at = value.get("rps"), value.get("concurrency"), value.get("at")
    if not isinstance(at, int) or wall_now_s - at > MAX_AGE_S:
        return KnownLimits()
    rate = float(per_s) if isinstance(per_s, int | float) and per_s > 0 else inf
    return KnownLimits(rate, slots if isinstance(slots, int) and slots > 0 else None)
