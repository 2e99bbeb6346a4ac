"""What a worker makes of one block."""

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.building.encoding import BlockEncoder, EncodedBlock, EncodingSettings, count_letters, joined
from dataset.building.report import ReadCounts, SetCounts
from dataset.building.shards import Position, ShardFolder
from dataset.cleaning import CleaningRules, digest
from dataset.decontamination import Decontaminator
from dataset.dedup import NearDuplicateSettings, NearKeys
from dataset.messages import BadRow
from dataset.reading.formats import Block
from dataset.recipes import Recipe
from dataset.rules.characters import LANGUAGES, OTHER_LETTER, kinds_of
from model.files import canonical_json
from model.tokenizer import ChatTokenizer
from tests.tiny_model import byte_tokenizer

Encode = Callable[..., EncodedBlock]


def block_of(rows: list[Any], path: str = "rows.jsonl", first_line: int = 1) -> Block:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    return Block(path, "jsonl", first_line, "".join(line + "\n" for line in lines).encode())


@pytest.fixture
def encode(tokenizer: ChatTokenizer) -> Encode:
    def run(rows: list[Any], kind: str = "pretrain", max_seq_len: int = 64, **more: Any) -> EncodedBlock:
        labels = {"rows.jsonl": "rows"}
        settings = EncodingSettings(kind, max_seq_len, "text", more.pop("rules", CleaningRules()), labels, **more)
        return BlockEncoder(tokenizer, settings)(block_of(rows))

    return run


def test_a_block_of_texts(encode: Encode, tokenizer: ChatTokenizer) -> None:
    block = encode([{"text": " one "}, "broken", {"text": ""}, {"text": "二", "source": "zh"}])
    assert block.tokens.dtype == np.uint16
    assert block.tokens.tolist() == [0, *tokenizer.encode("one"), 0, 0, *tokenizer.encode("二"), 0]
    assert block.lengths.tolist() == [[5], [5]] and block.mask is None
    assert block.lines.tolist() == [1, 4]
    assert block.sources == [("rows", "rows"), ("zh", "rows")] and block.source_of.tolist() == [0, 1]
    assert [bytes(each) for each in block.digests] == [digest("one"), digest("二")]
    assert block.read.rows_in == {0: 3, 1: 1}
    assert block.read.rejected.rows == {("broken JSON", 0): 1}
    assert block.read.dropped.rows == {("empty", 0): 1}
    assert encode([{"text": "ＡＢ"}, {"text": "AB"}], rules=CleaningRules(half_width=True)).read.rewritten == {
        "half width": 1
    }
    assert [json.loads(line)["line"] for line in block.rejects.splitlines()] == [2, 3]


def test_a_block_of_conversations(encode: Encode) -> None:
    conversation = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    block = encode([conversation, {"messages": []}], kind="sft")
    assert block.mask is not None and block.mask.sum() == 2  # "a" and what ends the turn
    assert block.lengths.tolist() == [[len(block.tokens)]]
    assert bytes(block.digests[0]) == digest(canonical_json(conversation))


def test_the_recipe_makes_the_rows(encode: Encode) -> None:
    def convert(row: dict[str, Any]) -> dict[str, Any] | None:
        if "body" not in row:
            raise BadRow("no body", "found nothing")
        return {"text": row["body"], "source": "recipe"} if row["body"] != "skip" else None

    recipe = Recipe("mine", "Mine", "pretrain", (), convert, "mine", ("en",))
    block = encode([{"body": "yes"}, {"body": "skip"}, {"text": "no"}], recipe=recipe)
    assert block.num_documents == 1
    assert block.sources == [("recipe", "rows"), ("rows", "rows")]
    assert block.read.dropped.by_reason() == {"left out by the recipe": 1}
    assert block.read.rejected.by_reason() == {"no body": 1}


def test_tokens_of_dropped_rows_are_counted(encode: Encode) -> None:
    block = encode([{"text": "short"}, {"text": "long enough to stay"}], rules=CleaningRules(min_chars=10))
    assert block.read.dropped.tokens_by_reason() == {"too few characters": 5}
    long_answer = {"q": "q", "a": "a" * 100}
    block = encode([long_answer], kind="sft")
    assert block.read.dropped.by_reason() == {"longer than a row": 1}
    assert block.read.dropped.tokens_by_reason()["longer than a row"] > 100


def test_held_out_text_is_left_out_of_both_kinds(encode: Encode, tmp_path: Path) -> None:
    secret = "which of these eleven planets was it that nobody had ever seen before the war"
    (tmp_path / "exam.jsonl").write_text(json.dumps({"question": secret}) + "\n")
    decontaminator = Decontaminator.from_files([tmp_path / "exam.jsonl"])
    decontaminator.store(tmp_path)
    decontaminator = pickle.loads(pickle.dumps(decontaminator))
    texts = encode([{"text": f"They asked {secret}."}, {"text": "fine"}], decontaminator=decontaminator)
    assert texts.lines.tolist() == [2]
    rows = [{"q": f"Say, {secret}?", "a": "None."}, {"q": "fine?", "a": "Yes."}]
    chats = encode(rows, kind="sft", max_seq_len=200, decontaminator=decontaminator)
    assert chats.lines.tolist() == [2]
    for block in (texts, chats):
        [(reason, count)] = block.read.dropped.by_reason().items()
        assert "held-out" in reason and count == 1
        assert "exam.jsonl" in json.loads(block.rejects)["detail"]


def test_keys_of_near_duplicates(encode: Encode) -> None:
    near = NearDuplicateSettings()
    texts = ["The capital of France is Paris.", "tiny"]
    block = encode([{"text": text} for text in texts], near=near)
    assert block.near is not None
    for found, expected in zip(vars(block.near).values(), NearKeys(near)(texts), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_keys_of_near_duplicates_hold_all_that_is_said(encode: Encode) -> None:
    near = NearDuplicateSettings()
    call = {"name": "add", "arguments": {"a": "seventeen ships"}}
    messages = [
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "So many.", "reasoning_content": "One by one.", "tool_calls": [call]},
    ]
    block = encode([{"messages": messages}], kind="sft", max_seq_len=500, near=near)
    assert block.near is not None
    expected = NearKeys(near)(["How many?\nOne by one.\nSo many.\nadd\na\nseventeen ships"])
    for found, key in zip(vars(block.near).values(), expected, strict=True):
        np.testing.assert_array_equal(found, key)


def test_text_is_stripped_by_the_rule_alone(encode: Encode, tokenizer: ChatTokenizer) -> None:
    code = "    def f(self):\n        return 1\n"
    for rules, expected in (
        (CleaningRules(), code.rstrip()),
        (CleaningRules(strip=False), code),
        (CleaningRules(cleaning="none"), code),
    ):
        block = encode([{"text": code}], rules=rules)
        assert tokenizer.decode(block.tokens[1:-1].tolist()) == expected


def test_what_no_file_could_hold_is_mended(encode: Encode) -> None:
    """Half a surrogate pair, which JSON may hold, must end in no report and no rejects file."""
    block = encode(['{"\\ud800": 1}', '{"text": "x", "source": "\\ud800"}', '{"text": "\\ud800"}'])
    block.rejects.decode("utf-8")
    assert block.read.rejected.total == 2
    for reject in (each for group in block.read.rejected.first.values() for each in group):
        (reject.detail + reject.sample).encode("utf-8")
    for label, _ in block.sources:
        label.encode("utf-8")


@given(st.lists(st.text(max_size=40), max_size=8), st.integers(2, 50))
def test_letters_are_counted_by_script(texts: list[str], long_text: int) -> None:
    from unittest import mock

    with mock.patch("dataset.building.encoding._LONG_TEXT", long_text):
        counts = count_letters(texts)
    assert counts.shape[0] == len(texts)
    for text, row in zip(texts, counts, strict=True):
        total = SetCounts()
        total.add(np.zeros(1, np.int32), np.ones(1, np.int64), row[None])
        languages = languages_of(text)
        expected = {name: count / max(sum(languages.values()), 1) for name, count in languages.items()}
        assert total.languages() == pytest.approx(expected, abs=1e-6)


def languages_of(text: str) -> Counter[str]:
    """Letters by language, slowly: one after another."""
    names = {kind: name for name, kind in LANGUAGES.items()} | {OTHER_LETTER: "other"}
    return Counter(names[kind] for kind in kinds_of(text).tolist() if kind in names)


texts_or_not = st.one_of(
    st.builds(lambda text, source: {"text": text, "source": source}, st.text(max_size=9), st.sampled_from("abc")),
    st.builds(lambda text: {"text": text}, st.text(max_size=9)),
    st.just({"body": "x"}),
    st.just("{broken"),
)


@given(
    rows=st.lists(texts_or_not, max_size=20),
    sizes=st.lists(st.integers(1, 5), min_size=20, max_size=20),
    with_near=st.booleans(),
)
def test_blocks_joined_and_stored_are_the_block_of_all_rows(
    rows: list[Any], sizes: list[int], with_near: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    near = NearDuplicateSettings() if with_near else None
    settings = EncodingSettings("pretrain", 64, "text", CleaningRules(), {"rows.jsonl": "rows"}, near=near)
    encoder = BlockEncoder(byte_tokenizer(64), settings)
    blocks, start = [], 0
    for size in sizes:
        blocks.append(encoder(block_of(rows[start : start + size], first_line=start + 1)))
        start += size
    folder = tmp_path_factory.mktemp("shards")
    shards = ShardFolder(folder)
    shards.write(joined(blocks), Position("rows.jsonl", len(blocks), 1))
    [found] = ShardFolder(folder).read(with_near=True)
    expected = encoder(block_of(rows))
    assert ShardFolder(folder).position == Position("rows.jsonl", len(blocks), 1)
    assert found.sources == expected.sources and found.rejects == expected.rejects
    assert found.read.as_lists() == expected.read.as_lists()
    for name in ("tokens", "lengths", "lines", "path_of", "source_of", "digests", "letters"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    if with_near:
        for ours, theirs in zip(vars(found.near).values(), vars(expected.near).values(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_counts_survive_their_lists() -> None:
    counts = ReadCounts()
    counts.merge(ReadCounts(), [])
    counts.add_too_long(700)
    assert ReadCounts.from_lists(json.loads(json.dumps(counts.as_lists()))) == counts
