"""Encoded shards and the verdict on duplicates → finished sets: split, fill rows, write, report.

One pass over the shards in the order of the input. Its memory is that of a shard, of the documents that wait for
a row, and of the rows that wait to be written.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dataset.building.encoding import EncodedBlock, reject_line
from dataset.building.report import (
    SAMPLE_TOKENS,
    ReadCounts,
    SetCounts,
    beginning,
    cleaning_entry,
    report_entry,
    report_text,
)
from dataset.cleaning import DUPLICATE
from dataset.dedup import EXACT, KEEP
from dataset.filling import TextFiller, WholeFiller
from dataset.packing import ROLE_CHOSEN, ROLE_DOCUMENT, ROLE_REJECTED, PackedSetWriter, Piece
from dataset.reading.formats import Reject
from model.tokenizer import ChatTokenizer

NEAR_DUPLICATE = "near-duplicate"
REJECTS_FILE = "rejects.jsonl"
_MAX_SOURCES = 256
_SHOWN_DUPLICATES = 3


class SourceNumbers:
    """Names of sources → numbers. Rows that name too many different ones are counted under their input."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __call__(self, sources: Sequence[tuple[str, str]]) -> list[int]:
        """The numbers of a block's sources (each with the label of the input that its rows are in)."""
        return [self._number(label, input_label) for label, input_label in sources]

    def _number(self, label: str, input_label: str) -> int:
        if label not in self._numbers and len(self._numbers) >= _MAX_SOURCES:
            label = input_label
        return self._numbers.setdefault(label, len(self._numbers))

    @property
    def names(self) -> list[str]:
        return list(self._numbers)


@dataclass(frozen=True)
class SetPlan:
    """What sets are made from the same shards."""

    kind: str
    max_seq_len: int
    tokenizer: ChatTokenizer
    folders: tuple[Path, ...]  # where they are written, an empty place each: the set, and its validation set
    names: tuple[str, ...]
    val_share: float


class _SetOutput:
    """One set being written: the counts, the filler that chooses rows, the writer."""

    def __init__(self, plan: SetPlan, folder: Path, name: str) -> None:
        tokenizer = plan.tokenizer
        self.folder, self.name, self.counts = folder, name, SetCounts()
        folder.mkdir()
        pad = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.writer = PackedSetWriter(folder, plan.kind, plan.max_seq_len, tokenizer.vocab_size, pad)
        self._text = self._whole = None
        if plan.kind == "pretrain":
            self._text = TextFiller(self.writer.row_length, self.writer.add_row)
        else:
            self._whole = WholeFiller(self.writer.row_length, self.writer.add_row)
        self._roles = (ROLE_CHOSEN, ROLE_REJECTED) if plan.kind == "dpo" else (ROLE_DOCUMENT,)

    def add(self, block: EncodedBlock, chosen: np.ndarray, sources: np.ndarray) -> None:
        """Take the documents of a shard that are `chosen` (bool [n]); `sources` is the source of each."""
        numbers = np.flatnonzero(chosen)
        num_tokens = block.lengths.sum(axis=1, dtype=np.int64)
        ends = np.cumsum(num_tokens)
        starts = ends - num_tokens
        self.counts.add(sources[chosen], num_tokens[chosen], block.letters[chosen])

        def tokens_of(place: int) -> np.ndarray:
            return block.tokens[starts[numbers[place]] : ends[numbers[place]]]

        self.counts.sample(block.digests[chosen], sources[chosen], tokens_of)
        # What waits for a row is copied: it would otherwise hold its whole shard in memory.
        if self._text is not None:
            for start, end, source in _rows(starts[chosen], ends[chosen], sources[chosen]):
                self._text.add(block.tokens[start:end].copy(), source)
        elif self._whole is not None:
            for start, lengths, source in _rows(starts[chosen], block.lengths[chosen], sources[chosen]):
                self._whole.add(self._pieces(block, start, lengths, source))

    def _pieces(self, block: EncodedBlock, start: int, lengths: list[int], source: int) -> list[Piece]:
        assert block.mask is not None
        pieces = []
        for length, role in zip(lengths, self._roles, strict=True):
            span = slice(start, start + length)
            pieces.append(Piece(block.tokens[span].copy(), block.mask[span].copy(), source, role))
            start += length
        return pieces

    def finish_rows(self) -> None:
        for filler in (self._text, self._whole):
            if filler is not None:
                filler.finish()


class Assembler:
    """Writes the sets of one build."""

    def __init__(self, plan: SetPlan, read: ReadCounts, sources: SourceNumbers) -> None:
        """`read` and `sources` are those of all shards."""
        self.plan, self.read, self.sources = plan, read, sources
        self.outputs = [_SetOutput(plan, *each) for each in zip(plan.folders, plan.names, strict=True)]
        self._rejects_path = plan.folders[0] / REJECTS_FILE
        self._num_taken = 0
        self._shown: dict[str, int] = {}

    def run(
        self, shards: Iterable[EncodedBlock], decisions: np.ndarray | None, progress: Callable[[int], object]
    ) -> None:
        """Fill and write all rows. `decisions`: KEEP, EXACT or NEAR for each document, None to keep all.

        Raises:
            UserError: nothing is left for one of the sets.
        """
        with open(self._rejects_path, "wb") as rejects:
            for block in shards:
                self._take(block, decisions, rejects)
                progress(block.num_documents)
        for output in self.outputs:
            output.finish_rows()

    def close(self) -> None:
        """Close the files, finished or not."""
        for output in self.outputs:
            output.writer.abandon()

    def _take(self, block: EncodedBlock, decisions: np.ndarray | None, rejects: BinaryIO) -> None:
        renumber = np.array(self.sources(block.sources), np.int32)
        sources = renumber[block.source_of]
        rejects.write(block.rejects)
        kept = np.ones(block.num_documents, bool)
        if decisions is not None:
            verdicts = decisions[self._num_taken : self._num_taken + block.num_documents]
            kept = verdicts == KEEP
            self._drop_duplicates(block, verdicts, sources, rejects)
        self._num_taken += block.num_documents
        validation = kept & validation_mask(block.digests, self.plan.val_share)
        parts = (kept & ~validation, validation)[: len(self.outputs)]  # without a validation set nothing falls into it
        for output, chosen in zip(self.outputs, parts, strict=True):
            output.add(block, chosen, sources)

    def _drop_duplicates(
        self, block: EncodedBlock, verdicts: np.ndarray, sources: np.ndarray, rejects: BinaryIO
    ) -> None:
        numbers = np.flatnonzero(verdicts != KEEP)
        num_tokens = block.lengths.sum(axis=1, dtype=np.int64)
        starts = np.cumsum(num_tokens) - num_tokens
        for number in numbers.tolist():
            reason = DUPLICATE if verdicts[number] == EXACT else NEAR_DUPLICATE
            sample = ""
            if self._shown.setdefault(reason, 0) < _SHOWN_DUPLICATES:
                self._shown[reason] += 1
                tokens = block.tokens[starts[number] : starts[number] + min(num_tokens[number], SAMPLE_TOKENS)]
                sample = beginning(tokens, int(num_tokens[number]), self.plan.tokenizer.decode)
            path = block.paths[block.path_of[number]]
            reject = Reject(path, int(block.lines[number]), reason, sample=sample)
            self.read.dropped.add(reject, int(sources[number]), int(num_tokens[number]))
            rejects.write(reject_line(reject))

    def finish(self, facts: dict[str, Any], cleaning: dict[str, Any]) -> None:
        """Write everything but the rows: meta.json and report.md.

        Args:
            facts: keys of meta.json that both sets have.
            cleaning: keys of its `cleaning` entry beside the counts.
        """
        if self._rejects_path.stat().st_size == 0:
            self._rejects_path.unlink()
        main, *others = self.outputs
        validation = others[0].counts if others else SetCounts()
        for output, read, other in (
            (main, self.read, validation),
            *((output, ReadCounts(), SetCounts()) for output in others),
        ):
            names, decode = self.sources.names, self.plan.tokenizer.decode
            meta = output.writer.finish(
                self.plan.tokenizer,
                {
                    "name": output.name,
                    "sources": names,
                    "num_documents": output.counts.num_documents,
                    "num_straddling_tokens": self.read.num_straddling,
                    "cleaning": {**cleaning_entry(read), **cleaning},
                    "report": report_entry(output.counts, read, other, names, decode),
                    "validation_of": None if output is main else main.name,
                    **facts,
                },
            )
            (output.folder / "report.md").write_text(report_text(meta), encoding="utf-8")


def _rows(*columns: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """The entries of some arrays side by side, as Python's numbers, which loops handle faster than NumPy's."""
    return zip(*(column.tolist() for column in columns), strict=True)


def validation_mask(digests: np.ndarray, val_share: float) -> np.ndarray:
    """Which documents (by their digests, uint8 [n, 16]) belong to the validation set: bool [n].

    The document alone decides, so a set that grows never moves one from validation to training.
    """
    numbers = np.ascontiguousarray(digests[:, :8]).view(">u8")[:, 0]
    limit = math.ceil(val_share * 2**64)
    return np.ones(len(digests), bool) if limit >= 2**64 else numbers < np.uint64(limit)
