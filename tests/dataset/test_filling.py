from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.filling import TextFiller, WholeFiller
from dataset.packing import ROLE_CONTINUATION, ROLE_DOCUMENT, Piece


def fill_text(lengths: list[int], row_length: int, **options: int) -> tuple[list[list[Piece]], list[list[int]]]:
    """Rows made of documents of these lengths; each document's tokens are unlike any other's."""
    rows: list[list[Piece]] = []
    filler = TextFiller(row_length, rows.append, **options)
    documents, first = [], 0
    for number, length in enumerate(lengths):
        documents.append(list(range(first, first + length)))
        filler.add(np.array(documents[-1]), source=number)
        first += length
    filler.finish()
    return rows, documents


def rebuild(rows: list[list[Piece]]) -> dict[int, list[int]]:
    """The documents, put together from the rows alone: what a cut repeats must be equal, and is dropped."""
    documents: dict[int, list[int]] = {}
    for row in rows:
        for place, (tokens, mask, source, role) in enumerate(row):
            assert mask is None
            if role == ROLE_CONTINUATION:
                assert place == 0, "only a row's first segment goes on with the previous row's last"
                assert documents[source][-1] == tokens[0]
                assert len(tokens) >= 2
                documents[source].extend(tokens[1:].tolist())
            else:
                assert role == ROLE_DOCUMENT
                assert source not in documents
                documents[source] = tokens.tolist()
    return documents


@settings(deadline=None, max_examples=200)
@given(
    lengths=st.lists(st.one_of(st.integers(2, 6), st.integers(2, 90)), max_size=120),
    row_length=st.integers(3, 33),
    max_waiting=st.integers(1, 50),
    max_waiting_tokens=st.integers(1, 500),
)
def test_every_token_of_every_document_comes_out_once(
    lengths: list[int], row_length: int, max_waiting: int, max_waiting_tokens: int
) -> None:
    rows, documents = fill_text(lengths, row_length, max_waiting=max_waiting, max_waiting_tokens=max_waiting_tokens)
    assert rebuild(rows) == dict(enumerate(documents))
    for row in rows[:-1]:
        assert sum(len(piece.tokens) for piece in row) == row_length, "only the last row holds padding"
    for before, after in pairwise(rows):
        if after[0].role == ROLE_CONTINUATION:
            assert before[-1].source == after[0].source


@settings(deadline=None, max_examples=50)
@given(lengths=st.lists(st.integers(3, 40), min_size=60, max_size=200), row_length=st.integers(41, 65))
def test_an_opener_is_alone_only_when_no_document_could_be_cut(lengths: list[int], row_length: int) -> None:
    lengths = [*lengths, *[row_length * 3] * len(lengths)]  # there is always a longer one to cut
    rows, _ = fill_text(lengths, row_length, max_waiting=10**9, max_waiting_tokens=10**9)
    holds_long = [any(piece.source >= len(lengths) // 2 for piece in row) for row in rows]
    for number, row in enumerate(rows):
        if len(row[-1].tokens) == 1 and row[-1].source < len(lengths) // 2:
            # Only where the rest of a cut document left one slot; or where the long ones have run out.
            has_run_out = number == len(rows) - 1 or not any(holds_long[number:])
            assert [piece.role for piece in row] == [ROLE_CONTINUATION, ROLE_DOCUMENT] or has_run_out


def test_documents_of_one_length_that_never_fit() -> None:
    rows, documents = fill_text([4] * 1000, 257)
    assert rebuild(rows) == dict(enumerate(documents))
    filled = sum(len(piece.tokens) for row in rows[:-1] for piece in row)
    assert filled == 257 * (len(rows) - 1)


def test_short_documents_are_rarely_cut() -> None:
    lengths = np.random.Generator(np.random.PCG64(1)).integers(10, 300, 3000).tolist()
    rows, _ = fill_text(lengths, 513)
    cuts = sum(piece.role == ROLE_CONTINUATION for row in rows for piece in row)
    assert cuts < len(rows) / 50  # one after another, nearly every row would end inside a document


def test_a_document_that_seldom_fits_is_not_forgotten() -> None:
    # Rows always begin with the rest of a long document; the one of a full row's length must wait, but not
    # for ever in a list that grows with the input.
    rows: list[list[Piece]] = []
    filler = TextFiller(32, rows.append, max_waiting=8)
    filler.add(np.zeros(32, np.int64), source=7)
    for _ in range(2000):
        filler.add(np.ones(47, np.int64), source=0)
        assert len(filler._order) <= 8 * 8 + 8
    filler.finish()
    assert sum(piece.source == 7 for row in rows for piece in row) >= 1


@settings(deadline=None, max_examples=100)
@given(lengths=st.lists(st.integers(1, 40), max_size=80), window=st.integers(1, 60), sides=st.integers(1, 2))
def test_whole_items_stay_whole_and_in_order(lengths: list[int], window: int, sides: int) -> None:
    rows: list[list[Piece]] = []
    filler = WholeFiller(80, rows.append, window=window)
    for number, length in enumerate(lengths):
        filler.add([Piece(np.full(length, side), None, number, 2 + side) for side in range(sides)])
    filler.finish()
    found = [(piece.source, piece.role, len(piece.tokens)) for row in rows for piece in row]
    assert sorted(found) == [(i, 2 + side, n) for i, n in enumerate(lengths) for side in range(sides)]
    for row in rows:
        assert sum(len(piece.tokens) for piece in row) <= 80
        assert [piece.role for piece in row] == [2, 3][:sides] * (len(row) // sides)  # a pair is side by side


def best_fit_decreasing(lengths: list[int], capacity: int) -> int:
    """Rows of the textbook's best fit: longest first, each into the fullest row that still has room."""
    rows: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, filled in enumerate(rows) if capacity - filled >= length]
        if fitting:
            rows[max(fitting, key=lambda row: rows[row])] += length
        else:
            rows.append(length)
    return len(rows)


def fill_whole(lengths: list[int], capacity: int) -> int:
    rows: list[list[Piece]] = []
    filler = WholeFiller(capacity, rows.append)
    for length in lengths:
        filler.add([Piece(np.zeros(length), None, 0, 0)])
    filler.finish()
    return len(rows)


@pytest.mark.parametrize(("low", "high"), [(20, 60), (10, 257), (90, 130), (3, 40)])
def test_whole_filler_needs_no_more_rows_than_best_fit_decreasing(low: int, high: int) -> None:
    rng = np.random.Generator(np.random.PCG64(low))
    for _ in range(5):
        lengths = rng.integers(low, high, 400).tolist()
        mine = fill_whole(lengths, 257)
        assert mine >= sum(lengths) / 257
        assert mine <= best_fit_decreasing(lengths, 257)
