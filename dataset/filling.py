"""Which segments share a row: full rows for text, best fit for whole conversations.

Both fillers take segments in their order of arrival and hand out finished rows in an order that depends on
nothing else, so equal input gives equal sets. Both search the lengths that wait again and again, and an
integer answers: bit n is set while something of length n waits, and a shift or a mask of such a number looks
at all lengths at once, a machine word at a time.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from dataset.packing import ROLE_CONTINUATION, ROLE_DOCUMENT, Piece

T = TypeVar("T")
WriteRow = Callable[[list[Piece]], None]


class _Waiting(Generic[T]):
    """Things that wait for a place, found by length (1 to `row_length`); of equal ones the oldest first."""

    def __init__(self, row_length: int) -> None:
        self._row_length = row_length
        self._by_length: list[deque[T]] = [deque() for _ in range(row_length + 1)]
        self._lengths = 0  # bit n: something of length n waits
        self._mirrored = 0  # bit row_length - n: the same

    def add(self, length: int, thing: T) -> None:
        self._by_length[length].append(thing)
        self._lengths |= 1 << length
        self._mirrored |= 1 << (self._row_length - length)

    def take(self, length: int) -> T:
        thing = self._by_length[length].popleft()
        if not self._by_length[length]:
            self._lengths &= ~(1 << length)
            self._mirrored &= ~(1 << (self._row_length - length))
        return thing

    def longest(self, limit: int) -> int:
        """The longest length up to `limit`; 0 when nothing is that short."""
        return max((self._lengths & ((2 << limit) - 1)).bit_length() - 1, 0) if limit > 0 else 0

    def exact(self, left: int) -> int:
        """A length that fills `left` slots exactly, alone or with one more thing that waits; 0 when none."""
        if self._lengths >> left & 1:
            return left
        # Two lengths a + b == left: the mirror, shifted, has bit a set where b = left - a waits.
        pairs = self._lengths & (self._mirrored >> (self._row_length - left))
        if left % 2 == 0 and len(self._by_length[left // 2]) < 2:
            pairs &= ~(1 << (left // 2))
        return max(pairs.bit_length() - 1, 0)


@dataclass(eq=False, slots=True)
class _Document:
    tokens: np.ndarray
    source: int
    taken: bool = False


class TextFiller:
    """Fills rows with documents: no slot wasted, no token lost, as few documents cut as possible.

    A pool of waiting documents makes the choice. A row begins with the rest of a cut document, if there is
    one, then the document that waited longest, if it fits or is longer than any row; then come documents that
    end exactly at the row's end (one, or two together), else the longest that fits, and so on. Where nothing
    fits any more, a document is cut at the row's end and goes on in the next row.

    *What a cut costs.* The token before the cut is repeated as the first of the next row, because it is what
    predicts the next one: every token but a document's opener is a target exactly once, cut or not. So a cut
    costs one slot.

    *The last slot alone.* A piece of two tokens or more holds a target, a piece of one holds none. So no
    choice leaves a single slot if another can be made; but when all documents have 4 tokens and a row 257,
    there is none, and the rest of a long document may happen to end there. Then the next document's opener
    goes into the slot alone, and the next row goes on as after any cut, with the opener repeated. That costs
    what padding would cost (one slot); and since the last slot of a row is never an input, neither costs any
    computing. In return, only the very last row of a set holds padding.
    """

    def __init__(
        self, row_length: int, write_row: WriteRow, max_waiting: int = 2048, max_waiting_tokens: int = 1 << 22
    ) -> None:
        self._row_length, self._write_row = row_length, write_row
        self._max_waiting, self._max_waiting_tokens = max_waiting, max_waiting_tokens
        self._order: deque[_Document] = deque()  # by arrival; those taken out of turn are skipped
        self._short: _Waiting[_Document] = _Waiting(row_length)
        self._long: deque[_Document] = deque()  # longer than a row
        self._waiting = self._waiting_tokens = 0
        self._rest: tuple[_Document, int] | None = None  # a cut document and its first token not yet written

    def add(self, tokens: np.ndarray, source: int) -> None:
        """Take one document (opener and closer included: at least 2 tokens)."""
        length = len(tokens)
        assert length >= 2, "a document has at least its opener and its closer"
        document = _Document(tokens, source)
        self._order.append(document)
        if length > self._row_length:
            self._long.append(document)
        else:
            self._short.add(length, document)
        self._waiting += 1
        self._waiting_tokens += length
        while self._waiting_tokens >= self._row_length and (
            self._waiting >= self._max_waiting or self._waiting_tokens >= self._max_waiting_tokens
        ):
            self._fill_row()

    def finish(self) -> None:
        """Write everything that waits."""
        while self._waiting or self._rest:
            self._fill_row()

    def _fill_row(self) -> None:
        row: list[Piece] = []
        left = self._row_length
        if self._rest is not None:
            document, position = self._rest
            left = self._place(row, document, position - 1, left, ROLE_CONTINUATION)
        oldest = self._oldest_length()
        if left and (oldest > self._row_length or 0 < oldest <= left - 2 or oldest == left):
            left = self._place(row, self._take(oldest), 0, left, ROLE_DOCUMENT)
        while left and self._waiting:
            left = self._place(row, self._choose(left), 0, left, ROLE_DOCUMENT)
        self._write_row(row)

    def _place(self, row: list[Piece], document: _Document, start: int, left: int, role: int) -> int:
        """Put as much of a document as fits; what does not is the rest. Returns the slots still free."""
        end = min(start + left, len(document.tokens))
        row.append(Piece(document.tokens[start:end], None, document.source, role))
        self._rest = (document, end) if end < len(document.tokens) else None
        return left - (end - start)

    def _choose(self, left: int) -> _Document:
        """The next document of a row with `left` free slots (a longer one will be cut there)."""
        # Of those that fit, none that would leave a single slot.
        length = self._short.exact(left) or self._short.longest(left - 2)
        if not length and self._long:
            length = self._row_length + 1
        # Nothing fits: cut the longest. (If none is longer than `left`, all have left - 1 tokens.)
        return self._take(length or self._short.longest(self._row_length))

    def _oldest_length(self) -> int:
        """Tokens of the document that waited longest; 0 when none waits."""
        while self._order and self._order[0].taken:
            self._order.popleft()
        if len(self._order) > 8 * self._max_waiting:
            # Many came and went behind one that never fitted. A copy frees the block that a document is cut
            # from.
            self._order = deque(document for document in self._order if not document.taken)
            for document in self._order:
                document.tokens = document.tokens.copy()
        return len(self._order[0].tokens) if self._order else 0

    def _take(self, length: int) -> _Document:
        """The oldest waiting document of this length (any above a row's length: the oldest long one)."""
        if length > self._row_length:
            document = self._long.popleft()
        else:
            document = self._short.take(length)
        document.taken = True
        self._waiting -= 1
        self._waiting_tokens -= len(document.tokens)
        return document


class WholeFiller:
    """Fills rows with items that stay whole (a conversation, a preference pair): best fit, longest first.

    Of a window of items the longest opens a row; then come those that fill it exactly (one, or two together),
    else the longest that fits, until none does. Long items thus find the short ones that complete them while
    there are any. The window bounds the memory.
    """

    def __init__(
        self, row_length: int, write_row: WriteRow, window: int = 20_000, window_tokens: int = 1 << 24
    ) -> None:
        self._row_length, self._write_row = row_length, write_row
        self._window, self._window_tokens = window, window_tokens
        self._items: _Waiting[list[Piece]] = _Waiting(row_length)
        self._num_items = self._num_tokens = 0

    def add(self, pieces: list[Piece]) -> None:
        """Take one item: segments that stay together and in order, at most a row's length in all."""
        length = sum(len(piece.tokens) for piece in pieces)
        assert 0 < length <= self._row_length, "items longer than a row are turned away before"
        self._items.add(length, pieces)
        self._num_items += 1
        self._num_tokens += length
        if self._num_items >= self._window or self._num_tokens >= self._window_tokens:
            self.finish()

    def finish(self) -> None:
        """Pack and write the items that wait."""
        while length := self._items.longest(self._row_length):
            row: list[Piece] = []
            left = self._row_length
            while length:
                row.extend(self._items.take(length))
                left -= length
                length = self._items.exact(left) or self._items.longest(left)
            self._write_row(row)
        self._num_items = self._num_tokens = 0
