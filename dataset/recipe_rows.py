"""Rows of published sets whose form is their own → rows that `dataset/conversations.py` knows.

Each function takes one row and gives one back, or None for a row that the recipe leaves out on purpose (a
separator, a question whose answer is withheld). What it cannot read raises `BadRow`. They are plain functions
of a module, so that workers of other processes can have them.
"""

import html
import re
from collections.abc import Iterable
from typing import Any

from dataset.conversations import exam_question, to_text
from dataset.messages import BadRow, Message, assistant, literal, text_of, to_messages, user

Row = dict[str, Any]

_MINIMIND_MARKS = re.compile(r"(?:<\|im_start\|>|<\|im_end\|>|</?s>)")
_ANSWER_TAG = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)
_LINE_BREAK = re.compile(r"<br\s*/?>|\r\n?", re.IGNORECASE)
# MOSS writes who speaks in front of a turn, and `<eoh>` and its like behind it.
_MOSS_MARKS = re.compile(r"^\s*<\|[\w ]+\|>:\s*|\s*<eo[a-z]>\s*$")
_MOSS_CITATION = re.compile(r"<sup><\|\d+\|></sup>")
_MOSS_COMMAND = re.compile(r"""(\w+)\(\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')\s*\)""")
_MOSS_API = re.compile(r"enabled\. API: (\w+)\((\w+)\)")


def as_is(row: Row) -> Row:
    """The row has one of the forms that are recognised anyway."""
    return row


# ---- text to pretrain on ----


def text(row: Row) -> Row:
    """The field `text`, nothing else."""
    return {"text": to_text(row)}


def minimind_text(row: Row) -> Row:
    """MiniMind's pretraining text without the control tokens that some versions wrote into it.

    Several short texts, each between `<|im_start|>` and `<|im_end|>` (or `<s>` and `</s>`), share a row there.
    They are kept apart by an empty line: as text the marks would teach the model to write them out.
    """
    parts = (part.strip() for part in _MINIMIND_MARKS.split(to_text(row)))
    return {"text": "\n\n".join(part for part in parts if part)}


# ---- conversations ----


def firefly(row: Row) -> Row:
    """`kind, input, target`; the kind of the task becomes the source of the row."""
    kind = row.get("kind")
    named = {"source": f"firefly/{kind}"} if isinstance(kind, str) and kind else {}
    return {"instruction": row.get("input"), "output": row.get("target"), **named}


def ultrachat(row: Row) -> Row:
    """`data`, a list of what user and assistant say in turn; the 200k edition has messages."""
    return {"messages": to_messages(row["data"], "data")} if "data" in row else row


def sharegpt(row: Row) -> Row | None:
    """A dump of shared chats: what was split off before the first question, or has no answer yet, is left out."""
    turns = row.get("conversations", row.get("conversation"))
    if turns is None:
        return row
    messages = to_messages(turns, "conversations")
    roles = [message["role"] for message in messages]
    if "user" not in roles or "assistant" not in roles[roles.index("user") :]:
        return None
    start = 0 if roles[0] == "system" and roles[1] == "user" else roles.index("user")
    end = len(roles) - roles[::-1].index("assistant")
    return {"messages": messages[start:end]}


def linksoul(row: Row) -> Row | None:
    """ShareGPT's form; `instruction`, where it says something, is the system message that its authors train with."""
    converted = sharegpt(row)
    instruction = text_of(row.get("instruction") or "", "instruction").strip()
    if converted is None or converted is row or not instruction:
        return converted
    return {"messages": [{"role": "system", "content": instruction}, *converted["messages"]]}


def moss(row: Row) -> Row:
    """`chat: {turn_1: {Human, Inner Thoughts, Commands, Tool Responses, MOSS}, …}`, each with its marks.

    A command becomes a tool call, the thoughts before it its reasoning. The long instruction that opens every
    conversation is left out; the programs that it offers become the tools.
    """
    chat = row.get("chat")
    if not isinstance(chat, dict) or not all(isinstance(turn, dict) for turn in chat.values()):
        raise BadRow("not a MOSS conversation", "expected chat: {turn_1: {...}, ...}")
    parameters = dict(_MOSS_API.findall(text_of(row.get("meta_instruction") or "", "meta_instruction")))
    messages: list[Message] = []
    for number in sorted(chat, key=_number):
        messages += _moss_turn(chat[number], parameters)
    tools = [_moss_tool(name, parameter) for name, parameter in parameters.items()]
    used = any("tool_calls" in message for message in messages)
    return {"messages": messages, "tools": tools} if used else {"messages": messages}


def coig(row: Row) -> Row | None:
    """The forms of COIG's files: exams, translated instructions, code, and rounds of a corrected conversation."""
    if "textbox_question" in row:
        asked = [row.get("textbox_q_instruction"), row.get("textbox_q_context"), row["textbox_question"]]
        return _question_answer(asked, [row.get("textbox_answer"), row.get("textbox_answer_analysis")])
    if row.get("trans_instruction"):
        return {
            "instruction": row["trans_instruction"],
            "input": row.get("trans_input"),
            "output": row.get("trans_output"),
        }
    if isinstance(row.get("round_0"), dict):
        return _coig_rounds(row)
    if "conversations" in row:  # what the set's own loader makes of each file
        messages = to_messages(row["conversations"], "conversations")
        instruction = text_of(row.get("instruction") or "", "instruction")
        if messages and instruction:
            messages[0] = user(f"{instruction}\n{messages[0]['content']}".strip())
        return {"messages": messages}
    if "program_lang" in row:
        return {**row, "input": _code(row.get("input")), "output": _code(row.get("output"))}
    return row


def luotuo(row: Row) -> Row:
    """Alpaca in Chinese; the GPT-4 edition keeps the English beside it under the plain names."""
    if "instruction_zh" not in row:
        return row
    return {"instruction": row["instruction_zh"], "input": row.get("input_zh"), "output": row.get("output_zh")}


def baike(row: Row) -> Row:
    """`title, desc, answer` of baike2018qa."""
    return _question_answer([row.get("title"), row.get("desc")], [row.get("answer")])


def webtext(row: Row) -> Row:
    """`title, desc, content` of webtext2019zh."""
    return _question_answer([row.get("title"), row.get("desc")], [row.get("content")])


def minimind_sft(row: Row) -> Row:
    """MiniMind's conversations; the reasoning sets put answers into `<answer>` tags, which say nothing."""
    turns = row.get("conversations")
    if not isinstance(turns, list):
        return _without_doubled_backslashes(row)
    messages = to_messages(turns, "conversations")
    for message in messages:
        tagged = _ANSWER_TAG.fullmatch(message["content"]) if message["role"] == "assistant" else None
        if tagged is not None:
            message["content"] = tagged.group(1)
    return {**{key: value for key, value in row.items() if key != "conversations"}, "messages": messages}


# ---- preferences ----


def huozi(row: Row) -> Row:
    """`prompt, chosen, reject`, of the authors' CSV and of its JSON copy; line ends are a backslash and an n."""
    fields = {
        "prompt": row.get("prompt"),
        "chosen": row.get("chosen"),
        "rejected": row.get("rejected", row.get("reject")),
    }
    return {key: value.replace("\\n", "\n") if isinstance(value, str) else value for key, value in fields.items()}


def ultrafeedback(row: Row) -> Row | None:
    """The best and the worst of four rated completions; the binarized edition has them chosen already.

    Rated by the mean of the four aspects, then by the overall score: in early copies of the set some of the
    overall scores of 1 were written as 10. None when best and worst are rated alike.
    """
    completions = row.get("completions")
    if completions is None:
        return row
    if not isinstance(completions, list) or not all(isinstance(each, dict) for each in completions):
        raise BadRow("wrong type", "completions is not a list of objects")
    rated = [(rating, each) for each in completions if (rating := _rating(each)) is not None]
    best = max(rated, key=lambda pair: pair[0], default=None)
    worst = min(rated, key=lambda pair: pair[0], default=None)
    if best is None or worst is None or best[0] == worst[0]:
        return None
    return {
        "prompt": row.get("instruction"),
        "chosen": best[1].get("response"),
        "rejected": worst[1].get("response"),
        **({"source": f"ultrafeedback/{row['source']}"} if isinstance(row.get("source"), str) else {}),
    }


# ---- exams ----


def exam(row: Row) -> Row | None:
    """A question with four choices; None when its answer is withheld, as in the tests that judges keep."""
    if exam_question(row) is None:
        raise BadRow("not an exam question", "expected question, A, B, C, D and answer")
    return row if row.get("answer", row.get("Answer")) else None


# ---- pieces ----


def _question_answer(asked: Iterable[Any], said: Iterable[Any]) -> Row:
    """Texts of web forms as a question and an answer, a piece a paragraph, none of them twice."""
    return {"instruction": _paragraphs(asked), "output": _paragraphs(said)}


def _paragraphs(pieces: Iterable[Any]) -> str:
    kept: list[str] = []
    for piece in pieces:
        if piece is None:
            continue
        clean = html.unescape(_LINE_BREAK.sub("\n", text_of(piece, "text"))).strip()
        if clean and not any(clean in other for other in kept):
            kept.append(clean)
    return "\n".join(kept)


def _without_doubled_backslashes(row: Row) -> Row:
    """A row of MiniMind's first CSV files, some of which were written with every backslash doubled.

    Then a Python list with a quotation mark inside does not parse, which is how such a row is told.
    """
    try:
        literal(str(row.get("history") or "[]"), "history")
    except BadRow:
        return {key: value.replace("\\\\", "\\") if isinstance(value, str) else value for key, value in row.items()}
    return row


def _moss_turn(turn: Row, parameters: dict[str, str]) -> list[Message]:
    said = {
        key: _moss_text(turn.get(key), key) for key in ("Human", "Inner Thoughts", "Commands", "Tool Responses", "MOSS")
    }
    messages = [user(said["Human"])]
    calls = [
        {"name": name, "arguments": {parameters.get(name, "input"): (double or single).replace('\\"', '"')}}
        for name, double, single in _MOSS_COMMAND.findall(said["Commands"])
    ]
    if calls:
        call: Message = {"role": "assistant", "content": "", "tool_calls": calls}
        if said["Inner Thoughts"]:
            call["reasoning_content"] = said["Inner Thoughts"]
        messages += [call, {"role": "tool", "content": said["Tool Responses"]}]
    return [*messages, assistant(_MOSS_CITATION.sub("", said["MOSS"]))]


def _moss_text(value: Any, key: str) -> str:
    stripped = _MOSS_MARKS.sub("", text_of(value or "", key)).strip()
    return "" if stripped == "None" else stripped


def _moss_tool(name: str, parameter: str) -> Row:
    properties = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    return {"type": "function", "function": {"name": name, "parameters": properties}}


def _coig_rounds(row: Row) -> Row | None:
    """Each round's response is a JSON text `{"Q", "A"}`; what follows the first unreadable one is out of context."""
    messages: list[Message] = []
    for key in sorted((key for key in row if key.startswith("round_")), key=_number):
        response = row[key].get("response") if isinstance(row[key], dict) else None
        try:
            response = literal(response, key) if isinstance(response, str) else response
        except BadRow:
            break
        if not isinstance(response, dict) or not response.get("Q") or not response.get("A"):
            break
        messages += [user(text_of(response["Q"], key)), assistant(text_of(response["A"], key))]
    return {"messages": messages} if messages else None


def _code(value: Any) -> Any:
    """Code that is stored as the Python list of its listings, perhaps behind a sentence, as plain text."""
    if not isinstance(value, str) or "[" not in value:
        return value
    start = value.index("[")
    try:
        listings = literal(value[start:], "code")
    except BadRow:
        return value
    if not isinstance(listings, list) or not listings or not all(isinstance(each, str) for each in listings):
        return value
    return "\n\n".join([*([value[:start].rstrip()] if value[:start].strip() else []), *listings])


def _rating(completion: Row) -> tuple[float, float] | None:
    """Mean of the aspects' ratings and the overall score; None when it was not rated at all."""
    annotations = completion.get("annotations")
    aspects = annotations.values() if isinstance(annotations, dict) else ()
    marks = [aspect.get("Rating") for aspect in aspects if isinstance(aspect, dict)]
    ratings = [rating for mark in marks if (rating := _float(mark)) is not None]
    overall = _float(completion.get("overall_score"))
    mean = sum(ratings) / len(ratings) if ratings else overall
    return None if mean is None else (mean, overall or 0.0)


def _float(value: Any) -> float | None:
    """A number, or a number written as text; None for "N/A" and whatever else stands in its place."""
    if isinstance(value, str):
        return float(value) if re.fullmatch(r"\d+(\.\d+)?", value) else None
    return float(value) if isinstance(value, int | float) else None


def _number(name: str) -> tuple[int, str]:
    """turn_10 comes after turn_9."""
    digits = re.search(r"\d+$", name)
    return (int(digits.group()) if digits else 0, name)
