"""A fair sample of any amount of raw text, in bounded memory: what a tokenizer learns from."""

import heapq
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dataset.reading.formats import Reject, Row, parse_block
from dataset.sources import Input, find_inputs

# Short lines are gathered to pieces of this many characters and long ones cut, so that neither a billion tiny
# lines nor a gigantic one costs memory.
PIECE_CHARS = 1024
_LONG_LINE_BYTES = 1 << 16

# The fields that hold language in the formats of this field; names, dates and labels beside them do not.
TEXT_FIELDS = (
    *("text", "content", "value", "instruction", "input", "output", "system", "history", "q", "a"),
    *("prompt", "question", "answer", "response", "chosen", "rejected", "messages", "conversations"),
)

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class TextSample:
    """Pieces of text, and how they were come by."""

    pieces: list[str]
    num_bytes: int  # of the pieces, as UTF-8
    total_bytes: int  # of all text that was read
    num_rows: int
    rejects: Counter[str] = field(default_factory=Counter)
    first_rejects: list[Reject] = field(default_factory=list)


def sample_texts(paths: Sequence[str | Path], max_bytes: int, seed: int) -> TextSample:
    """Draw at most `max_bytes` of text from anything that `find_inputs` finds: files, archives, addresses, hub sets.

    Every piece gets a random number, and those with the smallest numbers are kept: each byte of the input has
    the same chance, wherever it stands and however large its file is. All text is kept when it fits.

    Raises:
        UserError: a path is missing, or a file cannot be read at all.
    """
    inputs = find_inputs(paths)
    sample = TextSample(pieces=[], num_bytes=0, total_bytes=0, num_rows=0)
    numbers = random.Random(seed)
    kept: list[tuple[float, int, str]] = []  # a heap whose first entry has the largest number
    sizes = [source.size for source in inputs]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    with tqdm(total=total, unit="B", unit_scale=True, desc="reading", disable=None) as bar:
        for index, piece in enumerate(_pieces(_texts(inputs, sample, bar))):
            size = len(piece.encode("utf-8"))
            sample.total_bytes += size
            sample.num_bytes += size
            heapq.heappush(kept, (-numbers.random(), index, piece))
            while sample.num_bytes > max_bytes and len(kept) > 1:
                sample.num_bytes -= len(heapq.heappop(kept)[2].encode("utf-8"))
    sample.pieces = [piece for _, _, piece in sorted(kept, key=lambda entry: entry[1])]
    return sample


def held_out_split(pieces: list[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Split off about a share of the pieces, at least one, to measure on; one piece alone cannot be split."""
    if len(pieces) < 2:
        return pieces, []
    count = max(1, round(share * len(pieces)))
    chosen = set(random.Random(seed).sample(range(len(pieces)), count))
    rest = [piece for index, piece in enumerate(pieces) if index not in chosen]
    return rest, [pieces[index] for index in sorted(chosen)]


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    gathered: list[str] = []
    size = 0
    for text in texts:
        for start in range(0, len(text), PIECE_CHARS):
            gathered.append(text[start : start + PIECE_CHARS])
            size += len(gathered[-1])
            if size >= PIECE_CHARS:
                yield "\n".join(gathered)
                gathered, size = [], 0
    if gathered:
        yield "\n".join(gathered)


def _texts(inputs: Iterable[Input], sample: TextSample, bar: tqdm) -> Iterator[str]:
    """Every text of the inputs; counts rows and rejects in the sample, and bytes read in the bar."""
    for source in inputs:
        bytes_read = 0
        # A line of plain text may have any length: a tokenizer learns as much from a part of it.
        for block in source.blocks(text_piece_bytes=_LONG_LINE_BYTES):
            for row in parse_block(block):
                sample.num_rows += 1
                found = row if isinstance(row, Reject) else _texts_of_row(row)
                if not isinstance(found, Reject):
                    yield from found
                    continue
                sample.rejects[found.reason] += 1
                if len(sample.first_rejects) < 5:
                    sample.first_rejects.append(found)
            bar.update(block.bytes_read - bytes_read)
            bytes_read = block.bytes_read


def _texts_of_row(row: Row) -> list[str] | Reject:
    texts = [text for text in _language(row.value) if text.strip()]
    if not texts:
        return Reject(row.path, row.line, "no text", f"its fields: {', '.join(map(str, row.value))}")
    if any(_SURROGATE.search(text) for text in texts):
        return Reject(row.path, row.line, "not UTF-8", "half of a surrogate pair, or a byte that is no text")
    return texts


def _language(value: Any) -> Iterator[str]:
    """The texts of a row of any of the formats: documents, instructions, conversations, preference pairs."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _language(item)
    elif isinstance(value, dict):
        for name in TEXT_FIELDS:
            if name in value:
                yield from _language(value[name])
