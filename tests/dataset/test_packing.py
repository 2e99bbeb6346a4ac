import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset.filling import TextFiller
from dataset.packing import FORMAT_VERSION, PackedSet, PackedSetWriter, Piece
from model.errors import UserError
from model.files import canonical_json, sha256_of_text
from model.tokenizer import ChatTokenizer


def slow_batch(packed: PackedSet, rows: list[int]) -> dict[str, list[list[int]]]:
    """`PackedSet.batch`, one token after another."""
    length = packed.row_length - 1
    names = ("input_ids", "targets", "segment_ids", "position_ids", "source_ids")
    out: dict[str, list[list[int]]] = {name: [] for name in names}
    for row in rows:
        owner: list[tuple[int, int, int] | None] = [None] * packed.row_length  # segment, position, source
        mine = [segment for segment in packed.segments if segment["row"] == row]
        for number, segment in enumerate(mine):
            for position in range(segment["length"]):
                owner[segment["start"] + position] = (number, position, int(segment["source"]))
        padding_from = owner.index(None) if None in owner else packed.row_length
        targets = []
        for i in range(length):
            now, following = owner[i], owner[i + 1]
            wanted = now is not None and following is not None and now[0] == following[0]
            if packed.mask is not None:
                wanted = wanted and bool(packed.mask[row, i + 1])
            targets.append(int(packed.tokens[row, i + 1]) if wanted else -100)
        out["input_ids"].append([int(token) for token in packed.tokens[row, :-1]])
        out["targets"].append(targets)
        # A segment's last token has nothing of its own to predict: it counts as padding.
        numbers = [-1 if slot is None else slot[0] for slot in owner]
        out["segment_ids"].append([numbers[i] if numbers[i] == numbers[i + 1] else -1 for i in range(length)])
        out["source_ids"].append([-1 if slot is None else slot[2] for slot in owner[:-1]])
        out["position_ids"].append([i - padding_from if slot is None else slot[1] for i, slot in enumerate(owner[:-1])])
    return out


def assert_batch_is_right(packed: PackedSet, rows: list[int]) -> None:
    batch = packed.batch(np.array(rows))
    for name, expected in slow_batch(packed, rows).items():
        assert batch[name].dtype == np.int64
        np.testing.assert_array_equal(batch[name], np.array(expected), err_msg=name)


def random_rows(rng: np.random.Generator, row_length: int, with_mask: bool) -> list[list[Piece]]:
    rows: list[list[Piece]] = []
    for _ in range(int(rng.integers(1, 6))):
        row: list[Piece] = []
        left = row_length
        while left and (not row or rng.random() < 0.8):
            length = int(rng.integers(min(2, left), left + 1))  # of one token only where there is one slot left
            tokens = rng.integers(2, 300, length).astype(np.uint16)
            mask = rng.random(length) < 0.5 if with_mask else None
            row.append(Piece(tokens, mask, int(rng.integers(0, 3)), int(rng.integers(0, 2))))
            left -= length
        rows.append(row)
    return rows


@pytest.mark.parametrize("kind", ["pretrain", "sft", "dpo"])
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), max_seq_len=st.integers(1, 12))
def test_batch_against_a_slow_reference(
    kind: str, seed: int, max_seq_len: int, tokenizer: ChatTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.Generator(np.random.PCG64(seed))
    folder = tmp_path_factory.mktemp("set")
    writer = PackedSetWriter(folder, kind, max_seq_len, tokenizer.vocab_size, pad_token_id=1)
    for row in random_rows(rng, writer.row_length, with_mask=kind != "pretrain"):
        writer.add_row(row)
    writer.finish(tokenizer, {"name": "x", "sources": ["a", "b", "c"], "num_documents": 0})
    packed = PackedSet.open(folder, kind=kind, verify=True)
    assert_batch_is_right(packed, rng.integers(0, packed.num_rows, 7).tolist())
    batch = packed.batch(np.arange(packed.num_rows))
    np.testing.assert_array_equal((batch["targets"] != -100).sum(axis=1), packed.targets_per_row)
    np.testing.assert_array_equal(batch["segment_ids"].max(axis=1) + 1, packed.segments_per_row)
    assert packed.meta["num_targets"] == packed.targets_per_row.sum()


@settings(deadline=None, max_examples=30)
@given(lengths=st.lists(st.integers(2, 60), min_size=1, max_size=60))
def test_text_is_trained_exactly_once(
    lengths: list[int], tokenizer: ChatTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("set")
    writer = PackedSetWriter(folder, "pretrain", 20, vocab_size=70_000, pad_token_id=1)
    filler = TextFiller(writer.row_length, writer.add_row)
    expected: list[int] = []
    number = 100
    for length in lengths:
        filler.add(np.arange(number, number + length), 0)
        expected += range(number + 1, number + length)  # all but the opener
        number += length
    filler.finish()
    writer.finish(tokenizer, {"name": "x", "sources": ["a"], "num_documents": len(lengths)})
    packed = PackedSet.open(folder)
    batch = packed.batch(np.arange(packed.num_rows))
    trained = batch["targets"][batch["targets"] != -100]
    assert sorted(trained.tolist()) == expected
    # The input before each target is its predecessor, whatever was cut.
    assert (batch["input_ids"][batch["targets"] != -100] == trained - 1).all()
    assert packed.meta["num_tokens"] == sum(lengths)
    assert packed.meta["num_targets"] == sum(lengths) - len(lengths)


def test_ids_above_65535_keep_their_value(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    writer = PackedSetWriter(tmp_path, "pretrain", 3, vocab_size=200_000, pad_token_id=1)
    writer.add_row([Piece(np.array([0, 199_999, 0]), None, 0, 0)])
    writer.finish(tokenizer, {"name": "x", "sources": ["a"], "num_documents": 1})
    assert PackedSet.open(tmp_path).batch(np.array([0]))["input_ids"].tolist() == [[0, 199_999, 0]]


def test_many_rows_pass_the_buffer(write_set: Callable[..., PackedSet], piece: Callable[..., Piece]) -> None:
    packed = write_set([[piece([0, number % 300, 0])] for number in range(2500)], max_seq_len=4)
    assert packed.num_rows == 2500
    assert packed.tokens[:, 1].tolist() == [number % 300 for number in range(2500)]
    assert (packed.tokens[:, 3:] == 1).all()
    assert packed.rows["first_segment"].tolist() == list(range(2500))


def test_a_set_carries_its_tokenizer(write_set: Callable[..., PackedSet], piece, tokenizer) -> None:
    packed = write_set([[piece([0, 70, 0])]])
    assert ChatTokenizer.from_files(packed.tokenizer_files()).vocabulary_hash == packed.vocabulary_hash
    assert packed.template_hash == tokenizer.template_hash


def test_fingerprint_tells_content_apart(write_set, piece, tmp_path: Path) -> None:
    first = write_set([[piece([0, 70, 0])]]).fingerprint
    (tmp_path / "pretrain_set").rename(tmp_path / "old")
    again = write_set([[piece([0, 70, 0])]]).fingerprint
    (tmp_path / "pretrain_set").rename(tmp_path / "older")
    other = write_set([[piece([0, 71, 0])]]).fingerprint
    assert first == again != other


# ---- what a user gets wrong ----


def test_raw_file_in_place_of_a_set_shows_the_command(tmp_path: Path) -> None:
    raw = tmp_path / "poems.jsonl"
    raw.write_text("{}")
    with pytest.raises(UserError, match=r"data_process.py sft --name poems --data_path .*poems.jsonl"):
        PackedSet.open(raw, kind="sft")


@pytest.mark.parametrize("name", ["tokens.npy", "segments.npy", "rows.npy", "tokenizer/tokenizer.json"])
def test_cut_or_missing_file_is_named(write_set, piece, name: str) -> None:
    packed = write_set([[piece([0, 70, 0])]])
    path = packed.folder / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{name}.*bytes"):
        PackedSet.open(packed.folder)
    path.unlink()
    with pytest.raises(UserError, match=rf"{name}.*missing"):
        PackedSet.open(packed.folder)


def test_altered_file_is_found_on_request(write_set, piece) -> None:
    packed = write_set([[piece([0, 70, 0])]])
    path = packed.folder / "tokens.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    PackedSet.open(packed.folder)
    with pytest.raises(UserError, match=r"tokens.npy.*altered"):
        PackedSet.open(packed.folder, verify=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": FORMAT_VERSION + 1}, "format"),
        ({"format_version": "new"}, "not the description"),
        ({"kind": "dpo"}, "a dpo set, but this stage needs a pretrain one"),
        ({"num_rows": 5}, r"shape \(1, 17\), meta.json says \(5, 17\)"),
        ({"files": None}, "lacks files"),
    ],
)
def test_wrong_meta(write_set, piece, change: dict[str, object], message: str) -> None:
    packed = write_set([[piece([0, 70, 0])]])
    path = packed.folder / "meta.json"
    meta = {**json.loads(path.read_text()), **change}
    meta = {key: value for key, value in meta.items() if value is not None and key != "digest"}
    path.write_text(json.dumps({**meta, "digest": sha256_of_text(canonical_json(meta))}))
    with pytest.raises(UserError, match=message):
        PackedSet.open(packed.folder, kind="pretrain")


def test_no_such_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such packed set; make it with"):
        PackedSet.open(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no meta.json"):
        PackedSet.open(tmp_path)
