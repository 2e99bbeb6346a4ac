"""Files with something wrong in them, made anew from a seed: bad rows among good ones, any format and packing."""

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

MAX_ROW_BYTES = 4000  # what counts as a gigantic row here
CHARACTERS = "abc xyz,.\"'\\{}[]:\t\u2028\ufeff文字漢。é👍\x7f"


def good_rows(numbers: random.Random, count: int = 40) -> list[dict[str, Any]]:
    """Rows of one of the usual shapes, with characters that are hard on readers."""

    def text() -> str:
        return "".join(numbers.choices(CHARACTERS, k=numbers.randrange(1, 60))) + "."

    shapes: list[Callable[[], dict[str, Any]]] = [
        lambda: {"text": text()},
        lambda: {"instruction": text(), "input": "", "output": text()},
        lambda: {"messages": [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]},
    ]
    shape = numbers.choice(shapes)
    return [shape() for _ in range(count)]


# ---- formats: good rows, some of them replaced by what is no row, as bytes ----

Broken = dict[int, bytes]  # number of the row that is replaced → the bytes in its place


def as_json_lines(rows: list[dict[str, Any]], broken: Broken) -> bytes:
    lines = [broken.get(n) or json.dumps(row, ensure_ascii=False).encode() for n, row in enumerate(rows)]
    return b"\n".join(lines) + b"\n"


def as_json_array(rows: list[dict[str, Any]], broken: Broken) -> bytes:
    elements = [broken.get(n) or json.dumps(row, ensure_ascii=False).encode() for n, row in enumerate(rows)]
    return b"[\n" + b",\n".join(elements) + b"\n]\n"


def as_indented_array(rows: list[dict[str, Any]], broken: Broken) -> bytes:
    elements = [broken.get(n) or json.dumps(row, ensure_ascii=False, indent=2).encode() for n, row in enumerate(rows)]
    return b"[\n  " + b",\n  ".join(element.replace(b"\n", b"\n  ") for element in elements) + b"\n]\n"


FORMATS = {"jsonl": as_json_lines, "array": as_json_array, "indented": as_indented_array}


# ---- what is wrong with a row ----


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


BAD_ROWS: dict[str, Callable[[dict[str, Any], random.Random], bytes]] = {
    "broken JSON": lambda row, numbers: json_bytes(row).replace(b'": ', b'": oops', 1),
    "a key without quotes": lambda row, numbers: json_bytes(row).replace(b'{"', b"{", 1),
    "Python's quotes": lambda row, numbers: json_bytes(row)[:-1] + b", 'x': 1}",
    "a NUL byte": lambda row, numbers: json_bytes(row).replace(b'": ', b'": "\0", "x": ', 1),
    "another encoding": lambda row, numbers: json_bytes(row)[:-1] + ', "x": "编码"}'.encode("gb18030"),
    "a gigantic value": lambda row, numbers: json_bytes({**row, "x": "y" * numbers.randrange(4001, 40_000)}),
    "nested too deeply": lambda row, numbers: json_bytes(row)[:-1] + b', "x": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    "nested somewhat too deeply": lambda row, numbers: (
        json_bytes(row)[:-1] + b', "x": ' + b'{"a":' * 150 + b"1" + b"}" * 151
    ),
    "a number without end": lambda row, numbers: json_bytes(row)[:-1] + b', "x": 1' + b"0" * 4400 + b"}",
    "no object": lambda row, numbers: numbers.choice([b"3", b"null", b'"text"', b"true", b"-1.5e3"]),
}


# ---- packings of JSON Lines ----


def zipped(content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", content)
        archive.writestr("b.jsonl", content)
    return target.getvalue()


def tarred(content: bytes, mode: Any) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as archive:
        for name in ("a.jsonl", "b.jsonl"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


def as_parquet(content: bytes) -> bytes:
    target = io.BytesIO()
    rows = [json.loads(line) for line in content.decode().split("\n") if line]
    pq.write_table(pa.Table.from_pylist(rows), target, row_group_size=15, write_page_checksum=True)
    return target.getvalue()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "array": lambda content: b"[" + b",\n".join(content.split(b"\n")[:-1]) + b"]",
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: zstandard.ZstdCompressor(write_checksum=True).compress(content),
    "zip": zipped,
    "tar": lambda content: tarred(content, "w"),
    "tar.gz": lambda content: tarred(content, "w:gz"),
    "tar.bz2": lambda content: tarred(content, "w:bz2"),
    "tar.xz": lambda content: tarred(content, "w:xz"),
    "parquet": as_parquet,
}
