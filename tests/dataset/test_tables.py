"""CSV and TSV with every kind of line end, inside and outside quotes: the rows that Python's own reader gives."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataset.reading.formats import Reject, Row
from dataset.sources import read_rows

LINE_ENDS = ["\r", "\n", "\r\n"]
fields = st.text(st.sampled_from("ab,\t\"'\r\n文 "), max_size=12)


def written(rows: list[list[str]], ends: list[str], delimiter: str) -> str:
    """Rows as a table, each with a line end of its own, every field in quotes that needs them."""
    lines = []
    for row, end in zip(rows, ends, strict=True):
        target = io.StringIO()
        csv.writer(target, delimiter=delimiter, lineterminator="\r\n").writerow(row)
        lines.append(target.getvalue().removesuffix("\r\n") + end)
    return "".join(lines)


@given(
    st.lists(st.tuples(st.tuples(fields, fields).map(list), st.sampled_from(LINE_ENDS)), min_size=1, max_size=12),
    st.sampled_from([",", "\t"]),
    st.booleans(),
)
def test_rows_come_back_whatever_ends_the_lines(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[list[str], str]], delimiter: str, all_alike: bool
) -> None:
    table = [["q", "a"], *(row for row, _ in rows)]
    ends = ["\r", *(("\r" if all_alike else end) for _, end in rows)]
    text = written(table, ends, delimiter)
    path = tmp_path_factory.mktemp("table") / ("data.csv" if delimiter == "," else "data.tsv")
    path.write_bytes(text.encode())
    assert values(path) == table[1:]


def values(path: Path) -> list[Any]:
    return [list(row.value.values()) if isinstance(row, Row) else row.reason for row in read_rows([path])]


@given(st.lists(st.sampled_from(["a", "文", ",", '"', '""', '",', ',"', "\r", "\n", "\r\n"]), max_size=40))
@example(['"', "\r", '"', ",", "a", "\r", "a", ",", "a", "\r\n"])
@example(["a", ",", "a", "\r", "\r\n", "\n", "\r", "a", ",", "a"])
def test_any_text_gives_the_rows_that_python_reads(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    text = "q,a\r" + "".join(parts) + "\r"  # (with a line end at last: a row without is told from a cut one elsewhere)
    path = tmp_path_factory.mktemp("table") / "data.csv"
    path.write_bytes(text.encode())
    expected = [row for row in csv.reader(io.StringIO(text, newline="")) if row][1:]
    found = values(path)
    assert len(found) == len(expected)
    assert found == [row if len(row) == 2 else "broken CSV" for row in expected]


@pytest.mark.parametrize("end", LINE_ENDS)
@pytest.mark.parametrize("long", range(40, 125))
def test_only_lines_that_are_too_long_are_left_out(tmp_path: Path, end: str, long: int) -> None:
    """Whatever place the end of the long line has in the pieces that it is read in."""
    lines = ["q,a", "1,2", "x" * long + ",y", "3,4", '"5' + end + '6",7']
    (tmp_path / "data.csv").write_bytes("".join(line + end for line in lines).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dataset.reading.cutting.BLOCK_BYTES", 7)
        found = list(read_rows([tmp_path / "data.csv"], max_row_bytes=50))
    assert [row.line for row in found] == [2, 3, 4, 5]
    good = [row.value for row in found if isinstance(row, Row)]
    assert good[:1] + good[-2:] == [{"q": "1", "a": "2"}, {"q": "3", "a": "4"}, {"q": f"5{end}6", "a": "7"}]
    assert [row.reason for row in found if isinstance(row, Reject)] == (["too long"] if long + 2 > 50 else [])


def test_the_process_keeps_its_own_limit(tmp_path: Path) -> None:
    """Python has one for all its readers: `importlib.metadata`, say, reads tables too."""
    (tmp_path / "data.csv").write_text("q,a\n1,2\n" + "x" * 60 + ",y\n3,4\n")
    before = csv.field_size_limit()
    rows = read_rows([tmp_path / "data.csv"], max_row_bytes=50)
    assert [csv.field_size_limit() for _ in rows] == [before] * 3


@pytest.mark.parametrize("name", ["table.csv", "table"])
def test_a_table_of_old_line_ends_is_seen_as_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes("question,answer\r问,答\r1,2\r".encode())
    assert [row.value for row in read_rows([tmp_path / name]) if isinstance(row, Row)] == [
        {"question": "问", "answer": "答"},
        {"question": "1", "answer": "2"},
    ]


def test_every_table_of_the_exam_has_its_rows(real_data: Path) -> None:
    tables = sorted((real_data / "ceval").glob("*/*.csv"))
    assert len(tables) > 100
    for table in tables:
        with open(table, encoding="utf-8-sig", newline="") as file:
            expected = list(csv.DictReader(file))
        assert [row.value for row in read_rows([table]) if isinstance(row, Row)] == expected, table
