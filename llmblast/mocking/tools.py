"""Tool calls: which function a request demands, and the call that answers it.

A choice that is left to the model is answered in words. The older `functions` and `function_call` do the same.
Source: https://platform.openai.com/docs/api-reference/chat/create
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llmblast.mocking.checks import text as check_text
from llmblast.mocking.error_replies import BadRequestError, invalid_choice, invalid_type, missing, unsupported
from llmblast.mocking.structured import Place

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MODES = ("none", "auto", "required")


@dataclass(frozen=True, slots=True)
class Demand:
    """A function that has to be called, and where its schema stands; `is_tool` is False for `functions`."""

    name: str
    parameters: object
    place: Place
    is_tool: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A call as a reply has it; the arguments are JSON unless the reply was cut short."""

    name: str
    arguments: str
    call_id: str | None

    @property
    def message(self) -> dict[str, object]:
        """The message of a reply that is read whole."""
        function = {"name": self.name, "arguments": self.arguments}
        if self.call_id is None:
            return {"role": "assistant", "content": None, "function_call": function, "refusal": None}
        call = {"id": self.call_id, "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None}

    @property
    def finish_reason(self) -> str:
        """Why a reply with this call ends, unless it was cut short."""
        return "function_call" if self.call_id is None else "tool_calls"


def read_demand(asked: Mapping[str, object]) -> Demand | None:
    """Return the function that has to be called; None where an answer in words will do. Raises BadRequestError."""
    tools, functions = asked.get("tools"), asked.get("functions")
    for option in ("tool_choice", "parallel_tool_calls"):
        if tools is None and asked.get(option) is not None:
            raise BadRequestError(
                f"Invalid value for '{option}': '{option}' is only allowed when 'tools' are specified.",
                option,
                "invalid_value",
            )
    if functions is None and asked.get("function_call") is not None:
        text = "Invalid value for 'function_call': 'function_call' is only allowed when 'functions' are specified."
        raise BadRequestError(text, "function_call", "invalid_value")
    if tools is not None and functions is not None:
        raise BadRequestError("Only one of 'tools' and 'functions' may be specified.", "functions", "invalid_value")
    if tools is not None:
        return _chosen(_read_tools(tools), asked.get("tool_choice"))
    if functions is not None:
        return _called(_read_functions(functions), asked.get("function_call"))
    return None


def _chosen(tools: list[Demand], choice: object) -> Demand | None:
    if choice is None or choice in ("auto", "none"):
        return None
    if choice == "required":
        return tools[0]
    if isinstance(choice, str):
        raise invalid_choice("tool_choice", choice, _MODES)
    if not isinstance(choice, dict):
        raise invalid_type("tool_choice", "a string or an object", choice)
    kind = choice.get("type")
    if kind is None:
        raise missing("tool_choice.type")
    if kind != "function":
        raise unsupported("tool_choice.type", f"a 'tool_choice' of type '{kind}'")
    function = choice.get("function")
    if not isinstance(function, dict):
        raise missing("tool_choice.function")
    return _named(tools, function.get("name"), "tool_choice", "tools")


def _called(functions: list[Demand], call: object) -> Demand | None:
    if call is None or call in ("auto", "none"):
        return None
    if isinstance(call, str):
        raise invalid_choice("function_call", call, ("none", "auto"))
    if not isinstance(call, dict):
        raise invalid_type("function_call", "a string or an object", call)
    return _named(functions, call.get("name"), "function_call", "functions")


def _named(known: list[Demand], name: object, option: str, listed: str) -> Demand:
    place = f"{option}.function.name" if listed == "tools" else f"{option}.name"
    if name is None:
        raise missing(place)
    found = next((demand for demand in known if demand.name == name), None)
    if found is None:
        text = f"Invalid value for '{option}': no function named '{name}' was specified in the '{listed}' parameter."
        raise BadRequestError(text, option, "invalid_value")
    return found


def _read_tools(tools: object) -> list[Demand]:
    demands = []
    for index, tool in enumerate(_read_list(tools, "tools")):
        place = f"tools[{index}]"
        if not isinstance(tool, dict):
            raise invalid_type(place, "an object", tool)
        kind = tool.get("type")
        if kind is None:
            raise missing(f"{place}.type")
        if kind != "function":
            raise unsupported(f"{place}.type", f"a tool of type '{kind}'")
        if "function" not in tool:
            raise missing(f"{place}.function")
        demands.append(_read_function(tool["function"], f"{place}.function", is_tool=True))
    return demands


def _read_functions(functions: object) -> list[Demand]:
    return [
        _read_function(function, f"functions[{index}]", is_tool=False)
        for index, function in enumerate(_read_list(functions, "functions"))
    ]


def _read_list(value: object, name: str) -> list[object]:
    if not isinstance(value, list):
        raise invalid_type(name, "an array of objects", value)
    if not value:
        message = f"Invalid '{name}': empty array. Expected an array with minimum length 1, but got an empty array."
        raise BadRequestError(message, name, "empty_array")
    return value


def _read_function(function: object, place: str, *, is_tool: bool) -> Demand:
    if not isinstance(function, dict):
        raise invalid_type(place, "an object", function)
    name = function.get("name")
    if name is None:
        raise missing(f"{place}.name")
    check_text(name, f"{place}.name")
    if not _NAME.fullmatch(name):
        text = (
            f"Invalid '{place}.name': string does not match pattern. Expected a string that matches '^[a-zA-Z0-9_-]+$'."
        )
        raise BadRequestError(text, f"{place}.name", "invalid_value")
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    schema_place = Place(f"{place}.parameters", f"function '{name}'", "invalid_function_parameters")
    if not isinstance(parameters, dict):
        raise invalid_type(f"{place}.parameters", "an object", parameters)
    if parameters.get("type", "object") != "object":
        raise schema_place.error(
            f"schema must be a JSON Schema of 'type: \"object\"', got 'type: {parameters['type']!r}'."
        )
    return Demand(name, {"type": "object", **parameters}, schema_place, is_tool)
