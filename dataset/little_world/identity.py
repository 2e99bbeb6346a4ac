"""Who the assistant is: rows for the LoRA stage, and the test questions about it."""

import random
from typing import Any

from dataset.little_world.identity_topics import TOPICS
from dataset.little_world.relation import LANGUAGES


def identity_rows(seed: int) -> list[dict[str, Any]]:
    """Every trained wording with every answer of its topic, shuffled."""
    rows = [
        {
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            "source": f"identity_{topic.name}",
        }
        for topic in TOPICS
        for language in LANGUAGES
        for question in topic.wordings(language).questions
        for answer in topic.wordings(language).answers
    ]
    random.Random(f"{seed}/identity").shuffle(rows)
    return rows


def identity_questions() -> list[dict[str, Any]]:
    """The held-out questions, in the form of questions.jsonl."""
    return [
        {
            "language": language,
            "relation": f"identity_{topic.name}",
            "question": question,
            "key": topic.key[language],
            "others": [other.key[language] for other in TOPICS if other is not topic],
        }
        for language in LANGUAGES
        for topic in TOPICS
        for question in topic.wordings(language).held_out
    ]
