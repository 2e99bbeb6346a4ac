"""A stream of bytes → blocks of rows, cut quickly and always at the same places, in the memory of a block and a row."""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dataset.reading.formats import (
    DOCUMENT_SEPARATOR,
    END_OF_DOCUMENT,
    HEAD_BYTES,
    Block,
    Reject,
    cut_error,
    sample_of,
    sniff,
)
from dataset.reading.json_values import JsonValues, unless_bad_bytes
from dataset.reading.streams import Stream, damaged, seekable_file
from model.errors import UserError

MAX_ROW_BYTES = 16 << 20  # a longer line or value is a reject: no row can fill the memory
BLOCK_BYTES = 1 << 20
_BLOCK_ROWS = 500  # at most, of values and Parquet rows
_LINE_END = re.compile(rb"\n")
_SEPARATOR_BYTES = len(END_OF_DOCUMENT) + 2  # with the longest line end


def cut_blocks(
    stream: Stream,
    block_bytes: int = BLOCK_BYTES,
    max_row_bytes: int = MAX_ROW_BYTES,
    text_piece_bytes: int | None = None,
) -> Iterator[Block]:
    """Cut what a stream holds into blocks of about `block_bytes`.

    A row above `max_row_bytes` is a reject. With `text_piece_bytes`, plain text is cut into pieces of about this size
    instead: whoever learns words from it needs neither whole documents nor whole lines.

    Raises:
        UserError: the content cannot be read at all, or ends in the middle of a row.
    """
    name = stream.name
    found = sniff(stream.head(HEAD_BYTES), name)
    if found == "parquet":
        return _parquet_blocks(stream, block_bytes, max_row_bytes)
    if found in ("text", "documents") and text_piece_bytes is not None:
        return _text_blocks(stream, found, _LINE_END, text_piece_bytes, text_piece_bytes, cut_long_rows=True)
    if found in ("jsonl", "text", "documents"):
        row_end = DOCUMENT_SEPARATOR if found == "documents" else _LINE_END
        return _text_blocks(stream, found, row_end, block_bytes, max_row_bytes, cut_long_rows=False)
    # Bad bytes must not end the reading: they become lone surrogates, which the value is refused for.
    text = io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig", errors="surrogateescape", newline="")
    values: Iterable[tuple[int, Any, int]]
    if found == "json":
        values = JsonValues(text, name, max_row_bytes)
    else:
        values = _csv_values(text, name, found, max_row_bytes)
    return value_blocks(name, values, block_bytes, stream.stored_bytes)


def value_blocks(
    name: str,
    values: Iterable[tuple[int, Any, int]],
    block_bytes: int = BLOCK_BYTES,
    stored_bytes: Callable[[], int] = lambda: 0,
) -> Iterator[Block]:
    """Blocks of values that were decoded already; each comes with its line and its size."""
    block: list[tuple[int, Any]] = []
    size = 0
    for line, value, value_size in values:
        block.append((line, value))
        size += value_size
        if len(block) == _BLOCK_ROWS or size >= block_bytes:
            yield Block(name, "values", block[0][0], values=tuple(block), bytes_read=stored_bytes())
            block, size = [], 0
    if block:
        yield Block(name, "values", block[0][0], values=tuple(block), bytes_read=stored_bytes())


# ---- JSON Lines and plain text ----


def _text_blocks(
    stream: Stream, found: str, row_end: re.Pattern[bytes], block_bytes: int, max_row_bytes: int, cut_long_rows: bool
) -> Iterator[Block]:
    name, line, rest = stream.name, 1, b""
    skipping = False  # inside a row that is too long: its end is all that is looked for
    file = io.BufferedReader(stream)
    chunk = file.read(block_bytes).removeprefix(codecs.BOM_UTF8)
    while chunk:
        data = rest + chunk
        cut = _end_of_rows(data, row_end)
        data, rest = data[:cut], data[cut:]
        if data and skipping:
            data, num_lines = _after_first_row(data, row_end)
            line, skipping = line + num_lines, False
        if data:
            # (Pieces of plain text are never too long: one chunk holds at most a piece.)
            rejects, kept = (
                ((), data) if cut_long_rows else _without_long_rows(name, line, data, row_end, max_row_bytes)
            )
            yield Block(name, found, line, kept, rejects=rejects, bytes_read=stream.stored_bytes())
            line += data.count(b"\n")
        if len(rest) >= max_row_bytes and cut_long_rows:
            piece, rest = _cut_between_characters(rest)
            yield Block(name, found, line, piece, bytes_read=stream.stored_bytes())
        elif len(rest) > max_row_bytes + _SEPARATOR_BYTES and not skipping:
            reject = _too_long(name, line, rest, max_row_bytes)
            yield Block(name, found, line, rejects=(reject,), bytes_read=stream.stored_bytes())
            skipping = True
        if skipping:  # only the last line may still become a row's end: so much of it is kept as tells
            line += rest.count(b"\n")
            rest = rest[rest.rfind(b"\n") + 1 :][:_SEPARATOR_BYTES]
        chunk = file.read(block_bytes)
    if rest and not skipping:
        rejects, kept = _without_long_rows(name, line, rest, row_end, max_row_bytes)
        yield Block(name, found, line, kept, rejects=rejects, unfinished=True, bytes_read=stream.stored_bytes())


def _end_of_rows(data: bytes, row_end: re.Pattern[bytes]) -> int:
    """Where the last whole row ends, with what separates it from the next; 0 when no row ends."""
    if row_end is _LINE_END:
        return data.rfind(b"\n") + 1
    start = len(data)
    while (start := data.rfind(END_OF_DOCUMENT, 0, start)) >= 0:
        separator = row_end.match(data, start)  # (`^` still asks for a line's beginning)
        if separator and separator.group().endswith(b"\n"):  # else the line may go on in the next chunk
            return separator.end()
    return 0


def _after_first_row(data: bytes, row_end: re.Pattern[bytes]) -> tuple[bytes, int]:
    """What follows the first row's end, and how many lines were before it."""
    first = row_end.search(data)
    assert first is not None, "the data were cut behind a row's end"
    return data[first.end() :], data.count(b"\n", 0, first.end())


def _without_long_rows(
    name: str, line: int, data: bytes, row_end: re.Pattern[bytes], limit: int
) -> tuple[tuple[Reject, ...], bytes]:
    """Blank the rows above the limit (their line ends stay, so the numbers of the others do too)."""
    if len(data) <= limit:
        return (), data
    kept, rejects, start = [], [], 0
    for end in (*row_end.finditer(data), None):
        row = data[start : len(data) if end is None else end.start()]
        if len(row) > limit:
            rejects.append(_too_long(name, line, row, limit))
            row = b"\n" * row.count(b"\n")
        kept.append(row)
        if end is not None:
            kept.append(end.group())
            line += data.count(b"\n", start, end.end())
            start = end.end()
    return tuple(rejects), b"".join(kept)


def _cut_between_characters(data: bytes) -> tuple[bytes, bytes]:
    """UTF-8 in two, the last few bytes in the second part if they begin a character that goes on."""
    for size in (1, 2, 3):
        if data[-size] >= 0xC0:  # the first byte of a character of several
            return data[:-size], data[-size:]
    return data, b""


def _too_long(name: str, line: int, raw: bytes, limit: int) -> Reject:
    return Reject(name, line, "too long", f"a row above {limit} bytes", sample_of(raw))


# ---- tables ----


def _csv_values(text: io.TextIOBase, name: str, found: str, max_row_bytes: int) -> Iterator[tuple[int, Any, int]]:
    """The lines below a CSV or TSV header; a quoted field may hold line ends."""
    lines = _Lines(text, max_row_bytes)
    reader = csv.reader(lines, delimiter="\t" if found == "tsv" else ",")
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            fields = _next_fields(reader, max_row_bytes)
        except StopIteration:
            return
        except csv.Error as error:
            reason = "too long" if "field limit" in str(error) else "broken CSV"
            yield line, Reject(name, line, reason, str(error)), 0
            continue
        if not fields:
            continue
        joined = ",".join(fields)
        if header is None:
            header = [column.strip() for column in fields]
            twice = next((column for column in header if column and header.count(column) > 1), None)
            if twice is not None:
                raise UserError(f"{name}:{line}: two columns are called {twice!r}; rename one of them")
        elif len(fields) != len(header):
            if lines.unfinished:
                raise cut_error(name, line)
            detail = f"{len(fields)} columns, the header has {len(header)}"
            if reader.line_num > line:
                detail += f"; it goes to line {reader.line_num}: is a quote never closed?"
            yield line, Reject(name, line, "broken CSV", detail, sample_of(joined)), 0
        elif "\0" in joined:
            yield line, Reject(name, line, "NUL bytes", f"{joined.count(chr(0))} in this row", sample_of(joined)), 0
        else:
            value = unless_bad_bytes(name, line, dict(zip(header, fields, strict=True)), joined)
            yield line, value, len(joined)


def _next_fields(reader: Iterator[list[str]], max_row_bytes: int) -> list[str]:
    """A row's fields. Python keeps one limit for the whole process, which gets its own back."""
    before = csv.field_size_limit(max_row_bytes)
    try:
        return next(reader)
    finally:
        csv.field_size_limit(before)


class _Lines:
    """Lines of a text, ended by LF, CR LF or a lone CR, as the CSV reader takes them; in the place of a gigantic one
    something that the reader refuses for its length."""

    def __init__(self, text: io.TextIOBase, limit: int) -> None:
        self.text, self.limit = text, limit
        self.unfinished = False  # the last line had no line end
        self._ahead = ""  # a character that was read to see whether it belongs to a line end

    def __iter__(self) -> Iterator[str]:
        while line := self._readline(self.limit + 1):
            end = line
            while end and not end.endswith(("\n", "\r")):
                end = self._readline(BLOCK_BYTES)
            self.unfinished = not end
            too_long = len(line) > self.limit and len(line.rstrip("\r\n")) > self.limit
            yield "x" * (self.limit + 1) if too_long else line

    def _readline(self, size: int) -> str:
        """A line with its end, or about `size` characters of it; CR LF is never cut in two."""
        line, self._ahead = self._ahead, ""
        if line != "\r":
            line += self.text.readline(size)
        if line.endswith("\r"):
            self._ahead = self.text.readline(1)
            if self._ahead == "\n":
                line, self._ahead = line + "\n", ""
        return line


def _parquet_blocks(stream: Stream, block_bytes: int, max_row_bytes: int) -> Iterator[Block]:
    """Batches of rows, still in Arrow's form: a worker makes Python objects of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with seekable_file(stream) as file:
        try:
            # Without `pre_buffer`, and with a small buffer, a row group of gigabytes is read piece by piece.
            table = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
            line = 1
            for group in range(table.num_row_groups):
                facts = table.metadata.row_group(group)
                row_bytes = facts.total_byte_size / max(facts.num_rows, 1)
                rows = int(min(max(block_bytes / max(row_bytes, 1), 1), _BLOCK_ROWS))
                for batch in table.iter_batches(rows, row_groups=[group]):
                    for first, part, rejects in _bounded(stream.name, line, batch, max_row_bytes):
                        data = b"" if part is None else _as_bytes(part)
                        kind = "values" if part is None else "arrow"
                        # Parquet is not read from front to back: the share of the rows stands for the bytes.
                        share = (line + batch.num_rows - 1) / max(table.metadata.num_rows, 1)
                        done = int(share * (stream.size or 0))
                        yield Block(stream.name, kind, first, data, rejects=rejects, bytes_read=done)
                    line += batch.num_rows
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise damaged(stream.name, "Parquet", error) from error


def _bounded(name: str, line: int, batch: Any, limit: int) -> Iterator[tuple[int, Any, tuple[Reject, ...]]]:
    """A batch as it is; or row by row, rows above the limit as rejects, when it may hold such rows."""
    if batch.nbytes <= limit:
        yield line, batch, ()
        return
    for index in range(batch.num_rows):
        row = batch.slice(index, 1)
        if row.nbytes <= limit:
            yield line + index, row, ()
        else:
            detail = f"{row.nbytes} bytes, at most {limit} are read"
            yield line + index, None, (Reject(name, line + index, "too long", detail),)


def _as_bytes(batch: Any) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
