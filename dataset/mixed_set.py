"""Several packed sets that read as one: what the trainer sees of a mixture, and of its validation sets.

Rows are numbered through, set after set, and sources of the same name are one source. Nothing is copied: every
batch is read from the sets' own memory maps.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dataset.mixed_order import MixedOrder
from dataset.mixture import Mixture
from dataset.packing import PackedSet
from dataset.row_subset import RowSubset
from model.errors import UserError
from model.files import canonical_json, sha256_of_text

_SUMS = ("num_tokens", "num_repeated_tokens", "num_targets", "num_segments", "num_documents")  # of meta.json


class JoinedSets:
    """Packed sets one after another, with the reading interface of one (`dataset.packing.PackedSet`).

    Args:
        folder: what messages call the whole.
        sets: at least one; of one kind, tokenizer and length of row.

    Raises:
        UserError: names the set that does not fit the first.
    """

    def __init__(self, folder: str | Path, sets: Sequence[PackedSet]) -> None:
        self.folder, self.sets = Path(folder), tuple(sets)
        first = self.sets[0]
        for other in self.sets[1:]:
            _check_alike(first, other)
        self.kind, self.max_seq_len, self.row_length = first.kind, first.max_seq_len, first.row_length
        self.vocabulary_hash, self.template_hash = first.vocabulary_hash, first.template_hash
        self.sources = list(dict.fromkeys(source for each in self.sets for source in each.sources))
        self.first_rows = np.cumsum([0, *(each.num_rows for each in self.sets)])  # and, last, the end
        self.num_rows = int(self.first_rows[-1])
        self.fingerprint = sha256_of_text(canonical_json(self._made_of()))
        # The last entry stands for padding: source −1, which as an index means the last.
        self._source_ids = [
            np.array([*(self.sources.index(source) for source in each.sources), -1], np.int64) for each in self.sets
        ]

    def _made_of(self) -> dict[str, Any]:
        """Everything that decides what is read, for the fingerprint. Folders may be moved."""
        return {"sets": [each.fingerprint for each in self.sets]}

    @property
    def meta(self) -> dict[str, Any]:
        """The first set's, with counts of the whole."""
        sums = {name: sum(each.meta.get(name, 0) for each in self.sets) for name in _SUMS}
        own = {"num_rows": self.num_rows, "sources": self.sources, "fingerprint": self.fingerprint}
        return {**self.sets[0].meta, **sums, **own, "name": self.folder.name}

    def tokenizer_files(self) -> dict[str, str]:
        """The tokenizer that made the ids: file name → text."""
        return self.sets[0].tokenizer_files()

    @cached_property
    def targets_per_row(self) -> np.ndarray:
        """[num_rows] int64: how many tokens of each row are targets."""
        return np.concatenate([each.rows["targets"] for each in self.sets], dtype=np.int64)

    @cached_property
    def segments_per_row(self) -> np.ndarray:
        """[num_rows] int64: how many segments of each row have an input position."""
        return np.concatenate([each.rows["segments"] for each in self.sets], dtype=np.int64)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of some rows, as `PackedSet.batch` gives them; `source_ids` index the merged `sources`."""
        rows = np.asarray(rows, dtype=np.int64)
        owners = np.searchsorted(self.first_rows, rows, side="right") - 1
        whole: dict[str, np.ndarray] = {}
        for number in np.unique(owners):
            mine = owners == number
            part = self.sets[number].batch(rows[mine] - self.first_rows[number])
            part["source_ids"] = self._source_ids[number][part["source_ids"]]
            if not whole:
                whole = {name: np.empty((len(rows), *array.shape[1:]), array.dtype) for name, array in part.items()}
            for name, array in part.items():
                whole[name][mine] = array
        return whole


class MixedSet(JoinedSets):
    """The sets of a mixture, and the order in which it reads them."""

    def __init__(self, mixture: Mixture, sets: Sequence[PackedSet]) -> None:
        self.mixture = mixture
        super().__init__(mixture.name, sets)

    def _made_of(self) -> dict[str, Any]:
        return {**super()._made_of(), "mixture": self.mixture.to_dict()}

    def order(self, global_batch: int, seed: int) -> MixedOrder:
        """Which rows each step trains on; the seed counts where the mixture brings none of its own."""
        seed = seed if self.mixture.seed is None else self.mixture.seed
        return MixedOrder(self.mixture, self.sets, global_batch, seed)


AnySet = PackedSet | JoinedSets | RowSubset


def open_mixture(mixture: Mixture, kind: str | None = None) -> MixedSet:
    """Open every set of a mixture.

    Raises:
        UserError: a set that is not there, holds nothing to train on, is not of this kind, or does not fit the
            others.
    """
    sets = [PackedSet.open(folder, kind) for folder in mixture.folders()]
    for each in sets:
        if not each.meta.get("num_targets"):
            raise UserError(f"{each.folder}: has nothing to train on; leave it out of the mixture {mixture.name}")
    return MixedSet(mixture, sets)


def _check_alike(first: PackedSet, other: PackedSet) -> None:
    """One mixture, one tokenizer, one length of row: the model is trained on all of it."""
    same = f"{first.folder}, with which it is mixed"
    if other.kind != first.kind:
        raise UserError(f"{other.folder}: a {other.kind} set, unlike {same} ({first.kind}); leave one of them out")
    if other.vocabulary_hash != first.vocabulary_hash:
        raise UserError(f"{other.folder}: was made with another tokenizer than {same}; pack it again with that one")
    if other.kind != "pretrain" and other.template_hash != first.template_hash:
        raise UserError(f"{other.folder}: was made with another chat template than {same}; pack it again with that one")
    if other.max_seq_len != first.max_seq_len:
        raise UserError(
            f"{other.folder}: has rows of {other.max_seq_len} tokens, {same}, of {first.max_seq_len}; "
            f"pack it again with --max_seq_len {first.max_seq_len}"
        )
