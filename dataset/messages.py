"""One message of any public form → ours, and the values that such messages are made of.

A message leaves as `{"role", "content"}` with the roles system, user, assistant and tool. An assistant's may
carry `reasoning_content` and `tool_calls` (OpenAI's form, arguments as an object); a system message's own
`tools` travel with it until `dataset/conversations.py` moves them to the conversation. The outer white space
of every content is stripped. What cannot be read raises `BadRow` with a reason to count.
"""

import ast
import json
import re
import warnings
from collections.abc import Iterable
from typing import Any

from dataset.reading.formats import nested_too_deeply

Message = dict[str, Any]

# What the public sets call the four speakers.
ROLES = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "yayi": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
}
_CALL_ROLES = {"function_call", "tool_call"}  # the content of such a turn is the call itself
# Who may speak after whom; None is the beginning.
_MAY_FOLLOW: dict[str | None, set[str]] = {
    None: {"system", "user"},
    "system": {"user"},
    "user": {"assistant"},
    "assistant": {"user", "tool"},
    "tool": {"tool", "assistant"},
}
_MAX_LITERAL_CHARS = 1 << 18  # Python's parser needs a few hundred bytes for each character of a list
_THINKING = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)
_TOOL_LIST = re.compile(r"(?:^|\n)# Tools\b", re.IGNORECASE)


class BadRow(Exception):
    """A row that is left out: a short reason, the same for all of its kind, and what was found here."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def user(content: str) -> Message:
    """What the user says."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """What the assistant says, with reasoning that is written into it as `<think>…</think>` set apart.

    Left in the content, the two tags would be encoded as the plain text that they are there.
    """
    thinking = _THINKING.match(content)
    if thinking is None:
        return {"role": "assistant", "content": content}
    message: Message = {"role": "assistant", "content": content[thinking.end() :].strip()}
    if thinking.group(1).strip():
        message["reasoning_content"] = thinking.group(1).strip()
    return message


def to_messages(turns: Any, key: str) -> list[Message]:
    """The messages of a list, whatever its items are.

    Items are messages with `role` and `content` or with `from` and `value`, pairs such as
    `{"human", "assistant"}` and `[question, answer]`, or texts said by user and assistant in turn. The list may
    be written as text, in JSON or in Python. Calls of tools that follow a speech of the assistant belong to it.
    """
    if isinstance(turns, str):
        turns = literal(turns.strip() or "[]", key)
    if not isinstance(turns, list | tuple):
        raise BadRow("wrong type", f"{key} is {type_name(turns)}, expected a list of messages")
    if all(isinstance(turn, str) for turn in turns):
        return [(assistant if number % 2 else user)(text_of(turn, key)) for number, turn in enumerate(turns)]
    messages: list[Message] = []
    for turn in turns:
        for message in _turn(turn, key):
            is_call = message["role"] == "assistant" and not message["content"] and "tool_calls" in message
            if is_call and messages and messages[-1]["role"] == "assistant":
                messages[-1]["tool_calls"] = [*messages[-1].get("tool_calls", []), *message["tool_calls"]]
            else:
                messages.append(message)
    return messages


def check_order(messages: Iterable[Message]) -> None:
    """BadRow unless somebody speaks, nobody says nothing, and they speak in an order that can be trained."""
    before: str | None = None
    for number, message in enumerate(messages, start=1):
        role = message["role"]
        if role not in _MAY_FOLLOW[before]:
            raise BadRow("wrong role order", f"turn {number} is {role} after {before or 'nothing'}")
        if not message["content"] and not message.get("tool_calls") and role != "tool":
            raise BadRow("empty content", f"turn {number} ({role})")
        before = role
    if before is None:
        raise BadRow("no turn at all")


# ---- what a message says ----


def prose_of(message: Message) -> list[str]:
    """What a message says in words: its reasoning and its content, those that it has."""
    return [text for text in (message.get("reasoning_content"), message["content"]) if text]


def texts_of(message: Message) -> list[str]:
    """All that a message says, each part as one text: reasoning, content, and every call of a tool.

    Whoever asks what is *in* a message (searches for held-out text, near-duplicates, lengths) asks here: an
    answer's reasoning and its calls are trained as its content is.
    """
    return [*prose_of(message), *(_call_text(call["function"]) for call in message.get("tool_calls") or ())]


def _call_text(function: dict[str, Any]) -> str:
    """The names in a call (function, arguments), then the values, one a line.

    The values stand together, so that a question and its choices follow each other as they do in an exam.
    """
    names, values = [function["name"]], []
    waiting = [function["arguments"]]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            names += value
            waiting += reversed(value.values())
        elif isinstance(value, list):
            waiting += reversed(value)
        else:
            values.append(value if isinstance(value, str) else json.dumps(value))
    return "\n".join([*names, *values])


# ---- one turn ----


def _turn(turn: Any, key: str) -> list[Message]:
    if isinstance(turn, list | tuple):
        if len(turn) != 2:
            raise BadRow("wrong type", f"{key} holds a list of {len(turn)}, expected [question, answer]")
        return [user(text_of(turn[0], key)), assistant(text_of(turn[1], key))]
    if not isinstance(turn, dict):
        raise BadRow("wrong type", f"{key} holds {type_name(turn)}, expected messages")
    for question, answer in (("human", "assistant"), ("user", "assistant"), ("q", "a"), ("question", "answer")):
        if {question, answer} <= turn.keys():
            return [user(text_of(turn[question], key)), assistant(text_of(turn[answer], key))]
    return [_message(turn, key)]


def _message(turn: dict[str, Any], key: str) -> Message:
    # A table (Parquet, Arrow) gives every message every field, null where it has none: null is as good as absent.
    name = turn.get("role") or turn.get("from")
    name = name.lower() if isinstance(name, str) else name
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise BadRow("unknown role", f"{key}: {name!r}"[:100])
    content = turn["content"] if turn.get("content") is not None else turn.get("value")
    if name in _CALL_ROLES:
        return {"role": role, "content": "", "tool_calls": tool_calls(content)}
    if role == "assistant":
        return _assistant_turn(turn, content, key)
    if role == "tool" and not isinstance(content, str) and not _is_parts(content):
        content = "" if content is None else json.dumps(plain(content, key), ensure_ascii=False)
    message: Message = {"role": role, "content": text_of(_joined(content, key), key)}
    if role == "system" and turn.get("tools"):
        message["tools"] = tool_descriptions(turn["tools"])
        # Some sets write the list into the text as well. The chat template writes it, and once is enough.
        message["content"] = _TOOL_LIST.split(message["content"])[0].strip()
    return message


def _assistant_turn(turn: dict[str, Any], content: Any, key: str) -> Message:
    calls = turn.get("tool_calls") or turn.get("function_call")
    calls = tool_calls(calls) if calls else []
    content = text_of("" if content is None and calls else _joined(content, key), key)
    if turn.get("reasoning_content"):
        reasoning = text_of(turn["reasoning_content"], "reasoning_content")
        message: Message = {"role": "assistant", "content": content, "reasoning_content": reasoning}
    else:
        message = assistant(content)
    if calls:
        message["tool_calls"] = calls
    return message


def _is_parts(content: Any) -> bool:
    """OpenAI's contents of several parts."""
    return isinstance(content, list) and all(isinstance(part, dict) and "type" in part for part in content)


def _joined(content: Any, key: str) -> Any:
    """A content in parts as one; only text can be trained on."""
    if not isinstance(content, list):
        return content
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    if not all(isinstance(part, str) for part in parts):
        raise BadRow("wrong type", f"{key}: a content with parts that are not text")
    return "".join(str(part) for part in parts)


# ---- tools ----


def tool_calls(calls: Any) -> list[dict[str, Any]]:
    """Calls in OpenAI's form, from it or from ShareGPT's: one call or a list, as objects or as JSON text."""
    if isinstance(calls, str):
        calls = literal(calls, "function_call")
    found = []
    for call in calls if isinstance(calls, list | tuple) else [calls]:
        function = (call.get("function") or call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise BadRow("broken tool call", "expected a name and arguments")
        arguments = function.get("arguments", function.get("parameters"))
        if isinstance(arguments, str):  # OpenAI writes them as JSON text
            arguments = literal(arguments.strip() or "{}", "arguments")
        arguments = {} if arguments is None else arguments
        if not isinstance(arguments, dict):
            raise BadRow("broken tool call", f"arguments are {type_name(arguments)}, expected an object")
        name = text_of(function["name"], "function_call")
        found.append({"type": "function", "function": {"name": name, "arguments": plain(arguments, "arguments")}})
    if not found:
        raise BadRow("broken tool call", "expected a name and arguments")
    return found


def tool_descriptions(tools: Any) -> list[dict[str, Any]]:
    """Descriptions of tools in OpenAI's form: from a list, or a list as JSON text, of functions wrapped or bare.

    Programs that call the model over the OpenAI API send the wrapped form, so that is what it is trained on.
    """
    if isinstance(tools, str):
        tools = literal(tools.strip() or "[]", "tools")
    if not tools:
        return []
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow("wrong type", "tools is not a list of objects")
    wrapped = [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]
    return plain(wrapped, "tools")


# ---- values ----


def text_of(value: Any, key: str) -> str:
    """A text without the white space around it; BadRow for another type, or text that no file can hold."""
    return exact_text(value, key).strip()


def exact_text(value: Any, key: str) -> str:
    """A text as it is; BadRow for another type, or text that no file can hold."""
    if not isinstance(value, str):
        raise BadRow("wrong type", f"{key} is {type_name(value)}, expected text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow("not Unicode text", f"{key} holds half a surrogate pair at {error.start}") from error
    return value


def literal(text: str, key: str) -> Any:
    """A value written as JSON or as a Python literal. It is read, never run."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if len(text) > _MAX_LITERAL_CHARS:
            raise BadRow("broken JSON inside a field", f"{key}, {len(text)} characters") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unknown escapes such as "\d" in somebody's text
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise BadRow("broken JSON inside a field", key) from error


def plain(value: Any, key: str) -> Any:
    """The same value as JSON would give it back; a Python literal may hold sets, bytes and tuples.

    BadRow for what JSON cannot hold, and for values nested too deeply.
    """
    try:
        text = json.dumps(value, ensure_ascii=False)
        text.encode("utf-8")
        made = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow("broken JSON inside a field", key) from error
    if nested_too_deeply(made, text):  # JSON inside of a row's text is as bounded as the row itself
        raise BadRow("nested too deeply", key)
    return made


def type_name(value: Any) -> str:
    """What to call a value's type to people who know JSON."""
    names = {dict: "an object", list: "a list", tuple: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
