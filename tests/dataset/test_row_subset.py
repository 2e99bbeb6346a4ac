"""Rows of a packed set that read as a set of their own, and how `--test_size` chooses them."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from dataset.packing import ROLE_CHOSEN, ROLE_DOCUMENT, ROLE_REJECTED, PackedSet, Piece
from dataset.row_subset import RowSubset, hold_out_rows
from model.errors import UserError
from model.tokenizer import ChatTokenizer
from tests.packed_sets import documents_of

Make = Callable[..., PackedSet]
MAX_SEQ_LEN = 40


@pytest.fixture
def make(write_set: Make) -> Make:
    """A set of random conversations, one to four of them a row, or of pairs; every token is its document's number."""

    def write(kind: str = "sft", num_rows: int = 30, seed: int = 0) -> PackedSet:
        random = np.random.default_rng(seed)
        roles = (ROLE_CHOSEN, ROLE_REJECTED) if kind == "dpo" else (ROLE_DOCUMENT,)
        number = 64
        rows = []
        for _ in range(num_rows):
            row: list[Piece] = []
            for _ in range(random.integers(1, 5)):
                number += 1
                for role in roles:
                    length = int(random.integers(2, MAX_SEQ_LEN // 4))
                    mask = np.arange(length) >= random.integers(1, length)
                    row.append(Piece(np.full(length, number, np.uint16), mask, int(random.integers(0, 3)), role))
            rows.append(row)
        return write_set(rows, kind=kind, max_seq_len=MAX_SEQ_LEN)

    return write


def numbers_of(part: RowSubset) -> set[int]:
    """The documents in a part, by the tokens that stand for them."""
    batch = part.batch(np.arange(part.num_rows))
    return set(batch["input_ids"][batch["segment_ids"] >= 0].tolist())


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_two_parts_are_the_whole(make: Make, kind: str) -> None:
    packed = make(kind)
    train, held_out = hold_out_rows(packed, 20)
    rows = np.concatenate([train.row_numbers, held_out.row_numbers])
    assert sorted(rows.tolist()) == list(range(packed.num_rows))
    documents = {document[0] for document in documents_of(packed)}
    assert numbers_of(train) | numbers_of(held_out) == documents
    assert not numbers_of(train) & numbers_of(held_out)
    # At least so many, and no row more than they need.
    assert held_out.num_documents == len(numbers_of(held_out)) >= 20
    assert held_out.num_documents < 20 + 4
    assert train.num_documents + held_out.num_documents == len(documents)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_it_reads_as_those_rows_of_the_whole(make: Make, kind: str) -> None:
    packed = make(kind)
    for part in hold_out_rows(packed, 0.3):
        rows = np.random.default_rng(1).integers(0, part.num_rows, 25)
        batch = part.batch(rows)
        for name, expected in packed.batch(part.row_numbers[rows]).items():
            np.testing.assert_array_equal(batch[name], expected, err_msg=name)
        np.testing.assert_array_equal((batch["targets"] != -100).sum(axis=1), part.targets_per_row[rows])
        np.testing.assert_array_equal(batch["segment_ids"].max(axis=1) + 1, part.segments_per_row[rows])
        assert (part.kind, part.max_seq_len, part.row_length) == (kind, packed.max_seq_len, packed.row_length)
        assert part.sources == packed.sources
        assert ChatTokenizer.from_files(part.tokenizer_files()).vocabulary_hash == part.vocabulary_hash
        assert part.template_hash == packed.template_hash


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_the_description_counts_the_part(make: Make, kind: str) -> None:
    packed = make(kind)
    train, held_out = hold_out_rows(packed, 20)
    for name in ("num_rows", "num_tokens", "num_targets", "num_segments"):
        assert 0 < held_out.meta[name] < train.meta[name]
        assert train.meta[name] + held_out.meta[name] == packed.meta[name], name
    tokens = packed.tokens[held_out.row_numbers]
    assert held_out.meta["num_tokens"] == (tokens != packed.meta["pad_token_id"]).sum()
    assert held_out.meta["packing_efficiency"] == pytest.approx((tokens != 1).mean())
    assert held_out.meta["num_documents"] == held_out.num_documents
    assert held_out.meta["fingerprint"] == held_out.fingerprint and held_out.meta["vocab_size"] == 320
    assert train.folder == packed.folder and held_out.folder.name == f"{packed.folder.name} (held out)"
    assert not {"files", "digest"} & train.meta.keys(), "they would be untrue"


def test_the_sets_content_alone_decides(make: Make) -> None:
    packed = make()
    train, held_out = hold_out_rows(packed, 12)
    packed.folder.rename(packed.folder.with_name("moved"))
    again = hold_out_rows(PackedSet.open(packed.folder.with_name("moved")), 12)
    assert [each.fingerprint for each in again] == [train.fingerprint, held_out.fingerprint]
    np.testing.assert_array_equal(again[1].row_numbers, held_out.row_numbers)
    more = hold_out_rows(again[0].packed, 24)[1]
    assert set(held_out.row_numbers) < set(more.row_numbers)
    assert len({packed.fingerprint, *(part.fingerprint for part in (train, held_out, more))}) == 4
    other = hold_out_rows(make(seed=1), 12)[1]
    assert other.row_numbers.tolist() != held_out.row_numbers.tolist()
    # Drawn, not taken from the beginning or the end, where conversations of one length lie together.
    assert held_out.row_numbers.tolist() == sorted(held_out.row_numbers)
    assert held_out.row_numbers[0] > 0 or held_out.row_numbers[-1] >= held_out.num_rows


def test_what_goes_to_a_data_worker_carries_no_arrays(make: Make) -> None:
    packed = make(num_rows=900)
    train, _ = hold_out_rows(packed, 0.1)
    assert train.meta["num_targets"] == train.targets_per_row.sum()
    pickled = pickle.dumps(train)
    assert len(pickled) < 9 * train.num_rows + 1000 < packed.tokens.nbytes / 5, "the rows' numbers, and no more"
    opened = pickle.loads(pickled)
    assert opened.fingerprint == train.fingerprint and opened.folder == train.folder
    rows = np.arange(0, train.num_rows, 7)
    for name, array in train.batch(rows).items():
        np.testing.assert_array_equal(opened.batch(rows)[name], array)


@pytest.mark.parametrize(("test_size", "least"), [(1, 1), (7, 7), (0.0001, 1), (0.3, 21)])
def test_a_number_or_a_share(make: Make, test_size: float, least: int) -> None:
    packed = make()
    assert len(documents_of(packed)) == 71
    held_out = hold_out_rows(packed, test_size)[1]
    assert least <= held_out.num_documents < least + 4


def test_something_is_left_to_train_on(make: Make) -> None:
    packed = make(num_rows=3)
    documents = len(documents_of(packed))
    with pytest.raises(UserError, match=f"{documents} conversations in 3 rows, so nothing would be left") as caught:
        hold_out_rows(packed, documents)
    most = int(str(caught.value).split("expected ")[1].split()[0])
    train, held_out = hold_out_rows(packed, most)
    assert (train.num_rows, held_out.num_rows) == (1, 2) and held_out.num_documents == most
    for test_size in (most + 1, 0.999, 10**9):
        with pytest.raises(UserError, match=f"--test_size {test_size}: .* expected {most} or less"):
            hold_out_rows(packed, test_size)


@pytest.mark.parametrize("num_rows", [0, 1])
def test_one_row_cannot_be_parted(make: Make, num_rows: int) -> None:
    with pytest.raises(UserError, match=f"{num_rows} rows, so nothing would be left to train on; leave the flag out"):
        hold_out_rows(make("dpo", num_rows=num_rows), 1)
