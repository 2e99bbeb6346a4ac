"""The little world is as large as promised, can be marked, is the same everywhere, and its test is new."""

import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from collections import Counter, defaultdict
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from dataset.little_world import leaks
from dataset.little_world.conversations import OPENINGS
from dataset.little_world.generator import little_world_files, write_little_world
from dataset.little_world.relation import LANGUAGES, Pair, table
from dataset.little_world.world import IDENTITY, KNOWLEDGE, RELATIONS, relation_named
from model.errors import UserError

REPOSITORY = Path(__file__).parents[2]
EXAM_COLUMNS = ["id", "question", "A", "B", "C", "D"]
EVERY_RELATION = pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return little_world_files()


def rows_of(files: dict[str, str], name: str) -> list[dict]:
    return [json.loads(line) for line in files[name].split("\n") if line]


def answers_named(text: str, answers: list[str]) -> set[str]:
    """The slow, plain marking rule: walk through the text, take the longest answer at each place."""

    def normal(value: str) -> str:
        return unicodedata.normalize("NFKC", value).casefold()

    def is_latin(character: str) -> bool:
        return bool(re.match(r"[a-z0-9]", character))

    text, found, place = normal(text), set(), 0
    while place < len(text):
        here = []
        for answer in map(normal, answers):
            end = place + len(answer)
            cut_left = is_latin(answer[0]) and place > 0 and is_latin(text[place - 1])
            cut_right = is_latin(answer[-1]) and end < len(text) and is_latin(text[end])
            if text.startswith(answer, place) and not cut_left and not cut_right:
                here.append(answer)
        found.update([max(here, key=len)] if here else [])
        place += len(max(here, key=len)) if here else 1
    return found


# ---- the tables ----


def test_at_least_600_facts_each_counted_once():
    triples = {(relation.name, fact.subject("en"), fact.object.en) for relation in KNOWLEDGE for fact in relation.facts}
    assert 620 <= len(triples) == sum(len(relation.facts) for relation in KNOWLEDGE) <= 700


@EVERY_RELATION
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_subject_has_one_answer(relation, language):
    subjects = [fact.subject(language) for fact in relation.facts]
    assert len(set(subjects)) == len(subjects)
    assert len(relation.objects(language)) >= 4


@EVERY_RELATION
@pytest.mark.parametrize("language", LANGUAGES)
def test_enough_wordings_all_different_and_with_their_slots(relation, language):
    wordings = relation.wordings(language)
    assert len(wordings.questions) >= 16
    assert len(wordings.held_out) >= 4
    assert len(wordings.statements) >= 12
    assert 1 <= len(wordings.answers) <= 5
    together = [leaks.normalise(text) for text in wordings.questions + wordings.held_out]
    assert len(set(together)) == len(together)
    assert len({leaks.normalise(text) for text in wordings.statements}) == len(wordings.statements)
    slots = {f"{{{slot}}}" for slot in relation.facts[0].slots}
    for text in wordings.questions + wordings.held_out:
        assert set(re.findall(r"\{.*?\}", text)) == slots
    spelled = {f"{{{slot}}}" for slot in relation.facts[0].spelled}
    for text in wordings.statements:
        assert set(re.findall(r"\{.*?\}", text)) in (slots | {"{y}"}, spelled | {"{y}"})
    for text in wordings.answers:
        assert "{y}" in text
        assert set(re.findall(r"\{.*?\}", text)) <= slots | spelled | {"{y}"}


@EVERY_RELATION
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_held_out_wording_is_no_trained_one_with_something_before_or_behind(relation, language):
    wordings = relation.wordings(language)
    for held_out in map(leaks.normalise, wordings.held_out):
        for trained in map(leaks.normalise, wordings.questions):
            assert held_out not in trained
            # A bare "capital of France?" may stand inside a longer sentence; a whole question may not.
            assert trained not in held_out or len(trained) < 0.6 * len(held_out)
            assert SequenceMatcher(None, held_out, trained).ratio() < 0.85, (held_out, trained)
    assert not [text for text in wordings.held_out if re.match(r"请|能|可以|麻烦|Please|Can you|Could you", text)]


@EVERY_RELATION
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_reference_answer_names_the_key_and_nothing_else(relation, language):
    for fact in relation.facts:
        for answer in relation.wordings(language).answers:
            text = fact.fill(answer, language)
            key = unicodedata.normalize("NFKC", fact.object[language]).casefold()
            assert answers_named(text, relation.objects(language)) == {key}, text
            assert len(text) <= (40 if language == "zh" else 110)


def test_the_marking_rule_of_this_test_sees_a_wrong_answer():
    names = ["Guinea", "Papua New Guinea", "I", "日", "日元"]
    assert answers_named("In Papua New Guinea.", names) == {"papua new guinea"}
    assert answers_named("Iron is i.", names) == {"i"}
    assert answers_named("日元和日", names) == {"日元", "日"}


def test_some_facts_that_anybody_can_check():
    def known(relation: str, subject: str, language: str) -> str:
        return next(
            fact.object[language] for fact in relation_named(relation).facts if fact.subject(language) == subject
        )

    assert known("capital", "Australia", "en") == "Canberra"
    assert known("atomic_number", "铁", "zh") == "26"
    assert known("day_after", "Sunday", "en") == "Monday"
    assert known("day_before", "星期一", "zh") == "星期日"
    assert known("month_after", "December", "en") == "January"
    assert known("month_length", "September", "en") == "30"
    for fact in relation_named("addition").facts:
        assert int(fact.slots["a"].en) + int(fact.slots["b"].en) == int(fact.object.en) <= 20
    for fact in relation_named("subtraction").facts:
        assert int(fact.slots["a"].en) - int(fact.slots["b"].en) == int(fact.object.en) > 0
    symbols = dict(
        zip(relation_named("symbol").objects("en"), relation_named("atomic_number").objects("en"), strict=True)
    )
    assert (symbols["Au"], symbols["U"], symbols["Si"]) == ("79", "92", "14")


def test_tables_read_cells_of_two_words_one_word_and_none():
    assert table("中国 China | - | Fe\n\n  长江 the Yangtze | 第一 first | 26") == [
        [Pair("中国", "China"), None, Pair("Fe", "Fe")],
        [Pair("长江", "the Yangtze"), Pair("第一", "first"), Pair("26", "26")],
    ]


def test_a_sentence_begins_with_a_capital_and_a_possessive_reads_well():
    fact = next(fact for fact in relation_named("capital").facts if fact.subject("en") == "the United States")
    assert fact.fill("{x}'s capital is {y}.", "en") == "The United States' capital is Washington."


# ---- training files ----


def test_every_fact_stands_in_the_text_in_every_statement_wording(files):
    text = "\n".join(row["text"] for row in rows_of(files, "pretrain.jsonl"))
    missing = [
        sentence
        for relation in RELATIONS
        for language in LANGUAGES
        for statement in relation.wordings(language).statements
        for fact in relation.facts
        if (sentence := fact.fill(statement, language)) not in text
    ]
    assert missing == []


def test_pretraining_text_has_the_promised_size_and_both_languages(files):
    texts = [row["text"] for row in rows_of(files, "pretrain.jsonl")]
    assert 2_000_000 <= len(files["pretrain.jsonl"].encode()) <= 4_000_000
    chinese = sum(character >= "\u2e80" for text in texts for character in text) / 1.4
    english = sum(character < "\u2e80" for text in texts for character in text) / 4
    assert 0.8 < chinese / english < 1.25  # about as many tokens of each
    assert min(map(len, texts)) < 30
    assert max(map(len, texts)) > 1200
    assert all(text == text.strip() and "{" not in text for text in texts)


def test_pretraining_text_asks_none_of_the_questions(files):
    """What a model knows before SFT it has read as statements: it must not have learned to answer already."""
    text = leaks.normalise(files["pretrain.jsonl"])
    asked = [
        question
        for relation in KNOWLEDGE
        for language in LANGUAGES
        for question in relation.wordings(language).questions
        if "？" in question or "?" in question
        if leaks.normalise(relation.facts[0].fill(question, language) + "?") in text
        if len(leaks.normalise(question)) > 25  # "capital of France?" is part of a statement
    ]
    assert asked == []


def test_tokenizer_text_covers_pretraining_and_conversations(files):
    text = files["tokenizer.txt"]
    for name in ("pretrain.jsonl", "sft.jsonl"):
        for row in rows_of(files, name)[::50]:
            for piece in (
                [row["text"]] if "text" in row else [m["content"] for m in row["messages"] if m["role"] != "system"]
            ):
                assert piece in text


def test_conversations_are_well_formed_single_and_multi_turn(files):
    rows = rows_of(files, "sft.jsonl")
    num_turns = Counter()
    for row in rows:
        assert set(row) == {"messages", "source"}
        roles = [message["role"] for message in row["messages"]]
        spoken = roles[1:] if roles[0] == "system" else roles
        assert spoken == ["user", "assistant"] * (len(spoken) // 2)
        assert all(message["content"].strip() for message in row["messages"])
        num_turns[len(spoken) // 2] += 1
    assert num_turns[1] > 10_000
    assert all(num_turns[n] > 500 for n in (2, 3, 4))
    sources = Counter(row["source"] for row in rows)
    names = {relation.name for relation in RELATIONS + IDENTITY}
    assert sources.keys() == names | {"multi_turn", "small_talk", "story"}
    assert any(row["messages"][0]["role"] == "system" for row in rows)
    alpaca = json.loads(files["sft_alpaca.json"])
    assert len(alpaca) > 1000
    assert all(row.keys() == {"instruction", "input", "output", "source"} for row in alpaca)


def test_every_fact_is_asked_in_many_wordings_and_every_wording_is_used(files):
    said = [row["messages"] for row in rows_of(files, "sft.jsonl")]
    asked = {message["content"] for messages in said for message in messages if message["role"] == "user"}
    asked |= {row["instruction"] for row in json.loads(files["sft_alpaca.json"])}
    openings = [opening for language in LANGUAGES for opening in OPENINGS[language]]
    asked |= {question.removeprefix(each).lstrip() for question in asked for each in openings}
    for relation in RELATIONS:
        for language in LANGUAGES:
            questions = relation.wordings(language).questions
            by_fact = [[fact.fill(text, language) in asked for text in questions] for fact in relation.facts]
            assert min(map(sum, by_fact)) >= 8
            assert min(map(sum, zip(*by_fact, strict=True))) >= 1  # a wording that asks for nothing would be idle


def test_identity_rows_name_the_key_of_their_topic_and_sft_never_says_the_name(files):
    rows = rows_of(files, "identity.jsonl")
    assert len(rows) >= 200
    keys = {topic.name: topic.facts[0].object for topic in IDENTITY}
    for row in rows:
        question, answer = (message["content"] for message in row["messages"])
        language = "en" if question.isascii() else "zh"
        everything = [key[language] for key in keys.values()]
        assert answers_named(answer, everything) == {keys[row["source"]][language].casefold()}
    assert "小苗" not in files["sft.jsonl"]
    assert "Seedling" not in files["sft.jsonl"]


def test_half_of_the_preferred_answers_are_longer_and_all_are_true(files):
    rows = rows_of(files, "preference.jsonl")
    assert len(rows) >= 1000
    for language in LANGUAGES:
        longer = [
            len(row["chosen"]) > len(row["rejected"])
            for row in rows
            if row["prompt"][-1]["content"].isascii() == (language == "en")
        ]
        assert sum(longer) * 2 == len(longer) >= 400
    for row in rows:
        assert [message["role"] for message in row["prompt"]] in (["user"], ["user", "assistant", "user"])
        relation = relation_named(row["source"])
        language = "en" if row["chosen"].isascii() else "zh"
        question = row["prompt"][-1]["content"]
        keys = {
            fact.object[language].casefold()
            for fact in relation.facts
            if any(fact.fill(text, language) == question for text in relation.wordings(language).questions)
        }
        assert len(keys) == 1
        assert answers_named(row["chosen"], relation.objects(language)) == keys
        assert row["chosen"] != row["rejected"]


# ---- the test questions and the exam ----


def test_questions_cover_every_relation_in_held_out_wordings_only(files):
    rows = rows_of(files, "questions.jsonl")
    assert len({(row["language"], row["question"]) for row in rows}) == len(rows)
    wordings_used = defaultdict(set)
    for row in rows:
        assert list(row) == ["language", "relation", "question", "key", "others"]
        relation, language = relation_named(row["relation"]), row["language"]
        sources = [
            (fact, wording)
            for wording in relation.wordings(language).held_out
            for fact in relation.facts
            if fact.fill(wording, language) == row["question"]
        ]
        assert len(sources) == 1
        fact, wording = sources[0]
        assert row["key"] == fact.object[language]
        assert sorted([row["key"], *row["others"]]) == sorted(relation.objects(language))
        wordings_used[relation.name, language].add(wording)
    for language in LANGUAGES:
        counts = Counter(row["relation"] for row in rows if row["language"] == language)
        assert sum(counts.values()) >= 300
        assert counts.keys() == {relation.name for relation in RELATIONS}
        assert max(counts.values()) <= 2 * min(counts.values())
        assert all(len(wordings_used[relation.name, language]) >= 4 for relation in RELATIONS)


def test_no_question_is_asked_with_two_keys(files):
    keys = defaultdict(set)
    for row in rows_of(files, "questions.jsonl"):
        signs_in_words = row["question"].replace(" + ", " plus ").replace(" - ", " minus ")  # no letters to `normalise`
        keys[leaks.normalise(signs_in_words)].add(row["key"])
    assert all(len(found) == 1 for found in keys.values())


def test_the_exam_has_c_evals_columns_and_the_right_letters(files):
    names = [name for name in files if name.startswith("exam/")]
    subjects = {Path(name).name.removesuffix("_dev.csv") for name in names if name.startswith("exam/dev/")}
    assert len(subjects) >= 8
    assert {subject.rsplit("_", 1)[1] for subject in subjects} == set(LANGUAGES)
    letters = Counter()
    for subject in sorted(subjects):
        relation, language = relation_named(subject.rsplit("_", 1)[0]), subject.rsplit("_", 1)[1]
        truth = {
            fact.fill(relation.wordings(language).answers[0].replace("{y}", "____"), language): fact.object[language]
            for fact in relation.facts
        }
        seen = []
        for split, extra in (("dev", ["answer", "explanation"]), ("val", ["answer"]), ("test", [])):
            reader = csv.DictReader(io.StringIO(files[f"exam/{split}/{subject}_{split}.csv"]))
            rows = list(reader)
            assert reader.fieldnames == EXAM_COLUMNS + extra
            assert [row["id"] for row in rows] == [str(number) for number in range(len(rows))]
            assert len(rows) == 5 if split == "dev" else len(rows) >= 7
            for row in rows:
                options = [row[letter] for letter in "ABCD"]
                assert len(set(options)) == 4
                assert truth[row["question"]] in options
                if split != "test":
                    assert row[row["answer"]] == truth[row["question"]]
                    letters[row["answer"]] += 1
                seen.append(row["question"])
        assert sorted(seen) == sorted(truth)
    assert max(letters.values()) - min(letters.values()) <= 2 * len(subjects)
    assert min(letters.values()) >= 0.2 * sum(letters.values())


# ---- the folder ----


def digest_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def test_same_seed_same_bytes_whatever_the_hash_seed(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from dataset.little_world.generator import write_little_world\n"
        "write_little_world(Path(sys.argv[1]), seed=3)"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / hash_seed)],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        for hash_seed in ("1", "2")
    ]
    assert [process.wait() for process in running] == [0, 0]
    assert digest_of(tmp_path / "1") == digest_of(tmp_path / "2")


def test_another_seed_gives_another_world_of_the_same_facts(files):
    other = little_world_files(seed=4)
    assert other.keys() == files.keys()
    assert other["pretrain.jsonl"] != files["pretrain.jsonl"]
    assert len(rows_of(other, "questions.jsonl")) == len(rows_of(files, "questions.jsonl"))


def test_an_earlier_world_is_replaced_and_the_summary_tells_the_truth(tmp_path):
    folder = tmp_path / "raw" / "little_world"
    write_little_world(folder, seed=5)
    summary = write_little_world(folder)
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8")) == summary
    written = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert written == {*summary["files"], "summary.json"}
    for name, file in summary["files"].items():
        content = (folder / name).read_bytes()
        assert file["bytes"] == len(content)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        if name.endswith(".jsonl"):
            assert file["rows"] == len(content.decode().splitlines())
    assert summary["num_facts"] == sum(len(relation.facts) for relation in KNOWLEDGE)
    assert list(tmp_path.glob("raw/.*")) == []


def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path):
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("keep")
    with pytest.raises(UserError, match=r"mine: .*not a little world"):
        write_little_world(foreign)
    assert [path.name for path in foreign.iterdir()] == ["notes.txt"]

    world = tmp_path / "world"
    write_little_world(world)
    with (world / "identity.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    before = digest_of(world)
    with pytest.raises(UserError, match=r"identity\.jsonl: not as"):
        write_little_world(world)
    assert digest_of(world) == before

    with pytest.raises(UserError, match="this is a file"):
        write_little_world(foreign / "notes.txt")
