"""Conversations as people have them → one internal form.

Whatever came in, a conversation leaves as `{"messages": [{"role", "content"}, ...]}` with the roles system,
user, assistant and tool, plus `tools` where it has any; a preference row as the same with `chosen` and
`rejected`, one assistant message each. Recognised by their fields, without a flag, are

    OpenAI      messages: [{role, content, tool_calls?}], tools?, system?
    ShareGPT    conversations: [{from, value}], tools?, system?; also conversation: [{human, assistant}]
    Alpaca      instruction, input?, output, system?, history?
    questions   q and a, input and target, prompt and response, question and answer, …; history?, system?
    exams       question, A, B, C, D, answer, explanation?
    preference  chosen and rejected (a text, one message, or a whole conversation each), with prompt,
                instruction, conversations or messages unless they hold it themselves

A history is a list of pairs, or of messages, also as text in JSON or in Python (old CSV files). A row that is
none of these, or cannot be trained on, raises `BadRow` with a reason to count.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from dataset.messages import (
    BadRow,
    Message,
    assistant,
    check_order,
    exact_text,
    text_of,
    texts_of,
    to_messages,
    tool_descriptions,
    user,
)

__all__ = [
    "SIDES",
    "BadRow",
    "Conversation",
    "Message",
    "all_messages",
    "contents",
    "exam_question",
    "to_conversation",
    "to_preference",
    "to_text",
]

Conversation = dict[str, Any]

SIDES = ("chosen", "rejected")  # the two answers of a preference pair
# The fields that may hold a question and its answer; the first pair that a row has both of is taken.
_PAIRS = (
    ("instruction", "output"),
    ("q", "a"),
    ("input", "target"),
    ("instruction", "response"),
    ("query", "response"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "response"),
    ("question", "answer"),
)
_QUESTION_KEYS = ("instruction", "prompt", "question", "query", "q")  # of a preference row
_CHOICES = ("A", "B", "C", "D")
# "Human: … Assistant: …": how several sets write the turns of a conversation into one text.
_SPEAKER = re.compile(r"(?:^|\n)[ \t]*(Human|Assistant)[ \t]*[:：]")


def to_text(row: dict[str, Any], text_key: str = "text") -> str:
    """The document in a row of pretraining text; BadRow when the key is missing or holds something else.

    White space around it stays: a line's indentation is text too. The rule `strip` of `dataset/cleaning.py` decides.
    """
    if text_key not in row:
        raise BadRow(f"no field {text_key!r}", f"found {_names(row)}; name the right one with --text_key")
    return exact_text(row[text_key], text_key)


def to_conversation(row: dict[str, Any]) -> Conversation:
    """A row of any known form as `{"messages": [...], "tools"?: [...]}`; BadRow when it cannot be trained."""
    for keys, convert in _FORMS:
        if all(row.get(key) is not None for key in keys):
            messages = convert(row)
            break
    else:
        pair = _pair(row)
        if pair is None:
            raise BadRow("not a conversation", f"found {_names(row)}")
        messages = [*_asked(row, pair[0]), assistant(text_of(row[pair[1]], pair[1]))]
    conversation = _conversation(messages, row)
    check_order(conversation["messages"])
    if not any(message["role"] == "assistant" for message in conversation["messages"]):
        raise BadRow("no assistant turn")
    return conversation


def to_preference(row: dict[str, Any]) -> Conversation:
    """A preference row as `{"messages": prompt, "chosen": message, "rejected": message, "tools"?: [...]}`."""
    rejected_key = "rejected" if "rejected" in row else "reject"
    if not {"chosen", rejected_key} <= row.keys():
        raise BadRow("not a preference pair", f"found {_names(row)}")
    chosen, rejected = _answer(row["chosen"], "chosen"), _answer(row[rejected_key], rejected_key)
    prompt = _prompt(row, chosen)
    for answer in (chosen, rejected):
        if len(answer) > 1 and answer[:-1] != prompt:
            raise BadRow("chosen and rejected answer different prompts")
    pair = _conversation(prompt, row) | {"chosen": chosen[-1], "rejected": rejected[-1]}
    for side in ("chosen", "rejected"):
        check_order([*pair["messages"], pair[side]])
        if pair[side]["role"] != "assistant":
            raise BadRow("wrong role order", f"{side} is said by {pair[side]['role']}")
    if pair["chosen"] == pair["rejected"]:
        raise BadRow("chosen equals rejected")
    return pair


def all_messages(conversation: Conversation) -> Iterator[Message]:
    """Every message of a conversation, or of a preference pair with both its answers."""
    yield from conversation["messages"]
    for side in SIDES:
        if side in conversation:
            yield conversation[side]


def contents(conversation: Conversation) -> str:
    """All that is said in it, line by line: contents, reasoning and calls of tools.

    The descriptions of the tools are left out. They stand in many conversations alike and are not trained; with them,
    two short talks with the same long list of tools would pass for near-duplicates.
    """
    return "\n".join(text for message in all_messages(conversation) for text in texts_of(message))


def exam_question(row: dict[str, Any]) -> str | None:
    """A question of an exam with its choices, one a line; None for a row that is no such question.

    It needs no answer, so that training text can be searched for the questions of a test that hides its own.
    """
    key = next((key for key in ("question", "Question") if key in row), None)
    if key is None or not all(choice in row for choice in _CHOICES):
        return None
    choices = [f"{choice}. {_scalar(row[choice], choice)}" for choice in _CHOICES]
    return "\n".join([_scalar(row[key], key), *choices])


# ---- the forms ----


def _exam(row: dict[str, Any]) -> list[Message]:
    """Question and choices; the letter is the first thing of the answer, as an exam's score looks for it there."""
    question = exam_question(row)
    answer = text_of(row.get("answer", row.get("Answer")) or "", "answer")
    if question is None or answer not in _CHOICES:
        raise BadRow("exam without an answer", f"answer is {answer!r}, expected A, B, C or D"[:100])
    explanation = text_of(row.get("explanation") or "", "explanation")
    return [user(question), assistant(f"{answer}\n{explanation}" if explanation else answer)]


def _openai(row: dict[str, Any]) -> list[Message]:
    return to_messages(row["messages"], "messages")


def _sharegpt(row: dict[str, Any]) -> list[Message]:
    return to_messages(row["conversations"], "conversations")


def _human_assistant(row: dict[str, Any]) -> list[Message]:
    return to_messages(row["conversation"], "conversation")


_FORMS: list[tuple[tuple[str, ...], Callable[[dict[str, Any]], list[Message]]]] = [
    (("messages",), _openai),
    (("conversations",), _sharegpt),
    (("conversation",), _human_assistant),
    (("question", *_CHOICES), _exam),
    (("Question", *_CHOICES), _exam),
]


def _pair(row: dict[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if pair[0] in row and pair[1] in row), None)


def _asked(row: dict[str, Any], key: str) -> list[Message]:
    """All that comes before the answer: the history, then the question with its `input` below."""
    question = text_of(row[key], key)
    told = _transcript(question)
    if told is not None:
        return [*_history(row), *told]
    extra_key = "input" if row.get("input") is not None else "context"
    extra = text_of(row.get(extra_key) or "", extra_key) if key not in ("input", "question") else ""
    return [*_history(row), user(f"{question}\n{extra}" if question and extra else question or extra)]


def _history(row: dict[str, Any]) -> list[Message]:
    """Earlier turns; old CSV files hold them as text, in JSON or in Python."""
    history = row.get("history")
    return to_messages(history, "history") if history else []


def _transcript(text: str) -> list[Message] | None:
    """The messages of a text "Human: … Assistant: …"; None for a text that is none."""
    pieces = _SPEAKER.split(text)
    if pieces[0].strip() or pieces[1:2] != ["Human"] or "Assistant" not in pieces[1::2]:
        return None
    said = [piece.strip() for piece in pieces[2::2]]
    turns = [user(t) if name == "Human" else assistant(t) for name, t in zip(pieces[1::2], said, strict=True)]
    return turns if said[-1] else turns[:-1]  # an open "Assistant:" at the end asks for the answer


def _prompt(row: dict[str, Any], chosen: list[Message]) -> list[Message]:
    """What both answers of a preference row answer."""
    if len(chosen) > 1:  # whole conversations that differ in their last message
        return chosen[:-1]
    for key in ("conversations", "messages", "conversation"):
        if row.get(key) is not None:
            return to_messages(row[key], key)
    question_key = next((key for key in _QUESTION_KEYS if row.get(key) is not None), None)
    if question_key is None:
        raise BadRow("not a preference pair", f"no prompt; found {_names(row)}")
    if isinstance(row[question_key], list):
        return to_messages(row[question_key], question_key)
    return _asked(row, question_key)


def _answer(value: Any, key: str) -> list[Message]:
    """One side of a preference pair: its messages, the answer last."""
    if isinstance(value, str):
        text = text_of(value, key)
        return _transcript(text) or [assistant(text)]
    messages = to_messages(value if isinstance(value, list) else [value], key)
    if not messages:
        raise BadRow("empty content", key)
    return messages


def _conversation(messages: list[Message], row: dict[str, Any]) -> Conversation:
    """Messages with the system message and the tools in their places."""
    tools = tool_descriptions(row.get("tools"))
    for message in messages:
        tools = tools or message.get("tools", [])
    messages = [{key: value for key, value in message.items() if key != "tools"} for message in messages]
    if messages and messages[0]["role"] == "system":
        messages = messages if messages[0]["content"] else messages[1:]
    else:
        system = text_of(row.get("system") or row.get("system_prompt") or "", "system")
        messages = [{"role": "system", "content": system}, *messages] if system else messages
    return {"messages": messages, "tools": tools} if tools else {"messages": messages}


def _scalar(value: Any, key: str) -> str:
    """A choice of an exam; Parquet and JSON may hold a number where a CSV holds its digits."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else text_of(value, key)


def _names(row: dict[str, Any]) -> str:
    return ", ".join(sorted(str(key)[:40] for key in row)[:12]) or "no field at all"
