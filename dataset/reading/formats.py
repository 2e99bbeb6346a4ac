"""What a file holds, and what its rows are: format, row, rejected row, block of rows not parsed yet.

The content decides what a file is, not its name (a `.json` file often holds JSON Lines): JSON Lines, a JSON array or
objects one after another, CSV or TSV with a header line, Parquet, or plain text: one document a line, or, where lines
`<|endoftext|>` stand in it, everything between two of them.

Reading has two halves, so that several processes can share it: `cutting.py` cuts bytes into blocks and is
quick; `parse_block` makes rows of a block and may run elsewhere. A row that cannot be read becomes a `Reject` with its
reason and line number, never an exception and never silence.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from model.errors import UserError

HEAD_BYTES = 1 << 16  # what is read to see what a file is
MAX_DEPTH = (
    100  # of lists and objects in each other; no format of this field comes near, and no later step recurses more
)
_SAMPLE_CHARS = 200

# The line between two documents of a plain text, as in TinyStories' files. (`\Z`: it may be the last line of all.)
END_OF_DOCUMENT = b"<|endoftext|>"
DOCUMENT_SEPARATOR = re.compile(rb"^" + re.escape(END_OF_DOCUMENT) + rb"\r?(?:\n|\Z)", re.MULTILINE)

# Endings that say how a file is packed, not what it holds.
PACKED_SUFFIXES = {".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd"}

# Endings of data files and of archives. What a file holds its content says; these say which of a hub's are wanted.
DATA_SUFFIXES = {".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".txt", ".parquet", ".zip", ".tar", ".tgz", ".tbz2"}

# Data that cannot be read, by their first bytes: what it is, and what to do. (Compressed files were unpacked before.)
_MAGIC = {
    b"\xff\xfe": ("UTF-16 text", "convert it to UTF-8 first"),
    b"\xfe\xff": ("UTF-16 text", "convert it to UTF-8 first"),
    b"PK\x03\x04": ("a zip archive inside an archive", "unpack the outer one first"),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", "unpack it, or pack it as .zip or .tar.gz"),
    b"Rar!": ("a RAR archive", "unpack it, or pack it as .zip or .tar.gz"),
    b"\x04\x22\x4d\x18": ("lz4", "unpack it, or compress it as .zst or .gz"),
    b"ARROW1": ("an Arrow file", "save it as Parquet"),
    b"version https://git-lfs": ("a Git LFS pointer, not the file itself", "run `git lfs pull` where it came from"),
}
# What holds no rows at all. Most such files need no entry: control bytes among their bytes give them away.
_NO_DATA = {
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x93NUMPY": "a NumPy array",
    b"SQLite format 3\0": "an SQLite database",
    b"\x7fELF": "a program",
    **dict.fromkeys((b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"), "MP3 sound"),
    **dict.fromkeys((b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5"), "a pickle, which could run any code"),
}
# The first file in a zip archive that is a document.
_OFFICE_DOCUMENT = re.compile(rb"PK\x03\x04.{26}(\[Content_Types\]\.xml|mimetypeapplication/)", re.DOTALL)
_NO_TEXT_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
EXPECTED = "JSON, CSV, Parquet or plain text in UTF-8"
# A first line of plain text may hold commas too; it is a header only if it names a column of this field.
_COLUMNS = {
    *("text", "content", "instruction", "input", "output", "q", "a", "history", "prompt", "chosen", "rejected"),
    *("question", "answer", "response", "messages", "conversations", "system", "source", "title"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row: where it was found (line counted from 1), and its fields."""

    path: str
    line: int
    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reject:
    """One row that was left out: where, by which rule, what exactly was wrong, and its beginning."""

    path: str
    line: int
    reason: str
    detail: str = ""
    sample: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring rows of an input, not parsed yet: bytes of whole rows, values with lines, or an Arrow batch."""

    path: str
    format: str  # jsonl, text, documents, values or arrow
    first_line: int
    data: bytes = b""
    values: tuple[tuple[int, Any], ...] = ()
    rejects: tuple[Reject, ...] = ()  # found while cutting
    unfinished: bool = False  # nothing ends the last row: the file may be cut
    bytes_read: int = 0  # of the input as it is stored, up to and with this block (for a progress bar)


def sniff(head: bytes, name: str) -> str:
    """What a file holds, by its first bytes: `jsonl`, `json` (an array, or objects over several lines), `csv`, `tsv`,
    `parquet`, `text` (a document a line) or `documents` (there are lines `<|endoftext|>` between them). The name
    decides only where the content leaves it open.

    Raises:
        UserError: it holds no data, or data that cannot be read: UTF-16, an archive in an archive, and so on.
    """
    if head.startswith(b"PAR1"):
        return "parquet"
    without = what_without_data(head)
    if without is not None:
        raise UserError(
            f"{name}: this is {without}, expected {EXPECTED}; save its text or table, if it has one, as .txt or .csv"
        )
    for magic, (found, advice) in _MAGIC.items():
        if head.startswith(magic):
            raise UserError(f"{name}: this is {found}, expected {EXPECTED}; {advice}")
    head = head.removeprefix(codecs.BOM_UTF8)
    lines = [line for line in head.split(b"\n") if line.strip()]
    if not lines:
        raise UserError(f"{name}: nothing but white space in it")
    start = head.lstrip()
    suffix = data_suffix(name)
    if re.match(rb"\[\s*(\{|\]|$)", start):
        return "json"
    if start.startswith((b"{", b"[", b'"')):
        whole = lines if head.endswith(b"\n") else lines[:-1]
        if any(_is_json(line) for line in whole[:10]) or (len(lines) == 1 and start[:1] == b"{"):
            return "jsonl"
        if start.startswith(b"{"):
            return "jsonl" if suffix in {".jsonl", ".ndjson"} else "json"
    header = lines[0].strip().split(b"\r")[0].decode("utf-8", errors="replace")  # (old tables end lines by `\r` alone)
    for found, delimiter in (("csv", ","), ("tsv", "\t")):
        columns = [column.strip().strip('"').lower() for column in header.split(delimiter)]
        if suffix == f".{found}" or (len(columns) > 1 and _COLUMNS.intersection(columns) and all(columns)):
            return found
    return "documents" if DOCUMENT_SEPARATOR.search(head) else "text"


def what_without_data(head: bytes) -> str | None:
    """What a file is that has no rows in it, by its first bytes: a picture, a program, …; None where it may have some.

    A few NUL bytes or another encoding do not make a file binary: they cost the rows in which they are.
    """
    if is_office_document(head):
        return "an office document"
    if head.startswith((b"PAR1", *_MAGIC)):
        return None
    for magic, found in _NO_DATA.items():
        if head.startswith(magic):
            return found
    lines = [line for line in head.split(b"\n") if line.strip()]
    if not lines or b"\0" in lines[0]:
        return "a binary file" if lines else None
    is_binary = 2 * sum(map(_is_binary, lines)) > len(lines) and not _is_json(lines[0])
    return "a binary file" if is_binary else None


def is_office_document(head: bytes) -> bool:
    """Whether a zip archive is a text, a table or a book of an office program, by its first bytes."""
    return _OFFICE_DOCUMENT.match(head) is not None


def is_blank(head: bytes) -> bool:
    """Whether a file's first bytes are nothing but white space (and a byte order mark)."""
    return not head.removeprefix(codecs.BOM_UTF8).strip()


def _is_binary(line: bytes) -> bool:
    """Whether a line is certainly no text: NUL bytes are in it, or other control bytes and what is not UTF-8."""
    if b"\0" in line:
        return True
    if not _NO_TEXT_CONTROLS.search(line):
        return False
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def data_suffix(name: str) -> str:
    """The ending that says what a file holds: `.csv` of `table.csv.gz`."""
    path = PurePosixPath(name)
    return PurePosixPath(path.stem if path.suffix.lower() in PACKED_SUFFIXES else path.name).suffix.lower()


def parse_block(block: Block) -> Iterator[Row | Reject]:
    """The rows of a block; broken ones as rejects.

    Raises:
        UserError: the file's last line has no end and cannot be read: the file was cut.
    """
    yield from block.rejects
    for line, value in block.values:
        yield _as_row(block.path, line, value)
    if block.format == "arrow":
        yield from _rows_of_arrow(block)
    elif block.data:
        yield from _rows_of_text(block)


def _rows_of_text(block: Block) -> Iterator[Row | Reject]:
    """Of a block of bytes: JSON Lines, lines of plain text, or documents of several lines."""
    raws = list(_documents(block) if block.format == "documents" else _lines(block))
    for index, (number, raw) in enumerate(raws, start=1):
        try:
            text = raw.decode("utf-8").rstrip("\r")
            value = json.loads(text) if block.format == "jsonl" else {"text": text}
        except (ValueError, RecursionError) as error:
            if block.format == "jsonl" and block.unfinished and index == len(raws):
                raise cut_error(block.path, number) from error
            reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "broken JSON"
            yield Reject(block.path, number, reason, explain(error), sample_of(raw))
            continue
        if block.format != "jsonl" and "\0" in text:
            yield Reject(block.path, number, "NUL bytes", f"{text.count(chr(0))} in this row", sample_of(raw))
        elif block.format == "jsonl" and nested_too_deeply(value, text):
            yield Reject(block.path, number, "broken JSON", explain(RecursionError()), sample_of(raw))
        else:
            yield _as_row(block.path, number, value)


def _lines(block: Block) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers."""
    for number, raw in enumerate(block.data.split(b"\n"), start=block.first_line):
        if raw.strip():
            yield number, raw


def _documents(block: Block) -> Iterator[tuple[int, bytes]]:
    """What stands between separator lines and is not empty, with the number of the line on which it begins."""
    start, line = 0, block.first_line
    for separator in (*DOCUMENT_SEPARATOR.finditer(block.data), None):
        end, next_start = (len(block.data),) * 2 if separator is None else separator.span()
        raw = block.data[start:end]
        if raw.strip():
            empty_lines = raw[: len(raw) - len(raw.lstrip())].count(b"\n")
            yield line + empty_lines, raw.strip(b"\r\n")
        line += block.data.count(b"\n", start, next_start)
        start = next_start


def _rows_of_arrow(block: Block) -> Iterator[Row | Reject]:
    import pyarrow as pa

    batch = pa.ipc.open_stream(block.data).read_next_batch()
    for index in range(batch.num_rows):
        line = block.first_line + index
        try:
            (value,) = batch.slice(index, 1).to_pylist()
        except ValueError as error:  # a text that is not UTF-8, or a date outside Python's years
            reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "no readable value"
            yield Reject(block.path, line, reason, explain(error))
            continue
        yield _as_row(block.path, line, value)


def _as_row(path: str, line: int, value: Any) -> Row | Reject:
    if isinstance(value, Reject):
        return value
    if isinstance(value, dict):
        return Row(path, line, value)
    found = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}.get(type(value), "a number")
    return Reject(path, line, "not an object", f"found {found}, expected {{...}}", sample_of(json.dumps(value)))


def nested_too_deeply(value: Any, text: str) -> bool:
    """Whether lists and objects stand in each other more than MAX_DEPTH times; `text` is the value's JSON."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:  # true of nearly every row, and quickly seen
        return False
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper.extend(item.values())
            elif isinstance(item, list):
                deeper.extend(item)
        if not deeper:
            return False
        level = deeper
    return True


def cut_error(path: str, line: int) -> UserError:
    """The error for a file whose last row has no end."""
    return UserError(
        f"{path}:{line}: the file ends in the middle of a row: it was cut, perhaps on its way here; "
        f"fetch it again, or remove what follows its last whole row"
    )


def explain(error: Exception) -> str:
    """What exactly is wrong with a row, in a few words."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte 0x{error.object[error.start]:x} at {error.start}"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}" if error.lineno == 1 else error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def sample_of(text: str | bytes) -> str:
    """The beginning of a row, safe to print and to store."""
    if isinstance(text, bytes):
        text = text[: 4 * _SAMPLE_CHARS].decode("utf-8", errors="replace")
    return text[:_SAMPLE_CHARS].encode("utf-8", errors="replace").decode("utf-8")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
