"""The proof that the test questions are new: no held-out wording occurs in anything a model trains on."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

from dataset.little_world.relation import LANGUAGES, SLOT
from dataset.little_world.world import IDENTITY, RELATIONS

# A slot's longest text, normalised ("thefirstvoyagearoundtheworld"...), with room to spare, in letters of Latin script
# and in characters; of a number, in words too.
LONGEST_SLOT, LONGEST_CHINESE_SLOT, LONGEST_NUMBER = 60, 20, 8
RUN = 6  # normalised characters in a row that are looked up at once
_NUMBER_SLOTS = ("{a}", "{b}")
_SEPARATORS = re.compile(r"[\W_]+")


class LeakError(AssertionError):
    """A held-out wording or a test question occurs in a training file: a fault of the tables, not of a user."""


def normalise(text: str) -> str:
    """Letters and digits only, NFKC, case folded: what is left when spacing, punctuation and case do not count."""
    return _SEPARATORS.sub("", unicodedata.normalize("NFKC", text).casefold())


def held_out_wordings() -> list[str]:
    """All held-out wordings, of relations and of the identity set."""
    return [
        wording
        for relation in RELATIONS + IDENTITY
        for language in LANGUAGES
        for wording in relation.wordings(language).held_out
    ]


def wording_pattern(wording: str) -> re.Pattern[str]:
    """A pattern for a wording with its slots emptied, whatever stands in them, in normalised text.

    Slots at the ends are left out: "{x}的首都在哪" then matches wherever "的首都在哪" stands.
    """
    longest = LONGEST_SLOT if wording.isascii() else LONGEST_CHINESE_SLOT
    pattern = gap = ""
    for piece, slot in zip_longest(SLOT.split(wording), SLOT.findall(wording)):
        if text := normalise(piece):
            pattern += (gap if pattern else "") + re.escape(text)
            gap = ""
        if slot:
            gap += f".{{0,{LONGEST_NUMBER if slot in _NUMBER_SLOTS else longest}}}"
    return re.compile(pattern)


def training_strings(name: str, content: str) -> Iterator[str]:
    """All strings of a training file: JSON values, CSV cells or lines of plain text."""
    if name.endswith(".jsonl"):
        for line in content.splitlines():
            yield from _json_strings(json.loads(line))
    elif name.endswith(".json"):
        yield from _json_strings(json.loads(content))
    elif name.endswith(".csv"):
        for row in csv.reader(io.StringIO(content)):
            yield from row
    else:
        yield from content.split("\n")


def find_leaks(training_files: Mapping[str, str], test_questions: Iterable[str]) -> list[str]:
    """What leaked, one line each: held-out wordings and test questions that occur in the training files."""
    strings = {text for name, content in training_files.items() for text in training_strings(name, content)}
    # Normalised strings hold no line break, so that one never reads as the continuation of another.
    everything = "\n".join(sorted({normalise(text) for text in strings}))
    # Looked up at once, where a search would read everything: most wordings have letters in a row that never occur.
    runs = {everything[start : start + RUN] for start in range(len(everything) - RUN + 1)}

    def may_occur(text: str) -> bool:
        return all(text[start : start + RUN] in runs for start in range(len(text) - RUN + 1))

    leaks = []
    for wording in held_out_wordings():
        pieces = map(normalise, SLOT.split(wording))
        if all(map(may_occur, pieces)) and wording_pattern(wording).search(everything):
            leaks.append(f"held-out wording: {wording}")
    for question in test_questions:
        text = normalise(question)
        if may_occur(text) and text in everything:
            leaks.append(f"test question: {question}")
    return leaks


def check_leaks(training_files: Mapping[str, str], test_questions: Iterable[str]) -> None:
    """Raise LeakError if anything of the test occurs in the training files."""
    leaks = find_leaks(training_files, test_questions)
    if leaks:
        raise LeakError(f"{len(leaks)} leaks from the test into the training files:\n" + "\n".join(leaks[:20]))


def _json_strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _json_strings(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _json_strings(item)
