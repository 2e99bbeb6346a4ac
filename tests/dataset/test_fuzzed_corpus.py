"""Whatever is wrong with a file ends in counted rejects, or in one line that names the file; good rows come through.

Each kind of damage is made anew from a seed, on files of several formats, packed or not.
"""

import gzip
import os
import random
from pathlib import Path

import pytest

from dataset.reading.formats import Reject, Row, parse_block
from dataset.sources import find_inputs, read_rows
from dataset.text_sample import sample_texts
from model.errors import UserError
from tests.dataset.fuzzed_files import (
    BAD_ROWS,
    FORMATS,
    MAX_ROW_BYTES,
    PACKED,
    as_json_lines,
    good_rows,
    json_bytes,
)
from tests.dataset.measured_reading import read_in_another_process

SEEDS = range(4)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("damage", BAD_ROWS)
@pytest.mark.parametrize("form", FORMATS)
def test_each_bad_row_is_one_reject_and_the_others_come_through(
    tmp_path: Path, form: str, damage: str, seed: int
) -> None:
    numbers = random.Random(f"{form} {damage} {seed}")
    rows = good_rows(numbers)
    # Never the first: what a file is must be seen from something. Some beside each other, sometimes the last.
    bad = set(numbers.sample(range(2, len(rows)), 4)) | {10, 11}
    path = tmp_path / "data.json"
    path.write_bytes(FORMATS[form](rows, {n: BAD_ROWS[damage](rows[n], numbers) for n in bad}))
    (found,) = find_inputs([path])
    blocks = found.blocks(numbers.choice([50, 700, 1 << 20]), MAX_ROW_BYTES)
    items = sorted((item for block in blocks for item in parse_block(block)), key=lambda item: item.line)
    check_items(items, path)
    assert [item.value for item in items if isinstance(item, Row)] == [
        row for n, row in enumerate(rows) if n not in bad
    ]
    assert sum(isinstance(item, Reject) for item in items) == len(bad)
    # The place of a reject is that of its row, so that a person finds it.
    if form != "indented":
        first = 1 if form == "jsonl" else 2
        assert [item.line - first for item in items if isinstance(item, Reject)] == sorted(bad)


def check_items(items: list[Row | Reject], path: Path) -> None:
    for item in items:
        assert item.path == str(path)
        assert item.line >= 1
        if isinstance(item, Reject):
            assert item.reason
            assert len(item.sample) <= 200
            f"{item.reason} {item.detail} {item.sample}".encode()  # can be printed and stored
            assert "\n" not in item.detail


# ---- tables and text ----


def test_missing_columns_and_wrong_types(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,a\n1,2\n3\n4,5,6\n,\n\n7,8\n")
    items = list(read_rows([tmp_path / "a.csv"]))
    assert [(i.line, i.reason if isinstance(i, Reject) else i.value) for i in items] == [
        (2, {"q": "1", "a": "2"}),
        (3, "broken CSV"),
        (4, "broken CSV"),
        (5, {"q": "", "a": ""}),  # an empty row is a row; what it lacks is for the converter to say
        (7, {"q": "7", "a": "8"}),
    ]
    # Rows of wrong types are rows as well; whoever wants texts of them refuses them by name.
    rows = [
        '{"text": 3}',
        '{"text": null}',
        '{"text": ["a"]}',
        '{"text": {"b": 1}}',
        '{"other": "x"}',
        "{}",
        '{"text": "y"}',
    ]
    (tmp_path / "b.jsonl").write_text("\n".join(rows) + "\n")
    assert all(isinstance(item, Row) for item in read_rows([tmp_path / "b.jsonl"]))
    sample = sample_texts([tmp_path / "b.jsonl"], 1000, seed=0)
    assert dict(sample.rejects) == {"no text": 5}
    assert sample.num_rows == 7


@pytest.mark.parametrize("seed", SEEDS)
def test_text_in_mixed_encodings(tmp_path: Path, seed: int) -> None:
    numbers = random.Random(seed)
    encodings = [numbers.choice(["utf-8", "gb18030", "big5", "latin-1"]) for _ in range(50)]
    lines = [("café latté" if encoding == "latin-1" else "編碼的文字").encode(encoding) for encoding in encodings]
    lines[20] = b"\0" * 30
    (tmp_path / "a.txt").write_bytes(b"utf-8\n" + b"\n".join(lines))
    items = list(read_rows([tmp_path / "a.txt"]))
    good = sum(encoding == "utf-8" for n, encoding in enumerate(encodings) if n != 20)
    check_items(items, tmp_path / "a.txt")
    assert sum(isinstance(item, Row) for item in items) == 1 + good
    assert len(items) == 51


@pytest.mark.parametrize("content", [b"\n \n\n", b"\xef\xbb\xbf", b"\0" * 5000, b"\r\n" * 9, b"\xff\xfe" + b"a\0" * 9])
def test_files_of_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    ends_in_one_line(tmp_path / "a.jsonl")


def ends_in_one_line(path: Path) -> None:
    with pytest.raises(UserError) as error:
        list(read_rows([path], MAX_ROW_BYTES))
    check_line(str(error.value), path)


def check_line(line: str, path: Path) -> None:
    assert line.startswith(str(path))
    assert "\n" not in line
    assert len(line) < 500 + len(str(path))


# ---- damage anywhere: whatever comes of it, it is rows, rejects or one line ----


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("packing", PACKED)
def test_cut_anywhere(tmp_path: Path, packing: str, seed: int) -> None:
    numbers = random.Random(f"{packing} {seed}")
    rows = good_rows(numbers)
    whole = PACKED[packing](as_json_lines(rows, {}))
    path = tmp_path / "data.jsonl"
    path.write_bytes(whole[: numbers.randrange(1, len(whole))])
    items, error = read_what_comes(path)
    good = [item.value for item in items if isinstance(item, Row)]
    if packing == "plain":  # cut behind a whole row, nothing tells; inside one, the error does
        last_line = path.read_bytes().split(b"\n")[-1]
        assert (error is None) == (not last_line or last_line in map(json_bytes, rows))
    elif packing == "tar":  # zeros at its end may be missing
        assert error is not None or good == rows + rows
    elif path.stat().st_size < 12:
        return  # so short that nothing tells what it was: a text of two letters, perhaps
    else:
        assert error is not None
    assert all(row in rows for row in good)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("packing", PACKED)
def test_bytes_changed_anywhere(tmp_path: Path, packing: str, seed: int) -> None:
    numbers = random.Random(f"{packing} {seed}")
    rows = good_rows(numbers)
    content = bytearray(PACKED[packing](as_json_lines(rows, {})))
    for _ in range(numbers.choice([1, 3, 30])):
        content[numbers.randrange(len(content))] = numbers.randrange(256)
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    items, error = read_what_comes(path)
    if packing in ("gz", "xz", "zst", "tar.gz", "tar.xz"):  # what carries a checksum gives good rows or an error
        assert error is not None or all(item.value in rows for item in items if isinstance(item, Row))


@pytest.mark.parametrize("seed", SEEDS)
def test_noise(tmp_path: Path, seed: int) -> None:
    numbers = random.Random(seed)
    starts = [b"", b"{", b"[{", b'{"text": "', b"q,a\n", b"PAR1", b"\x1f\x8b\x08", b"PK\3\4", b"text\n", b"(\xb5/\xfd"]
    for number, start in enumerate(starts):
        path = tmp_path / f"{number}.txt"
        path.write_bytes(start + numbers.randbytes(numbers.choice([10, 3000])))
        read_what_comes(path)


def read_what_comes(path: Path) -> tuple[list[Row | Reject], str | None]:
    items: list[Row | Reject] = []
    try:
        for item in read_rows([path], MAX_ROW_BYTES):
            items.append(item)
    except UserError as error:
        check_line(str(error), path)
        return items, str(error)
    for item in items:
        assert item.path.startswith(str(path))
    return items, None


# ---- folders in circles, files that shrink, lines that never end ----


def test_a_folder_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "a.txt").write_text("text\n")
    for name in ("circle", "deep/up", "deep/self"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "data" / "deep", target_is_directory=True)
    (tmp_path / "data" / "deep" / "loop").symlink_to("loop")  # a link to itself is no file
    with pytest.raises(UserError, match="loop: a link to a file that is not there"):
        find_inputs([tmp_path / "data"])
    (tmp_path / "data" / "deep" / "loop").unlink()
    assert [row.value for row in read_rows([tmp_path / "data"])] == [{"text": "text"}]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("packing", PACKED)
def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, packing: str, seed: int) -> None:
    numbers = random.Random(f"{packing} {seed}")
    path = tmp_path / "data.jsonl"
    path.write_bytes(PACKED[packing](as_json_lines(good_rows(numbers, 2000), {})))
    size = path.stat().st_size
    inputs = find_inputs([path])

    def read_while_it_shrinks() -> None:
        for number, block in enumerate(block for source in inputs for block in source.blocks(500, MAX_ROW_BYTES)):
            list(parse_block(block))
            if number == 1:
                os.truncate(path, numbers.randrange(size))

    with pytest.raises(UserError, match=r"changed while it was read|damaged or cut") as error:
        read_while_it_shrinks()
    check_line(str(error.value), path)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "text", "array", "csv", "gz"])
def test_a_line_of_100_megabytes_costs_little_memory(tmp_path: Path, form: str) -> None:
    value = b"x" * (100 << 20)
    content = {
        "jsonl": b'{"text": "a"}\n{"text": "' + value + b'"}\n{"text": "b"}\n',
        "text": b"a\n" + value + b"\nb\n",
        "array": b'[{"text": "a"},\n{"text": "' + value + b'"},\n{"text": "b"}]',
        "csv": b'text,q\na,1\n"' + value + b'",2\nb,3\n',
    }
    path = tmp_path / "data"
    path.write_bytes(gzip.compress(content["jsonl"], 1) if form == "gz" else content[form])
    del value, content
    rows, megabytes = read_in_another_process(path)
    assert [row if isinstance(row, str) else row["text"] for row in rows] == ["a", "too long", "b"]
    assert megabytes < 90
