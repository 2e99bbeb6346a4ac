"""Who the assistant is: rows for the LoRA stage, a review of what it knows already, and the test questions."""

import random
from typing import Any

from dataset.little_world.conversations import turn, with_opening
from dataset.little_world.identity_topics import TOPICS
from dataset.little_world.relation import LANGUAGES
from dataset.little_world.world import RELATIONS

NUM_OPENINGS = 3  # of each wording, besides the bare one
REVIEWED_TURNS = 32  # of each relation and language


def identity_rows(seed: int) -> list[dict[str, Any]]:
    """Every trained wording with every answer of its topic, bare and with something before it, shuffled."""
    rng = random.Random(f"{seed}/identity")
    rows = []
    for topic in TOPICS:
        for language in LANGUAGES:
            for question in topic.wordings(language).questions:
                for answer in topic.wordings(language).answers:
                    asked = [question, *(with_opening(question, language, rng) for _ in range(NUM_OPENINGS))]
                    rows += [
                        {
                            "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}],
                            "source": f"identity_{topic.name}",
                        }
                        for text in dict.fromkeys(asked)
                    ]
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
            "relation": f"identity_{topic.name}",
            "question": question,
            "key": topic.key[language],
            "others": [other.key[language] for other in TOPICS if other is not topic],
        }
        for language in LANGUAGES
        for topic in TOPICS
        for question in topic.wordings(language).held_out
    ]
