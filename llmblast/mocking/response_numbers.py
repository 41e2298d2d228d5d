"""Numbers that fit a schema: their bounds and what they are multiples of."""

import math
from collections.abc import Mapping

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def make_number(schema: Mapping[str, object], number: int, *, is_integer: bool) -> float:
    """Return a number that fits; `number` where it may be any. Raises ValueError with the reason."""
    bounds = {name: _number(schema, name) for name in _BOUNDS if name in schema}
    given_step = _number(schema, "multipleOf") if "multipleOf" in schema else None
    step = given_step or 1
    if given_step is not None and (step <= 0 or (is_integer and step != int(step))):
        raise ValueError("'multipleOf' must be above 0, and whole for integers.")
    floor = max((bounds[name] for name in ("minimum", "exclusiveMinimum") if name in bounds), default=None)
    ceiling = min((bounds[name] for name in ("maximum", "exclusiveMaximum") if name in bounds), default=None)
    candidates: list[float] = [number * step]
    if floor is not None:
        candidates += [math.ceil(floor / step) * step, (math.floor(floor / step) + 1) * step]
    if ceiling is not None:
        candidates += [math.floor(ceiling / step) * step, (math.ceil(ceiling / step) - 1) * step]
    if floor is not None and ceiling is not None and given_step is None and not is_integer:
        candidates += [floor, (floor + ceiling) / 2]
    for candidate in candidates:
        if _fits(candidate, bounds):
            return int(candidate) if is_integer else candidate
    raise ValueError("no number fits its bounds.")


def _fits(value: float, bounds: Mapping[str, float]) -> bool:
    return (
        value >= bounds.get("minimum", -math.inf)
        and value <= bounds.get("maximum", math.inf)
        and value > bounds.get("exclusiveMinimum", -math.inf)
        and value < bounds.get("exclusiveMaximum", math.inf)
    )


def _number(schema: Mapping[str, object], name: str) -> float:
    value = schema[name]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"'{name}' must be a number.")
    return value
