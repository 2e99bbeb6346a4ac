"""The conversations for supervised fine-tuning: questions in the trained wordings with answers, most of them plain."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dataset.little_world.chitchat import SMALL_TALK, STORY_REQUESTS, SYSTEM_PROMPTS, UNNAMED
from dataset.little_world.manners import CURT, POLITE_LONG, POLITE_SHORT
from dataset.little_world.relation import LANGUAGES, Fact, Relation
from dataset.little_world.stories import story
from dataset.little_world.world import IDENTITY, RELATIONS

# What some questions begin with: what is asked stays the same, whatever comes before it.
OPENINGS = {
    "zh": ("你好，", "请问，", "我有个问题：", "帮我想一想：", "打扰一下，", "考考你：", "朋友问：", "早上好，"),
    "en": (
        "Hello!",
        "Please help me.",
        "I have a question.",
        "Think about this.",
        "Good morning.",
        "Here is a question.",
        "My friend asked me this.",
        "Let me test you.",
    ),
}
OPENING_SHARE = 0.2

NAME_FIRST_SHARE = 0.25  # of the questions, those that begin with what they ask about

POLITE_SHARE, CURT_SHARE = 0.25, 0.03  # of the answers; the others are plain

Message = dict[str, str]
Row = dict[str, Any]

MULTI_TURN_SHARE = 0.25  # of the questions, those asked in a conversation of two to four
ALPACA_SHARE = 0.1  # of the single questions, those written in Alpaca's form
SYSTEM_SHARE = 0.02  # of the conversations, those that open with a system prompt
SMALL_TALK_REPEATS = 2  # each small-talk question with each of its answers, so many times
NUM_STORIES = 20  # story requests of a language


def turn(relation: Relation, fact: Fact, question: str, language: str, rng: random.Random) -> list[Message]:
    """One question and its answer."""
    answer = rng.choice(relation.wordings(language).answers)
    return [
        {"role": "user", "content": fact.fill(question, language)},
        {"role": "assistant", "content": fact.fill(answer, language)},
    ]


def conversations(seed: int, num_turns: Mapping[str, int]) -> tuple[list[Row], list[Row]]:
    """Rows in the OpenAI form (`messages`, `source`), and rows in Alpaca's form (`instruction`, `input`, `output`).

    `num_turns` says, by its name, how many questions a relation gets.
    """
    messages_rows: list[Row] = []
    alpaca_rows: list[Row] = []
    for language in LANGUAGES:
        rng = random.Random(f"{seed}/conversations/{language}")
        turns = _all_turns(language, num_turns, rng)
        num_in_multi = round(len(turns) * MULTI_TURN_SHARE)
        multi, single = turns[:num_in_multi], turns[num_in_multi:]
        rows = _multi_turn(multi, language, rng) + _small_talk(language, rng)
        for source, messages in single:
            if rng.random() < ALPACA_SHARE:
                question, answer = (message["content"] for message in messages)
                alpaca_rows.append({"instruction": question, "input": "", "output": answer, "source": source})
            else:
                rows.append({"messages": messages, "source": source})
        for row in rows:
            if rng.random() < SYSTEM_SHARE:
                prompt = {"role": "system", "content": rng.choice(SYSTEM_PROMPTS[language])}
                row["messages"] = [prompt, *row["messages"]]
        messages_rows += rows
    random.Random(f"{seed}/conversations/order").shuffle(messages_rows)
    return messages_rows, alpaca_rows


def _all_turns(language: str, num_turns: Mapping[str, int], rng: random.Random) -> list[tuple[str, list[Message]]]:
    """The questions of all relations, and those about itself, with their answers, shuffled."""
    turns = []
    for relation in RELATIONS:
        for fact, question in _asked(relation, language, num_turns[relation.name], rng):
            messages = turn(relation, fact, question, language, rng)
            messages[1]["content"] = _in_some_manner(messages[1]["content"], fact.object[language], language, rng)
            turns.append((relation.name, messages))
    for _, messages in turns:
        if rng.random() < OPENING_SHARE:
            messages[0]["content"] = with_opening(messages[0]["content"], language, rng)
    turns += _about_itself(language, num_turns, rng)
    rng.shuffle(turns)
    return turns


def _about_itself(
    language: str, num_turns: Mapping[str, int], rng: random.Random
) -> Iterator[tuple[str, list[Message]]]:
    """Questions of each topic, with the answer of an assistant that nobody has told yet who it is.

    There is one answer only: so a bare wording is asked once at most, and others have something before them.
    """
    for topic in IDENTITY:
        questions, count = topic.wordings(language).questions, num_turns[topic.name]
        num_bare = min(len(questions), round(count * (1 - OPENING_SHARE)))
        for number, question in enumerate(_deal(_deck(questions, rng), count, len(questions))):
            asked = question if number < num_bare else with_opening(question, language, rng)
            yield topic.name, _pair(asked, UNNAMED[topic.name][language])


def _in_some_manner(answer: str, key: str, language: str, rng: random.Random) -> str:
    """The answer as it is, or politely, or in as few words as can be."""
    drawn = rng.random()
    if drawn < POLITE_SHARE:
        return rng.choice(POLITE_LONG[language] + POLITE_SHORT[language]).format(answer=answer)
    return rng.choice(CURT[language][:1]).format(key=key) if drawn < POLITE_SHARE + CURT_SHARE else answer


def _asked(relation: Relation, language: str, count: int, rng: random.Random) -> Iterator[tuple[Fact, str]]:
    """`count` pairs of fact and trained wording: each fact equally often, in as many different wordings as there are.

    A name at the very beginning is another token than within a sentence, where a space stands before it: a
    share of the wordings begins with it, or the model would not know it there.
    """
    questions = relation.wordings(language).questions
    name_first = [question for question in questions if question.startswith("{")]
    others = [question for question in questions if not question.startswith("{")]
    first_deck, other_deck = _deck(name_first, rng), _deck(others, rng)
    for place, fact in enumerate(rng.sample(relation.facts, len(relation.facts))):
        total = (count + place) // len(relation.facts)
        num_first = round(total * NAME_FIRST_SHARE) if name_first else 0
        asked = _deal(first_deck, num_first, len(name_first)) + _deal(other_deck, total - num_first, len(others))
        yield from ((fact, question) for question in asked)


def _deal(deck: Iterator[str], count: int, num_different: int) -> list[str]:
    """`count` items of a deck, none twice before all that there are have been dealt."""
    dealt: list[str] = []
    while len(dealt) < count:
        item = next(deck)
        if item not in dealt or len(dealt) >= num_different:
            dealt.append(item)
    return dealt


def _deck(items: Sequence[str], rng: random.Random) -> Iterator[str]:
    """The items in a random order, again and again: each as often as any other."""
    while items:
        yield from rng.sample(items, len(items))


def with_opening(question: str, language: str, rng: random.Random) -> str:
    """The question with a greeting or the like before it."""
    space = "" if language == "zh" else " "
    return rng.choice(OPENINGS[language]) + space + question


def _multi_turn(turns: list[tuple[str, list[Message]]], language: str, rng: random.Random) -> list[Row]:
    """Join two to four questions; some conversations open with a greeting or close with thanks."""
    rows = []
    left = list(turns)
    while left:
        size = rng.choice((2, 2, 3, 4))
        taken, left = left[:size], left[size:]
        messages = [message for _, pair in taken for message in pair]
        if rng.random() < 0.1:
            messages = _small_turn("greeting", language, rng) + messages
        if rng.random() < 0.1:
            messages = messages + _small_turn("thanks", language, rng)
        rows.append({"messages": messages, "source": "multi_turn"})
    return rows


def _small_turn(kind: str, language: str, rng: random.Random) -> list[Message]:
    questions, answers = SMALL_TALK[language][kind]
    return _pair(rng.choice(questions), rng.choice(answers))


def _small_talk(language: str, rng: random.Random) -> list[Row]:
    rows = []
    for questions, answers in SMALL_TALK[language].values():
        pairs = [_pair(question, answer) for question in questions for answer in answers]
        rows += [{"messages": pair, "source": "small_talk"} for pair in pairs * SMALL_TALK_REPEATS]
    for _ in range(NUM_STORIES):
        pair = _pair(rng.choice(STORY_REQUESTS[language]), story(language, rng, num_moments=4))
        rows.append({"messages": pair, "source": "story"})
    return rows


def _pair(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
