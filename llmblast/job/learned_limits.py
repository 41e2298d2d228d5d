"""Learned limits: store what a run has learned about its endpoints, for the start of the next run.

`SAVE.limits` has the limits by URL and model. The file is only a hint: a run without it, or with a damaged one, learns
again, and replies correct its values.
"""

import os
from collections.abc import Mapping, Sequence
from math import inf, isfinite

from llmblast.endpoint_settings import EndpointSettings
from llmblast.hiding import hide_query
from llmblast.scheduling import Endpoint, KnownLimits
from llmblast.settings import Settings
from llmblast.writing.side_file import read_side_file, write_side_file

SUFFIX = ".limits"
MAX_AGE_S = 30 * 24 * 3600.0
"""Older limits are ignored, since quotas change."""


def known_limits(settings: Settings, wall_now_s: float) -> Sequence[KnownLimits]:
    """Return what earlier runs with this output have learned of each endpoint. Blocks."""
    kept = read_side_file(_path_of(settings)) or {}
    return [_known(kept.get(_name_of(endpoint, settings)), wall_now_s) for endpoint in settings.endpoints]


def keep_limits(settings: Settings, endpoints: Sequence[Endpoint], wall_now_s: float) -> None:
    """Store the limits that this run has learned, and keep those of other endpoints. Blocks.

    Ignore errors of the file, which is only a hint.
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
