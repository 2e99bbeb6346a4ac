"""Documents as sets of shingles: every run of `ngram` characters, each as a 32-bit hash.

Two documents are as alike as their sets: the Jaccard similarity is the number of shingles that both have, divided
by the number that at least one has.
"""

import hashlib
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_BATCH_CHARS = 1 << 20  # hashed at once: bounds the memory that one very long document, or many, take


def normalise(text: str) -> str:
    """The text as it is compared: width and compatibility forms, case and the amount of white space do not count."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingle_sets(texts: list[str], ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """The shingles of each text: hashes uint32, ascending and different within a text, and int32 [texts] how many.

    A text of fewer than `ngram` characters (once normalised) has none.
    """
    sets: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    batch: list[str] = []
    num_chars = 0

    def close_batch() -> None:
        nonlocal num_chars
        if batch:
            hashes, counts = _shingles_of_batch(batch, ngram)
            sets.append(hashes)
            lengths.append(counts)
            batch.clear()
            num_chars = 0

    for text in map(normalise, texts):
        if num_chars + len(text) > _BATCH_CHARS:
            close_batch()
        if len(text) > _BATCH_CHARS:
            hashes = _shingles_of_long_text(text, ngram)
            sets.append(hashes)
            lengths.append(np.array([len(hashes)]))
        else:
            batch.append(text)
            num_chars += len(text)
    close_batch()
    empty_sets, empty_lengths = np.zeros(0, np.uint32), np.zeros(0, np.int32)
    return np.concatenate([empty_sets, *sets]), np.concatenate([empty_lengths, *lengths]).astype(np.int32)


def _shingles_of_batch(texts: list[str], ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """Like `shingle_sets`, for normalised texts that are hashed at once."""
    num_chars = np.fromiter(map(len, texts), np.int64, len(texts))
    # A surrogate half is no character, but JSON may hold one ("\\ud800"): it is compared like any other.
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    if len(codes) < ngram:
        return np.zeros(0, np.uint32), np.zeros(len(texts), np.int32)
    hashes = _hash_windows(codes, ngram)
    # A window belongs to the text of its first character, unless it reaches into the next text.
    ends = np.cumsum(num_chars)
    text_of = np.repeat(np.arange(len(texts), dtype=np.uint64), num_chars)[: len(hashes)]
    inside = np.arange(ngram, len(codes) + 1) <= ends[text_of.astype(np.int64)]
    # Sorting (text, hash) as one number sorts every text's set at once.
    pairs = np.sort((text_of << np.uint64(32) | hashes)[inside])
    different = np.ones(len(pairs), bool)
    different[1:] = pairs[1:] != pairs[:-1]
    pairs = pairs[different]
    counts = np.bincount((pairs >> np.uint64(32)).astype(np.int64), minlength=len(texts))
    return pairs.astype(np.uint32), counts.astype(np.int32)


def _shingles_of_long_text(text: str, ngram: int) -> np.ndarray:
    """The set of one text that is hashed in pieces; pieces overlap so that no window is lost between them."""
    pieces = (text[start : start + _BATCH_CHARS + ngram - 1] for start in range(0, len(text), _BATCH_CHARS))
    return np.unique(np.concatenate([_shingles_of_batch([piece], ngram)[0] for piece in pieces]))


def _hash_windows(codes: np.ndarray, ngram: int) -> np.ndarray:
    """A 32-bit hash of every `ngram` characters in a row, as uint64 [characters - ngram + 1].

    Multiply-shift hashing of vectors (Dietzfelbinger 1996; Thorup, "High Speed Hashing for Integers and Strings",
    section 3.4): the sum of each code point times a random 64-bit number, of which the upper half is kept. Two
    different windows get the same hash with a probability of 2^-32.
    """
    num_windows = len(codes) - ngram + 1
    wide = codes.astype(np.uint64)
    total = np.full(num_windows, _random_number(ngram))
    for position in range(ngram):
        total += wide[position : position + num_windows] * _random_number(position)
    return total >> np.uint64(32)


def _random_number(position: int) -> np.uint64:
    """64 bits that look random and are the same in every version of every library: hashes outlive a process."""
    name = f"seedling shingles {position}".encode()
    return np.uint64(int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little"))


class ShingleStore:
    """The shingle sets of all documents in two files: all hashes end to end, and where each set starts."""

    def __init__(self, folder: Path) -> None:
        self._hashes_path, self._starts_path = folder / "shingles.bin", folder / "shingle_starts.bin"
        self._hashes_file = self._hashes_path.open("wb", buffering=1 << 20)
        self._starts_file = self._starts_path.open("wb", buffering=1 << 20)
        self._starts_file.write(bytes(8))
        self._num_hashes = self._num_documents = 0

    @property
    def num_bytes(self) -> int:
        """The size of both files."""
        return 4 * self._num_hashes + 8 * (self._num_documents + 1)

    def append(self, shingles: np.ndarray, lengths: np.ndarray) -> None:
        """Add the sets of the next documents, as `shingle_sets` gives them."""
        ends = self._num_hashes + np.cumsum(lengths, dtype=np.uint64)
        self._hashes_file.write(np.ascontiguousarray(shingles, np.uint32).data)
        self._starts_file.write(ends.data)
        self._num_hashes += len(shingles)
        self._num_documents += len(lengths)

    def open(self) -> None:
        """End writing; from now on the sets can be read, as pages of the files that the system brings and drops."""
        self._hashes_file.close()
        self._starts_file.close()
        self._starts = np.memmap(self._starts_path, np.uint64, "r").view(np.ndarray)
        self._hashes = np.zeros(0, np.uint32)
        if self._num_hashes:
            self._hashes = np.memmap(self._hashes_path, np.uint32, "r").view(np.ndarray)

    def sizes(self, documents: np.ndarray) -> np.ndarray:
        """How many shingles each of these documents has."""
        documents = documents.astype(np.int64)
        return (self._starts[documents + 1] - self._starts[documents]).astype(np.int64)

    def of(self, document: int) -> np.ndarray:
        """The shingles of one document, ascending."""
        return self._hashes[int(self._starts[document]) : int(self._starts[document + 1])]

    def of_many(self, documents: np.ndarray) -> np.ndarray:
        """The shingles of several documents, end to end."""
        return np.concatenate([self._hashes[:0], *map(self.of, documents.tolist())])

    def parts(self, documents: np.ndarray, max_shingles: int) -> Iterator[np.ndarray]:
        """Cut a list of documents where their shingles together exceed a number (at least one document a part)."""
        ends = np.cumsum(self.sizes(documents))
        start = 0
        while start < len(documents):
            before = ends[start - 1] if start else 0
            end = max(start + 1, int(np.searchsorted(ends, before + max_shingles, side="right")))
            yield documents[start:end]
            start = end

    def jaccard(self, document: int, others: np.ndarray) -> np.ndarray:
        """The exact Jaccard similarity of a document's set with each of the others', all with at least one shingle."""
        own, hashes, sizes = self.of(document), self.of_many(others), self.sizes(others)
        places = np.searchsorted(own, hashes)
        places[places == len(own)] = 0
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        common = np.add.reduceat((own[places] == hashes).astype(np.int64), starts)
        return common / (len(own) + sizes - common)

    def close(self) -> None:
        """Close the files (and the maps of them)."""
        for file in (self._hashes_file, self._starts_file):
            file.close()
        self._hashes = self._starts = np.zeros(0, np.uint64)
