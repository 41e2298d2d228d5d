"""One choice of an answer before it has its form: its tokens, why it ends, and the function that it calls."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import orjson

from llmblast.mocking.response_format import Format
from llmblast.mocking.structured import Place, make_value
from llmblast.mocking.tools import Call, Demand
from llmblast.mocking.wording import Writer, pieces_of, words_of


@dataclass(frozen=True, slots=True)
class Choice:
    """`pieces` are the tokens of the text, or of the arguments of `call`."""

    pieces: Sequence[str]
    finish_reason: str
    call: Call | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes the choices of one prompt; a `salt` for each tells them apart. All end at `stops` or after `cap` tokens."""

    writer: Writer
    prompt: str
    stops: Iterable[str] = ()
    cap: int | None = None

    def say(self, salt: bytes) -> Choice:
        """Return an answer in words."""
        wording = self.writer.write(self.prompt, self.cap, salt)
        return limit(wording.text, wording.finish_reason, self.stops, self.cap)

    def say_json(self, wanted: Format, salt: bytes) -> Choice:
        """Return an answer that is a JSON object. Raises BadRequestError for a schema that is not supported."""
        value: object = {"answer": self.writer.write(self.prompt, None, salt).text}
        if wanted.place is not None:
            value = self._fill(wanted.schema, wanted.place, salt)
        return limit(_json(value), "stop", self.stops, self.cap)

    def call(self, demand: Demand, call_id: str, salt: bytes) -> Choice:
        """Return a call of a function, whose arguments fit its schema. Raises BadRequestError as above."""
        arguments = _json(self._fill(demand.parameters, demand.place, salt))
        call = Call(demand.name, arguments, call_id if demand.is_tool else None)
        choice = limit(arguments, call.finish_reason, (), self.cap)
        return replace(choice, call=replace(call, arguments=choice.text))

    def _fill(self, schema: object, place: Place, salt: bytes) -> object:
        return make_value(schema, words_of(self.prompt), self.writer.draw(self.prompt, salt), place)


def limit(text: str, finish_reason: str, stops: Iterable[str], cap: int | None) -> Choice:
    """Cut a text off before the first of the stop sequences, and after `cap` tokens."""
    ends = [position for stop in stops if stop and (position := text.find(stop)) >= 0]
    if ends:
        text, finish_reason = text[: min(ends)], "stop"
    pieces = pieces_of(text)
    if cap is not None and len(pieces) > cap:
        return Choice(pieces[:cap], "length")
    return Choice(pieces, finish_reason)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
