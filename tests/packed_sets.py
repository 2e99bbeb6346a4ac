"""What tests ask packed sets, and sets of pairs whose lengths they choose."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset.packing import ROLE_CHOSEN, ROLE_CONTINUATION, ROLE_REJECTED, PackedSet, PackedSetWriter, Piece
from model.files import sha256_of_file
from model.tokenizer import ChatTokenizer


def hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file below a folder."""
    return {str(file.relative_to(folder)): sha256_of_file(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def documents_of(packed: PackedSet) -> list[list[int]]:
    """Every document's tokens, put together again from the rows."""
    documents: list[list[int]] = []
    for segment in packed.segments:
        start, length = int(segment["start"]), int(segment["length"])
        tokens = packed.tokens[segment["row"], start : start + length].tolist()
        if segment["role"] == ROLE_CONTINUATION:
            assert documents[-1][-1] == tokens[0]
            documents[-1] += tokens[1:]
        else:
            documents.append(tokens)
    return documents


# ---- preference pairs -----------------------------------------------------------------------------------------

PairLengths = tuple[int, int, int]  # of the prompt, of the chosen answer, of the rejected one


def write_pairs(
    folder: Path, tokenizer: ChatTokenizer, rows: Sequence[Sequence[PairLengths]], max_seq_len: int, seed: int = 0
) -> PackedSet:
    """A preference set of random letters: of each row the pairs' lengths."""
    folder.mkdir(parents=True)
    writer = PackedSetWriter(folder, "dpo", max_seq_len, tokenizer.vocab_size, pad_token_id=1)
    random = np.random.default_rng(seed)
    for row in rows:
        pieces = []
        for prompt_length, *lengths in row:
            prompt = random.integers(64, tokenizer.vocab_size, prompt_length)
            for length, role in zip(lengths, (ROLE_CHOSEN, ROLE_REJECTED), strict=True):
                answer = random.integers(64, tokenizer.vocab_size, length)
                is_answer = np.arange(prompt_length + length) >= prompt_length
                pieces.append(Piece(np.concatenate([prompt, answer]).astype(np.uint16), is_answer, 0, role))
        writer.add_row(pieces)
    writer.finish(tokenizer, {"name": folder.name, "sources": ["letters"], "num_documents": sum(map(len, rows))})
    return PackedSet.open(folder)


class Side(NamedTuple):
    """One side of a pair, where it lies in its set."""

    number: int  # among the set's segments
    row: int
    start: int
    tokens: np.ndarray  # [length]
    is_answer: np.ndarray  # [length] bool


def pairs_of(packed: PackedSet) -> Iterator[tuple[Side, Side]]:
    """Chosen and rejected of every pair, read from the arrays themselves and not from a batch."""
    sides = []
    for number, segment in enumerate(packed.segments):
        row, start = int(segment["row"]), int(segment["start"])
        place = slice(start, start + int(segment["length"]))
        assert packed.mask is not None and segment["role"] == (ROLE_CHOSEN, ROLE_REJECTED)[number % 2]
        sides.append(Side(number, row, start, np.array(packed.tokens[row, place]), np.array(packed.mask[row, place])))
    yield from zip(sides[0::2], sides[1::2], strict=True)
