"""Translated requests: the body of one chat API as a body of the other one, for `llmblast convert`.

What the other API has no words for raises UnsupportedError; nothing is left out in silence.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import orjson

from llmblast.models import Prompt
from llmblast.provider_contract import UnsupportedError
from llmblast.providers.anthropic_messages import Messages
from llmblast.providers.chat_parts import image_part
from llmblast.providers.translated_replies import arguments_of

Body = dict[str, object]
CHAT: Final = "openai.chat"
MESSAGES: Final = "anthropic.messages"
_NOT_PARAMS: Final = ("messages", "model", "stream")
_CHOICES: Final[Mapping[object, str]] = {"auto": "auto", "any": "required", "none": "none"}
_ONLY_IN_MESSAGES: Final = ("thinking", "mcp_servers", "container", "context_management", "output_config")


def translate_request(body: Mapping[str, object], dialect: str, wanted: str) -> Body:
    """Return a body of one dialect as one of another. Raises UnsupportedError."""
    if dialect == wanted:
        return dict(body)
    translate = _TRANSLATIONS.get((dialect, wanted))
    if translate is None:
        raise UnsupportedError(f"a request of {dialect} has no form in {wanted}")
    return translate(body)


def prompt_in(body: Mapping[str, object]) -> Prompt | None:
    """Return the prompt in a chat body without a model that holds one question; None for any other body."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return None
    is_told = len(messages) == 2 and messages[0].get("role") == "system"
    system, question = messages[0].get("content") if is_told else None, messages[-1:]
    if len(messages) != 1 + is_told or question[0].get("role") != "user" or not isinstance(system, str | None):
        return None
    text, images = _question(question[0].get("content"))
    params = {name: value for name, value in body.items() if name != "messages"}
    return None if text is None else Prompt(text, system, [image_part(url) for url in images], params)


def _question(content: object) -> tuple[str | None, list[str]]:
    """Return the text and the images of a message; no text where it has other parts, too."""
    if isinstance(content, str):
        return content, []
    texts: list[str] = []
    images: list[str] = []
    for part in content if isinstance(content, list) else [None]:
        image = part.get("image_url") if isinstance(part, dict) else None
        if isinstance(part, dict) and part.get("type") == "text":
            texts.append(str(part.get("text")))
        elif isinstance(image, dict) and set(image) == {"url"}:
            images.append(str(image["url"]))
        else:
            return None, []
    return (texts[0], images) if len(texts) == 1 else (None, [])


def _to_messages(body: Mapping[str, object]) -> Body:
    messages: list[Body] = []
    system: list[str] = []
    for message in _objects(body.get("messages"), '"messages"'):
        role = message.get("role")
        if role in ("system", "developer"):
            system.append(_text_of(message.get("content")))
        elif role == "tool":
            _add_result(messages, message)
        elif role == "assistant":
            messages.append({"role": "assistant", "content": _assistant_content(message)})
        elif role == "user":
            messages.append({"role": "user", "content": _user_content(message.get("content"))})
        else:
            raise UnsupportedError(f"a message with the role {role!r} has no form in the Messages API")
    params = {name: value for name, value in body.items() if name not in _NOT_PARAMS}
    rendered = _rendered(Prompt("", None, (), params))
    del rendered["messages"]
    model: Body = {"model": body["model"]} if "model" in body else {}
    return {**model, "messages": messages, **({"system": "\n\n".join(system)} if system else {}), **rendered}


def _rendered(prompt: Prompt) -> Body:
    rendered: Body = orjson.loads(Messages().render(prompt))
    return rendered


def _add_result(messages: list[Body], message: Body) -> None:
    """Add the result of a tool; those of one turn are one message."""
    content = message.get("content")
    block = {"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": _text_of(content)}
    last = messages[-1]["content"] if messages else None
    if isinstance(last, list) and last and last[-1].get("type") == "tool_result":
        last.append(block)
    else:
        messages.append({"role": "user", "content": [block]})


def _assistant_content(message: Body) -> object:
    calls = message.get("tool_calls")
    text = _text_of(message.get("content")) if message.get("content") is not None else ""
    if not calls:
        return text
    blocks: list[Body] = [{"type": "text", "text": text}] if text else []
    for call in _objects(calls, '"tool_calls"'):
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        named = {"type": "tool_use", "id": call.get("id"), "name": function.get("name")}
        blocks.append({**named, "input": arguments_of(function)})
    return blocks


def _user_content(content: object) -> object:
    return content if isinstance(content, str) else [_block(part) for part in _objects(content, '"content"')]


def _block(part: Body) -> object:
    if part.get("type") == "text":
        return {"type": "text", "text": part.get("text")}
    image = part.get("image_url")
    if part.get("type") == "image_url" and isinstance(image, dict):
        messages = _objects(
            _rendered(Prompt("", None, (image_part(str(image.get("url"))),), {}))["messages"], '"messages"'
        )
        return _objects(messages[0]["content"], '"content"')[0]
    raise UnsupportedError(f"a part of type {part.get('type')!r} has no form in the Messages API")


def _to_chat(body: Mapping[str, object]) -> Body:
    messages: list[Body] = []
    if body.get("system"):
        messages.append({"role": "system", "content": _text_of(body["system"])})
    for message in _objects(body.get("messages"), '"messages"'):
        messages += _chat_messages(message)
    chat: Body = {"model": body["model"]} if "model" in body else {}
    chat["messages"] = messages
    for name, value in body.items():
        if name in _ONLY_IN_MESSAGES:
            raise UnsupportedError(f'the chat API has no parameter like "{name}": take it out')
        if name not in (*_NOT_PARAMS, "system"):
            translate = _PARAMS.get(name)
            chat.update({name: value} if translate is None else translate(value))
    return chat


def _chat_messages(message: Body) -> list[Body]:
    role, content = message.get("role"), message.get("content")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    blocks = _objects(content, '"content"')
    if role == "assistant":
        return [_assistant_message(blocks)]
    results = [block for block in blocks if block.get("type") == "tool_result"]
    messages: list[Body] = [
        {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": _text_of(block.get("content") or "")}
        for block in results
    ]
    parts = [_part(block) for block in blocks if block.get("type") != "tool_result"]
    return [*messages, {"role": role, "content": parts}] if parts else messages


def _assistant_message(blocks: Sequence[Body]) -> Body:
    calls: list[Body] = []
    texts: list[Body] = []
    for block in blocks:
        if block.get("type") == "tool_use":
            function = {"name": block.get("name"), "arguments": orjson.dumps(block.get("input")).decode()}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        else:
            texts.append(block)
    message: Body = {"role": "assistant", "content": _text_of(texts) if texts else None}
    return {**message, "tool_calls": calls} if calls else message


def _part(block: Body) -> Body:
    source = block.get("source")
    if block.get("type") == "text":
        return {"type": "text", "text": block.get("text")}
    if block.get("type") == "image" and isinstance(source, dict):
        is_data = source.get("type") == "base64"
        url = f"data:{source.get('media_type')};base64,{source.get('data')}" if is_data else source.get("url")
        return {"type": "image_url", "image_url": {"url": url}}
    raise UnsupportedError(f"a block of type {block.get('type')!r} has no form in the chat API")


def _tools(value: object) -> Body:
    return {"tools": [_tool(tool) for tool in _objects(value, '"tools"')]}


def _tool(tool: Body) -> Body:
    if "input_schema" not in tool:
        raise UnsupportedError(f"the tool {tool.get('name')!r} has no form in the chat API: it runs at the provider")
    about = {"description": tool["description"]} if "description" in tool else {}
    return {"type": "function", "function": {"name": tool.get("name"), **about, "parameters": tool["input_schema"]}}


def _tool_choice(value: object) -> Body:
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(value, dict) and kind == "tool":
        return {"tool_choice": {"type": "function", "function": {"name": value.get("name")}}}
    return {"tool_choice": _CHOICES.get(kind, kind)}


def _metadata(value: object) -> Body:
    user = value.get("user_id") if isinstance(value, dict) else None
    return {} if user is None else {"user": user}


_PARAMS: Final[Mapping[str, Callable[[object], Body]]] = {
    "stop_sequences": lambda value: {"stop": value},
    "tools": _tools,
    "tool_choice": _tool_choice,
    "metadata": _metadata,
}
_TRANSLATIONS: Final[Mapping[tuple[str, str], Callable[[Mapping[str, object]], Body]]] = {
    (CHAT, MESSAGES): _to_messages,
    (MESSAGES, CHAT): _to_chat,
}


def _text_of(content: object) -> str:
    """Return the text of a message that consists of text alone."""
    if isinstance(content, str):
        return content
    for part in _objects(content, '"content"'):
        if part.get("type") != "text":
            raise UnsupportedError(f"a part of type {part.get('type')!r} has no form in the other API at this place")
    return "".join(str(part.get("text")) for part in _objects(content, '"content"'))


def _objects(values: object, name: str) -> list[Body]:
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise UnsupportedError(f"{name} must be a list of objects")
    return values
