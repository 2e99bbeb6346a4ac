"""Exams with free answers: ask in chat form, and count an answer right if it names the key and nothing else.

Naming is judged on the text: the answer to "What is the capital of France?" must name Paris and no other
capital that the exam knows. A model that lists every capital therefore gets nothing.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from evaluation.statistics import macro_average, wilson_interval
from inference.batch_file import encode_completion
from inference.engine import generate
from inference.sampling_params import SamplingParams
from model.chat import encode_prompt
from model.checkpoint import Checkpoint
from model.decoder import CausalLM
from model.errors import UserError
from model.files import read_json_lines, sha256_of_file
from model.tokenizer import ChatTokenizer


@dataclass(frozen=True)
class Question:
    """One question of an exam; `others` are the other answers that occur in its relation."""

    language: str
    relation: str
    question: str
    key: str
    others: list[str]


@dataclass(frozen=True)
class ExamResult:
    """What an exam gave, as plain values that go into JSON as they are.

    Attributes:
        languages: language → `macro_average` (over relations), `accuracy` (over questions), `num_right`,
            `num_questions`, `interval` (Wilson, 95 %), and `relations`: relation → the same but for the
            average.
        answers: per question `language relation question key answer is_right finish_reason`.
        num_too_long: questions that did not fit the model's context; they count as wrong.
    """

    languages: dict[str, dict[str, Any]]
    answers: list[dict[str, Any]]
    num_too_long: int = 0

    def to_dict(self) -> dict[str, Any]:
        """All of it as one dictionary."""
        return asdict(self)


# ---- questions ----


def read_questions(path: str | Path) -> list[Question]:
    """Read rows of `language relation question key others`; UserError names file and line."""
    if not Path(path).exists():
        raise UserError(f"{path}: no such file; make one with `python data_process.py little_world`")
    questions = [_question(row, place) for place, row in read_json_lines(path)]
    if not questions:
        raise UserError(
            f"{path}: holds no questions; expected JSON lines with language, relation, question, key, others"
        )
    return questions


def _question(row: dict[str, Any], place: str) -> Question:
    for name in ("language", "relation", "question", "key"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise UserError(f"{place}: `{name}` must be text, found {row.get(name)!r}")
    others = row.get("others")
    if not isinstance(others, list) or not all(isinstance(name, str) and name.strip() for name in others):
        raise UserError(f"{place}: `others` must be a list of names, found {others!r}")
    if _normalise(row["key"]) in map(_normalise, others):
        raise UserError(f"{place}: the key {row['key']!r} is among `others` as well")
    return Question(row["language"], row["relation"], row["question"], row["key"], others)


# ---- judging ----


def names_only(text: str, key: str, others: Iterable[str]) -> bool:
    """Whether `text` names `key` and none of `others`, upper and lower case and full-width forms being equal.

    A name inside a longer known name does not count ("Guinea" in "Papua New Guinea"). Chinese has no spaces,
    so Chinese names are found anywhere; names that begin or end with a letter or digit of another script only
    at word boundaries ("iron" is not in "environment", 1 not in 12).
    """
    text, key = _normalise(text), _normalise(key)
    names = {key, *map(_normalise, others)}
    found: set[str] = set()
    covered: list[tuple[int, int]] = []
    for name in sorted(names, key=len, reverse=True):
        spans = [
            (start, end)
            for start, end in _occurrences(text, name)
            if not any(first <= start and end <= last for first, last in covered)
        ]
        if spans:
            found.add(name)
            covered += spans
    return found == {key}


def _normalise(text: str) -> str:
    """One form for what reads the same: compatibility forms, case, and runs of white space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def _occurrences(text: str, name: str) -> list[tuple[int, int]]:
    found = []
    start = text.find(name)
    while start >= 0:
        end = start + len(name)
        if not _inside_word(text, start) and not _inside_word(text, end):
            found.append((start, end))
        start = text.find(name, start + 1)
    return found


def _inside_word(text: str, place: int) -> bool:
    """Whether the characters on both sides of `place` belong to one word."""
    return 0 < place < len(text) and _joins(text[place - 1]) and _joins(text[place])


def _joins(character: str) -> bool:
    """Letters and digits join into words, but not those of scripts without spaces (they are "wide")."""
    return character.isalnum() and unicodedata.east_asian_width(character) not in ("W", "F")


# ---- the exam ----


def run_exam(
    model: CausalLM,
    tokenizer: ChatTokenizer,
    questions: Sequence[Question],
    *,
    chat: bool = True,
    max_new_tokens: int = 32,
    stop_token_ids: list[int] | None = None,
    batch_size: int = 64,
    show_progress: bool = False,
) -> ExamResult:
    """Ask every question, take the most probable answer, and judge it.

    Args:
        model, tokenizer: as `load_model` gives them.
        questions: as `read_questions` gives them.
        chat: ask as a user's only message (also a pretrained model); otherwise the bare question is to be
        continued.
        max_new_tokens: most tokens of an answer.
        stop_token_ids: what ends an answer; default: the tokenizer's.
        batch_size: questions asked at once.
        show_progress: draw a progress bar.
    """
    prompts = [encode_question(tokenizer, each.question, chat) for each in questions]
    fitting = [number for number, prompt in enumerate(prompts) if len(prompt) < model.config.max_seq_len]
    completions = generate(
        model,
        tokenizer,
        [prompts[number] for number in fitting],
        SamplingParams(max_new_tokens=max_new_tokens, temperature=0, stop_token_ids=stop_token_ids),
        batch_size=batch_size,
        show_progress=show_progress,
    )
    answers: list[dict[str, Any]] = [
        {"language": each.language, "relation": each.relation, "question": each.question, "key": each.key}
        | {"answer": "", "is_right": False, "finish_reason": "too_long"}
        for each in questions
    ]
    for number, completion in zip(fitting, completions, strict=True):
        question, text = questions[number], completion.text.strip()
        answers[number] |= {
            "answer": text,
            "is_right": names_only(text, question.key, question.others),
            "finish_reason": completion.finish_reason,
        }
    return ExamResult(score_by_language(answers), answers, len(questions) - len(fitting))


def encode_question(tokenizer: ChatTokenizer, question: str, chat: bool = True) -> list[int]:
    """The prompt: a user's only message, or the question as the beginning of a document."""
    if chat:
        return encode_prompt(tokenizer, [{"role": "user", "content": question}])
    return encode_completion(tokenizer, question)


def score_by_language(answers: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Count answers per language and relation (both in the order of their names); see `ExamResult`."""
    languages: dict[str, dict[str, Any]] = {}
    for language in sorted({answer["language"] for answer in answers}):
        of_language = [answer for answer in answers if answer["language"] == language]
        relations = {
            relation: _score([answer for answer in of_language if answer["relation"] == relation])
            for relation in sorted({answer["relation"] for answer in of_language})
        }
        average = macro_average(score["accuracy"] for score in relations.values())
        languages[language] = {"macro_average": average, **_score(of_language), "relations": relations}
    return languages


def _score(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    num_right, num_questions = sum(answer["is_right"] for answer in answers), len(answers)
    return {
        "accuracy": num_right / num_questions,
        "num_right": num_right,
        "num_questions": num_questions,
        "interval": list(wilson_interval(num_right, num_questions)),
    }


def exam_report(
    result: ExamResult,
    checkpoint_path: str | Path,
    checkpoint: Checkpoint,
    questions_path: str | Path,
    seconds: float,
) -> dict[str, Any]:
    """The result with all that it takes to get it again: model, questions and library by hash or version."""
    return {
        "checkpoint": str(checkpoint_path),
        "checkpoint_digest": checkpoint.digest,
        "stage": checkpoint.stage,
        "questions": str(questions_path),
        "questions_sha256": sha256_of_file(questions_path),
        "torch_version": str(torch.__version__),
        "seconds": round(seconds, 2),
        **result.to_dict(),
    }


def exam_table(result: ExamResult, title: str = "") -> Table:
    """A table for the terminal: a row per language and relation, then the language's averages."""
    table = Table("language", "relation", title=escape(title) or None)
    for heading in ("right", "of", "accuracy", "95 % interval"):
        table.add_column(heading, justify="right")
    for language, score in result.languages.items():
        for relation, of_relation in score["relations"].items():
            table.add_row(language, relation, *_cells(of_relation))
        table.add_row(language, "all questions", *_cells(score), style="bold")
        average = f"{score['macro_average']:.1%}"
        table.add_row(language, "macro average", "", "", average, "", style="bold", end_section=True)
    if result.num_too_long:
        table.caption = f"{result.num_too_long} questions did not fit the model's context; they count as wrong"
    return table


def _cells(score: dict[str, Any]) -> list[str]:
    low, high = score["interval"]
    return [
        str(score["num_right"]),
        str(score["num_questions"]),
        f"{score['accuracy']:.1%}",
        f"{low:.1%} – {high:.1%}",
    ]
