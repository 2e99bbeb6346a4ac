"""Which documents are near-duplicates of an earlier one that stays: candidates from equal keys, verified exactly.

Three steps, each a stream over sorted records:

1. **Groups.** Documents with an equal band key (dataset/dedup.py) are candidates of each other.
2. **Crowded groups.** Template-like text ("The weather in A on B: …") puts very many documents into one group that
   are alike but not alike enough; comparing all pairs would take quadratic time. A group of more than
   `LARGEST_BAND_GROUP` is therefore replaced by something sharper that loses no pair, the *prefix filter*
   (Chaudhuri et al. 2006; Bayardo et al. 2007). Sort the shingles of every document from rare to frequent: two alike
   documents have one of their rarest shingles in common. What a template repeats is frequent, so documents meet by
   what is their own.
3. **Greedy, in order.** Each document is compared with the earlier documents of its groups that stay, those first
   with which it shares the most keys. Similarity >= threshold to one of them: it goes. So a document is only dropped
   for the sake of one that stays.

Recall is that of the bands (dataset/dedup.py), except where the limits of step 3 are met (`num_cut_short` counts it).

**How long the prefix must be.** Let A and B, of a and b shingles, a <= b, be alike: |A∩B| >= t·|A∪B|. Then
|A∩B| >= t/(1+t)·(a+b) >= 2t/(1+t)·a, and |A∩B| >= t·b. The rarest of o common shingles is among the first n - o + 1 of
each of the two sets, whatever order "rare" means. So it is enough that A shows its first a - 2t/(1+t)·a + 1 (its
*short* prefix: 8 % at t = 0.85) and B its first b - t·b + 1 (its *long* one: 15 %). Which of two is the smaller is not
known beforehand, so every document shows its long prefix; but where a shingle is in the short prefix of neither of
two documents, these two need not be compared because of it.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dataset.duplicates.key_index import KeyIndex, group_starts, zeros_on_disk
from dataset.duplicates.shingles import ShingleStore
from model.errors import UserError

KEEP, EXACT, NEAR = 0, 1, 2

LARGEST_BAND_GROUP = 64
# Only text made to be awkward meets these two: more than so many documents that stay, alike but not alike enough,
# share one rare shingle, or a document has more earlier ones to be compared with.
_LONGEST_KEPT_LIST = 1024
_MOST_COMPARISONS = 1024
_SHINGLES_AT_ONCE = 1 << 18
_FIRST_COMPARISONS = 4  # by far most near-duplicates are found here
_NUM_COUNTERS = 1 << 22
_MOST_GROUPS = 2**31 - 1
# The lowest bit of a record's value: of a document in the prefix index, and of a group in the memberships, it says
# whether the shingle is only in the document's long prefix.
SHORT, LONG = 0, 1
SMALLEST_MEMORY = 1 << 20  # with less, one batch of an index could not hold the largest group


class NearSearch:
    """Marks near-duplicates in `decisions`, where exact duplicates are marked already."""

    def __init__(self, folder: Path, memory_bytes: int, shingles: ShingleStore, decisions: np.ndarray) -> None:
        assert memory_bytes >= SMALLEST_MEMORY
        self._folder, self._shingles, self._decisions = folder, shingles, decisions
        self._prefix_memory = memory_bytes // 2
        # Which groups a document is in: key = document, value = 2 · group + SHORT or LONG.
        self._memberships = KeyIndex(folder / "memberships.bin", memory_bytes // 4)
        self._num_groups = self._num_places = 0
        self.num_cut_short = 0  # documents that stay although not all of their candidates were compared
        self.num_bytes = 0

    def run(self, bands: KeyIndex, threshold: float, progress: Callable[[int], object]) -> None:
        """All three steps. `bands`: a record (band key, 2 · document) for each band of each document; it is used up."""
        crowded = zeros_on_disk(self._folder / "crowded.bin", np.uint8, len(self._decisions))
        with (self._folder / "list_starts.bin").open("wb", buffering=1 << 20) as starts_file:
            starts_file.write(bytes(8))
            self._group_by_bands(bands, crowded, starts_file)
            bands.remove()
            prefixes = KeyIndex(self._folder / "prefixes.bin", self._prefix_memory)
            self._add_prefixes(prefixes, crowded, threshold)
            self._group_by_prefixes(prefixes, starts_file)
            prefixes.remove()
        self._decide(threshold, progress)
        self._memberships.remove()
        # Of a place in a list 4 bytes; of a group, where its two lists start and how long they are.
        lists = 4 * self._num_places + 24 * self._num_groups
        self.num_bytes = prefixes.num_bytes + self._memberships.num_bytes + lists + len(crowded)

    # Steps 1 and 2: groups

    def _groups_of(self, index: KeyIndex) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
        """Groups of at least two documents with an equal key: (sizes, their values end to end, continues).

        Exact duplicates are left out: the document that they repeat stands for them. `continues`: the first group
        goes on with the last one of the time before, which was too large for memory.
        """
        last_key = None
        for keys, values in index.batches(keep=lambda values: self._decisions[values >> 1] == KEEP):
            continues = last_key is not None and keys[0] == last_key
            last_key = keys[-1]
            sizes = np.diff(group_starts(keys))
            several = sizes >= 2
            several[0] |= continues
            yield sizes[several], values[np.repeat(several, sizes)], continues

    def _group_by_bands(self, bands: KeyIndex, crowded: np.ndarray, starts_file: BinaryIO) -> None:
        """Groups of equal band keys; the members of those that are too large are marked in `crowded` instead."""
        for sizes, values, continues in self._groups_of(bands):
            large = sizes > LARGEST_BAND_GROUP
            large[:1] |= continues
            in_large = np.repeat(large, sizes)
            crowded[values[in_large] >> 1] = 1
            sizes, values = sizes[~large], values[~in_large]
            lists = np.stack([sizes, np.zeros_like(sizes)], axis=1)  # all are SHORT: each is compared with each
            self._add_groups(sizes, values, lists, False, starts_file)

    def _group_by_prefixes(self, prefixes: KeyIndex, starts_file: BinaryIO) -> None:
        """Groups of crowded documents that have one of their rarest shingles in common."""
        for sizes, values, continues in self._groups_of(prefixes):
            # A part that came before was as large as memory, so its lists have all the room that lists get.
            lists = np.repeat(np.minimum(sizes[int(continues) :], _LONGEST_KEPT_LIST)[:, None], 2, axis=1)
            self._add_groups(sizes, values, lists, continues, starts_file)

    def _add_groups(
        self, sizes: np.ndarray, values: np.ndarray, lists: np.ndarray, continues: bool, starts_file: BinaryIO
    ) -> None:
        """Number the groups, note who belongs to them, and reserve each its lists: `lists` [groups, SHORT and LONG]."""
        first = self._num_groups - continues
        if first + len(sizes) > _MOST_GROUPS:
            raise UserError(
                "--near_dedup: more groups of similar documents than can be numbered; build the sources one by one"
            )
        groups = np.repeat(np.arange(first, first + len(sizes), dtype=np.uint32), sizes)
        self._memberships.append((values >> 1).astype(np.uint64), groups << 1 | values & 1)
        ends = self._num_places + np.cumsum(lists)
        starts_file.write(ends.astype(np.uint64).data)
        self._num_groups = first + len(sizes)
        self._num_places = int(ends[-1]) if len(ends) else self._num_places

    def _add_prefixes(self, prefixes: KeyIndex, crowded: np.ndarray, threshold: float) -> None:
        """A record (shingle, 2 · document + SHORT or LONG) for each of the rarest shingles of crowded documents.

        How frequent shingles are is counted in a table of fixed size, where several share a counter. The filter
        only needs *one* order for all documents, so that does no harm; and a count of 1 is true: such a shingle
        brings no two documents together and needs no record.
        """
        counts = np.zeros(_NUM_COUNTERS, np.uint32)
        mask = np.uint32(_NUM_COUNTERS - 1)
        for documents in self._crowded_parts(crowded):
            np.add.at(counts, self._shingles.of_many(documents) & mask, 1)
        for documents in self._crowded_parts(crowded):
            sizes, hashes = self._shingles.sizes(documents), self._shingles.of_many(documents)
            owners = np.repeat(np.arange(len(documents)), sizes)
            order = np.lexsort((hashes, counts[hashes & mask], owners))
            hashes = hashes[order]
            rank = np.arange(len(hashes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            short = prefix_lengths(sizes, 2 * threshold / (1 + threshold))
            long = prefix_lengths(sizes, threshold)
            chosen = (rank < np.repeat(long, sizes)) & (counts[hashes & mask] > 1)
            only_long = (rank >= np.repeat(short, sizes))[chosen]
            values = documents[owners[chosen]] * 2 + only_long
            prefixes.append(hashes[chosen].astype(np.uint64) << np.uint64(32), values.astype(np.uint32))

    def _crowded_parts(self, crowded: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(crowded), _SHINGLES_AT_ONCE):
            documents = start + np.flatnonzero(crowded[start : start + _SHINGLES_AT_ONCE])
            yield from self._shingles.parts(documents, _SHINGLES_AT_ONCE)

    # Step 3: greedy, in order

    def _decide(self, threshold: float, progress: Callable[[int], object]) -> None:
        """Mark each document that is near an earlier one which stays."""
        if not self._num_groups:
            return
        starts = np.memmap(self._folder / "list_starts.bin", np.uint64, "r").view(np.ndarray)
        lists = _KeptLists(self._folder, starts)
        passed = 0
        for document, groups in self._in_order():
            progress(document - passed)
            passed = document
            candidates, cut_short = lists.candidates(groups >> 1, groups & 1)
            if self._is_near(document, candidates[:_MOST_COMPARISONS], threshold):
                self._decisions[document] = NEAR
            else:
                lists.add(document, groups)  # of a group's two lists, 2 · group + SHORT or LONG is one
                self.num_cut_short += cut_short or len(candidates) > _MOST_COMPARISONS

    def _in_order(self) -> Iterator[tuple[int, np.ndarray]]:
        """Documents that are in a group, in order, each with its groups."""
        held: tuple[int, np.ndarray] | None = None
        for keys, groups in self._memberships.batches():
            starts = group_starts(keys).tolist()
            for start, end in pairwise(starts):
                document, own = int(keys[start]), groups[start:end]
                if held is not None and held[0] == document:  # more groups than fit into one batch
                    own = np.concatenate([held[1], own])
                elif held is not None:
                    yield held
                held = document, own
        if held is not None:
            yield held

    def _is_near(self, document: int, candidates: np.ndarray, threshold: float) -> bool:
        """Whether one of these documents has at least the threshold's similarity with this one."""
        if not len(candidates):
            return False
        size, sizes = len(self._shingles.of(document)), self._shingles.sizes(candidates)
        # Sets of very different sizes cannot be alike.
        candidates = candidates[np.minimum(sizes, size) / np.maximum(sizes, size) >= threshold]
        for some in (candidates[:_FIRST_COMPARISONS], candidates[_FIRST_COMPARISONS:]):
            for part in self._shingles.parts(some, _SHINGLES_AT_ONCE):
                if (self._shingles.jaccard(document, part) >= threshold).any():
                    return True
        return False


def prefix_lengths(sizes: np.ndarray, share: float) -> np.ndarray:
    """Of how many of its rarest shingles a set must show one if it has at least this share of all in common."""
    # A little less than the share, so that rounding never makes the prefix too short.
    return sizes - np.ceil(share * sizes - 1e-6).astype(np.int64) + 1


class _KeptLists:
    """For each group the documents of it that stay, as far as the search has come: a SHORT and a LONG list; on disk."""

    def __init__(self, folder: Path, starts: np.ndarray) -> None:
        self._starts = starts  # where each list starts, and the end: uint64 [2 · groups + 1]
        self._filled = zeros_on_disk(folder / "list_lengths.bin", np.uint32, len(starts) - 1)
        self._documents = zeros_on_disk(folder / "lists.bin", np.uint32, int(starts[-1]))

    def candidates(self, groups: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, bool]:
        """With whom a document of these groups is to be compared, those first that share the most of them with it.

        Also tells whether a list was too long to hold all.
        """
        lists = np.concatenate([groups * 2 + SHORT, groups[kinds == SHORT] * 2 + LONG]).astype(np.int64)
        lengths = self._filled[lists].astype(np.int64)
        total = int(lengths.sum())
        if not total:
            return np.zeros(0, np.int64), False
        starts = self._starts[lists].astype(np.int64)
        places = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(total)
        documents, num_shared = np.unique(self._documents[places], return_counts=True)
        order = np.argsort(-num_shared, kind="stable")
        return documents[order].astype(np.int64), bool(lengths.max() == _LONGEST_KEPT_LIST)

    def add(self, document: int, lists: np.ndarray) -> None:
        """A document stays: later ones of its groups are compared with it."""
        places = self._starts[lists] + self._filled[lists]
        room = places < self._starts[lists + 1]
        self._documents[places[room]] = document
        self._filled[lists[room]] += 1
