"""Pictures, programs, empty files and the like: left out of a folder in one line, refused where they are asked for."""

import io
import pickle
import random
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset.building.pipeline import build_packed_set
from dataset.building.settings import BuildSettings
from dataset.reading.formats import Reject, Row
from dataset.sources import find_inputs, read_rows
from model.errors import UserError


def noise(seed: int, size: int = 3000) -> bytes:
    return random.Random(seed).randbytes(size)


def numpy_array() -> bytes:
    target = io.BytesIO()
    np.save(target, np.arange(1000))
    return target.getvalue()


def database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table texts (text)")
    connection.execute("insert into texts values ('text\n')")
    return connection.serialize()


def document(first: str, content: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(first, content)
        archive.writestr("word/document.xml", "<w>text</w>")
    return target.getvalue()


# Only the first lines of some of them would give them away.
WITHOUT_DATA: dict[str, tuple[bytes, str]] = {
    "a.png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + noise(1), "a PNG picture"),
    "b.jpg": (b"\xff\xd8\xff\xe0" + noise(2), "a JPEG picture"),
    "c.mp3": (b"ID3s" + noise(3), "a binary file"),
    "d.mp3": (b"\xff\xfb\x90d" + noise(4), "MP3 sound"),
    "e.pdf": (b"%PDF-1.7\n%text\n" + noise(5), "a PDF document"),
    "f.npy": (numpy_array(), "a NumPy array"),
    "g.pkl": (pickle.dumps([{"text": "a"}]), "a pickle"),
    "h.db": (database(), "an SQLite database"),
    "i.docx": (document("[Content_Types].xml", "<xml/>"), "an office document"),
    "j.epub": (document("mimetype", "application/epub+zip"), "an office document"),
    "k.bin": (b"a first line\n" + noise(6), "a binary file"),
    "l.txt": ("text in another form\n".encode("utf-16-le"), "a binary file"),
}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of data with everything else in between."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name, (content, _) in WITHOUT_DATA.items():
        (folder / name).write_bytes(content)
    (folder / "a.jsonl").write_text('{"text": "one"}\n')
    (folder / "b.empty").touch()
    (folder / "c.blank").write_text("\ufeff\n \r\n")
    (folder / "z.txt").write_text("two\n")
    return folder


@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_a_file_that_is_asked_for_is_refused(mixed: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"/{name}: this is {WITHOUT_DATA[name][1]}.*, expected JSON, .*") as error:
        find_inputs([mixed / "a.jsonl", mixed / name])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pattern", ["", "*"])
def test_in_a_folder_they_are_left_out_in_one_line(
    mixed: Path, pattern: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(read_rows([mixed / pattern]))
    assert [row.value["text"] for row in rows if isinstance(row, Row)] == ["one", "two"]
    rejects = [(Path(row.path).name, row.line, row.reason) for row in rows if isinstance(row, Reject)]
    assert rejects == [("b.empty", 1, "empty file"), ("c.blank", 1, "empty file")]
    assert capsys.readouterr().out == (
        f"{mixed / pattern}: 4 files with data; not read: 12 without, a.png (a PNG picture), b.jpg (a JPEG picture), "
        f"c.mp3 (a binary file), d.mp3 (MP3 sound), e.pdf (a PDF document) and 7 more\n"
    )


def test_they_are_no_part_of_what_identifies_the_input(mixed: Path) -> None:
    before = [(found.name, found.fingerprint()) for found in find_inputs([mixed])]
    (mixed / "a.png").unlink()
    (mixed / "b.jpg").write_bytes(b"\xff\xd8\xff" + noise(9))
    assert [(found.name, found.fingerprint()) for found in find_inputs([mixed])] == before


def test_a_folder_of_nothing_else(mixed: Path) -> None:
    for name in ("a.jsonl", "b.empty", "c.blank", "z.txt"):
        (mixed / name).unlink()
    with pytest.raises(UserError, match=r"mixed: nothing in it can be read: it holds a.png \(a PNG picture\), b.jpg"):
        find_inputs([mixed])


def test_a_build_of_such_a_folder(mixed: Path, settings_for: Callable[..., BuildSettings]) -> None:
    meta: dict[str, Any] = build_packed_set(settings_for(mixed, "pretrain", max_reject_share=1))
    assert meta["num_documents"] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text".encode("utf-16"), "UTF-16 text.*; convert it to UTF-8"),
        (b"7z\xbc\xaf\x27\x1crest", "7-Zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    ],
)
def test_data_that_cannot_be_read_are_never_left_out(mixed: Path, content: bytes, message: str) -> None:
    """They stop everything, but before it begins."""
    (mixed / "y.data").write_bytes(content)
    with pytest.raises(UserError, match=rf"y.data: this is (a )?{message}"):
        find_inputs([mixed])


def test_in_an_archive_each_is_a_reject(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "dump.zip", "w") as archive:
        archive.writestr("a.png", WITHOUT_DATA["a.png"][0])
        archive.writestr("b.txt", "text\n")
        archive.writestr("c.txt", "\n\n")
    rows = list(read_rows([tmp_path / "dump.zip"]))
    assert [(row.reason, row.detail) if isinstance(row, Reject) else row.value for row in rows] == [
        ("a file without data", "a PNG picture"),
        {"text": "text"},
        ("empty file", ""),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "页\f第二页\n".encode(),
        b"fields\x01of\x01Hive\n" * 9,
        b"\x1b[31mred\x1b[0m\n",
        "编码的文字\n".encode("gb18030") * 9,  # every row is a reject of its own
        "café\n".encode("latin-1"),
        b"MZ, BM, GIF89a and RIFF are how files begin.\n",
        b"text\nwith \0 a hole\nin it\n",
        b'{"text": "one"}\n' + b"\0" * 100 + b"\n" + noise(7, 50).replace(b"\n", b"") + b"\0\n",
    ],
)
def test_text_with_something_odd_in_it_is_still_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "data").write_bytes(content)
    assert len(list(read_rows([tmp_path / "folder"]))) == len([line for line in content.split(b"\n") if line.strip()])


def test_noise_is_no_text(tmp_path: Path) -> None:
    for seed in range(20):
        (tmp_path / "noise").write_bytes(b"." + noise(seed, 60_000))
        with pytest.raises(UserError, match="noise: this is a binary file"):
            find_inputs([tmp_path / "noise"])
