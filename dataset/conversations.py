"""Conversations as people have them → one internal form.

Whatever came in, a conversation leaves as `{"messages": [{"role", "content"}, ...]}` with the roles system,
user, assistant and tool, plus `tools` where it has any; a preference row as the same with `chosen` and
`rejected`, one assistant message each. The outer white space of every content is stripped. Recognised are

    OpenAI      messages: [{role, content, tool_calls?}], tools? ShareGPT    conversations: [{from, value}],
    system?, tools? Alpaca      instruction, input?, output, system?, history? q and a     q, a, history?,
    system? preference  chosen and rejected (text, one message, or a whole conversation each) with prompt or
    conversations

A row that is none of these, or cannot be trained on, raises `BadRow` with a reason to count.
"""

import ast
import json
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]
Conversation = dict[str, Any]

# What the public sets call the four speakers.
ROLES = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "yayi": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
# Who may speak after whom; None is the beginning.
_MAY_FOLLOW: dict[str | None, set[str]] = {
    None: {"system", "user"},
    "system": {"user"},
    "user": {"assistant"},
    "assistant": {"user", "tool"},
    "tool": {"tool", "assistant"},
}
_MAX_LITERAL_CHARS = 1 << 20  # Python's own parser must not meet a megabyte of brackets


class BadRow(Exception):
    """A row that is left out: a short reason, the same for all of its kind, and what was found here."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def to_text(row: dict[str, Any], text_key: str = "text") -> str:
    """The document in a row of pretraining text; BadRow when the key is missing or holds something else."""
    if text_key not in row:
        raise BadRow(f"no field {text_key!r}", f"found {_names(row)}; name the right one with --text_key")
    return _text(row[text_key], text_key)


def to_conversation(row: dict[str, Any]) -> Conversation:
    """A row of any known form as `{"messages": [...], "tools"?: [...]}`; BadRow when it cannot be trained."""
    for keys, convert in _FORMS:
        if keys <= row.keys():
            messages = convert(row)
            break
    else:
        raise BadRow("not a conversation", f"found {_names(row)}")
    conversation: Conversation = {"messages": _checked(_with_system(messages, row))}
    tools = _tools(row.get("tools"))
    if tools:
        conversation["tools"] = tools
    if not any(message["role"] == "assistant" for message in messages):
        raise BadRow("no assistant turn")
    return conversation


def to_preference(row: dict[str, Any]) -> Conversation:
    """A preference row as `{"messages": prompt, "chosen": message, "rejected": message, "tools"?: [...]}`."""
    if not {"chosen", "rejected"} <= row.keys():
        raise BadRow("not a preference pair", f"found {_names(row)}")
    chosen, rejected = _answer(row["chosen"], "chosen"), _answer(row["rejected"], "rejected")
    if "conversations" in row or "messages" in row:
        key = "conversations" if "conversations" in row else "messages"
        prompt = _turns(row[key], key)
    elif isinstance(row.get("prompt"), list):
        prompt = _turns(row["prompt"], "prompt")
    elif len(chosen) > 1:  # whole conversations that differ in their last message
        prompt = chosen[:-1]
    elif "prompt" in row or "instruction" in row or "q" in row:
        prompt = [*_history(row), _user(_question(row))]
    else:
        raise BadRow("not a preference pair", f"no prompt; found {_names(row)}")
    for answer in (chosen, rejected):
        if len(answer) > 1 and answer[:-1] != prompt:
            raise BadRow("chosen and rejected answer different prompts")
    pair: Conversation = {
        "messages": _with_system(prompt, row),
        "chosen": chosen[-1],
        "rejected": rejected[-1],
    }
    for side in ("chosen", "rejected"):
        _checked([*pair["messages"], pair[side]])
        if pair[side]["role"] != "assistant":
            raise BadRow("wrong role order", f"{side} is said by {pair[side]['role']}")
    if pair["chosen"] == pair["rejected"]:
        raise BadRow("chosen equals rejected")
    tools = _tools(row.get("tools"))
    return {**pair, "tools": tools} if tools else pair


def contents(conversation: Conversation) -> str:
    """All that is said in it, for rules on length."""
    messages = [
        *conversation["messages"],
        *(conversation[k] for k in ("chosen", "rejected") if k in conversation),
    ]
    return "\n".join(message["content"] for message in messages)


# ---- the forms ----


def _alpaca(row: dict[str, Any]) -> list[Message]:
    return [*_history(row), _user(_question(row)), _assistant(_text(row["output"], "output"))]


def _question_answer(row: dict[str, Any]) -> list[Message]:
    return [*_history(row), _user(_question(row)), _assistant(_text(row["a"], "a"))]


def _sharegpt(row: dict[str, Any]) -> list[Message]:
    return _turns(row["conversations"], "conversations")


def _openai(row: dict[str, Any]) -> list[Message]:
    return _turns(row["messages"], "messages")


_FORMS: list[tuple[set[str], Callable[[dict[str, Any]], list[Message]]]] = [
    ({"messages"}, _openai),
    ({"conversations"}, _sharegpt),
    ({"instruction", "output"}, _alpaca),
    ({"q", "a"}, _question_answer),
]


def _question(row: dict[str, Any]) -> str:
    """The user's words: `instruction` with its `input` below, or `prompt`, or `q`."""
    key = next(key for key in ("instruction", "prompt", "q") if key in row)
    question = _text(row[key], key)
    extra = _text(row.get("input") or "", "input")
    return f"{question}\n{extra}" if question and extra else question or extra


def _history(row: dict[str, Any]) -> list[Message]:
    """Earlier turns, `[[question, answer], ...]`; old CSV files hold them as text, in JSON or in Python."""
    history = row.get("history") or []
    if isinstance(history, str):
        history = _literal(history.strip() or "[]", "history")
    messages = []
    if not isinstance(history, list):
        raise BadRow("wrong type", f"history is {_type(history)}, expected a list of pairs")
    for turn in history:
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            raise BadRow("wrong type", "history holds something else than [question, answer]")
        messages += [_user(_text(turn[0], "history")), _assistant(_text(turn[1], "history"))]
    return messages


def _turns(turns: Any, key: str) -> list[Message]:
    """A list of messages with `role` and `content`, or with `from` and `value`."""
    if isinstance(turns, str):
        turns = _literal(turns, key)
    if not isinstance(turns, list):
        raise BadRow("wrong type", f"{key} is {_type(turns)}, expected a list of messages")
    return [_message(turn, key) for turn in turns]


def _message(turn: Any, key: str) -> Message:
    if not isinstance(turn, dict):
        raise BadRow("wrong type", f"{key} holds {_type(turn)}, expected messages")
    name = turn.get("role", turn.get("from"))
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise BadRow("unknown role", f"{key}: {name!r}")
    content = turn.get("content", turn.get("value"))
    if name == "function_call":
        return {"role": role, "content": "", "tool_calls": _function_calls(content)}
    if isinstance(content, list):  # OpenAI's parts; only text can be trained on
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise BadRow("wrong type", f"{key}: a content with parts that are not text")
        content = "".join(str(part) for part in parts)
    calls = turn.get("tool_calls")
    message: Message = {"role": role, "content": _text("" if content is None and calls else content, key)}
    if role == "assistant" and calls:
        message["tool_calls"] = _function_calls(calls)
    if role == "assistant" and turn.get("reasoning_content"):
        message["reasoning_content"] = _text(turn["reasoning_content"], "reasoning_content")
    return message


def _function_calls(calls: Any) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's form, from it or from ShareGPT's JSON text."""
    if isinstance(calls, str):
        calls = _literal(calls, "function_call")
    found = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow("broken tool call", "expected a name and arguments")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):  # OpenAI writes them as JSON text
            arguments = _literal(arguments or "{}", "arguments")
        found.append({"type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return found


def _tools(tools: Any) -> list[dict[str, Any]]:
    """Descriptions of tools: a list, or a list as JSON text."""
    if isinstance(tools, str):
        tools = _literal(tools.strip() or "[]", "tools")
    if not tools:
        return []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow("wrong type", "tools is not a list of objects")
    return tools


def _answer(value: Any, key: str) -> list[Message]:
    """One side of a preference pair: its messages, the answer last."""
    if isinstance(value, str):
        return [_assistant(_text(value, key))]
    messages = _turns(value if isinstance(value, list) else [value], key)
    if not messages:
        raise BadRow("empty content", key)
    return messages


# ---- what all forms share ----


def _with_system(messages: list[Message], row: dict[str, Any]) -> list[Message]:
    """A `system` field goes in front, unless it is empty or the conversation opens with one of its own."""
    if messages and messages[0]["role"] == "system":
        return messages if messages[0]["content"] else messages[1:]
    system = _text(row.get("system") or "", "system")
    return [{"role": "system", "content": system}, *messages] if system else messages


def _checked(messages: list[Message]) -> list[Message]:
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
    return messages


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise BadRow("wrong type", f"{key} is {_type(value)}, expected text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow("not Unicode text", f"{key} holds half a surrogate pair at {error.start}") from error
    return value.strip()


def _literal(text: str, key: str) -> Any:
    """A value written as JSON or as a Python literal. It is read, never run."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if len(text) > _MAX_LITERAL_CHARS:
            raise BadRow("broken JSON inside a field", key) from None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise BadRow("broken JSON inside a field", key) from error


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _names(row: dict[str, Any]) -> str:
    return ", ".join(sorted(str(key)[:40] for key in row)[:12]) or "no field at all"
