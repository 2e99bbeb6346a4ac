"""Whatever goes in, through the whole build: nothing is lost or doubled, and nothing trained that should not be."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.building.assembling import validation_mask
from dataset.building.pipeline import build_packed_set
from dataset.building.settings import BuildSettings
from dataset.cleaning import CleaningRules, digest
from dataset.conversations import BadRow, to_conversation
from dataset.packing import IGNORED_TARGET, PackedSet
from model.chat import encode_conversation
from model.errors import UserError
from tests.packed_sets import documents_of
from tests.tiny_model import tiny_tokenizer

# Text with what makes trouble: other scripts, joined characters, line ends, and the names of control tokens.
texts = st.one_of(
    st.text(max_size=30),
    st.text("ab 的是\n", max_size=200),
    st.lists(st.sampled_from(["<|im_end|>", "<|endoftext|>", "<|im_start|>user\n", "😀", "\u0301", "x", " "])).map(
        "".join
    ),
)
turns = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
SPEAKERS = ("human", "gpt")
few = settings(max_examples=40)


def build(folder: Path, rows: list[Any], kind: str, **changes: Any) -> list[PackedSet]:
    """Pack rows in a fresh folder; the set, and its validation set if something fell into it."""
    shutil.rmtree(folder / "packed", ignore_errors=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    chosen = {"max_reject_share": 1.0, "num_workers": 0, **changes}
    paths = (str(folder / "rows.jsonl"),)
    asked = BuildSettings(kind, "mine", paths, tiny_tokenizer(), folder / "packed", **chosen)
    try:
        build_packed_set(asked)
    except UserError as error:
        if "val_share" not in str(error):
            raise
        build_packed_set(replace(asked, val_share=0.0))
    return [PackedSet.open(path, verify=True) for path in sorted((folder / "packed").iterdir())]


@given(
    rows=st.lists(texts, min_size=1, max_size=40),
    max_seq_len=st.integers(8, 100),
    val_share=st.sampled_from([0.0, 0.3]),
    keep=st.booleans(),
)
@few
def test_text(rows: list[str], max_seq_len: int, val_share: float, keep: bool, tmp_path_factory) -> None:
    tokenizer = tiny_tokenizer()
    rows = [*rows, "always something"]
    filled_rows = [text for text in rows if text.strip()]
    expected = filled_rows if keep else list(dict.fromkeys(filled_rows))
    sets = build(
        tmp_path_factory.getbasetemp(),
        [{"text": text} for text in rows],
        "pretrain",
        max_seq_len=max_seq_len,
        val_share=val_share,
        rules=CleaningRules(cleaning="none", keep_duplicates=keep),
    )
    found: list[str] = []
    num_tokens = num_targets = 0
    for packed in sets:
        documents = documents_of(packed)
        for tokens in documents:
            assert tokens[0] == tokens[-1] == 0
            found.append(tokenizer.decode(tokens[1:-1], skip_special_tokens=False))
        batch = packed.batch(np.arange(packed.num_rows))
        trained = Counter(batch["targets"][batch["targets"] != IGNORED_TARGET].tolist())
        assert trained == Counter(token for tokens in documents for token in tokens[1:]), "all but openers, once"
        assert packed.meta["num_targets"] == trained.total()
        num_tokens += packed.meta["num_tokens"]
        num_targets += packed.meta["num_targets"]
        # Only the last row holds padding.
        filled = np.bincount(packed.segments["row"], weights=packed.segments["length"])
        assert (filled[:-1] == packed.row_length).all()
    assert Counter(found) == Counter(expected)
    assert num_tokens == sum(len(tokenizer.encode(text)) + 2 for text in expected) == num_targets + len(expected)
    report = sets[0].meta["report"]["by_source"]["rows"]
    assert report["rows_in"] == len(rows) == report["dropped"] + report["documents"] + report["validation"]


@given(
    rows=st.lists(turns, min_size=1, max_size=25), max_seq_len=st.integers(30, 200), val_share=st.sampled_from([0, 0.3])
)
@few
def test_conversations(rows: list[Any], max_seq_len: int, val_share: float, tmp_path_factory) -> None:
    tokenizer = tiny_tokenizer()
    rows = [*rows, [("q", "a")]]
    raw = [
        {
            "conversations": [
                {"from": who, "value": said} for pair in row for who, said in zip(SPEAKERS, pair, strict=True)
            ]
        }
        for row in rows
    ]
    expected, num_bad, num_long = {}, 0, 0
    for row in raw:
        try:
            conversation = to_conversation(row)
        except BadRow:
            num_bad += 1
            continue
        chat = encode_conversation(tokenizer, conversation["messages"])
        if len(chat.token_ids) > max_seq_len + 1:
            num_long += 1
        else:
            expected[json.dumps(conversation)] = (chat.token_ids, [False, *chat.loss_mask[1:]])
    sets = build(tmp_path_factory.getbasetemp(), raw, "sft", max_seq_len=max_seq_len, val_share=val_share)
    found = []
    for packed in sets:
        assert packed.mask is not None
        assert (packed.segments["targets"] > 0).all(), "each has something to train"
        batch = packed.batch(np.arange(packed.num_rows))
        for segment in packed.segments:
            row, start, end = segment["row"], segment["start"], segment["start"] + segment["length"]
            tokens, mask = packed.tokens[row, start:end].tolist(), packed.mask[row, start:end].tolist()
            found.append((tokens, mask))
            # What the trainer sees: the answer's tokens as targets, each one place before its own.
            inside = batch["targets"][row, start : end - 1]
            assert inside.tolist() == [
                token if trained else IGNORED_TARGET for token, trained in zip(tokens[1:], mask[1:], strict=True)
            ]
        assert int((batch["targets"] != IGNORED_TARGET).sum()) == packed.meta["num_targets"] == int(packed.mask.sum())
    assert sorted(found) == sorted(expected.values())
    cleaning = sets[0].meta["cleaning"]
    assert sum(cleaning["rejected"].values()) == num_bad
    assert cleaning["dropped"].get("longer than a row", 0) == num_long
    control = set(tokenizer.control_tokens.values())
    for tokens, mask in found:
        trained = [token for token, is_trained in zip(tokens, mask, strict=True) if is_trained]
        assert control.intersection(trained) <= {3}, "of control tokens only the end of a turn is trained"


@given(pairs=st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=15), max_seq_len=st.integers(40, 150))
@few
def test_pairs(pairs: list[tuple[str, str, str]], max_seq_len: int, tmp_path_factory) -> None:
    tokenizer = tiny_tokenizer()
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in [*pairs, ("q", "good", "bad")]]
    [packed] = build(tmp_path_factory.getbasetemp(), rows, "dpo", max_seq_len=max_seq_len)
    expected: Counter[Any] = Counter()
    for row in {tuple(value.strip() for value in row.values()) for row in rows}:
        prompt, chosen, rejected = row
        if all(row) and chosen != rejected:
            question = {"role": "user", "content": prompt}
            sides = [[question, {"role": "assistant", "content": answer}] for answer in (chosen, rejected)]
            tokens = tuple(tuple(encode_conversation(tokenizer, side).token_ids) for side in sides)
            if max(map(len, tokens)) <= max_seq_len + 1:
                expected[tokens] += 1
    found = [
        tuple(packed.tokens[segment["row"], segment["start"] : segment["start"] + segment["length"]].tolist())
        for segment in packed.segments
    ]
    assert packed.segments["role"].tolist() == [2, 3] * (len(found) // 2)
    assert packed.segments["row"][::2].tolist() == packed.segments["row"][1::2].tolist(), "both in one row"
    assert (packed.segments["targets"] > 0).all()
    assert Counter(zip(found[::2], found[1::2], strict=True)) == expected


def split(texts: list[str], share: float) -> list[bool]:
    digests = b"".join(map(digest, texts))
    return validation_mask(np.frombuffer(digests, np.uint8).reshape(-1, 16), share).tolist()


@given(st.lists(st.text(max_size=5), max_size=20), st.floats(0, 1))
def test_the_split_of_many_is_the_split_of_each(texts: list[str], share: float) -> None:
    assert split(texts, share) == [in_validation(digest(text), share) for text in texts]


def in_validation(document_digest: bytes, share: float) -> bool:
    """The rule, plainly: the document alone decides, so that no set that grows moves it to the other side."""
    return int.from_bytes(document_digest[:8], "big") < share * 2**64


@given(st.lists(st.text(max_size=5), max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_validation_share_keeps_what_was_in_it(texts: list[str], one: float, other: float) -> None:
    small, large = (split(texts, share) for share in sorted((one, other)))
    assert all(stays or not was for was, stays in zip(small, large, strict=True))
    assert not any(split(texts, 0)) and all(split(texts, 1))


def test_validation_share_is_met() -> None:
    assert 0.085 < np.mean(split([str(number) for number in range(5000)], 0.1)) < 0.115


@pytest.mark.parametrize("share", [0.0, 1e-30, 2.0**-64, 0.5, 1.0])
def test_the_split_at_its_limits(share: float) -> None:
    digests = [bytes(16), b"\xff" * 16, b"\x7f" + b"\xff" * 15, b"\x80" + bytes(15)]
    together = validation_mask(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16), share)
    assert together.tolist() == [in_validation(each, share) for each in digests]
