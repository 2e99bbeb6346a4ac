"""The two tests: open questions in held-out wordings, and a multiple-choice exam in C-Eval's layout."""

import csv
import io
import math
import random
from typing import Any

from dataset.little_world.relation import LANGUAGES, Fact, Relation
from dataset.little_world.world import RELATIONS, relation_named

LETTERS = "ABCD"
NUM_DEV = 5  # worked examples of a subject, as C-Eval has
TEST_SHARE = 0.3
EXAM_RELATIONS = ("capital", "continent", "symbol", "food", "colour", "inventor", "author", "opposite")


def questions(seed: int, per_relation: int) -> list[dict[str, Any]]:
    """For each language and relation, `per_relation` questions, spread over its facts and held-out wordings."""
    rows = []
    for language in LANGUAGES:
        for relation in RELATIONS:
            rng = random.Random(f"{seed}/questions/{language}/{relation.name}")
            held_out = relation.wordings(language).held_out
            facts = rng.sample(relation.facts, len(relation.facts))
            # Walk round both together, so that all are used evenly; when they meet again, shift them by one.
            meeting = math.lcm(len(facts), len(held_out))
            for index in range(min(per_relation, len(facts) * len(held_out))):
                fact, wording = facts[index % len(facts)], held_out[(index + index // meeting) % len(held_out)]
                rows.append(
                    {
                        "language": language,
                        "relation": relation.name,
                        "question": fact.fill(wording, language),
                        "key": fact.object[language],
                        "others": relation.others(fact, language),
                    }
                )
    return rows


def exam_files(seed: int) -> dict[str, str]:
    """The exam's CSV files by path, `dev/capital_zh_dev.csv` and so on."""
    files = {}
    for name in EXAM_RELATIONS:
        relation = relation_named(name)
        for language in LANGUAGES:
            rng = random.Random(f"{seed}/exam/{language}/{name}")
            facts = rng.sample(relation.facts, len(relation.facts))
            num_test = round((len(facts) - NUM_DEV) * TEST_SHARE)
            parts = {
                "dev": facts[:NUM_DEV],
                "val": facts[NUM_DEV + num_test :],
                "test": facts[NUM_DEV : NUM_DEV + num_test],
            }
            for split, taken in parts.items():
                rows = _exam_rows(relation, taken, language, rng)
                files[f"{split}/{name}_{language}_{split}.csv"] = _csv(rows, split)
    return files


def _exam_rows(relation: Relation, facts: list[Fact], language: str, rng: random.Random) -> list[dict[str, str]]:
    """Cloze questions ("The capital of France is ____.") with the right letter spread evenly over A to D."""
    letters = [LETTERS[i % len(LETTERS)] for i in range(len(facts))]
    rng.shuffle(letters)
    rows = []
    for number, (fact, letter) in enumerate(zip(facts, letters, strict=True)):
        options = rng.sample(relation.others(fact, language), len(LETTERS) - 1)
        options.insert(LETTERS.index(letter), fact.object[language])
        wordings = relation.wordings(language)
        question = fact.fill(wordings.answers[0].replace("{y}", "____"), language)
        rows.append(
            {
                "id": str(number),
                "question": question,
                **dict(zip(LETTERS, options, strict=True)),
                "answer": letter,
                "explanation": fact.fill(wordings.statements[0], language),
            }
        )
    return rows


def _csv(rows: list[dict[str, str]], split: str) -> str:
    columns = ["id", "question", *LETTERS]
    if split != "test":
        columns.append("answer")
    if split == "dev":
        columns.append("explanation")
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
