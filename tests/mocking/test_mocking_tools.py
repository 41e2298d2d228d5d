"""Tool calls: made where a request demands one, with arguments that fit, and answers in words otherwise."""

from typing import Any

import orjson
import pytest

from llmblast.mocking.answers import Answers
from llmblast.mocking.settings import MockSettings

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 1}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"name": "get_weather", "description": "Look outside", "parameters": SCHEMA}
TIME = {"name": "get_time"}
TOOLS = [{"type": "function", "function": WEATHER}, {"type": "function", "function": TIME}]


def ask(**asked: Any) -> tuple[int, Any]:
    """Status and parsed reply to a chat with tools."""
    body = orjson.dumps({"messages": [{"role": "user", "content": "How is the weather in Turku?"}], **asked})
    answer = Answers(MockSettings()).answer("chat/completions", body)
    return answer.status, orjson.loads(answer.body)


def choice_of(**asked: Any) -> Any:
    """The first choice of a reply that is a success."""
    status, reply = ask(**asked)
    assert status == 200, reply
    return reply["choices"][0]


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize("choice", ["required", named("get_weather")])
def test_a_demanded_tool_is_called_with_arguments_that_fit(choice: object) -> None:
    """There is no text beside it, and the finish reason says so."""
    made = choice_of(tools=TOOLS, tool_choice=choice)

    (call,) = made["message"]["tool_calls"]
    arguments = orjson.loads(call["function"]["arguments"])
    assert made["finish_reason"] == "tool_calls"
    assert made["message"]["content"] is None
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert call["id"].startswith("call_")
    assert (set(arguments), type(arguments["city"]), arguments["days"]) == ({"city", "days"}, str, 1)


def test_a_function_without_parameters_is_called_with_none() -> None:
    """An empty object."""
    made = choice_of(tools=TOOLS, tool_choice=named("get_time"))

    assert made["message"]["tool_calls"][0]["function"] == {"name": "get_time", "arguments": "{}"}


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_a_free_choice_is_answered_in_words(choice: object) -> None:
    """Whatever the schemas are: nothing is asked of them."""
    odd = {"type": "function", "function": {"name": "odd", "parameters": {"type": "object", "allOf": []}}}

    made = choice_of(tools=[odd, *TOOLS], tool_choice=choice, parallel_tool_calls=False)

    assert made["finish_reason"] == "stop"
    assert "weather in Turku" in made["message"]["content"]
    assert "tool_calls" not in made["message"]


def test_the_older_functions_are_called_the_older_way() -> None:
    """`function_call` in the message and as its finish reason."""
    made = choice_of(functions=[WEATHER], function_call={"name": "get_weather"})
    free = choice_of(functions=[WEATHER], function_call="auto")

    assert made["finish_reason"] == "function_call"
    assert made["message"]["function_call"]["name"] == "get_weather"
    assert orjson.loads(made["message"]["function_call"]["arguments"])["days"] == 1
    assert free["message"]["content"]


def test_each_choice_has_a_call_with_its_own_id() -> None:
    """As `n` asks for."""
    _, reply = ask(tools=TOOLS, tool_choice="required", n=3)

    assert len({choice["message"]["tool_calls"][0]["id"] for choice in reply["choices"]}) == 3


def test_a_call_can_be_cut_short() -> None:
    """Its arguments are no JSON then."""
    made = choice_of(tools=TOOLS, tool_choice="required", max_tokens=1)

    assert made["finish_reason"] == "length"
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(made["message"]["tool_calls"][0]["function"]["arguments"])


def test_tools_count_as_prompt_tokens() -> None:
    """A quarter of their letters."""
    _, without = ask()
    _, reply = ask(tools=TOOLS)

    more = reply["usage"]["prompt_tokens"] - without["usage"]["prompt_tokens"]
    assert more == len(orjson.dumps(TOOLS)) // 4


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"tools": "x"}, "tools", "invalid_type"),
        ({"tools": []}, "tools", "empty_array"),
        ({"tools": [5]}, "tools[0]", "invalid_type"),
        ({"tools": [{}]}, "tools[0].type", "missing_required_parameter"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "missing_required_parameter"),
        (
            {"tools": [{"type": "function", "function": {"name": "get weather"}}]},
            "tools[0].function.name",
            "invalid_value",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]},
            "tools[0].function.parameters",
            "invalid_function_parameters",
        ),
        ({"tool_choice": "auto"}, "tool_choice", "invalid_value"),
        ({"parallel_tool_calls": True}, "parallel_tool_calls", "invalid_value"),
        ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice", "invalid_value"),
        ({"tools": TOOLS, "tool_choice": 5}, "tool_choice", "invalid_type"),
        ({"tools": TOOLS, "tool_choice": {}}, "tool_choice.type", "missing_required_parameter"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type", "unsupported_parameter"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice.function", "missing_required_parameter"),
        ({"tools": TOOLS, "tool_choice": named("f")}, "tool_choice", "invalid_value"),
        ({"tools": TOOLS, "functions": [WEATHER]}, "functions", "invalid_value"),
        ({"functions": []}, "functions", "empty_array"),
        ({"function_call": "auto"}, "function_call", "invalid_value"),
        ({"functions": [WEATHER], "function_call": "required"}, "function_call", "invalid_value"),
        ({"functions": [WEATHER], "function_call": {"name": "f"}}, "function_call", "invalid_value"),
        ({"functions": [WEATHER], "function_call": {}}, "function_call.name", "missing_required_parameter"),
    ],
)
def test_tools_that_will_not_do_are_named(asked: dict[str, Any], param: str, code: str) -> None:
    """By the place in the request."""
    status, reply = ask(**asked)

    assert (status, reply["error"]["param"], reply["error"]["code"]) == (400, param, code)


def test_a_demanded_call_whose_schema_is_not_supported_is_refused() -> None:
    """Arguments that do not fit would be worse."""
    odd = {"name": "odd", "parameters": {"type": "object", "properties": {"a": {"pattern": "x"}}}}

    status, reply = ask(tools=[{"type": "function", "function": odd}], tool_choice="required")

    assert (status, reply["error"]["code"]) == (400, "invalid_function_parameters")
    assert reply["error"]["message"].startswith("Invalid schema for function 'odd': In context=('properties', 'a')")
