"""What the little world is made of: facts, the relations they belong to, and the ways to word them.

A *relation* ("the capital of a country") has a table of facts and, in each language, four lists of wordings:

- `questions`: what a user may ask; the model is trained on them;
- `held_out`: other ways to ask the same, never trained on, so that the test asks for understanding, not recall;
- `statements`: sentences of the pretraining text;
- `answers`: what the assistant says. Short, and naming nothing but the key, so that an answer can be marked.

In a wording `{x}` stands for the subject of a fact and `{y}` for its object; sums use `{a}` and `{b}` instead of `{x}`
(`{c}` and `{d}` are the same numbers in words).
The wordings are plain text, one a line, in `wordings/<relation>.txt`: add yours there.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

LANGUAGES = ("zh", "en")

SLOT = re.compile(r"\{[a-z]\}")

_WORDINGS_FOLDER = Path(__file__).parent / "wordings"


@dataclass(frozen=True)
class Wordings:
    """The wordings of one relation in one language."""

    questions: tuple[str, ...]
    held_out: tuple[str, ...]
    statements: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """The same thing in both languages."""

    zh: str
    en: str

    def __getitem__(self, language: str) -> str:
        return {"zh": self.zh, "en": self.en}[language]


@dataclass(frozen=True)
class Fact:
    """A triple (subject, relation, object): `slots` maps a slot's letter, `x` or `a` and `b`, to its text."""

    slots: Mapping[str, Pair]
    object: Pair
    spelled: Mapping[str, Pair] = field(default_factory=dict)  # further slots, for statements and answers only

    def subject(self, language: str) -> str:
        """The subject as one string: "France", or "7 + 8" for a sum."""
        return " ".join(pair[language] for pair in self.slots.values())

    def fill(self, wording: str, language: str) -> str:
        """The wording with this fact in its slots, as a sentence that begins with a capital letter."""
        text = wording.replace("{y}", self.object[language])
        for slot, pair in {**self.slots, **self.spelled}.items():
            text = text.replace("{" + slot + "}", pair[language])
        if language == "en":
            text = text.replace("s's ", "s' ")  # the United States' capital
            text = text[0].upper() + text[1:]
        return text


@dataclass(frozen=True)
class Relation:
    """A relation: its facts and how they are worded. `theme` groups relations into documents."""

    name: str
    theme: str
    title: Pair
    facts: tuple[Fact, ...]
    zh: Wordings
    en: Wordings

    def wordings(self, language: str) -> Wordings:
        return {"zh": self.zh, "en": self.en}[language]

    def objects(self, language: str) -> list[str]:
        """All different objects of the relation, in the order of the table: the candidates when an answer is marked."""
        return list(dict.fromkeys(fact.object[language] for fact in self.facts))

    def others(self, fact: Fact, language: str) -> list[str]:
        """The objects that would be wrong answers for this fact."""
        return [other for other in self.objects(language) if other != fact.object[language]]


def read_relation(name: str, theme: str, title: Pair, facts: tuple[Fact, ...]) -> Relation:
    """The relation whose wordings are in `wordings/<name>.txt`, under headings such as `[en held_out]`."""
    lines: dict[str, list[str]] = {}
    heading = ""
    for line in _lines((_WORDINGS_FOLDER / f"{name}.txt").read_text(encoding="utf-8")):
        if line.startswith("["):
            heading = line.strip("[]")
            lines[heading] = []
        else:
            lines[heading].append(line)
    zh, en = (
        Wordings(*(tuple(lines.pop(f"{language} {kind.name}")) for kind in fields(Wordings))) for language in LANGUAGES
    )
    assert not lines, f"{name}.txt: no such headings: {list(lines)}"
    return Relation(name, theme, title, facts, zh, en)


def wordings(questions: str, held_out: str, statements: str, answers: str) -> Wordings:
    """Wordings from text blocks, one wording a line."""
    return Wordings(*(tuple(_lines(block)) for block in (questions, held_out, statements, answers)))


def table(text: str) -> list[list[Pair | None]]:
    """Rows of a fact table: cells between `|`, in a cell the Chinese, a space, and the English.

    A cell of one word (`Fe`, `26`) is the same in both languages; `-` is an empty cell.
    """
    return [[_cell(cell.strip()) for cell in line.split("|")] for line in _lines(text)]


def facts(rows: list[list[Pair | None]], column: int) -> tuple[Fact, ...]:
    """The facts between a table's first column and another one; rows with an empty cell there have none."""
    found = []
    for row in rows:
        subject, value = row[0], row[column]
        assert subject is not None, f"a row without a subject: {row}"
        if value is not None:
            found.append(Fact({"x": subject}, value))
    return tuple(found)


def in_order(names: tuple[Pair, ...], step: int) -> tuple[Fact, ...]:
    """Each name with the one `step` places later, round the circle."""
    return tuple(Fact({"x": name}, names[(i + step) % len(names)]) for i, name in enumerate(names))


def _lines(block: str) -> Iterator[str]:
    return (line.strip() for line in block.splitlines() if line.strip())


def _cell(cell: str) -> Pair | None:
    if cell == "-":
        return None
    chinese, _, english = cell.partition(" ")
    return Pair(chinese, english or chinese)
