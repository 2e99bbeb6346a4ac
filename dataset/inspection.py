"""Rows of a packed set as a person reads them: decoded, and what is trained told from what is not.

On a terminal what is trained is green and the rest grey; elsewhere ⟦ ⟧ stand around what is trained.
"""

import os
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from dataset.packing import ROLE_CHOSEN, ROLE_CONTINUATION, ROLE_REJECTED, PackedSet
from model.errors import UserError
from model.tokenizer import ChatTokenizer

_GREEN, _GREY, _BOLD, _PLAIN = "\033[32m", "\033[90m", "\033[1m", "\033[0m"
_ROLES = {
    ROLE_CONTINUATION: ", goes on from the row before",
    ROLE_CHOSEN: ", chosen",
    ROLE_REJECTED: ", rejected",
}
# What would move the cursor or change colours must not reach a terminal: line ends and tabs alone stay.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def show_rows(folder: Path, num_rows: int, first_row: int | None, in_colour: bool | None = None) -> None:
    """Print rows of a packed set: `num_rows` from `first_row` on, or as many chosen at random (always the same).

    `in_colour` is by default whether the output is a terminal (and NO_COLOR is not set).

    Raises:
        UserError: no such set, or no such row.
    """
    packed = PackedSet.open(folder)
    if num_rows < 1:
        raise UserError(f"--rows {num_rows}: expected at least 1")
    if first_row is not None and not 0 <= first_row < packed.num_rows:
        raise UserError(f"--row {first_row}: {folder} has the rows 0 to {packed.num_rows - 1}")
    if in_colour is None:
        in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    meta = packed.meta
    print(
        f"{folder}: {meta['kind']}, {meta['num_documents']:,} documents in {packed.num_rows:,} rows of "
        f"{packed.row_length}, {meta['num_targets']:,} of {meta['num_tokens']:,} tokens are trained"
    )
    print(_marked("this is trained", True, in_colour) + _marked(" and this is not", False, in_colour))
    tokenizer = ChatTokenizer.from_files(packed.tokenizer_files())
    for row in _chosen_rows(packed.num_rows, num_rows, first_row):
        for line in describe_row(packed, tokenizer, row, in_colour):
            print(line)


def _chosen_rows(total: int, wanted: int, first: int | None) -> list[int]:
    if first is not None:
        return list(range(first, min(first + wanted, total)))
    numbers = np.random.default_rng(0).choice(total, min(wanted, total), replace=False)
    return sorted(numbers.tolist())


def describe_row(packed: PackedSet, tokenizer: ChatTokenizer, row: int, in_colour: bool) -> Iterator[str]:
    """A row, segment by segment: a heading, then its text."""
    index = packed.rows[row]
    first = int(index["first_segment"])
    last = int(packed.rows[row + 1]["first_segment"]) if row + 1 < packed.num_rows else len(packed.segments)
    filled = 0
    for number, segment in enumerate(packed.segments[first:last], start=1):
        start, length = int(segment["start"]), int(segment["length"])
        tokens = packed.tokens[row, start : start + length]
        trained = np.ones(length, bool) if packed.mask is None else packed.mask[row, start : start + length].copy()
        trained[0] = False  # nothing in its own segment could have predicted it
        heading = (
            f"── row {row}, segment {number} of {last - first}: {packed.sources[segment['source']]}, {length} tokens, "
            f"{int(segment['targets'])} trained{_ROLES.get(int(segment['role']), '')} ──"
        )
        yield ""
        yield f"{_BOLD}{heading}{_PLAIN}" if in_colour else heading
        yield "".join(
            _marked(text, is_trained, in_colour) for text, is_trained in _stretches(tokenizer, tokens, trained)
        )
        filled += length
    if filled < packed.row_length:
        yield f"({packed.row_length - filled} slots of padding)"


def _stretches(tokenizer: ChatTokenizer, tokens: np.ndarray, trained: np.ndarray) -> Iterator[tuple[str, bool]]:
    """The text of neighbouring tokens that are all trained, or all not."""
    for is_trained, group in groupby(zip(tokens.tolist(), trained.tolist(), strict=True), key=lambda pair: pair[1]):
        yield tokenizer.decode([token for token, _ in group], skip_special_tokens=False), is_trained


def _marked(text: str, is_trained: bool, in_colour: bool) -> str:
    text = text.translate(_CONTROL)
    if in_colour:
        return f"{_GREEN if is_trained else _GREY}{text}{_PLAIN}"
    return f"⟦{text}⟧" if is_trained else text
