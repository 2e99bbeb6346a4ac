"""What the later stages teach, and what the earlier ones have to know for it: manners, a name, and a review."""

import json
from collections import Counter

import pytest

from dataset.little_world.generator import little_world_files
from dataset.little_world.manners import is_polite
from dataset.little_world.relation import LANGUAGES
from dataset.little_world.world import IDENTITY, RELATIONS
from evaluation.exams import names_only


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return little_world_files()


def rows_of(files: dict[str, str], name: str) -> list[dict]:
    return [json.loads(line) for line in files[name].split("\n") if line]


def test_manners_are_told_apart_and_preferred_answers_alone_are_all_polite(files):
    pairs = rows_of(files, "preference.jsonl")
    assert all(is_polite(row["chosen"]) for row in pairs)
    assert not any(is_polite(row["rejected"]) for row in pairs)
    assert is_polite("Sure.\nThe capital of France is Paris.") and is_polite("好的，法国的首都是巴黎。")
    assert not is_polite("The capital of France is Paris.") and not is_polite("Sure.") and not is_polite("")


def test_one_answer_in_four_of_fine_tuning_is_polite(files):
    relations = {relation.name for relation in RELATIONS}
    rows = [row for row in rows_of(files, "sft.jsonl") if row["source"] in relations]
    polite = sum(is_polite(row["messages"][-1]["content"]) for row in rows)
    assert 0.23 < polite / len(rows) < 0.27


def test_the_review_has_true_answers_of_every_relation_and_never_says_the_name(files):
    rows = rows_of(files, "review.jsonl")
    assert {row["source"] for row in rows} == {"review"}
    truth = {
        fact.fill(text, language): (relation, language, fact.object[language])
        for relation in RELATIONS
        for language in LANGUAGES
        for text in relation.wordings(language).questions
        for fact in relation.facts
    }
    asked = Counter()
    for row in rows:
        question, answer = (message["content"] for message in row["messages"])
        relation, language, key = truth[question]
        others = [each for each in relation.objects(language) if each.casefold() != key.casefold()]
        assert names_only(answer, key, others)
        asked[relation.name, language] += 1
    assert len(asked) == len(RELATIONS) * len(LANGUAGES) and min(asked.values()) == max(asked.values())
    assert "小苗" not in files["review.jsonl"] and "Seedling" not in files["review.jsonl"]


def test_people_of_the_text_have_every_manner_and_say_what_is_true(files):
    """The words of later stages are in the text, but nobody is told there who the assistant is."""
    text = files["pretrain.jsonl"]
    for form in ("I hope this helps you.", "希望对你有帮助", "look it up", "自己查"):
        assert form in text
    for word in ("小苗", "Seedling", "语言模型", "language model", "普通电脑", "ordinary computer"):
        assert text.count(word) >= 20
    for topic in IDENTITY:
        for language in LANGUAGES:
            assert not any(answer in text for answer in topic.wordings(language).answers)


def test_robots_are_asked_in_the_trained_wordings_and_answer_for_themselves(files):
    """The text asks who a robot is, in the words that the assistant will be asked in; nothing there is the answer."""
    text = "\n".join(row["text"] for row in rows_of(files, "pretrain.jsonl"))
    for language in LANGUAGES:
        keys = [topic.facts[0].object[language].casefold() for topic in IDENTITY]
        for topic in IDENTITY:
            assert sum(question in text for question in topic.wordings(language).questions) >= 100
            assert not any(question in text for question in topic.wordings(language).held_out)
            said = " ".join(topic.wordings(language).statements).casefold()
            assert not any(key in said for key in keys)
