"""Content of every format, whole and broken, in any blocks: what it is, its rows, and what is refused."""

import json
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.reading.formats import HEAD_BYTES, Block, Reject, Row, parse_block, sniff
from dataset.sources import find_inputs, read_rows
from model.errors import UserError


@pytest.fixture
def write(tmp_path: Path):
    """Write a file of bytes or text; returns its path."""

    def write_file(content: bytes | str, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


def rows_of(path: Path, **options: int) -> list[tuple[int, Any]]:
    """(line, value) of each row, (line, reason) of each reject."""
    found = list(read_rows([path], **options))
    assert all(item.path == str(path) for item in found)
    return [(item.line, item.value if isinstance(item, Row) else item.reason) for item in found]


def blocks_of(path: Path, block_bytes: int = 1 << 20, **options: int) -> Iterator[Block]:
    (found,) = find_inputs([path])
    return found.blocks(block_bytes, **options)


def sniff_format(path: Path) -> str:
    return sniff(path.read_bytes()[:HEAD_BYTES], str(path))


LINES = '{"text": "春"}\n\n{"text": "b\\nc"}\n'


@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.txt", "data"])
def test_json_lines_are_seen_whatever_the_name(write, name: str) -> None:
    path = write(LINES, name)
    assert sniff_format(path) == "jsonl"
    assert rows_of(path) == [(1, {"text": "春"}), (3, {"text": "b\nc"})]


@pytest.mark.parametrize(
    "content",
    [
        '[{"a": 1}, {"a": 2}]',
        '[\n{"a": 1},\n{"a": 2}\n]\n',
        '\n  [ {"a": 1}\n ,{"a": 2} ]',
        '{\n "a": 1\n}\n{\n "a": 2\n}\n',  # objects one after another, over several lines
    ],
)
def test_json_values(write, content: str) -> None:
    path = write(content, "data.json")
    assert sniff_format(path) == "json"
    assert [value for _, value in rows_of(path)] == [{"a": 1}, {"a": 2}]


def test_line_numbers_in_a_json_array(write) -> None:
    path = write('[\n  {\n    "a": "x\\ny"\n  },\n\n  {"a": 2}\n]\n', "data.json")
    assert [line for line, _ in rows_of(path)] == [2, 6]


@given(
    st.lists(
        st.dictionaries(st.text(max_size=5), st.text(max_size=40) | st.integers() | st.lists(st.floats(0, 1))),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from([None, 0, 2]),
    st.integers(1, 64),
)
def test_any_rows_come_back_whatever_the_block(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], indent: int | None, block_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    array = folder / "array.json"
    array.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    assert [value for _, value in rows_of(array)] == rows
    lines = folder / "lines.jsonl"
    lines.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    found = [row for block in blocks_of(lines, block_bytes) for row in parse_block(block)]
    assert [(row.line, row.value) for row in found if isinstance(row, Row)] == list(enumerate(rows, start=1))
    assert len(found) == len(rows)


def test_a_small_buffer_gives_the_same_json_values(write, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "x" * n, "number": n} for n in range(60)]
    path = write(json.dumps(rows), "data.json")
    monkeypatch.setattr("dataset.reading.json_values.CHUNK_CHARS", 7)
    assert [value for _, value in rows_of(path)] == rows


def test_csv_and_tsv(write) -> None:
    csv_file = write('q,a\n"one, two","a ""word""\nand a line"\n\nx,y\n', "data.csv")
    assert rows_of(csv_file) == [
        (2, {"q": "one, two", "a": 'a "word"\nand a line'}),
        (5, {"q": "x", "a": "y"}),
    ]
    tsv_file = write("q\ta\n1\t2\n", "table")
    assert sniff_format(tsv_file) == "tsv"
    assert rows_of(tsv_file) == [(2, {"q": "1", "a": "2"})]


def test_plain_text_is_one_document_a_line(write) -> None:
    path = write("Once, there was a text.\r\n\n[1] a note\n  last", "story.txt")
    assert sniff_format(path) == "text"
    assert rows_of(path) == [
        (1, {"text": "Once, there was a text."}),
        (3, {"text": "[1] a note"}),
        (4, {"text": "  last"}),
    ]


def test_real_files(real_data: Path) -> None:
    formats = {
        "text/poems.jsonl": ("jsonl", 49_065),
        "text/wiki_demo.txt": ("text", 30),
        "instruct/alpaca_zh_10k.json": ("json", 10_021),
        "instruct/yayi_example.json": ("jsonl", 3),
        "instruct/yayi_example_multi_rounds.json": ("json", 2),
        "tools/glaive_toolcall_zh_demo.json": ("json", 300),
        "ceval/val/accountant_val.csv": ("csv", 49),
        "ceval/test/legal_professional_test.csv": ("csv", 215),  # with line ends of three kinds
    }
    for name, (found, count) in formats.items():
        assert sniff_format(real_data / name) == found, name
        rows = list(read_rows([real_data / name]))
        assert len(rows) == count, name
        assert all(isinstance(row, Row) for row in rows), name


# ---- bad rows: counted, with their lines ----


def test_byte_order_mark(write) -> None:
    mark = b"\xef\xbb\xbf"
    for name, content in (("a.jsonl", b'{"a": 1}\n'), ("a.json", b'[{"a": 1}]'), ("a.csv", b"a\n1\n")):
        rows = rows_of(write(mark + content, name))
        assert [list(value) for _, value in rows] == [["a"]]
    assert rows_of(write(mark + b"text\n", "a.txt")) == [(1, {"text": "text"})]


def test_bad_utf8_is_a_reject_of_its_row_only(write) -> None:
    good, bad = '{"q": "好", "a": "1"}'.encode(), '{"q": "好", "a": "2"}'.encode("gb18030")
    assert rows_of(write(b"\n".join([good, bad, good, b""]))) == [
        (1, {"q": "好", "a": "1"}),
        (2, "not UTF-8"),
        (3, {"q": "好", "a": "1"}),
    ]
    array = write(b"[" + b",\n".join([good, bad, good]) + b"]", "data.json")
    assert [value if isinstance(value, str) else "ok" for _, value in rows_of(array)] == [
        "ok",
        "not UTF-8",
        "ok",
    ]
    table = write("q,a\n好,1\n".encode() + "好,2\n".encode("gb18030") + b"x,3\n", "data.csv")
    assert rows_of(table)[1:] == [(3, "not UTF-8"), (4, {"q": "x", "a": "3"})]
    text = write("好\n".encode() + "好\n".encode("gb18030") + "好\n".encode(), "data.txt")
    assert [line for line, value in rows_of(text) if value == "not UTF-8"] == [2]


@pytest.mark.parametrize("bad", ['{"a": }', '{"a": 1', "{'a': 1}", "hello", '{"a": "\x00"}', "[" * 100_000])
def test_broken_json_lines(write, bad: str) -> None:
    assert rows_of(write(f'{{"a": 1}}\n{bad}\n{{"a": 2}}\n')) == [
        (1, {"a": 1}),
        (2, "broken JSON"),
        (3, {"a": 2}),
    ]


def test_broken_json_in_the_middle_of_an_array(write) -> None:
    path = write('[{"a": 1},\n{"a": oops, "b": 3},\n{"a": 2}]', "data.json")
    assert rows_of(path) == [(1, {"a": 1}), (2, "broken JSON"), (3, {"a": 2})]
    path = write('[{"a": 1},\n{"a": oops}]', "data.json")
    assert rows_of(path) == [(1, {"a": 1}), (2, "broken JSON")]


@pytest.mark.parametrize("bad", ["[1, 2]", '"text"', "3", "null", "true"])
def test_values_that_are_no_objects(write, bad: str) -> None:
    assert rows_of(write(f'{{"a": 1}}\n{bad}\n')) == [(1, {"a": 1}), (2, "not an object")]
    assert [value for _, value in rows_of(write(f'[{{"a": 1}}, {bad}]', "data.json"))][1] == "not an object"


@pytest.mark.parametrize("block_bytes", [16, 64, 1 << 20])
def test_a_gigantic_line_is_left_out_and_the_next_ones_keep_their_numbers(write, block_bytes: int) -> None:
    path = write('{"a": 1}\n' + '{"a": "' + "x" * 5000 + '"}\n' + '{"a": 2}\n{"a": 3}\n')
    found = [row for block in blocks_of(path, block_bytes, max_row_bytes=100) for row in parse_block(block)]
    assert sorted((row.line, isinstance(row, Reject)) for row in found) == [
        (1, False),
        (2, True),
        (3, False),
        (4, False),
    ]
    assert [row.reason for row in found if isinstance(row, Reject)] == ["too long"]


def test_gigantic_values_elsewhere(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataset.reading.json_values.CHUNK_CHARS", 64)
    array = write('[{"a": 1}, {"a": "' + "x" * 500 + '"}, {"a": 2}]', "data.json")
    assert [value for _, value in rows_of(array, max_row_bytes=100)] == [{"a": 1}, "too long", {"a": 2}]
    last = write('[{"a": 1},\n{"a": "' + "x" * 500 + '"}]', "data.json")
    assert rows_of(last, max_row_bytes=100) == [(1, {"a": 1}), (2, "too long")]
    table = write("q,a\n1,2\n" + "x" * 500 + ",1\n3,4\n", "data.csv")
    assert rows_of(table, max_row_bytes=100) == [
        (2, {"q": "1", "a": "2"}),
        (3, "too long"),
        (4, {"q": "3", "a": "4"}),
    ]
    many_fields = write("q,a\n1,2\n" + "x" * 90 + "," + "y" * 90 + "\n3,4\n", "data.csv")  # cut, it would be a row
    assert [line for line, value in rows_of(many_fields, max_row_bytes=100) if value == "too long"] == [3]


@pytest.mark.parametrize("garbage", ["trailing garbage", "]", "}", "oops]", "<p>not found</p>\n{x}\n"])
@pytest.mark.parametrize("rows", ['[{"a": 1},\n{"a": 2}]', '{\n"a": 1}{"a": 2}'])
def test_what_stands_behind_the_rows_is_one_reject(write, rows: str, garbage: str) -> None:
    """Every row came through, so the file is not said to be cut."""
    *good, last = list(read_rows([write(f"{rows}\n{garbage}", "data.json")]))
    if garbage == "]":  # a bracket too many is as good as none
        good.append(last)
    else:
        assert isinstance(last, Reject)
        assert (last.line, last.reason) == (3, "broken JSON")
        assert "no JSON stands b" in last.detail
        assert last.sample.strip() == garbage.strip()
    assert [row.value for row in good if isinstance(row, Row)] == [{"a": 1}, {"a": 2}]
    assert len(good) == 2


def test_a_second_array_may_follow_and_may_be_cut(write) -> None:
    path = write('[{"a": 1}]\n[{"a": 2}]', "data.json")
    assert rows_of(path) == [(1, {"a": 1}), (2, {"a": 2})]
    for cut in ('[{"a": 2}', '[{"a": "two', '{"a": "two'):
        with pytest.raises(UserError, match=r"data.json:2: the file ends in the middle of a row"):
            rows_of(write('[{"a": 1}]\n' + cut, "data.json"))
    # The row is whole and wrong; that the file was cut somewhere would be a guess.
    with pytest.raises(UserError, match=r"data.json:2: broken JSON \(Expecting value\), and behind it neither another"):
        rows_of(write('[{"a": 1},\n{"a": oops}] garbage, and more of it', "data.json"))


def test_objects_inside_a_broken_one_are_no_rows(write) -> None:
    turns = '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]'
    good = f'{{"messages": {turns}, "source": "x"}}'
    broken = f'{{"messages": {turns}, "source": oops}}'
    path = write("[" + ",\n".join([good, broken, broken, good]) + "]", "data.json")
    assert rows_of(path) == [
        (1, json.loads(good)),
        (2, "broken JSON"),
        (3, "broken JSON"),
        (4, json.loads(good)),
    ]


def test_a_text_that_looks_like_rows_is_none(write) -> None:
    quoted = json.dumps({"a": 'x}, {"a": "not a row"}, {"a": '})
    path = write(f'[{{"a": 1}},\n{quoted[:-1]}, oops}},\n{{"a": 2}}]', "data.json")
    assert rows_of(path) == [(1, {"a": 1}), (2, "broken JSON"), (3, {"a": 2})]


@given(st.integers(0, 10**9), st.integers(1, 50))
def test_broken_elements_are_the_same_ones_however_much_is_read_at_once(
    tmp_path_factory: pytest.TempPathFactory, seed: int, chunk: int
) -> None:
    numbers = random.Random(seed)
    good = [json.dumps({"a": "文" * numbers.randrange(30), "b": [{"c": n}]}, ensure_ascii=False) for n in range(8)]
    elements = [numbers.choice([text, text, text.replace(": [", ": oops, [")]) for text in good]
    path = tmp_path_factory.mktemp("array") / "data.json"
    path.write_text("[" + numbers.choice([",\n", ", ", " ,"]).join([good[0], *elements]) + "]", encoding="utf-8")
    expected = ["broken JSON" if "oops" in element else json.loads(element) for element in [good[0], *elements]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dataset.reading.json_values.CHUNK_CHARS", chunk)
        assert [value for _, value in rows_of(path)] == expected


@pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
def test_numbers_and_nesting_that_python_refuses(write, name: str) -> None:
    deep = '{"a": ' + "[" * 101 + "]" * 101 + "}"
    allowed = '{"a": ' + "[" * 98 + "]" * 98 + "}"
    rows = ['{"a": 1}', deep, '{"a": 1' + "0" * 5000 + "}", allowed, '{"a": 2}']
    text = "[" + ",\n".join(rows) + "]" if name == "data.json" else "\n".join(rows) + "\n"
    assert [value if isinstance(value, str) else "ok" for _, value in rows_of(write(text, name))] == [
        *("ok", "broken JSON", "broken JSON", "ok", "ok")
    ]


def test_nul_bytes_are_no_text(write) -> None:
    assert rows_of(write(b"text\nhole \0\0\0\nmore\n", "data.txt")) == [
        (1, {"text": "text"}),
        (2, "NUL bytes"),
        (3, {"text": "more"}),
    ]
    assert rows_of(write(b"q,a\n1,2\n3,\0\n", "data.csv")) == [(2, {"q": "1", "a": "2"}), (3, "NUL bytes")]
    assert rows_of(write(b'{"a": 1}\n{"a": "\0"}\n\0\0\n')) == [(1, {"a": 1}), (2, "broken JSON"), (3, "broken JSON")]


def test_two_columns_of_one_name(write) -> None:
    with pytest.raises(UserError, match=r"data.csv:1: two columns are called 'a'; rename"):
        rows_of(write("q,a,a\n1,2,3\n", "data.csv"))


def test_long_lines_of_text_can_be_cut_instead(write) -> None:
    text = "".join(f"字{n} " for n in range(5000))
    path = write("short\n" + text + "\nlast", "data.txt")
    blocks = list(blocks_of(path, text_piece_bytes=1000))
    rows = [row for block in blocks for row in parse_block(block)]
    assert all(isinstance(row, Row) for row in rows)
    assert (rows[0].value["text"], rows[-1].value["text"]) == ("short", "last")
    assert "".join(row.value["text"] for row in rows[1:-1]) == text
    assert {row.line for row in rows[1:-1]} == {2}
    assert rows[-1].line == 3
    assert max(len(block.data) for block in blocks) <= 2000


# ---- Parquet ----

TURNS = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_parquet(tmp_path: Path, compression: str) -> None:
    rows = [{"text": f"第{n}行" * (n % 7), "messages": TURNS[: n % 3], "n": n} for n in range(1200)]
    path = tmp_path / "data.bin"  # the name says nothing
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=700, compression=compression)
    assert rows_of(path) == list(enumerate(rows, start=1))
    blocks = list(blocks_of(path, block_bytes=2000))
    assert len(blocks) > 5
    assert blocks[-1].bytes_read == path.stat().st_size
    assert list(blocks_of(path, block_bytes=2000)) == blocks  # always the same cuts
    again = pickle.loads(pickle.dumps(blocks))  # the way to a worker
    assert [row.value for block in again for row in parse_block(block)] == rows


def test_parquet_rows_that_cannot_be_read(tmp_path: Path) -> None:
    texts = pa.array([b"good", "坏".encode("gb18030"), b"x" * 5000, b"good"], pa.binary())
    table = pa.table({"text": texts.view(pa.string())})
    pq.write_table(table, tmp_path / "data.parquet")
    assert rows_of(tmp_path / "data.parquet", max_row_bytes=1000) == [
        (1, {"text": "good"}),
        (2, "not UTF-8"),
        (3, "too long"),
        (4, {"text": "good"}),
    ]


@pytest.mark.parametrize("keep", [4, 100, 0.5, 0.99])
def test_a_cut_parquet_file(tmp_path: Path, keep: float) -> None:
    pq.write_table(pa.table({"text": [str(n) for n in range(5000)]}), tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    path = tmp_path / "cut.parquet"
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    with pytest.raises(UserError, match=r"cut.parquet: damaged or cut Parquet data"):
        rows_of(path)


def test_wrong_number_of_columns(write) -> None:
    assert rows_of(write("q,a\n1,2,3\n4,5\n", "data.csv")) == [(2, "broken CSV"), (3, {"q": "4", "a": "5"})]


def test_samples_of_rejects_can_be_printed(write) -> None:
    path = write(b'{"a": 1}\n\xff\xfe\xff broken \xed\xa0\x80' + b"x" * 10_000 + b"\n")
    reject = list(read_rows([path]))[1]
    assert isinstance(reject, Reject)
    reject.sample.encode("utf-8")
    assert len(reject.sample) <= 200


# ---- what spoils the whole file ----


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.jsonl", '{"a": 1}\n{"a": "one tw'),
        ("cut.jsonl", '{"a": 1}\n{"a": "好'.encode()[:-1]),
        ("cut.json", '[{"a": 1},\n{"a": "one tw'),
        ("cut.json", '[{"a": 1},\n{"a": 2}'),
        ("cut.json", '[{"a": 1},\n{"a": 2},'),
        ("cut.csv", "q,a\n1,2\n3"),
    ],
)
def test_a_cut_file_is_named_with_its_line(write, name: str, content: bytes | str) -> None:
    path = write(content, name)
    with pytest.raises(UserError, match=rf"{name}:[23]: the file ends in the middle of a row"):
        list(read_rows([path]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b" \n\n ", "white space"),
        (b"\x1f\x8b\x08rest", "damaged or cut gzip"),
        (b"PAR1rest", "damaged or cut Parquet"),
        (b"7z\xbc\xaf\x27\x1crest", "7-Zip archive.*; unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.*git lfs pull"),
        (b"\xff\xfea\0b\0", "UTF-16"),
        (b"\0\0\0\1binary", "binary"),
    ],
)
def test_files_that_hold_no_rows(write, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(read_rows([write(content)]))
