"""Raw files as people have them → rows, one dictionary each, in bounded memory.

The content decides what a file is, not its name (a `.json` file often holds JSON Lines): JSON Lines, a JSON
array or objects one after another, CSV or TSV with a header line, or plain text with one document a line.
Reading has two halves, so that several processes can share it: `read_blocks` cuts a file into blocks and is
quick; `parse_block` makes rows of a block and may run elsewhere.

A row that cannot be read becomes a `Reject` with its reason and line number, never an exception and never
silence. Only what spoils the whole file is a UserError: missing, empty, not text, or cut in the middle of its
last row.
"""

import codecs
import csv
import glob
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import UserError

MAX_ROW_BYTES = 16 << 20  # a longer line or value is a reject: no row can fill the memory
BLOCK_BYTES = 1 << 20
_HEAD_BYTES = 1 << 16  # what is read to see what a file is
_SAMPLE_CHARS = 200

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"PAR1": "Parquet",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}
# A first line of plain text may hold commas too; it is a header only if it names a column of this field.
_COLUMNS = {
    "text",
    "content",
    "instruction",
    "input",
    "output",
    "q",
    "a",
    "history",
    "prompt",
    "chosen",
    "rejected",
}
_COLUMNS |= {"question", "answer", "response", "messages", "conversations", "system", "source", "title"}


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
    """Neighbouring rows of a file, not parsed yet: bytes of whole lines, or values with their lines."""

    path: str
    format: str  # jsonl, text or values
    first_line: int
    data: bytes = b""
    values: tuple[tuple[int, Any], ...] = ()
    rejects: tuple[Reject, ...] = ()  # found while cutting
    unfinished: bool = False  # the last line has no line end: the file may be cut


def expand_paths(names: Iterable[str | Path]) -> list[Path]:
    """Files named directly, by a folder (all below it but hidden ones) or by a pattern; each once.

    Raises:
        UserError: nothing is there, a folder holds no file, or a file is empty.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            files = [
                file
                for file in sorted(path.rglob("*"))
                if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
            ]
            if not files:
                raise UserError(f"{path}: the folder holds no file")
        elif path.is_file():
            files = [path]
        else:
            matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 - pathlib wants a folder to start from
            files = [Path(match) for match in sorted(matches) if Path(match).is_file()]
            if not files:
                raise UserError(f"{path}: no such file or folder")
        found.update(dict.fromkeys(files))
    for path in found:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty")
    return list(found)


def sniff_format(path: str | Path) -> str:
    """What a file holds: `jsonl`, `json` (an array, or objects over several lines), `csv`, `tsv` or `text`.

    Raises:
        UserError: the file is compressed, binary, UTF-16, or holds nothing but white space.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            advice = "convert it to UTF-8" if "text" in name else "unpack or convert it"
            raise UserError(f"{path}: this is {name}, expected JSON, CSV or plain text in UTF-8; {advice} first")
    head = head.removeprefix(codecs.BOM_UTF8)
    lines = [line for line in head.split(b"\n") if line.strip()]
    if not lines:
        raise UserError(f"{path}: nothing but white space in it")
    if b"\0" in lines[0]:
        raise UserError(f"{path}: a binary file (it begins with NUL bytes), expected JSON, CSV or plain text in UTF-8")
    start = head.lstrip()
    if re.match(rb"\[\s*(\{|\]|$)", start):
        return "json"
    if start.startswith((b"{", b"[", b'"')):
        whole = lines if head.endswith(b"\n") else lines[:-1]
        if any(_is_json(line) for line in whole[:10]) or (len(lines) == 1 and start[:1] == b"{"):
            return "jsonl"
        if start.startswith(b"{"):
            return "jsonl" if Path(path).suffix in {".jsonl", ".ndjson"} else "json"
    header = lines[0].decode("utf-8", errors="replace").strip()
    suffix = Path(path).suffix.lower()
    for name, delimiter in (("csv", ","), ("tsv", "\t")):
        columns = [column.strip().strip('"').lower() for column in header.split(delimiter)]
        if suffix == f".{name}" or (len(columns) > 1 and _COLUMNS.intersection(columns) and all(columns)):
            return name
    return "text"


def read_rows(paths: Iterable[str | Path], max_row_bytes: int = MAX_ROW_BYTES) -> Iterator[Row | Reject]:
    """Every row of some files, and every reject in its place, in one process."""
    for path in expand_paths(paths):
        for block in read_blocks(path, max_row_bytes=max_row_bytes):
            yield from parse_block(block)


def read_blocks(
    path: str | Path, block_bytes: int = BLOCK_BYTES, max_row_bytes: int = MAX_ROW_BYTES
) -> Iterator[Block]:
    """Cut a file into blocks of about `block_bytes`; memory stays below a block and one row."""
    path = Path(path)
    found = sniff_format(path)
    if found in ("jsonl", "text"):
        return _line_blocks(path, found, block_bytes, max_row_bytes)
    values = _json_values(path, max_row_bytes) if found == "json" else _csv_values(path, found, max_row_bytes)
    return _value_blocks(path, values)


def parse_block(block: Block) -> Iterator[Row | Reject]:
    """The rows of a block; broken ones as rejects.

    Raises:
        UserError: the file's last line has no end and cannot be read: the file was cut.
    """
    yield from block.rejects
    for line, value in block.values:
        yield _as_row(block.path, line, value)
    lines = block.data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, raw in enumerate(lines, start=block.first_line):
        if not raw.strip():
            continue
        last = block.unfinished and number == block.first_line + len(lines) - 1
        try:
            text = raw.decode("utf-8").rstrip("\r")
            value = {"text": text} if block.format == "text" else json.loads(text)
        except (UnicodeDecodeError, ValueError, RecursionError) as error:
            if last and block.format == "jsonl":
                raise _cut_error(block.path, number) from error
            reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "broken JSON"
            yield Reject(block.path, number, reason, _explain(error), _sample(raw))
            continue
        yield _as_row(block.path, number, value)


def _as_row(path: str, line: int, value: Any) -> Row | Reject:
    if isinstance(value, Reject):
        return value
    if isinstance(value, dict):
        return Row(path, line, value)
    found = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}.get(type(value), "a number")
    return Reject(path, line, "not an object", f"found {found}, expected {{...}}", _sample(json.dumps(value)))


def _line_blocks(path: Path, found: str, block_bytes: int, max_row_bytes: int) -> Iterator[Block]:
    line, rest = 1, b""
    skipping = False  # inside a line that is too long: its end is all that is looked for
    with open(path, "rb") as file:
        if file.read(3) != codecs.BOM_UTF8:
            file.seek(0)
        while chunk := file.read(block_bytes):
            if skipping:
                _, newline, chunk = chunk.partition(b"\n")
                if not newline:
                    continue
                line, skipping = line + 1, False
            data = rest + chunk
            cut = data.rfind(b"\n") + 1
            data, rest = data[:cut], data[cut:]
            if data:
                rejects, data_kept = _without_long_lines(path, line, data, max_row_bytes)
                yield Block(str(path), found, line, data_kept, rejects=rejects)
                line += data.count(b"\n")
            if len(rest) > max_row_bytes:
                yield Block(str(path), found, line, rejects=(_too_long(path, line, rest, max_row_bytes),))
                rest, skipping = b"", True
    if rest:
        yield Block(str(path), found, line, rest, unfinished=True)


def _without_long_lines(path: Path, line: int, data: bytes, limit: int) -> tuple[tuple[Reject, ...], bytes]:
    """Blank the lines above the limit (their line ends stay, so the numbers of the others do too)."""
    if len(data) <= limit:
        return (), data
    lines, rejects = data.split(b"\n"), []
    for number, raw in enumerate(lines):
        if len(raw) > limit:
            rejects.append(_too_long(path, line + number, raw, limit))
            lines[number] = b""
    return tuple(rejects), b"\n".join(lines)


def _value_blocks(path: Path, values: Iterator[tuple[int, Any]], rows: int = 500) -> Iterator[Block]:
    block: list[tuple[int, Any]] = []
    for line, value in values:
        block.append((line, value))
        if len(block) == rows:
            yield Block(str(path), "values", block[0][0], values=tuple(block))
            block = []
    if block:
        yield Block(str(path), "values", block[0][0], values=tuple(block))


def _json_values(path: Path, max_row_bytes: int) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON array, or objects one after another, decoded one by one as the file is read."""
    decoder = json.JSONDecoder()
    # Bad bytes must not end the reading: they become lone surrogates, which the value is refused for below.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        buffer, position, line, at_end = "", 0, 1, False
        in_array = closed = False
        while True:
            gap = re.compile(r"[\s,]*").match(buffer, position)
            assert gap is not None
            line += buffer.count("\n", position, gap.end())
            position = gap.end()
            if position == len(buffer):
                if at_end:
                    break
                buffer, position = file.read(BLOCK_BYTES), 0
                at_end = not buffer
                continue
            if buffer[position] in "[]" and not (in_array and buffer[position] == "["):
                in_array, closed = buffer[position] == "[", buffer[position] == "]"
                position += 1
                continue
            try:
                value, end = decoder.raw_decode(buffer, position)
                if end == len(buffer) and not at_end:
                    raise json.JSONDecodeError("may go on", buffer, position)  # a number, cut by the buffer's end
            except (json.JSONDecodeError, RecursionError) as error:
                if not at_end and len(buffer) - position <= max_row_bytes:
                    more = file.read(BLOCK_BYTES)
                    at_end = not more
                    buffer, position = buffer[position:] + more, 0
                    continue
                following = re.compile(r"\}\s*,?\s*(?=\{)").search(buffer, position + 1)
                if following is None and at_end:
                    closed = in_array and buffer.rstrip().endswith("]")  # only the last element is broken
                    if not closed:
                        raise _cut_error(str(path), line) from error
                too_long = not at_end and following is None
                reason = "too long" if too_long else "broken JSON"
                detail = f"above {max_row_bytes} bytes" if too_long else _explain(error)
                sample = buffer[position : position + _SAMPLE_CHARS]
                yield line, Reject(str(path), line, reason, detail, _sample(sample))
                end = len(buffer) if following is None else following.end()
                line += buffer.count("\n", position, end)
                position = end
                continue
            yield line, _unless_bad_bytes(path, line, value, buffer[position:end])
            line += buffer.count("\n", position, end)
            position = end
    if in_array and not closed:
        raise _cut_error(str(path), line)


def _csv_values(path: Path, found: str, max_row_bytes: int) -> Iterator[tuple[int, Any]]:
    """The lines below a CSV or TSV header; a quoted field may hold line ends."""
    csv.field_size_limit(max_row_bytes)
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = _Lines(file, max_row_bytes)
        reader = csv.reader(lines, delimiter="\t" if found == "tsv" else ",")
        header: list[str] | None = None
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, Reject(str(path), line, "broken CSV", str(error))
                continue
            if not fields:
                continue
            if header is None:
                header = [name.strip() for name in fields]
            elif len(fields) == len(header):
                value = dict(zip(header, fields, strict=True))
                yield line, _unless_bad_bytes(path, line, value, "".join(fields))
            elif lines.unfinished:
                raise _cut_error(str(path), line)
            else:
                detail = f"{len(fields)} columns, the header has {len(header)}"
                if reader.line_num > line:
                    detail += f"; it goes to line {reader.line_num}: is a quote never closed?"
                yield line, Reject(str(path), line, "broken CSV", detail, _sample(",".join(fields)))


class _Lines:
    """Lines of a text file; of a gigantic one only the first part, which is then no row of the table."""

    def __init__(self, file: io.TextIOBase, limit: int) -> None:
        self.file, self.limit = file, limit
        self.unfinished = False  # the last line had no line end

    def __iter__(self) -> Iterator[str]:
        while line := self.file.readline(self.limit):
            end = line
            while end and not end.endswith("\n"):
                end = self.file.readline(self.limit)
            self.unfinished = not end
            yield line


def _unless_bad_bytes(path: Path, line: int, value: Any, text: str) -> Any:
    bad = re.search("[\udc80-\udcff]", text)
    if bad is None:
        return value
    return Reject(str(path), line, "not UTF-8", f"byte 0x{ord(bad.group()) - 0xDC00:x}", _sample(text))


def _too_long(path: Path, line: int, raw: bytes, limit: int) -> Reject:
    return Reject(str(path), line, "too long", f"a line above {limit} bytes", _sample(raw[:_SAMPLE_CHARS]))


def _cut_error(path: str, line: int) -> UserError:
    return UserError(
        f"{path}:{line}: the file ends in the middle of a row: it was cut, perhaps on its way here; "
        f"fetch it again, or remove what follows its last whole row"
    )


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _explain(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte 0x{error.object[error.start]:x} at {error.start}"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}" if error.lineno == 1 else error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _sample(text: str | bytes) -> str:
    """The beginning of a row, safe to print and to store."""
    if isinstance(text, bytes):
        text = text[: 4 * _SAMPLE_CHARS].decode("utf-8", errors="replace")
    return text[:_SAMPLE_CHARS].encode("utf-8", errors="replace").decode("utf-8")
