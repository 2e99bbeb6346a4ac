"""Preference pairs: a polite and true answer is preferred to a plain, a curt or a wrong one.

In exactly half of the pairs the chosen answer is the longer one. If it always were, a model could please by
being long, and preference training would teach length instead of manners.
"""

import random
from typing import Any

from dataset.little_world.conversations import Message, turn
from dataset.little_world.manners import CURT, POLITE_LONG, POLITE_SHORT, RAMBLING
from dataset.little_world.relation import LANGUAGES, Fact, Relation
from dataset.little_world.world import RELATIONS

PLAIN_SHARE = 0.6  # of the pairs whose chosen answer is the longer one, those with a plain, true answer beside it


def preference_rows(seed: int, num_pairs: int) -> list[dict[str, Any]]:
    """`num_pairs` rows, half of each language, in each half of them with the longer answer chosen."""
    rows = []
    for language in LANGUAGES:
        rng = random.Random(f"{seed}/preferences/{language}")
        for index in range(num_pairs // len(LANGUAGES)):
            relation = RELATIONS[index // 2 % len(RELATIONS)]
            rows.append(_pair(relation, rng.choice(relation.facts), index % 2 == 0, language, rng))
    random.Random(f"{seed}/preferences/order").shuffle(rows)
    return rows


def _pair(relation: Relation, fact: Fact, longer_chosen: bool, language: str, rng: random.Random) -> dict[str, Any]:
    question, answer = turn(relation, fact, rng.choice(relation.wordings(language).questions), language, rng)
    truth = answer["content"]
    slots = {
        "answer": truth,
        "key": fact.object[language],
        "wrong": rng.choice(relation.others(fact, language)),
    }
    good, bad = (POLITE_LONG, CURT) if longer_chosen else (POLITE_SHORT, RAMBLING)
    chosen = rng.choice(good[language]).format(**slots)
    # What the model says by itself is plain and true: only beside it does the model learn that polite is better.
    form = "{answer}" if longer_chosen and rng.random() < PLAIN_SHARE else rng.choice(bad[language])
    rejected = form.format(**slots)
    assert (len(chosen) > len(rejected)) == longer_chosen, (chosen, rejected)
    return {
        "prompt": [*_earlier_turn(language, rng), question],
        "chosen": chosen,
        "rejected": rejected[0].upper() + rejected[1:],
        "source": relation.name,
    }


def _earlier_turn(language: str, rng: random.Random) -> list[Message]:
    """One prompt in eight is the second question of a conversation."""
    if rng.randrange(8):
        return []
    relation = rng.choice(RELATIONS)
    question = rng.choice(relation.wordings(language).questions)
    return turn(relation, rng.choice(relation.facts), question, language, rng)
