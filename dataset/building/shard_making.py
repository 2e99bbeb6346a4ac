"""Inputs → shards: what is not in a shard yet is read, encoded and written, and every document's keys are noted."""

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from dataset.building.assembling import SourceNumbers
from dataset.building.encoding import EncodedBlock, EncodingSettings, joined
from dataset.building.progress import BytesBar
from dataset.building.report import ReadCounts, describe_left_out
from dataset.building.resources import MemoryPlan
from dataset.building.settings import BuildSettings
from dataset.building.shards import SHARD_BYTES, Position, ShardFolder
from dataset.building.workers import encode_blocks
from dataset.decontamination import Decontaminator
from dataset.dedup import DuplicateFinder
from dataset.reading.cutting import BLOCK_BYTES
from dataset.reading.formats import Block
from dataset.sources import Input
from model.errors import UserError
from model.files import atomic_path

_ENOUGH_ROWS_TO_JUDGE = 10_000
_SMALLEST_BLOCK_BYTES = 1 << 16
_BLOCKS_OF_SMALL_INPUT = 128


class ShardMaker:
    """Brings all inputs into shards, and counts them."""

    def __init__(self, settings: BuildSettings, inputs: list[Input], folder: Path, memory: MemoryPlan) -> None:
        self.settings, self.inputs, self.folder, self.memory = settings, inputs, folder, memory
        self.shards = ShardFolder(folder / "shards")
        self.read, self.sources = ReadCounts(), SourceNumbers()
        self.finder: DuplicateFinder | None = None
        if not settings.rules.keep_duplicates:
            self.finder = DuplicateFinder(folder, memory.finder_bytes, settings.near)
        self.held_out: dict[str, Any] | None = None  # what the report says about held-out files
        self._pending: list[EncodedBlock] = []  # encoded, in no shard yet
        self._pending_bytes = 0

    def run(self) -> None:
        """Encode everything; after an interruption, what the shards do not hold yet.

        Raises:
            UserError: an input is cut, damaged or changed, or too many of its rows are bad.
        """
        for shard in self.shards.read(with_near=True):
            self._count(shard)
        if self.shards.position is not None:
            name, rows = self.settings.name, self.read.num_rows_in
            print(f"{name}: going on after {rows:,} rows that an earlier run encoded", flush=True)
        blocks = _Blocks(self.inputs, self.shards.position)
        bar = BytesBar(self.settings.name, [each.size for each in self.inputs], blocks.bytes_read)
        workers = self.memory.num_workers
        encoded_blocks = encode_blocks(blocks, self.settings.tokenizer, self._encoding_settings(), workers)
        # What is pending when Ctrl-C comes is encoded again by the next run. Writing it then could take a block twice,
        # or end a shard where an undisturbed run does not.
        with bar, closing(encoded_blocks):
            for block in encoded_blocks:
                self._pending.append(block)
                self._pending_bytes += block.num_bytes
                blocks.take()
                self._count(block)
                bar.update(blocks.bytes_read, block.read.num_rows_in)
                if self._pending_bytes >= SHARD_BYTES:
                    self._write(blocks.position)
                if self.read.num_rows_in >= _ENOUGH_ROWS_TO_JUDGE:
                    self._stop_if_too_many_rejects()
        self._stop_if_too_many_rejects()
        self._write(blocks.position)

    def _write(self, position: Position | None) -> None:
        """Make a shard of what is pending."""
        if self._pending:
            assert position is not None
            self.shards.write(joined(self._pending), position)
            self._pending, self._pending_bytes = [], 0

    def _count(self, block: EncodedBlock) -> None:
        self.read.merge(block.read, self.sources(block.sources))
        if self.finder is not None:
            near = () if block.near is None else (block.near.band_keys, block.near.shingles, block.near.num_shingles)
            self.finder.add(block.digests, *near)

    def _encoding_settings(self) -> EncodingSettings:
        settings, decontaminator = self.settings, None
        if settings.decontaminate:
            words, characters = settings.decontaminate_words, settings.decontaminate_characters
            decontaminator = Decontaminator.from_files(settings.decontaminate, words, characters)
            decontaminator.store(self.folder)  # workers share its pages
            self.held_out = {"files": decontaminator.names, "items": decontaminator.num_items}
            self.held_out |= {"unread": decontaminator.num_unread, "words": words, "characters": characters}
        return EncodingSettings(
            kind=settings.kind,
            max_seq_len=settings.max_seq_len,
            text_key=settings.text_key,
            rules=settings.rules,
            labels={each.name: each.label for each in self.inputs},
            recipe=settings.recipe,
            decontaminator=decontaminator,
            near=settings.near,
        )

    def _stop_if_too_many_rejects(self) -> None:
        rejected, num_rows, settings = self.read.rejected, self.read.num_rows_in, self.settings
        if rejected.total <= settings.max_reject_share * num_rows:
            return
        kept = settings.rejects or settings.rejects_of_failure
        with atomic_path(kept) as temporary, open(temporary, "wb") as file:
            for block in (*self.shards.read(), *self._pending):
                file.write(block.rejects)
        raise UserError(
            f"{rejected.total} of {num_rows} rows are bad: {describe_left_out(rejected)}; "
            f"all are listed in {kept}; repair the input, or allow more with --max_reject_share "
            f"(now {settings.max_reject_share})"
        )


class _Blocks:
    """The blocks of all inputs, from a position on; knows how far those have come that are encoded."""

    def __init__(self, inputs: list[Input], after: Position | None) -> None:
        self._inputs, self._block_bytes = inputs, block_bytes(inputs)
        self._first = 0 if after is None else [each.name for each in inputs].index(after.input)
        self._skipped = 0 if after is None else after.num_blocks  # of the first input
        self._on_their_way: list[tuple[str, int]] = []  # input and bytes of the blocks given but not taken
        self.position = after
        self.bytes_read = 0 if after is None else after.bytes_read

    def __iter__(self) -> Iterator[Block]:
        before = sum(each.size or 0 for each in self._inputs[: self._first])
        for number, each in enumerate(self._inputs[self._first :]):
            for block in islice(each.blocks(self._block_bytes), 0 if number else self._skipped, None):
                self._on_their_way.append((each.name, before + block.bytes_read))
                yield block
            before += each.size or 0

    def take(self) -> None:
        """The oldest block that was given is encoded."""
        name, self.bytes_read = self._on_their_way.pop(0)
        goes_on = self.position is not None and self.position.input == name
        num_blocks = self.position.num_blocks + 1 if self.position is not None and goes_on else 1
        self.position = Position(name, num_blocks, self.bytes_read)


def block_bytes(inputs: list[Input]) -> int:
    """Bytes of a block: enough blocks that all workers end at about the same time.

    It must not depend on how many workers there are: a run that goes on skips blocks by their number.
    """
    total = sum(BLOCK_BYTES * _BLOCKS_OF_SMALL_INPUT if each.size is None else each.size for each in inputs)
    return max(_SMALLEST_BLOCK_BYTES, min(BLOCK_BYTES, total // _BLOCKS_OF_SMALL_INPUT))
