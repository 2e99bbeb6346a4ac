"""Keeping exams out of the training data: rows that share a long run of words with a held-out file are dropped.

What counts is 13 words in a row, as in Brown et al. 2020 (GPT-3, appendix C), or 20 Chinese characters: thirteen
English words translate to about twenty. Case, punctuation, spacing and Unicode variants do not count. What is
shorter than that is looked for as a whole. A short question with choices is looked for together with them; without,
only when it is long enough to tell it from the beginning of any textbook sentence ("The core of ethics is ____").

The runs are kept as hashes of 64 bits in one sorted array: ten bytes each, whatever their length.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataset.conversations import Conversation, all_messages
from dataset.held_out import Item, items_of, label_of_choice
from dataset.messages import texts_of
from dataset.reading.formats import Row, parse_block
from dataset.rules.ngrams import MAX_CHARS, PrefixSums, Units, ngram_hashes, prefix_sums, stretch_hashes, units_of
from dataset.rules.rewriting import normalise_unicode
from dataset.sources import Input, find_inputs
from model.errors import UserError

CONTAMINATED = "shares text with a held-out file"
WORDS = 13
CHARACTERS = 20
# A whole question below this says too little: it must be the whole of a message to count ("Who wrote Hamlet?").
_MIN_WORDS, _MIN_CHARACTERS = 5, 8
_MIN_STEM_WORDS, _MIN_STEM_CHARACTERS = 8, 12  # of a question that has choices
# A run in more than this many different questions is a habit of the exam ("which of the following is true of …").
# Brown et al. leave out runs that match more than ten documents, for the same reason.
_MAX_ITEMS = 10
_MAX_STEMS = 2  # the same question with other choices this often: "which is true?", not a question one could leak
_MAX_BYTES = 1 << 30
_OVERLAP = 1 << 12  # characters that two windows of a long text share; above the length of any run
_BEGINNING = np.uint64(0x5BE6157A6E0F1A4D)  # marks the hash of a beginning: by itself it is no find
_NO_LIMIT = 1 << 40
_KINDS = ("run", "whole", "beginning", "equal")


@dataclass(frozen=True)
class Shared:
    """A run that a training text shares with a held-out file (in small letters, as it was compared)."""

    text: str
    num_units: int
    held_out: str  # the file's name

    @property
    def detail(self) -> str:
        """For reports."""
        shown = " ".join(self.text.split())
        shown = shown if len(shown) <= 120 else f"{shown[:120]}…"
        return f"{self.num_units} words or characters in a row are in {self.held_out}: {shown}"


class Decontaminator:
    """The runs of some held-out files, and the search for them. It may be pickled; `store` makes that cheap."""

    def __init__(self, words: int = WORDS, characters: int = CHARACTERS) -> None:
        for flag, value, least in (("words", words, _MIN_WORDS), ("characters", characters, _MIN_CHARACTERS)):
            if not least <= value <= 1000:
                raise UserError(f"--decontaminate_{flag} {value}: expected a number from {least} to 1000")
        self.words, self.characters = words, characters
        self.names: list[str] = []  # of the held-out files
        self.num_items = self.num_unread = 0
        self._runs = _Runs()
        self._arrays: dict[str, np.ndarray] = {}
        self._bitmap = np.zeros(0, bool)
        self._lengths: dict[str, list[int]] = {}
        self._folder: Path | None = None

    @classmethod
    def from_files(
        cls, names: Iterable[str | Path], words: int = WORDS, characters: int = CHARACTERS
    ) -> "Decontaminator":
        """Read held-out files in any form that training data may have, exams included.

        Raises:
            UserError: nothing is there, a file holds no question and no text, or there is more than memory allows.
        """
        made = cls(words, characters)
        for found in find_inputs(names):
            made._add_input(found)
        made.finish()
        return made

    def _add_input(self, found: Input) -> None:
        before, fields_seen = self.num_items, ""
        for block in found.blocks():
            for row in parse_block(block):
                items = items_of(row.value) if isinstance(row, Row) else []
                self.num_unread += not items
                if isinstance(row, Row) and not items:
                    fields_seen = fields_seen or ", ".join(map(str, row.value))[:200]
                self.add(items, found.name)
        if self.num_items == before:
            raise UserError(
                f"--decontaminate {found.name}: no question and no text in it (fields: {fields_seen or 'none'}); "
                f"expected question, text, messages, or any form of training data"
            )

    def add(self, items: Iterable[Item], name: str) -> None:
        """Take items of a held-out file; `finish` must follow before anything is searched."""
        if name not in self.names:
            self.names.append(name)
        for item in items:
            self.num_items += 1
            folded = _folded(item.text)
            if len(folded) < MAX_CHARS:
                self._runs.add(self._runs_of(item, _Text(folded)), self.names.index(name))
            else:
                for window in _windows(folded):
                    self._runs.add(self._runs_of(replace(item, whole=False), _Text(window)), self.names.index(name))

    def _runs_of(self, item: Item, stem: "_Text") -> list["_Hashes"]:
        """What to look for: runs of n; or what is shorter than n, as a whole."""
        if not len(stem.units):
            return []
        is_han = 2 * int(stem.units.is_han.sum()) >= len(stem.units)
        n, least = (self.characters, _MIN_CHARACTERS) if is_han else (self.words, _MIN_WORDS)
        if len(stem.units) >= n:
            return [_Hashes("run", n, stem.runs(n), _MAX_ITEMS)]
        if not item.choices:
            return _whole(stem, least, least, _NO_LIMIT) if item.whole else []
        hashes = _whole(stem, least, _MIN_STEM_CHARACTERS if is_han else _MIN_STEM_WORDS, _MAX_STEMS)
        # With its choices: as a plain sequence, and with a letter before each, as prompts write it.
        lettered = [f"{label_of_choice(number)}. {text}" for number, text in enumerate(item.choices)]
        for choices in (item.choices, lettered):
            text = _Text(_folded("\n".join([item.text, *choices]))[: MAX_CHARS - 1])
            if len(text.units) < n:
                hashes += _whole(text, least, least, _NO_LIMIT)
            else:
                # Only runs that begin inside the question: a single choice may be a sentence of a textbook.
                hashes.append(_Hashes("run", n, text.runs(n)[: len(stem.units)], _MAX_ITEMS))
        return hashes

    def finish(self) -> None:
        """Sort what was added, leave habits of the exams out, and make the search ready."""
        self._arrays = self._runs.sorted_arrays()
        self._lengths = self._runs.lengths
        self._runs = _Runs()
        self._make_bitmap()

    def _make_bitmap(self) -> None:
        """One bit (byte) for a part of each hash: a glance that rules out most runs before the exact search."""
        hashes = self._arrays["hashes"]
        bits = min(max(16, (8 * len(hashes)).bit_length()), 27)
        self._shift = np.uint64(64 - bits)
        self._bitmap = np.zeros(1 << bits, bool)
        self._bitmap[hashes >> self._shift] = True

    @property
    def num_bytes(self) -> int:
        """Memory of the hashes and of the table in front of them."""
        return sum(array.nbytes for array in self._arrays.values()) + self._bitmap.nbytes

    # ---- searching ----

    def match(self, text: str) -> str | None:
        """A run of a text that is held out, None when there is none."""
        found = self.find([text])[0]
        return None if found is None else found.text

    def find(self, texts: Sequence[str]) -> list[Shared | None]:
        """For each text a run that is held out, or None; quickest for many texts at once."""
        found: list[Shared | None] = [None] * len(texts)
        batch: list[tuple[int, str]] = []
        size = 0
        for number, text in enumerate(texts):
            for piece in _windows(_folded(text)):
                if size + len(piece) + 1 > MAX_CHARS:
                    self._search(batch, found)
                    batch, size = [], 0
                batch.append((number, piece))
                size += len(piece) + 1
        self._search(batch, found)
        return found

    def find_conversations(self, conversations: Sequence[Conversation]) -> list[Shared | None]:
        """The same for conversations and preference pairs: all that each message says is searched, reasoning and
        calls of tools too; one find is enough."""
        texts: list[str] = []
        owners: list[int] = []
        for number, conversation in enumerate(conversations):
            said = [text for message in all_messages(conversation) for text in texts_of(message)]
            texts += said
            owners += [number] * len(said)
        found: list[Shared | None] = [None] * len(conversations)
        for owner, shared in zip(owners, self.find(texts), strict=True):
            found[owner] = found[owner] or shared
        return found

    def _search(self, batch: list[tuple[int, str]], found: list[Shared | None]) -> None:
        if not batch or not len(self._arrays["hashes"]):
            return
        text = _Text("\n".join(piece for _, piece in batch))
        if not len(text.units):
            return
        ends = np.cumsum([len(piece) + 1 for _, piece in batch])
        piece_of = np.searchsorted(ends, text.units.starts, side="right")  # which piece a unit belongs to
        for start, size in self._finds(text, piece_of):
            number = batch[piece_of[start]][0]
            if found[number] is None:
                run = text.between(start, start + size)
                owner = self._owner(text.hashes(np.array([start]), size)[0])
                found[number] = Shared(run, size, self.names[owner])

    def _finds(self, text: "_Text", piece_of: np.ndarray) -> Iterator[tuple[int, int]]:
        """Where held-out runs stand in a text, and how many units they have; none goes over the end of a piece."""
        for size in self._lengths["run"]:
            starts = np.flatnonzero(self._known(text.runs(size)))
            for start in starts[piece_of[starts] == piece_of[starts + size - 1]]:
                yield int(start), size
        for least in self._lengths["beginning"]:
            begins = np.flatnonzero(self._known(text.runs(least) ^ _BEGINNING))
            for size in self._lengths["whole"] if len(begins) else ():
                starts = begins[begins + size <= len(text.units)]
                starts = starts[piece_of[starts] == piece_of[starts + size - 1]]
                for start in starts[self._known(text.hashes(starts, size))]:
                    yield int(start), size
        borders = np.flatnonzero(np.diff(piece_of, prepend=-1, append=-1))
        sizes = np.diff(borders)
        for size in self._lengths["equal"]:
            starts = borders[:-1][sizes == size]
            for start in starts[self._known(text.hashes(starts, size))]:
                yield int(start), size

    def _known(self, hashes: np.ndarray) -> np.ndarray:
        """Which hashes are held out, bool `[n]`."""
        known = self._bitmap[hashes >> self._shift]
        maybe = np.flatnonzero(known)
        if len(maybe):
            held_out = self._arrays["hashes"]
            places = np.searchsorted(held_out, hashes[maybe])
            known[maybe] = held_out[np.minimum(places, len(held_out) - 1)] == hashes[maybe]
        return known

    def _owner(self, hash_: np.uint64) -> int:
        return int(self._arrays["owners"][np.searchsorted(self._arrays["hashes"], hash_)])

    # ---- to other processes ----

    def store(self, folder: str | Path) -> None:
        """Write the arrays to a folder: from now on a pickle holds only its path, and all processes share pages."""
        self._folder = Path(folder).resolve()
        for name, array in self._arrays.items():
            np.save(self._folder / f"held_out_{name}.npy", array)
        self._open()

    def _open(self) -> None:
        assert self._folder is not None
        self._arrays = {
            name: np.load(self._folder / f"held_out_{name}.npy", mmap_mode="r") for name in ("hashes", "owners")
        }

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_bitmap": None}
        return state if self._folder is None else {**state, "_arrays": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._folder is not None:
            self._open()
        self._make_bitmap()


def describe(names: Sequence[str | Path], words: int = WORDS, characters: int = CHARACTERS) -> dict[str, Any]:
    """For the fingerprint of a build: which held-out files with which content, and the lengths of a run."""
    files = {found.name: found.fingerprint() for found in find_inputs(names)}
    return {"files": files, "words": words, "characters": characters}


@dataclass(frozen=True)
class _Hashes:
    """Hashes of stretches of one length; one that is found in more than `most` items is a habit and left out."""

    kind: str  # run; whole (shorter than a run); beginning (of a whole); equal (only if it is a whole message)
    size: int
    hashes: np.ndarray
    most: int


def _whole(text: "_Text", least: int, least_inside: int, most: int) -> list[_Hashes]:
    """What finds a short text as a whole: anywhere if it is long enough, else only as the whole of a message."""
    size = len(text.units)
    if size < least_inside:
        return [_Hashes("equal", size, text.runs(size), most)]
    beginning = text.runs(least)[:1] ^ _BEGINNING
    return [_Hashes("whole", size, text.runs(size), most), _Hashes("beginning", least, beginning, _NO_LIMIT)]


class _Text:
    """A folded text cut into units, with the prefix sums that give the hash of any run of them."""

    def __init__(self, folded: str) -> None:
        self.folded = folded
        self.units: Units = units_of(folded)
        self.prefix: PrefixSums = prefix_sums(self.units.hashes)

    def runs(self, size: int) -> np.ndarray:
        """The hashes of all runs of so many units, in order."""
        return ngram_hashes(self.prefix, size)

    def hashes(self, starts: np.ndarray, size: int) -> np.ndarray:
        """The hashes of the runs that begin at these units."""
        return stretch_hashes(self.prefix, starts, starts + size)

    def between(self, start: int, end: int) -> str:
        return self.folded[self.units.starts[start] : self.units.ends[end - 1]]


@dataclass
class _Runs:
    """Hashes while they are gathered: each once an item, so that runs of many items can be told."""

    lengths: dict[str, list[int]] = field(default_factory=lambda: {key: [] for key in _KINDS})
    _seen: set[int] = field(default_factory=set)
    _pending: list[tuple[np.ndarray, int, int]] = field(default_factory=list)
    _num_bytes: int = 0

    def add(self, found: list[_Hashes], owner: int) -> None:
        """Take what one item of a file is known by; an item that was there before (in another file) counts once."""
        whole = hash(tuple(each.hashes.tobytes() for each in found))
        if not found or whole in self._seen:
            return
        self._seen.add(whole)
        for each in found:
            if each.size not in self.lengths[each.kind]:
                self.lengths[each.kind] = sorted([*self.lengths[each.kind], each.size])
            hashes = np.unique(each.hashes)
            self._pending.append((hashes, owner, each.most))
            self._num_bytes += 100 + hashes.nbytes * 3
        if self._num_bytes > _MAX_BYTES:
            raise UserError(
                f"--decontaminate: the held-out files need more than {_MAX_BYTES >> 30} GiB; name fewer or smaller ones"
            )

    def sorted_arrays(self) -> dict[str, np.ndarray]:
        """`hashes` (uint64, sorted, each once, without habits) and `owners` (uint16, the file of each)."""
        hashes = np.concatenate([array for array, _, _ in self._pending] or [np.zeros(0, np.uint64)])
        sizes = [len(array) for array, _, _ in self._pending]
        owners = np.repeat(np.array([owner for _, owner, _ in self._pending], np.uint16), sizes)
        most = np.repeat(np.array([most for _, _, most in self._pending], np.int64), sizes)
        unique, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        stays = counts <= most[first]
        return {"hashes": unique[stays], "owners": owners[first][stays]}


def _folded(text: str) -> str:
    """What does not count when texts are compared: case and Unicode variants. Marks and spaces go with the units."""
    return normalise_unicode(text, "nfkc").casefold()


def _windows(text: str) -> Iterator[str]:
    """A long text in overlapping windows, so that memory stays small and no run is cut in two."""
    step = MAX_CHARS - 1 - _OVERLAP
    for start in range(0, max(1, len(text) - _OVERLAP), step):
        yield text[start : start + step + _OVERLAP]
