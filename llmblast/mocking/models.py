"""The models that the mock provider has: those it was started with, or any that a request names."""

from collections.abc import Mapping

import orjson

from llmblast.mocking.error_replies import BadRequestError, invalid_type

DEFAULT_MODEL = "mock"
_CREATED = 1_735_689_600


class Models:
    """The names that are known; none known: any name is, and a body without one is answered by the default."""

    def __init__(self, names: str | None) -> None:
        self._names = list(dict.fromkeys((names or "").replace(",", " ").split()))

    def name_of(self, asked: Mapping[str, object]) -> str:
        """Return the model of a request. Raises BadRequestError."""
        model = asked.get("model")
        if isinstance(model, str) and model and not self._names:
            return model
        if model is None and not self._names:
            return DEFAULT_MODEL
        if model is None or model == "":
            raise BadRequestError("you must provide a model parameter", "model", "missing_required_parameter")
        if not isinstance(model, str):
            raise invalid_type("model", "a string", model)
        self.check(model)
        return model

    def check(self, model: str) -> None:
        """Raise BadRequestError, with status 404, for a model that there is not."""
        if self._names and model not in self._names:
            message = f"The model `{model}` does not exist or you do not have access to it."
            raise BadRequestError(message, "model", "model_not_found", status=404)

    def list_body(self) -> bytes:
        """Return the reply to `GET /v1/models`."""
        return orjson.dumps({"object": "list", "data": [_entry(name) for name in self._names or [DEFAULT_MODEL]]})

    def body(self, model: str) -> bytes:
        """Return the reply to `GET /v1/models/NAME`. Raises BadRequestError."""
        self.check(model)
        return orjson.dumps(_entry(model))


def _entry(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "llmblast"}
