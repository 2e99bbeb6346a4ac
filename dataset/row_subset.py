"""Some rows of a packed set that read as a set of their own: what `--test_size` trains on, and what it validates on.

A row holds several conversations, each of them whole, so whole rows are held out and no conversation is on both sides.
Nothing is copied: every batch is read from the set's own memory maps.
"""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dataset.packing import PackedSet
from dataset.sampler import epoch_order
from model.errors import UserError
from model.files import canonical_json, sha256_of_text

_OF_THE_WHOLE = ("files", "digest", "cleaning", "report")  # entries of meta.json that are not true of a part


class RowSubset:
    """Rows of one packed set, with the reading interface of a set (`dataset.packing.PackedSet`).

    Args:
        folder: what messages call it.
        packed: the set that the rows belong to.
        row_numbers: [num_rows] which of its rows, each at most once. Row i of the subset is row `row_numbers[i]`.
    """

    def __init__(self, folder: str | Path, packed: PackedSet, row_numbers: np.ndarray) -> None:
        self.folder, self.packed = Path(folder), packed
        self.row_numbers = np.asarray(row_numbers, np.int64)
        assert len(np.unique(self.row_numbers)) == len(self.row_numbers), "a row is there once"
        self.num_rows = len(self.row_numbers)
        self.kind, self.max_seq_len, self.row_length = packed.kind, packed.max_seq_len, packed.row_length
        self.vocabulary_hash, self.template_hash = packed.vocabulary_hash, packed.template_hash
        self.sources = packed.sources
        rows = hashlib.sha256(self.row_numbers.astype("<i8").tobytes()).hexdigest()
        self.fingerprint = sha256_of_text(canonical_json({"set": packed.fingerprint, "rows": rows}))

    def __reduce__(self) -> tuple[Any, tuple[Path, PackedSet, np.ndarray]]:
        # A data worker gets the rows' numbers, opens the set's files itself, and counts what it needs.
        return RowSubset, (self.folder, self.packed, self.row_numbers)

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The whole set's, with counts of these rows."""
        packed = self.packed
        lengths = np.bincount(packed.segments["row"], packed.segments["length"], packed.num_rows)
        num_tokens = int(lengths[self.row_numbers].sum())
        num_slots = self.num_rows * self.row_length
        own = {
            "name": self.folder.name,
            "num_rows": self.num_rows,
            "num_documents": self.num_documents,
            "num_tokens": num_tokens,
            "num_repeated_tokens": 0,  # only what is cut at a row's end goes on with a repeated token
            "num_targets": int(self.targets_per_row.sum()),
            "num_segments": int(self.segments_per_row.sum()),
            "packing_efficiency": num_tokens / num_slots if num_slots else 0.0,
            "fingerprint": self.fingerprint,
        }
        return {name: value for name, value in packed.meta.items() if name not in _OF_THE_WHOLE} | own

    @property
    def num_documents(self) -> int:
        """Conversations, or preference pairs."""
        return int(_documents_per_row(self.packed)[self.row_numbers].sum())

    def tokenizer_files(self) -> dict[str, str]:
        """The tokenizer that made the ids: file name → text."""
        return self.packed.tokenizer_files()

    @cached_property
    def targets_per_row(self) -> np.ndarray:
        """[num_rows] int64: how many tokens of each row are targets."""
        return self.packed.targets_per_row[self.row_numbers]

    @cached_property
    def segments_per_row(self) -> np.ndarray:
        """[num_rows] int64: how many segments of each row have an input position."""
        return self.packed.segments_per_row[self.row_numbers]

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of some rows, as `PackedSet.batch` gives them."""
        return self.packed.batch(self.row_numbers[np.asarray(rows, np.int64)])


def hold_out_rows(packed: PackedSet, test_size: float) -> tuple[RowSubset, RowSubset]:
    """A set of conversations or preference pairs in two parts: the rows to train on, and those held out.

    Whole rows are held out, in an order that the set's content alone decides, until they hold what is asked for: the
    same set and `test_size` always give the same parts, and a larger `test_size` holds out the same rows and more.

    Args:
        packed: a set whose documents are whole, of kind sft or dpo.
        test_size: so many documents when it is 1 or more, below 1 that share of them; a document is a conversation,
            of a preference set a pair.

    Raises:
        UserError: nothing would be left to train on.
    """
    assert packed.kind != "pretrain", "a document of text may lie in several rows"
    documents = _documents_per_row(packed)
    wanted = test_size if test_size >= 1 else max(1, round(test_size * int(documents.sum())))
    order = epoch_order(packed.num_rows, seed=int(packed.fingerprint[:16], 16), epoch=0)
    held = np.cumsum(documents[order])
    count = int(np.searchsorted(held, wanted)) + 1
    if count >= packed.num_rows:
        things = "pairs" if packed.kind == "dpo" else "conversations"
        most = f"expected {held[-2]} or less" if packed.num_rows > 1 else "leave the flag out"
        raise UserError(
            f"--test_size {test_size}: whole rows are held out, and {packed.folder} has {documents.sum()} {things} in "
            f"{packed.num_rows} rows, so nothing would be left to train on; {most}"
        )
    # Sorted, because neighbours on the disk are read faster; the order of training is drawn elsewhere.
    train, held_out = np.sort(order[count:]), np.sort(order[:count])
    return RowSubset(packed.folder, packed, train), RowSubset(f"{packed.folder} (held out)", packed, held_out)


def _documents_per_row(packed: PackedSet) -> np.ndarray:
    """[num_rows] int64: conversations, or pairs, which are two segments each."""
    return packed.segments_per_row // (2 if packed.kind == "dpo" else 1)
