"""Faults of the answer itself: a proper reply whose text is not what was asked for, as models do it now and then."""

from collections.abc import Mapping

import orjson

from llmblast.mocking.fault_bodies import with_text
from llmblast.mocking.incident import Fault, Incident
from llmblast.mocking.replies import ScriptedReply


def _saying(text: str, incident: Incident) -> ScriptedReply:
    return ScriptedReply(body=with_text(incident.answer, orjson.dumps(text)), text=text)


def _broken_json(incident: Incident) -> ScriptedReply:
    """Return the first half of the right text, with a bracket open."""
    text = incident.answer.text or ""
    return _saying(f"{{{text[: len(text) // 2]}", incident)


def _other_json(incident: Incident) -> ScriptedReply:
    """Return JSON that no schema asks for."""
    return _saying('[{"unexpected": null}]', incident)


def _fenced(incident: Incident) -> ScriptedReply:
    """Return the right text in a block of code, with a sentence before it."""
    return _saying(f"Here it is:\n\n```json\n{incident.answer.text or ''}\n```\n", incident)


def _blank(incident: Incident) -> ScriptedReply:
    """Return no text, though tokens were generated."""
    return _saying("", incident)


ANSWERS: Mapping[str, Fault] = {
    "broken-json": _broken_json,
    "other-json": _other_json,
    "fenced": _fenced,
    "blank": _blank,
}
"""The faults of this file by the name that a rule has for them."""
