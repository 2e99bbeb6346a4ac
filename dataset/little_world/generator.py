"""Writes the little world: a folder of training and test files, the same bytes for the same seed everywhere.

tokenizer.txt             text for the tokenizer: all that the model reads before it gets an adapter
pretrain.jsonl            {"text"}
sft.jsonl                 {"messages": [{"role", "content"}], "source"}, single- and multi-turn
sft_alpaca.json           [{"instruction", "input", "output", "source"}]
identity.jsonl            who the assistant is, as sft.jsonl
review.jsonl              questions that it can answer already, to go on with beside those, as sft.jsonl
identity_questions.jsonl  the same in held-out wordings, as questions.jsonl
preference.jsonl          {"prompt": [messages], "chosen", "rejected", "source"}
questions.jsonl           {"language", "relation", "question", "key", "others"}, held-out wordings only
exam/{dev,val,test}/      multiple choice in C-Eval's layout
summary.json              counts, and the hash of every file
"""

import json
from pathlib import Path
from typing import Any

from dataset.little_world.conversations import conversations
from dataset.little_world.exam import exam_files, questions
from dataset.little_world.identity import identity_questions, identity_rows, review_rows
from dataset.little_world.leaks import check_leaks
from dataset.little_world.preferences import preference_rows
from dataset.little_world.prose import documents
from dataset.little_world.relation import LANGUAGES
from dataset.little_world.world import ARITHMETIC, CALENDAR, IDENTITY, KNOWLEDGE, RELATIONS
from model.errors import UserError
from model.files import atomic_folder, read_json, sha256_of_file, sha256_of_text, write_json

DEFAULT_SEED = 20
SUMMARY = "summary.json"

# How much of everything: chosen so that a model of a few million parameters learns it in minutes on a CPU.
NUM_STORIES = {"zh": 500, "en": 220}
NUM_TALKS = {"zh": 200, "en": 150}
# Questions that SFT asks, of each relation and language: a small relation as often as a large one, or the large ones
# would drown it; common words more often than names, which are easier to recognise in a question; what has to be worked
# out more often than facts.
NUM_TURNS = {
    **{relation.name: 500 for relation in KNOWLEDGE + CALENDAR},
    **{relation.name: 1100 for relation in IDENTITY},
    **{relation.name: 1000 for relation in ARITHMETIC},
    "opposite": 800,
    "measure_word": 700,
    "day_after": 900,
    "day_before": 1000,
}
NUM_PREFERENCES = 1200
QUESTIONS_PER_RELATION = 40  # test questions of a relation and language

TEST_FILES = ("questions.jsonl", "identity_questions.jsonl")


def write_little_world(folder: Path, seed: int = DEFAULT_SEED) -> dict[str, Any]:
    """Write all files into `folder` and return the summary: counts of facts and wordings, rows and bytes of files.

    An earlier little world in that folder is replaced. Raises UserError when the folder holds anything else.
    """
    folder = Path(folder)
    _refuse_foreign_folder(folder)
    contents = little_world_files(seed)
    summary = _summary(contents, seed)
    with atomic_folder(folder, overwrite=True) as temporary:
        for name, content in contents.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode("utf-8"))  # bytes: no platform turns the line ends round
        write_json(temporary / SUMMARY, summary)
    return summary


def little_world_files(seed: int = DEFAULT_SEED) -> dict[str, str]:
    """The content of every file by its path inside the folder. Raises LeakError if training and test overlap."""
    texts = documents(seed, NUM_STORIES, NUM_TALKS)
    chats, alpaca = conversations(seed, NUM_TURNS)
    identity, review = identity_rows(seed), review_rows(seed)
    preferences = preference_rows(seed, NUM_PREFERENCES)
    test_questions = questions(seed, QUESTIONS_PER_RELATION)
    about_itself = identity_questions()

    spoken = [message["content"] for row in chats for message in row["messages"]]
    spoken += [text for row in alpaca for text in (row["instruction"], row["output"])]
    contents = {
        "tokenizer.txt": "\n".join(texts + spoken) + "\n",
        "pretrain.jsonl": _json_lines([{"text": text} for text in texts]),
        "sft.jsonl": _json_lines(chats),
        "sft_alpaca.json": json.dumps(alpaca, ensure_ascii=False, indent=0) + "\n",
        "identity.jsonl": _json_lines(identity),
        "review.jsonl": _json_lines(review),
        "preference.jsonl": _json_lines(preferences),
        **{f"exam/{path}": content for path, content in exam_files(seed).items()},
    }
    check_leaks(contents, [row["question"] for row in test_questions + about_itself])
    contents["questions.jsonl"] = _json_lines(test_questions)
    contents["identity_questions.jsonl"] = _json_lines(about_itself)
    return contents


def _json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _summary(contents: dict[str, str], seed: int) -> dict[str, Any]:
    wordings = {
        kind: sum(len(getattr(relation.wordings(language), kind)) for relation in RELATIONS for language in LANGUAGES)
        for kind in ("questions", "held_out", "statements", "answers")
    }
    return {
        "made_by": "dataset.little_world",
        "seed": seed,
        "num_facts": sum(len(relation.facts) for relation in KNOWLEDGE),
        "num_arithmetic_facts": sum(len(relation.facts) for relation in ARITHMETIC),
        "num_calendar_facts": sum(len(relation.facts) for relation in CALENDAR),
        "num_relations": len(RELATIONS),
        "num_wordings": wordings,
        "files": {
            name: {
                "rows": _num_rows(name, content),
                "bytes": len(content.encode("utf-8")),
                "sha256": sha256_of_text(content),
            }
            for name, content in sorted(contents.items())
        },
    }


def _num_rows(name: str, content: str) -> int:
    if name.endswith(".json"):
        return len(json.loads(content))
    return content.count("\n") - (1 if name.endswith(".csv") else 0)


def _refuse_foreign_folder(folder: Path) -> None:
    """Only a folder that is absent, empty, or exactly what an earlier call wrote may be replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: this is a file, but a folder for the little world was expected; name another one")
    found = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
    if not found:
        return
    if SUMMARY not in found:
        raise UserError(f"{folder}: holds files that are not a little world; name another folder or empty this one")
    files = read_json(found.pop(SUMMARY)).get("files", {})
    for name, path in found.items():
        if name not in files or sha256_of_file(path) != files[name]["sha256"]:
            raise UserError(
                f"{path}: not as the little world wrote it; move this file away, then run the command again"
            )
