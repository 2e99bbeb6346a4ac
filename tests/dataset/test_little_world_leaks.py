"""The test of the little world is new: no wording or question of it occurs in anything a model trains on."""

import json
import re
import unicodedata

import pytest

from dataset.little_world import leaks
from dataset.little_world.generator import little_world_files
from dataset.little_world.leaks import normalise, wording_pattern
from dataset.little_world.relation import LANGUAGES
from dataset.little_world.world import IDENTITY, RELATIONS, relation_named


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return little_world_files()


def rows_of(files: dict[str, str], name: str) -> list[dict]:
    return [json.loads(line) for line in files[name].split("\n") if line]


def plain_normal(text: str) -> str:
    kept = [c for c in unicodedata.normalize("NFKC", text).casefold() if unicodedata.category(c)[0] not in "PSZC"]
    return "".join(kept)


def test_no_held_out_wording_and_no_test_question_is_in_a_training_file(files):
    """Written apart from leaks.py: other walk through the files, other normalisation, other search."""
    tests = {"questions.jsonl", "identity_questions.jsonl"}
    lines = {
        plain_normal(string.replace("\\n", "\n").replace('\\"', '"'))
        for name, content in files.items()
        if name not in tests
        for line in content.split("\n")
        for string in (re.findall(r'"((?:[^"\\]|\\.)*)"', line) if ".json" in name else [line])
    }
    everything = "\n".join(sorted(lines))
    questions = [row["question"] for name in sorted(tests) for row in rows_of(files, name)]
    assert len(questions) > 600
    assert [question for question in questions if plain_normal(question) in everything] == []
    for wording in leaks.held_out_wordings():
        pieces = [piece for piece in map(plain_normal, re.split(r"\{.\}", wording)) if piece]
        for line in everything.split("\n") if len(pieces) == 1 and pieces[0] in everything else ():
            assert pieces[0] not in line, wording
        if len(pieces) > 1 and all(piece in everything for piece in pieces):
            pattern = re.compile(".{0,50}?".join(map(re.escape, pieces)))
            assert not pattern.search(everything), wording


def test_identity_questions_are_held_out_too(files):
    rows = rows_of(files, "identity_questions.jsonl")
    held_out = [topic.wordings(language).held_out for topic in IDENTITY for language in LANGUAGES]
    assert sorted(row["question"] for row in rows) == sorted(text for texts in held_out for text in texts)
    assert min(map(len, held_out)) >= 11
    trained = {row["messages"][0]["content"] for row in rows_of(files, "identity.jsonl")}
    assert not trained & {row["question"] for row in rows}
    for row in rows:
        assert row["key"] not in row["others"]


def held_out(relation: str, language: str, **slots: str) -> str:
    """A relation's first held-out wording about something that no fact speaks of."""
    return relation_named(relation).wordings(language).held_out[0].format(**slots)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pretrain.jsonl", json.dumps({"text": f"So: {held_out('capital', 'en', x='Atlantis').upper()}"}) + "\n"),
        ("sft_alpaca.json", json.dumps([{"instruction": "请问，" + held_out("capital", "zh", x="亚特兰蒂斯")}])),
        ("tokenizer.txt", "nothing here\nｗhat is your work?\n"),
        ("exam/dev/x_dev.csv", f'id,question\n0,"{held_out("river", "en", x="the ... Styx")}"\n'),
    ],
)
def test_the_leak_check_finds_a_planted_wording(name, content):
    with pytest.raises(leaks.LeakError, match="1 leaks"):
        leaks.check_leaks({name: content}, [])


def test_the_leak_check_finds_a_planted_question_and_does_not_join_lines():
    with pytest.raises(leaks.LeakError, match="test question"):
        leaks.check_leaks({"tokenizer.txt": "a\nIs it-so?\n"}, ["is it so"])
    leaks.check_leaks({"tokenizer.txt": "is it\nso"}, ["is it so"])


def test_no_trained_question_fits_a_held_out_wording_whatever_the_seed() -> None:
    """Which facts meet which wordings is drawn by the seed, so all pairs are looked at."""
    for language in LANGUAGES:
        asked = "\n".join(
            normalise(fact.fill(wording, language))
            for relation in RELATIONS
            for wording in relation.wordings(language).questions
            for fact in relation.facts
        )
        held_out = [wording for relation in RELATIONS for wording in relation.wordings(language).held_out]
        assert [wording for wording in held_out if wording_pattern(wording).search(asked)] == []
