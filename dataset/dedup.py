"""Duplicates, exact and near: the first of equal documents stays, and of near-equal ones the first that stays.

Workers turn documents into keys: a digest, and for near-duplicates MinHash band keys and the set of shingles
(`NearKeys`). The main process hands all of them to one `DuplicateFinder`, whatever their source, and gets one decision
a document back. Its memory is bounded by a setting and not by the input: what does not fit is sorted on disk
(`duplicates/key_index.py`). Equal input gives equal decisions, with much memory or little.

**Near-duplicates.** Documents are compared as sets of shingles (`duplicates/shingles.py`). A MinHash signature (Broder
1997) is `num_perm` numbers, of which two documents have as large a share in common as their Jaccard similarity, on
average. The numbers are grouped into bands; documents with an equal band are candidates (locality-sensitive hashing;
Leskovec et al., "Mining of Massive Datasets", 3.4), and every candidate is verified by its exact similarity
(`duplicates/near_search.py`): none is dropped by mistake, and a pair at the threshold is found with probability
`recall`.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset.duplicates.key_index import KeyIndex, group_starts, zeros_on_disk
from dataset.duplicates.near_search import EXACT, KEEP, NEAR, SMALLEST_MEMORY, NearSearch
from dataset.duplicates.shingles import ShingleStore, shingle_sets
from model.errors import UserError

__all__ = ["EXACT", "KEEP", "NEAR", "DuplicateFinder", "NearDuplicateSettings", "NearKeys"]

_RECALL = 0.98  # wanted of a pair whose similarity is just the threshold; more alike pairs are found more surely
_MINHASH_SEED = 1
_MOST_DOCUMENTS = 2**31 - 1
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class NearDuplicateSettings:
    """What counts as a near-duplicate, and how much is spent on finding it."""

    threshold: float = 0.85  # Jaccard similarity of the shingle sets
    ngram: int = 5  # characters in a shingle; shorter texts are compared by their digests alone
    num_perm: int = 128  # numbers in a signature

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UserError(
                f"near-duplicate threshold: found {self.threshold:g}, expected a similarity above 0 and at most 1 "
                "(0.85 finds small edits)"
            )
        if self.ngram < 1 or self.num_perm < 1:
            raise UserError(
                "near-duplicate n-gram and number of permutations: expected at least 1, "
                f"found {self.ngram} and {self.num_perm}"
            )
        if self.band_recall(1) < _RECALL:
            raise UserError(
                f"near-duplicate threshold: {self.threshold:g} is too low to be found with {self.num_perm} "
                "permutations; raise one of them"
            )

    @property
    def rows(self) -> int:
        """Numbers in a band: as many as the recall allows, because each more makes fewer candidates."""
        return max(rows for rows in range(1, self.num_perm + 1) if self.band_recall(rows) >= _RECALL)

    @property
    def bands(self) -> int:
        """Bands in a signature."""
        return self.num_perm // self.rows

    @property
    def recall(self) -> float:
        """The probability of finding a pair at the threshold itself."""
        return self.band_recall(self.rows)

    def band_recall(self, rows: int) -> float:
        """The probability that a pair at the threshold agrees in at least one band of `rows` numbers."""
        return 1 - (1 - self.threshold**rows) ** (self.num_perm // rows)

    def as_dict(self) -> dict[str, Any]:
        """For meta.json and the fingerprint of a build."""
        return asdict(self)


class NearKeys:
    """Texts → band keys and shingle sets. Made once in each worker."""

    def __init__(self, settings: NearDuplicateSettings) -> None:
        # Imported here: it brings scipy, which only those pay for who look for near-duplicates.
        from datasketch import MinHash

        self.settings = settings
        self._rows, self._bands = settings.rows, settings.bands
        sketch = MinHash(self._rows * self._bands, seed=_MINHASH_SEED, scheme="affine32")
        self._factors, self._summands = sketch.permutations

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Band keys uint64 [texts, bands]; the texts' shingles end to end, uint32; how many each has, int32 [texts].

        A text that is shorter than a shingle has none, and its band keys mean nothing.
        """
        shingles, lengths = shingle_sets(texts, self.settings.ngram)
        return self._band_keys(self.signatures(shingles, lengths)), shingles, lengths

    def signatures(self, shingles: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The MinHash signature of each set, uint32 [sets, num_perm in use]; zeros for an empty set.

        The numbers are those of datasketch's MinHash over the same hashes. Its own loop takes a set at a time; here
        each permutation runs over the sets of many documents at once, which is several times faster.
        """
        signatures = np.zeros((len(lengths), self._rows * self._bands), np.uint32)
        filled = np.flatnonzero(lengths)
        if not len(filled):
            return signatures
        starts = (np.cumsum(lengths) - lengths)[filled]
        mixed = _mix32(shingles)
        permuted = np.empty_like(mixed)
        for number, (factor, summand) in enumerate(zip(self._factors, self._summands, strict=True)):
            np.multiply(mixed, factor, out=permuted)
            np.add(permuted, summand, out=permuted)
            signatures[filled, number] = np.minimum.reduceat(permuted, starts)
        return signatures

    def _band_keys(self, signatures: np.ndarray) -> np.ndarray:
        """The numbers of a band, and which band it is, as one 64-bit hash."""
        numbers = signatures.reshape(len(signatures), self._bands, self._rows).astype(np.uint64)
        keys = np.broadcast_to(np.arange(1, self._bands + 1, dtype=np.uint64), numbers.shape[:2])
        for row in range(self._rows):
            keys = _mix64(keys * np.uint64(0x9E3779B97F4A7C15) ^ numbers[:, :, row])
        return keys


def _mix32(values: np.ndarray) -> np.ndarray:
    """MurmurHash3's last step: equal for equal values only, and no pattern of the values is left."""
    values = (values ^ values >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    values = (values ^ values >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return values ^ values >> np.uint32(16)


def _mix64(values: np.ndarray) -> np.ndarray:
    """The same for 64 bits."""
    values = (values ^ values >> np.uint64(33)) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ values >> np.uint64(33)) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ values >> np.uint64(33)


class DuplicateFinder:
    """Takes the keys of all documents in order, then decides for each whether it stays."""

    def __init__(self, folder: Path, memory_bytes: int, near: NearDuplicateSettings | None = None) -> None:
        """`folder`: what does not fit in `memory_bytes` lies in a folder of its own in here, emptied first.

        Less than a megabyte counts as one, and near-duplicates may take a table of 16 MB beside it.
        """
        self.near = near
        self.num_documents = 0
        self.num_cut_short = 0  # see dataset/duplicates/near_search.py
        self._folder = folder / "duplicates"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._memory_bytes = max(memory_bytes, SMALLEST_MEMORY)
        share = 8 if near else 1
        self._digest_index = KeyIndex(self._folder / "digest_index.bin", self._memory_bytes // share)
        self._digest_file = (self._folder / "digests.bin").open("wb", buffering=1 << 20)
        if near:
            self._band_index = KeyIndex(self._folder / "bands.bin", self._memory_bytes // 2)
            self._shingles = ShingleStore(self._folder)
        self._search_bytes = 0

    @property
    def index_bytes(self) -> int:
        """The size of everything that was stored to find duplicates, in memory or on disk."""
        total = self._digest_index.num_bytes + _DIGEST_BYTES * self.num_documents + self.num_documents
        if self.near:
            total += self._band_index.num_bytes + self._shingles.num_bytes + self._search_bytes
        return total

    @property
    def bytes_per_row(self) -> float:
        """The same for one document, on average."""
        return self.index_bytes / max(1, self.num_documents)

    def add(
        self,
        digests: np.ndarray,
        band_keys: np.ndarray | None = None,
        shingles: np.ndarray | None = None,
        lengths: np.ndarray | None = None,
    ) -> None:
        """Add the next documents: digests uint8 [n, 16], and what `NearKeys` made of them if near-duplicates count."""
        if self.num_documents + len(digests) > _MOST_DOCUMENTS:
            raise UserError(f"more than {_MOST_DOCUMENTS:,} documents in one set; build the sources one by one")
        documents = np.arange(self.num_documents, self.num_documents + len(digests), dtype=np.uint32)
        halves = _halves(digests)
        self._digest_index.append(halves[:, 0].copy(), documents)
        self._digest_file.write(np.ascontiguousarray(digests, np.uint8).data)
        if self.near:
            assert band_keys is not None and shingles is not None and lengths is not None
            assert len(band_keys) == len(lengths) == len(digests) and lengths.sum() == len(shingles)
            compared = lengths > 0
            keys = band_keys[compared]
            self._band_index.append(keys.ravel(), np.repeat(documents[compared] << 1, keys.shape[1]))
            self._shingles.append(shingles, lengths)
        self.num_documents += len(digests)

    def finish(self, progress: Callable[[int], object] = int) -> np.ndarray:
        """The decisions, uint8 [documents]: KEEP, EXACT (an earlier document is equal) or NEAR; mapped from a file.

        `progress` is told, now and then, over how many more documents the search has gone.
        """
        self._digest_file.close()
        decisions_path = self._folder / "decisions.bin"
        decisions = zeros_on_disk(decisions_path, np.uint8, self.num_documents)
        if self.num_documents:
            self._mark_exact(decisions)
        self._digest_index.remove()
        if self.near:
            self._shingles.open()
            search = NearSearch(self._folder, self._memory_bytes, self._shingles, decisions)
            search.run(self._band_index, self.near.threshold, progress)
            self.num_cut_short, self._search_bytes = search.num_cut_short, search.num_bytes
            self._shingles.close()
        for path in self._folder.iterdir():
            if path != decisions_path:
                path.unlink()
        return decisions

    def _mark_exact(self, decisions: np.ndarray) -> None:
        """Mark every document but the first of those with an equal digest.

        The index holds half of each digest; documents that agree in it are compared by the other half, too.
        """
        second_halves = _halves(np.memmap(self._folder / "digests.bin", np.uint8, "r").view(np.ndarray))[:, 1]
        last_key, seen = None, np.empty(0, np.uint64)
        for keys, documents in self._digest_index.batches():
            if keys[0] != last_key:
                seen = seen[:0]  # the second halves that this batch's first key had in earlier batches
            starts = group_starts(keys)
            sizes = np.diff(starts)
            several = np.repeat(sizes > 1, sizes)
            several[: starts[1]] = True  # a key that fills several batches has each of them for itself
            members, groups = documents[several], np.repeat(np.arange(len(sizes)), sizes)[several]
            halves = second_halves[members]
            # Sorted by group, then second half, then document: the first of equal ones stays.
            order = np.lexsort((members, halves, groups))
            members, groups, halves = members[order], groups[order], halves[order]
            repeats = np.zeros(len(members), bool)
            repeats[1:] = (groups[1:] == groups[:-1]) & (halves[1:] == halves[:-1])
            repeats |= (groups == 0) & np.isin(halves, seen)
            decisions[members[repeats]] = EXACT
            seen, last_key = np.union1d(seen, halves[groups == 0]), keys[0]


def _halves(digests: np.ndarray) -> np.ndarray:
    """Digests of 16 bytes as two numbers each: uint64 [n, 2]."""
    return np.ascontiguousarray(digests).reshape(-1, _DIGEST_BYTES).view(np.uint64)
