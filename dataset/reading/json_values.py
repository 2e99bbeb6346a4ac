"""The elements of a JSON array, or objects one after another, decoded one by one as the text is read.

The standard library decodes a whole text or nothing. Here memory stays below one element, and a broken element costs
only itself.
"""

import io
import json
import re
from collections.abc import Iterator
from typing import Any

from dataset.reading.formats import Reject, cut_error, explain, nested_too_deeply, sample_of
from model.errors import UserError

CHUNK_CHARS = 1 << 20
_GAP = re.compile(r"[\s,]*")
# Where an object may begin behind a broken one: what separates them, and its first key. A text inside a string never
# shows such a key: its quotes are escaped.
_NEXT_OBJECT = re.compile(r'[}\]](\s*,?\s*)(?=\{(?:\s*"((?:[^"\\]|\\.){0,200})"\s*:)?)')
_TAIL_CHARS = 1000  # kept of what is skipped, since the beginning of the next object may lie across two chunks


class JsonValues:
    """Iterates over (line, value or Reject, size in characters); `text` holds bad bytes as lone surrogates."""

    def __init__(self, text: io.TextIOBase, name: str, max_row_chars: int) -> None:
        self.text, self.name, self.max_row_chars = text, name, max_row_chars
        self.buffer, self.position, self.line = "", 0, 1
        self.at_end = False
        self.gap = ""  # between the value before and the present one
        # What the beginning of a row looks like: the keys of the latest good one, and what stood before it.
        self.keys: set[str] | None = None
        self.separator: str | None = None
        self._decode = json.JSONDecoder().raw_decode

    def __iter__(self) -> Iterator[tuple[int, Any, int]]:
        in_array = closed = False
        while self._skip_gap():
            character = self.buffer[self.position]
            if character == "]" or (character == "[" and not in_array):
                in_array, closed = character == "[", character == "]"
                self.position += 1
                continue
            line, start = self.line, self.position
            try:
                value, end = self._next_value()
            except (ValueError, RecursionError) as error:
                if not in_array and character != "{":  # no row begins so: it does not belong here
                    yield line, self._unexpected(closed), 0
                    break
                is_cut = self.at_end and self._may_go_on(error)
                yield line, self._reject(error), 0
                if not self._skip_to_next_object():
                    closed = in_array and self.buffer.rstrip().endswith("]")  # only the last element is broken
                    if closed:
                        break
                    raise (cut_error(self.name, line) if is_cut else self._end_not_found(error, line)) from error
                continue
            start = self.position  # reading on may have moved it
            text = self.buffer[start:end]
            if isinstance(value, dict):
                self.keys, self.separator = set(value), self.gap or self.separator
            yield line, self._checked(value, text), end - start
            self._move_to(end)
        if in_array and not closed:
            raise cut_error(self.name, self.line)

    def _skip_gap(self) -> bool:
        """Go to the next character that belongs to a value; False at the end."""
        self.gap = ""
        while True:
            gap = _GAP.match(self.buffer, self.position)
            assert gap is not None
            self.gap += gap.group()
            self._move_to(gap.end())
            if self.position < len(self.buffer):
                return True
            if not self._read_on(CHUNK_CHARS):
                return False

    def _next_value(self) -> tuple[Any, int]:
        """Decode at the position, reading on as long as more text may help.

        Raises ValueError (JSONDecodeError is one) or RecursionError for a broken value, _TooLong for a long one.
        """
        while True:
            try:
                value, end = self._decode(self.buffer, self.position)
            except (ValueError, RecursionError) as error:
                if self.at_end or not self._may_go_on(error):
                    raise
            else:
                if end < len(self.buffer) or self.at_end:
                    return value, end  # (a number at the very end of the buffer may go on)
            room = self.max_row_chars - (len(self.buffer) - self.position)
            if room < 0:
                raise _TooLong
            # Twice as much each time: a long value is decoded a few times, not once a chunk.
            self._read_on(min(max(CHUNK_CHARS, len(self.buffer) - self.position), room + 1))

    def _may_go_on(self, error: Exception) -> bool:
        """Whether the error may be no more than the end of what has been read."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated string") or error.pos > len(self.buffer) - 16

    def _skip_to_next_object(self) -> bool:
        """Leave a broken element; False when no other begins behind it.

        Objects inside the broken one (the messages of a conversation) must not be taken for rows: the next row is the
        next object that begins with a key of the latest good one, or on a line of its own with the same indent.
        """
        start = self.position + 1
        while True:
            for found in _NEXT_OBJECT.finditer(self.buffer, start):
                separator, key = found.groups()
                if self.keys is None or key in self.keys or ("\n" in separator and separator == self.separator):
                    self._move_to(found.end())
                    return True
            start = max(start, len(self.buffer) - _TAIL_CHARS)
            self._move_to(start)
            if not self._read_on(CHUNK_CHARS):
                return False
            start = self.position

    def _move_to(self, position: int) -> None:
        self.line += self.buffer.count("\n", self.position, position)
        self.position = position

    def _read_on(self, size: int) -> bool:
        """Read more text behind the position, and drop what lies before it; False at the end."""
        more = self.text.read(size)
        self.at_end = not more
        self.buffer, self.position = self.buffer[self.position :] + more, 0
        return not self.at_end

    def _reject(self, error: Exception) -> Reject:
        sample = self.buffer[self.position : self.position + 1000]
        if isinstance(error, _TooLong):
            return self._too_long(sample)
        return Reject(self.name, self.line, "broken JSON", explain(error), sample_of(sample))

    def _unexpected(self, behind_an_array: bool) -> Reject:
        """For text between or behind the rows: reading ends there, since nothing tells where it ends."""
        where = "behind the array's end" if behind_an_array else "between or behind the objects"
        sample = self.buffer[self.position : self.position + 1000]
        detail = f"text that is no JSON stands {where}; nothing is read from here on"
        return Reject(self.name, self.line, "broken JSON", detail, sample_of(sample))

    def _end_not_found(self, error: Exception, line: int) -> UserError:
        return UserError(
            f"{self.name}:{line}: broken JSON ({explain(error)}), and behind it neither another row begins nor does "
            f"the file end as it should; repair that row, or remove what follows the last whole one"
        )

    def _too_long(self, text: str) -> Reject:
        return Reject(self.name, self.line, "too long", f"above {self.max_row_chars} characters", sample_of(text))

    def _checked(self, value: Any, text: str) -> Any:
        if len(text) > self.max_row_chars:
            return self._too_long(text)
        if nested_too_deeply(value, text):
            return Reject(self.name, self.line, "broken JSON", explain(RecursionError()), sample_of(text))
        return unless_bad_bytes(self.name, self.line, value, text)


class _TooLong(ValueError):
    pass


def unless_bad_bytes(name: str, line: int, value: Any, text: str) -> Any:
    """The value; or a reject when its text holds a byte that is not UTF-8, which was read as a lone surrogate."""
    bad = re.search("[\udc80-\udcff]", text)
    if bad is None:
        return value
    return Reject(name, line, "not UTF-8", f"byte 0x{ord(bad.group()) - 0xDC00:x}", sample_of(text))
