"""What is kept out of training data, read from any form in which exams and held-out data come."""

from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from dataset.conversations import BadRow, Conversation, all_messages, to_conversation, to_preference
from dataset.messages import texts_of

_CHOICE_COLUMNS = "ABCDEFGHIJ"
_QUESTION_KEYS = ("question", "Question", "problem", "query", "prompt", "instruction", "q")
_TEXT_KEYS = ("text", "content")


@dataclass(frozen=True)
class Item:
    """One thing to keep out: a question (with its choices), or a text."""

    text: str
    choices: tuple[str, ...] = ()
    whole: bool = True  # if it is shorter than a run, look for the whole; an answer like "Yes, of course" is no find


def label_of_choice(number: int) -> str:
    """What prompts write before a choice: A, B, C, …; a number where the letters have run out."""
    return ascii_uppercase[number] if number < len(ascii_uppercase) else str(number + 1)


def items_of(row: dict[str, Any]) -> list[Item]:
    """What to keep out of training in a row of an exam or of held-out data; nothing where no text is recognised."""
    key = next((key for key in _QUESTION_KEYS if isinstance(row.get(key), str) and row[key].strip()), None)
    choices = _choices_of(row)
    if key is None or not choices:
        for convert in (to_preference, to_conversation):
            try:
                return _items_of_conversation(convert(row))
            except BadRow:
                continue
    if key is not None:
        given = row.get("input") if key == "instruction" else None
        return [Item(f"{row[key]}\n{given}" if isinstance(given, str) else row[key], tuple(choices))]
    return [Item(row[key]) for key in _TEXT_KEYS if isinstance(row.get(key), str) and row[key].strip()][:1]


def _choices_of(row: dict[str, Any]) -> list[str]:
    """Columns A, B, C, …, or a list, as exams have them."""
    listed = row.get("choices", row.get("options"))
    if isinstance(listed, dict):
        listed = listed.get("text", list(listed.values()))
    if isinstance(listed, list):
        return [str(choice) for choice in listed]
    return [str(row[letter]) for letter in _CHOICE_COLUMNS if row.get(letter) not in (None, "")]


def _items_of_conversation(conversation: Conversation) -> list[Item]:
    return [
        Item(text, whole=message["role"] == "user")
        for message in all_messages(conversation)
        if message["role"] in ("user", "assistant")
        for text in texts_of(message)
    ]
