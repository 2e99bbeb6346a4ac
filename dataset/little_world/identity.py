"""Who the assistant is: rows for the LoRA stage, a review of what it knows already, and the test questions."""

import random
from typing import Any

from dataset.little_world.conversations import turn, with_opening
from dataset.little_world.relation import LANGUAGES
from dataset.little_world.world import IDENTITY, RELATIONS

OPENING_SHARE = 0.2  # of the rows, those with something before the question
NUM_QUESTIONS = 600  # of each topic and language
REVIEWED_TURNS = 100  # of each relation and language


def identity_rows(seed: int) -> list[dict[str, Any]]:
    """Trained wordings with an answer of their topic, a fifth of them with something before it, shuffled."""
    rng = random.Random(f"{seed}/identity")
    rows = []
    for topic in IDENTITY:
        for language in LANGUAGES:
            for question in rng.sample(topic.wordings(language).questions, NUM_QUESTIONS):
                asked = with_opening(question, language, rng) if rng.random() < OPENING_SHARE else question
                answer = rng.choice(topic.wordings(language).answers)
                messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
                rows.append({"messages": messages, "source": topic.name})
    rng.shuffle(rows)
    return rows


def review_rows(seed: int) -> list[dict[str, Any]]:
    """Questions of every relation as fine-tuning asked them: who learns only its own name forgets the rest."""
    rows = []
    for language in LANGUAGES:
        rng = random.Random(f"{seed}/review/{language}")
        for relation in RELATIONS:
            for _ in range(REVIEWED_TURNS):
                question = rng.choice(relation.wordings(language).questions)
                messages = turn(relation, rng.choice(relation.facts), question, language, rng)
                rows.append({"messages": messages, "source": "review"})
    random.Random(f"{seed}/review/order").shuffle(rows)
    return rows


def identity_questions() -> list[dict[str, Any]]:
    """The held-out questions, in the form of questions.jsonl."""
    return [
        {
            "language": language,
            "relation": topic.name,
            "question": question,
            "key": topic.facts[0].object[language],
            "others": [other.facts[0].object[language] for other in IDENTITY if other is not topic],
        }
        for language in LANGUAGES
        for topic in IDENTITY
        for question in topic.wordings(language).held_out
    ]
