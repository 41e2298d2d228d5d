"""Models that lines name themselves: refusals and holds of an endpoint for one of them, and not for others."""

from collections.abc import Iterator

from llmblast.scheduling.push_back import PushBack
from llmblast.scheduling.refusals import RefusalBreaker
from llmblast.scheduling.rejections import RejectionStreak

MAX_MODELS = 256
"""Per endpoint; lines of further models count for the endpoint only."""


class OwnModel:
    """One model at one endpoint: its gate for rate-limit replies, and its circuit breaker for refusals."""

    __slots__ = ("name", "push_back", "reason", "refusals", "rejections", "until_s")

    def __init__(self, endpoint: str, name: str) -> None:
        self.name = name
        self.push_back = PushBack(f"{endpoint} {name} pause")
        self.refusals = RefusalBreaker(f"{endpoint} {name} refusals")
        self.rejections = RejectionStreak()
        self.reason = ""
        """Why the endpoint accepts no request for this model any more; empty where it does."""
        self.until_s = 0.0
        """End of the rate limit that is the reason, in monotonic seconds: it lasts longer than the run may wait."""

    def __repr__(self) -> str:
        state = f"out: {self.reason}" if self.reason else self.refusals.state.value
        return f"OwnModel({self.name!r}, {state})"

    @property
    def is_out(self) -> bool:
        """The endpoint accepts no request for this model any more."""
        return bool(self.reason)

    def ready_at(self, now: float) -> float:
        """Return when a request for this model may go, as far as the model is concerned."""
        return max(self.push_back.ready_at(1.0, now), self.refusals.ready_at(1.0, now))

    def acquire(self, now: float) -> None:
        """Count a request that is sent."""
        self.push_back.acquire(1.0, now)
        self.refusals.acquire(1.0, now)

    def release(self, now: float) -> None:
        """Count a request that has come back."""
        self.refusals.settle(1.0, 0.0, now)


class OwnModels:
    """The models that lines sent to one endpoint have named."""

    __slots__ = ("_endpoint", "_models", "has_unnamed")

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self.has_unnamed = False
        """Lines have asked for the endpoint's own model."""
        self._models: dict[str, OwnModel] = {}

    def __iter__(self) -> Iterator[OwnModel]:
        return iter(self._models.values())

    def get(self, name: str | None) -> OwnModel | None:
        """Return the state of a model that was asked for before."""
        return self._models.get(name) if name is not None else None

    @property
    def are_several(self) -> bool:
        """Lines have asked for more than one model, that of the endpoint included."""
        return len(self._models) + self.has_unnamed > 1

    def add(self, name: str) -> OwnModel | None:
        """Return the model's state, new if need be; None beyond the bound."""
        model = self._models.get(name)
        if model is None and len(self._models) < MAX_MODELS:
            model = self._models[name] = OwnModel(self._endpoint, name)
        return model
