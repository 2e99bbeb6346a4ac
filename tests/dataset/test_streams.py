"""Compressed files and archives give the rows that were put in; damaged, cut and changing ones give one line."""

import bz2
import errno
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from dataset.reading.archives import Archive, archive_kind
from dataset.reading.formats import Reject, Row
from dataset.reading.streams import Stamp, open_file, unpacked
from dataset.sources import find_inputs, read_rows
from model.errors import UserError
from tests.dataset.measured_reading import read_in_another_process

ROWS = [{"text": f"第{n}行 of many"} for n in range(3000)]
LINES = "".join(f'{{"text": "第{n}行 of many"}}\n' for n in range(3000)).encode()

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
}


def values(*paths: Path) -> list[dict]:
    rows = list(read_rows(paths))
    assert all(isinstance(row, Row) for row in rows)
    return [row.value for row in rows]


def make_zip(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def make_tar(files: dict[str, bytes], mode: Any = "w") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


# ---- compressed files ----


@pytest.mark.parametrize("what", COMPRESS)
@pytest.mark.parametrize("name", ["data.jsonl.packed", "data.txt"])  # the name says nothing
def test_compressed_files(tmp_path: Path, what: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(COMPRESS[what](LINES))
    assert values(path) == ROWS
    blocks = list(find_inputs([path])[0].blocks(block_bytes=10_000))
    assert len(blocks) > 5
    assert blocks[-1].bytes_read == path.stat().st_size  # a progress bar comes to its end
    path.write_bytes(COMPRESS[what](LINES) + COMPRESS[what](LINES))  # `cat a.gz b.gz`
    assert values(path) == ROWS + ROWS


@pytest.mark.parametrize("what", COMPRESS)
@pytest.mark.parametrize("keep", [12, 0.3, 0.9, -1])
def test_a_cut_compressed_file(tmp_path: Path, what: str, keep: float) -> None:
    packed = COMPRESS[what](LINES)
    path = tmp_path / "cut"
    path.write_bytes(packed[: int(keep * len(packed)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(UserError, match="cut: damaged or cut"):
        values(path)


@pytest.mark.parametrize("what", COMPRESS)
def test_a_damaged_compressed_file(tmp_path: Path, what: str) -> None:
    packed = bytearray(COMPRESS[what](LINES))
    for position in range(len(packed) // 2, len(packed) // 2 + 40):
        packed[position] ^= 0x5A
    path = tmp_path / "damaged"
    path.write_bytes(packed)
    if what == "zst":  # zstd data carry a checksum only where they were asked for one
        packed = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(LINES))
        packed[-1] ^= 1
        path.write_bytes(packed)
    # (bzip2 checks a block behind its last byte: by then its first bytes have been looked at.)
    with pytest.raises(UserError, match=r"damaged: (damaged or cut|this is a binary file)"):
        values(path)


def test_windows_of_gigabytes_are_refused(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=30)
    target = io.BytesIO()
    with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(target, closefd=False) as writer:
        writer.write(LINES)
    (tmp_path / "long.zst").write_bytes(target.getvalue())
    with pytest.raises(UserError, match=r"gigabytes of memory; unpack it first \(zstd -d --long=31\)"):
        values(tmp_path / "long.zst")
    small = lzma.compress(LINES, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}], check=lzma.CHECK_CRC32)
    # Its block header says 1 MiB; said 3 GiB (with the header's checksum made anew), it is refused, not tried.
    import zlib

    header = bytearray(small[12 : 12 + (small[12] + 1) * 4])
    place = header.index(b"\x21\x01") + 2  # the filter's number, the size of its property, the property
    header[place] = 39
    header[-4:] = zlib.crc32(bytes(header[:-4])).to_bytes(4, "little")
    (tmp_path / "large.xz").write_bytes(small[:12] + bytes(header) + small[12 + len(header) :])
    with pytest.raises(UserError, match=r"gigabytes of memory; unpack it first \(xz -d\)"):
        values(tmp_path / "large.xz")


def test_text_that_begins_like_a_compressed_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("BZhang wrote this.\n")
    assert values(tmp_path / "a.txt") == [{"text": "BZhang wrote this."}]


# ---- archives ----

FILES = {
    "set/part-1.jsonl": b'{"text": "a"}\n{"text": "b"}\n',
    "set/part-2.jsonl.gz": gzip.compress(b'{"text": "c"}\n'),
    "set/table.csv": b"text,n\nd,1\n",
    "__MACOSX/set/._part-1.jsonl": b"\0\5\x16\7",
    "set/.DS_Store": b"\0\0\0\1Bud1",
    "./last.json": b'[{"text": "e"}]',
}
EXPECTED = {
    "set/part-1.jsonl": ["a", "b"],
    "set/part-2.jsonl.gz": ["c"],
    "set/table.csv": ["d"],
    "last.json": ["e"],
}
ARCHIVES: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "zip": make_zip,
    "stored zip": lambda files: make_zip(files, zipfile.ZIP_STORED),
    "tar": make_tar,
    "tar.gz": lambda files: make_tar(files, "w:gz"),
    "tar.bz2": lambda files: make_tar(files, "w:bz2"),
    "tar.xz": lambda files: make_tar(files, "w:xz"),
    "tar.zst": lambda files: zstandard.compress(make_tar(files)),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_each_file_of_an_archive_is_an_input(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "dump"
    path.write_bytes(ARCHIVES[kind](FILES))
    inputs = find_inputs([path])
    assert [found.name for found in inputs] == [f"{path}/{name}" for name in EXPECTED]
    assert [found.label for found in inputs] == ["part-1", "part-2", "table", "last"]
    assert len({found.fingerprint() for found in inputs}) == 4
    rows = list(read_rows([path]))
    assert [(row.path, row.value["text"]) for row in rows] == [
        (f"{path}/{name}", text) for name, texts in EXPECTED.items() for text in texts
    ]
    # In any order, one of them again, and one of them not to its end.
    next(inputs[2].blocks())
    for found in (inputs[3], inputs[0], inputs[0]):
        assert next(found.blocks()).path == found.name


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_members_in_their_order_cost_one_pass(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "dump"
    path.write_bytes(ARCHIVES[kind]({f"{n}.txt": b"text\n" for n in range(200)}))
    opened = []

    def open_stream():
        opened.append(1)
        return open_file(path, str(path), Stamp.of(path))

    with open_stream() as stream:
        archive_type = archive_kind(unpacked(stream))
    assert archive_type is not None
    archive = Archive("dump", archive_type, open_stream)
    members = archive.members()
    assert len(members) == 200
    opened.clear()
    for member in members:
        with archive.open(member) as stream:
            assert stream.read(100) == b"text\n"
    assert len(opened) == 1


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("keep", [0.3, 0.7, -2000, -60])
def test_a_cut_archive(tmp_path: Path, kind: str, keep: float) -> None:
    files = {f"{n}.jsonl": b"".join(b'{"text": "%d"}\n' % (n * k * 7919) for k in range(500)) for n in range(20)}
    whole = ARCHIVES[kind](files)
    if keep == -2000 and kind == "tar":
        keep = whole.index(b"5.jsonl")  # exactly between two files
    path = tmp_path / "dump"
    path.write_bytes(whole[: int(keep * len(whole)) if 0 < keep < 1 else int(keep)])
    if kind == "tar" and keep == -60:  # only zeros behind the last file are missing
        assert len(values(path)) == 20 * 500
        return
    with pytest.raises(UserError, match=r"dump: damaged or cut|dump/\d+.jsonl: damaged or cut"):
        values(path)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    whole = bytearray(make_tar({f"{n}.txt": b"text\n" for n in range(5)}))
    whole[whole.index(b"3.txt") + 2] ^= 1
    (tmp_path / "dump.tar").write_bytes(whole)
    with pytest.raises(UserError, match=r"dump.tar: damaged or cut tar data \(bad checksum\)"):
        find_inputs([tmp_path / "dump.tar"])


def test_a_name_twice_in_a_tar(tmp_path: Path) -> None:
    whole = make_tar({"a.txt": b"one\n", "./a.txt": b"two\n"})
    (tmp_path / "dump.tar").write_bytes(whole)
    assert [found.name for found in find_inputs([tmp_path / "dump.tar"])] == [
        f"{tmp_path}/dump.tar/a.txt",
        f"{tmp_path}/dump.tar/a.txt (2)",
    ]
    assert [row.value["text"] for row in read_rows([tmp_path / "dump.tar"])] == ["one", "two"]
    assert len({row.path for row in read_rows([tmp_path / "dump.tar"])}) == 2


def test_gigantic_attributes_in_a_tar_are_not_read_into_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.XHDTYPE, 1 << 32
    (tmp_path / "dump.tar").write_bytes(info.tobuf() + bytes(4096))
    with pytest.raises(UserError, match=r"a header with 4294967296 bytes"):
        find_inputs([tmp_path / "dump.tar"])


def test_an_encrypted_zip(tmp_path: Path) -> None:
    whole = bytearray(make_zip({"a.txt": b"text\n"}))
    whole[6] |= 1  # the flag, in the file's own header and in the table of contents
    whole[whole.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(whole)
    with pytest.raises(UserError, match=r"secret.zip: the archive is encrypted \(a.txt\); unpack it with its password"):
        find_inputs([tmp_path / "secret.zip"])


def test_a_zip_packed_by_a_rare_method(tmp_path: Path) -> None:
    (tmp_path / "rare.zip").write_bytes(make_zip({"a.txt": b"text\n"}, zipfile.ZIP_LZMA))
    with pytest.raises(UserError, match=r"rare.zip: a.txt is packed by method 14, which is not read here"):
        find_inputs([tmp_path / "rare.zip"])


def test_archives_without_data(tmp_path: Path) -> None:
    for name, content, message in (
        ("empty.zip", make_zip({}), "holds no file"),
        ("hidden.tar", make_tar({".hidden": b"x"}), "holds no file"),
        ("table.xlsx", make_zip({"[Content_Types].xml": b"<xml/>"}), "office document, .*; save its text or table"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: .*{message}"):
            find_inputs([tmp_path / name])
    (tmp_path / "nested.zip").write_bytes(make_zip({"inner.zip": make_zip({"a.txt": b"x"})}))
    with pytest.raises(UserError, match=r"nested.zip/inner.zip: this is a zip archive inside an archive"):
        values(tmp_path / "nested.zip")
    (tmp_path / "some.zip").write_bytes(make_zip({"a.txt": b"", "b.txt": b"text"}))
    found = list(read_rows([tmp_path / "some.zip"]))
    assert [row.reason if isinstance(row, Reject) else row.value for row in found] == ["empty file", {"text": "text"}]


def test_names_in_the_encoding_of_old_windows(tmp_path: Path) -> None:
    name = "数据.txt"
    stored = make_zip({"XXXX.txt": b"text"}).replace(b"XXXX", name[:2].encode("gb18030"))
    (tmp_path / "a.zip").write_bytes(stored)
    assert [found.label for found in find_inputs([tmp_path / "a.zip"])] == ["数据"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst", "zip"])
def test_a_bomb_costs_no_memory(tmp_path: Path, kind: str) -> None:
    """600 MB of zeros in one line, in a few kilobytes or megabytes, are one counted reject."""
    path = tmp_path / "bomb"
    zeros = bytes(1 << 20)
    if kind in COMPRESS:
        opener: Any = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open, "zst": zstandard.open}[kind]
        with opener(path, "wb") as file:
            file.write(b"text\n")
            for _ in range(600):
                file.write(zeros)
    else:
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("a", "w", force_zip64=True) as file,
        ):
            file.write(b"text\n")
            for _ in range(600):
                file.write(zeros)
    rows, megabytes = read_in_another_process(path)
    assert rows == [{"text": "text"}, "too long"]
    assert megabytes < 150


def test_no_room_for_a_temporary_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "dump.zip.gz").write_bytes(gzip.compress(make_zip({"a.txt": b"text"})))
    assert [row["text"] for row in values(tmp_path / "dump.zip.gz")] == ["text"]
    monkeypatch.setattr("tempfile.TemporaryFile", FullDisk)
    with pytest.raises(UserError, match=r"dump.zip.gz: a temporary copy of it cannot be written to /.*TMPDIR"):
        find_inputs([tmp_path / "dump.zip.gz"])


# ---- files that change ----


@pytest.mark.parametrize("change", ["shrinks", "grows", "rewritten", "replaced", "gone"])
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, change: str, when: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(LINES)
    (found,) = find_inputs([path])
    blocks = found.blocks(block_bytes=4096)
    if when == "during":
        next(blocks)
    if change == "shrinks":
        os.truncate(path, len(LINES) // 2)
    elif change == "grows":
        with open(path, "ab") as file:
            file.write(b'{"text": "more"}\n')
    elif change == "rewritten":
        path.write_bytes(LINES[::-1])
        os.utime(path, ns=(0, 1))
    else:
        path.unlink()
        if change == "replaced":
            path.write_bytes(LINES + LINES)
    if when == "during" and change in ("replaced", "gone"):  # the open file is still the old one, whole
        list(blocks)
        return
    with pytest.raises(UserError, match=r"data.jsonl: (the file changed while it was read|was there a moment ago)"):
        list(blocks)
    if when == "before":
        with pytest.raises(UserError):
            found.fingerprint()


@pytest.mark.parametrize("kind", ["gz", "zip", "tar.gz", "parquet"])
def test_a_packed_file_that_changes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "data"
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": [str(n) for n in range(5000)]}), path, row_group_size=100)
    else:
        path.write_bytes(gzip.compress(LINES) if kind == "gz" else ARCHIVES[kind]({"a.jsonl": LINES}))
    (found,) = find_inputs([path])
    blocks = found.blocks(block_bytes=512)
    next(blocks)
    with open(path, "ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match="the file changed while it was read"):
        list(blocks)
