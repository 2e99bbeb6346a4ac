"""Plain text whose documents have several lines, with lines `<|endoftext|>` between them."""

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.reading.cutting import cut_blocks
from dataset.reading.formats import Reject, Row, parse_block, sniff
from dataset.reading.streams import Stamp, open_file
from dataset.sources import find_inputs, read_rows
from dataset.text_sample import sample_texts

SEPARATOR = "<|endoftext|>"


def plainly_split(text: str, limit: int) -> list[tuple[int, str]]:
    """The definition: documents with the line that they begin on; "too long" for those above the limit."""
    documents: list[list[str]] = [[]]
    first_lines = [1]
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if line.removesuffix("\r") == SEPARATOR:
            documents.append([])
            first_lines.append(number + 1)
        else:
            documents[-1].append(line)
    found = []
    for first_line, lines in zip(first_lines, documents, strict=True):
        # The line end before a separator belongs to the document, that of the text's last line to nothing.
        is_last = lines is documents[-1]
        stored = "\n".join(lines) if is_last else "".join(line + "\n" for line in lines)
        if len(stored.encode()) > limit:
            found.append((first_line, "too long"))
        elif stored.strip():
            blank = next(index for index, line in enumerate(lines) if line.strip())
            found.append((first_line + blank, stored.strip("\r\n")))
    return found


def read(path: Path, **sizes: int) -> list[tuple[int, str]]:
    with open_file(path, path.name, Stamp.of(path)) as stream:
        rows = [row for block in cut_blocks(stream, **sizes) for row in parse_block(block)]
    return [(row.line, row.value["text"] if isinstance(row, Row) else row.reason) for row in sorted(rows, key=by_line)]


def by_line(row: Row | Reject) -> int:
    return row.line


PIECES = st.sampled_from(
    [
        *(SEPARATOR, f"{SEPARATOR}\n", f"\n{SEPARATOR}\n", f"\n{SEPARATOR}\r\n", f"\n{SEPARATOR}\n\n{SEPARATOR}\n"),
        *(f" {SEPARATOR}\n", f"\n{SEPARATOR} \n", SEPARATOR[:7], SEPARATOR[7:], "<|endoftext|><|endoftext|>\n"),
        *("Once upon a time\n", "故事", "\n", "\r\n", " ", "\n\n  indented\n", "x" * 37, "y" * 90 + "\n"),
    ]
)


@given(pieces=st.lists(PIECES, max_size=25), block_bytes=st.integers(4, 60), limit=st.integers(5, 120))
def test_documents_are_what_a_plain_split_gives(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str], block_bytes: int, limit: int
) -> None:
    text = f"\ufeff{SEPARATOR}\n" + "".join(pieces)
    path = tmp_path_factory.mktemp("documents") / "stories.txt"
    path.write_bytes(text.encode())
    expected = plainly_split(text, limit)
    assert read(path, block_bytes=block_bytes, max_row_bytes=limit) == expected
    assert read(path, block_bytes=1 << 20, max_row_bytes=limit) == expected  # wherever the blocks are cut


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    assert sniff(b"One.\n\nTwo.\n<|endoftext|>\nThree.\n", "a.txt") == "documents"
    assert sniff(b"One.\r\n<|endoftext|>\r\nThree.\r\n", "a") == "documents"
    assert sniff(b"One.\n<|endoftext|>", "a.txt") == "documents"
    for line in (b"a <|endoftext|>", b"<|endoftext|> b", b" <|endoftext|>", b"<|endoftext|><|endoftext|>"):
        assert sniff(b"One.\n" + line + b"\nThree.\n", "a.txt") == "text"
    assert sniff(b'{"text": "a"}\n<|endoftext|>\n', "a.txt") == "jsonl"


def test_bad_documents_are_rejects(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    path.write_bytes(b"good\nstory\n<|endoftext|>\n\nbad \xff\n<|endoftext|>\nNUL \0\n<|endoftext|>\n\n\nlast")
    found = read(path)
    assert found == [(1, "good\nstory"), (5, "not UTF-8"), (7, "NUL bytes"), (11, "last")]


def test_a_gigantic_document_costs_a_reject_and_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    with open(path, "wb") as file:
        file.write(b"first\n<|endoftext|>\n")
        for _ in range(48):
            file.write(b"a line of a story without an end\n" * 32768)  # 1 MiB and a little
        file.write(b"<|endoftext|>\nlast\n<|endoftext|>\n")
    tracemalloc.start()
    rows = list(read_rows([path], max_row_bytes=4 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row.reason if isinstance(row, Reject) else row.value["text"] for row in rows] == [
        "first",
        "too long",
        "last",
    ]
    assert [row.line for row in rows] == [1, 3, 3 + 48 * 32768 + 1]
    assert peak < 24 << 20


def test_blocks_hold_many_documents(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    path.write_text("".join(f"Story {n}.\n\nIt ends.\n{SEPARATOR}\n" for n in range(4000)))
    (found,) = find_inputs([path])
    blocks = list(found.blocks(block_bytes=20_000))
    assert blocks == list(found.blocks(block_bytes=20_000))
    sizes = [len(list(parse_block(block))) for block in blocks]
    assert sum(sizes) == 4000 and len(sizes) > 5 and min(sizes[:-1]) > 100
    assert blocks[-1].bytes_read == path.stat().st_size


def test_a_tokenizer_learns_from_the_stories_and_not_from_the_separator(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    long_story = "word " * 40_000 + "\n" + "line\n" * 40_000
    path.write_text(f"short\nstory\n{SEPARATOR}\n{long_story}{SEPARATOR}\n")
    sample = sample_texts([path], max_bytes=1 << 20, seed=0)
    assert not sample.rejects
    text = "".join(sample.pieces).replace("\n", "")  # (words are cut where pieces are)
    assert SEPARATOR not in text
    assert (text.count("word"), text.count("line"), text.count("short")) == (40_000, 40_000, 1)
