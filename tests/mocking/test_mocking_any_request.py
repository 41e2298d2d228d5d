"""Whatever is asked, the mock answers it or says in OpenAI's form what is wrong: it never breaks."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.mocking.answers import Answers
from llmblast.mocking.parameters import CHAT, COMPLETIONS, EMBEDDINGS
from llmblast.mocking.settings import MockSettings

TABLES = {"chat/completions": CHAT, "completions": COMPLETIONS, "embeddings": EMBEDDINGS}
_WORDS = """
    type function name parameters properties required items anyOf enum const $ref # #/properties/name object array
    string integer null minimum maximum multipleOf minLength minItems maxItems format date additionalProperties
    json_schema json_object schema auto role content user assistant tool tool_calls tool_call_id function_call
    arguments id image_url url detail text include_usage
"""
WORDS = _WORDS.split()
scalars = (
    st.none() | st.booleans() | st.integers(-3, 5) | st.floats(-3, 3) | st.sampled_from(WORDS) | st.text(max_size=4)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)
user = st.just([{"role": "user", "content": "Count the ships"}])
schemas = st.dictionaries(st.sampled_from(WORDS), values, max_size=4)
functions = st.fixed_dictionaries({"name": st.just("f"), "parameters": schemas})
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "messages": user | user | user | st.lists(st.dictionaries(st.sampled_from(WORDS), values), max_size=3),
    "prompt": st.just("x") | st.lists(st.integers(0, 9), max_size=3) | st.lists(st.lists(st.integers(0, 9))),
    "input": st.just("x") | st.lists(st.integers(0, 9), max_size=3),
    "tools": st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": functions}), min_size=1),
    "functions": st.lists(functions, min_size=1),
    "tool_choice": st.sampled_from(["auto", "none", "required"]),
    "response_format": st.fixed_dictionaries(
        {
            "type": st.just("json_schema"),
            "json_schema": st.fixed_dictionaries({"name": st.just("s"), "schema": schemas}),
        }
    ),
    "stream": st.booleans(),
    "n": st.integers(1, 3),
    "stop": st.text(max_size=2),
}


@st.composite
def requests(draw: st.DrawFn, operation: str) -> dict[str, Any]:
    """Draw a body whose parameters exist; most values are of the right kind."""
    names = draw(st.sets(st.sampled_from(sorted(TABLES[operation])), max_size=4))
    wanted = {"chat/completions": "messages", "completions": "prompt", "embeddings": "input"}[operation]
    return {name: draw(LIKELY.get(name, scalars) | values) for name in sorted(names | {wanted})}


@pytest.mark.parametrize("operation", TABLES)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_request_is_answered_or_refused_by_name(operation: str, data: st.DataObject) -> None:
    """A streamed answer ends as one, another one is JSON with its tokens counted."""
    asked = data.draw(requests(operation))

    answer = Answers(MockSettings(tokens=4)).answer(operation, orjson.dumps(asked))

    if answer.events:
        assert (answer.status, answer.events[-1]) == (200, b"data: [DONE]\n\n")
        return
    reply = orjson.loads(answer.body)
    if answer.status == 200:
        assert reply["usage"]["prompt_tokens"] == answer.prompt_tokens
    else:
        assert answer.status == 400
        assert reply["error"]["type"] == "invalid_request_error"
        assert reply["error"]["param"]
