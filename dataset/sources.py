"""What people point at → inputs, each of which gives its rows in blocks, in bounded memory.

    data/wiki.jsonl  books/  'data/*.json'       files, folders and patterns
    wiki.jsonl.gz  dump.zip  pages.tar.xz        compressed files, and archives, each file in them an input
    https://example.org/wiki.jsonl.zst           a file on a web server
    hf:owner/name/config:train                   a set of the Hugging Face hub, or a file of one (reading/hub.py)
    ms:owner/name  ms:owner/name/folder          a set of ModelScope, or a part of one (reading/modelscope.py)

What a file holds is seen from its content (dataset/reading/formats.py). Only what spoils a whole input is a UserError:
missing, empty, damaged, not text, cut in the middle of its last row, or changed while it was read.
"""

import errno
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

from dataset.reading.archives import Archive, Member, archive_kind
from dataset.reading.cutting import BLOCK_BYTES, MAX_ROW_BYTES, cut_blocks
from dataset.reading.formats import (
    EXPECTED,
    HEAD_BYTES,
    PACKED_SUFFIXES,
    Block,
    Reject,
    Row,
    is_blank,
    is_office_document,
    parse_block,
    sniff,
    what_without_data,
)
from dataset.reading.hub import HubSplit, find_hub_file, find_hub_split
from dataset.reading.modelscope import find_modelscope_files
from dataset.reading.streams import Stamp, Stream, copy_on_disk, damaged, open_file, unpacked
from dataset.reading.web import WebFile, find_web_file
from model.errors import UserError
from model.files import canonical_json, sha256_of_text


class _Bytes(Protocol):
    """Where an input's bytes come from."""

    def open(self) -> AbstractContextManager[Stream]:
        """The bytes as they are stored, perhaps compressed."""

    def fingerprint(self) -> str:
        """A hash that changes with the bytes."""


@dataclass(frozen=True)
class Input:
    """One readable thing: a file, a member of an archive, a file on a server, a split of a hub set."""

    name: str  # as people see it, and in Row.path: data/wiki.jsonl.gz, dump.zip/part-1.jsonl, hf:owner/name:train
    label: str  # the source that its rows belong to in reports
    size: int | None  # bytes as stored, None when unknown; compare with Block.bytes_read
    origin: _Bytes | HubSplit = field(repr=False, compare=False)

    def blocks(
        self,
        block_bytes: int = BLOCK_BYTES,
        max_row_bytes: int = MAX_ROW_BYTES,
        text_piece_bytes: int | None = None,
    ) -> Iterator[Block]:
        """Its rows in blocks, always cut at the same places (`text_piece_bytes`: see `cut_blocks`).

        Raises:
            UserError: it is damaged, cannot be reached, changed since it was found, or ends inside a row.
        """
        if isinstance(self.origin, HubSplit):
            yield from self.origin.blocks(block_bytes, max_row_bytes)
            return
        with self.origin.open() as stored:
            stream = unpacked(unpacked(stored))  # twice: servers like to compress what is compressed
            head = stream.head(HEAD_BYTES)
            without = what_without_data(head) if isinstance(self.origin, _ArchiveMember) else None
            if is_blank(head):
                yield Block(self.name, "values", 1, rejects=(Reject(self.name, 1, "empty file"),))
            elif without is not None:
                yield Block(self.name, "values", 1, rejects=(Reject(self.name, 1, "a file without data", without),))
            else:
                yield from cut_blocks(stream, block_bytes, max_row_bytes, text_piece_bytes)

    def fingerprint(self) -> str:
        """What identifies its content: a hash of its bytes, or of its version on a server or hub."""
        return self.origin.fingerprint()


def find_inputs(names: Iterable[str | Path]) -> list[Input]:
    """Everything that some names stand for, each once: in the order of the names, in a folder or pattern by path, in
    an archive in its own order. Hidden files are left out; so are pictures and the like in a folder or pattern, and a
    line says so. Each local file is looked into, so that one that cannot be read ends a build before it begins.

    Raises:
        UserError: nothing is there, a folder or archive holds no file, a file of that name holds no data, data cannot
            be read, or a server refuses.
    """
    found: dict[str, tuple[str, int | None, _Bytes | HubSplit]] = {}  # by what makes an input the same
    for name in names:
        for key, shown, size, origin in _find(name):
            found.setdefault(key, (shown, size, origin))
    labels = _labels([(name, isinstance(origin, HubSplit)) for name, _, origin in found.values()])
    return [Input(name, labels[name], size, origin) for name, size, origin in found.values()]


def read_rows(names: Iterable[str | Path], max_row_bytes: int = MAX_ROW_BYTES) -> Iterator[Row | Reject]:
    """Every row of some inputs, and every reject in its place, in one process."""
    for found in find_inputs(names):
        for block in found.blocks(max_row_bytes=max_row_bytes):
            yield from parse_block(block)


_Found = tuple[str, str, int | None, _Bytes | HubSplit]  # key, name, size, origin


def _find(name: str | Path) -> Iterator[_Found]:
    if isinstance(name, str) and name.startswith("ms:"):
        for file in find_modelscope_files(name):
            yield from _in_web_file(file)
    elif isinstance(name, str) and name.startswith("hf:"):
        web = find_hub_file(name)
        if web is None:
            split = find_hub_split(name)
            yield split.name, split.name, None, split
            return
        yield from _in_web_file(web)
    elif isinstance(name, str) and name.startswith(("https://", "http://")):
        yield from _in_web_file(find_web_file(name))
    elif not str(name).strip():
        raise UserError(f"{name!r}: an empty name; expected a file, a folder, a pattern or an address")
    else:
        yield from _in_local_files(name)


# ---- files ----


@dataclass(frozen=True)
class _LocalFile:
    path: Path
    name: str
    stamp: Stamp

    def open(self) -> AbstractContextManager[Stream]:
        return open_file(self.path, self.name, self.stamp)

    def fingerprint(self) -> str:
        return _hash(self)


@cache
def _hash(file: _LocalFile) -> str:
    """The sha256 of a file's bytes: computed once, also where it is an archive of many inputs."""
    with file.open() as stream:
        return hashlib.file_digest(io.BufferedReader(stream), "sha256").hexdigest()


def _in_local_files(name: str | Path) -> Iterator[_Found]:
    """A file or all files of a folder or pattern, of which those without data are told in one line."""
    try:
        files = _local_files(name)
    except OSError as error:  # such as a folder that may not be looked into, or a name of thousands of letters
        raise damaged(_printable(Path(error.filename or name)), "folder", error) from error
    is_named = len(files) == 1 and files[0] == Path(name).expanduser()  # else it was found
    without_data: list[str] = []
    num_read = 0
    for path in files:
        file = _file_at(path)
        if file is None:
            continue
        if is_named and file.stamp.size == 0:
            raise UserError(f"{file.name}: the file is empty")
        kind, head = _look_into(file)
        what = what_without_data(head) if kind is None else "an office document" if is_office_document(head) else None
        num_read += what is None
        if what is not None and not is_named:
            without_data.append(f"{_printable(Path(os.path.relpath(path, _base(name))))} ({what})")
        elif kind is not None and what is None:
            yield from _in_archive(Archive(file.name, kind, file.open), os.path.realpath(path), file)
        else:
            if is_named or not is_blank(head):
                sniff(head, file.name)  # refuses what cannot be read
            yield os.path.realpath(path), file.name, file.stamp.size, file
    if not num_read:
        there = f"it holds {_some(without_data)}" if without_data else "its files are gone"
        raise UserError(f"{_printable(Path(name))}: nothing in it can be read: {there}, expected {EXPECTED}")
    if without_data:
        left_out = f"not read: {len(without_data)} without, {_some(without_data)}"
        print(f"{_printable(Path(name))}: {num_read} files with data; {left_out}", flush=True)


def _file_at(path: Path) -> _LocalFile | None:
    """A file as it is now; None where it is gone again, as somebody's temporary file may be."""
    try:
        return _LocalFile(path, _printable(path), Stamp.of(path))
    except OSError as error:
        if error.errno not in _GONE:
            raise damaged(_printable(path), "file", error) from error
        return None


def _look_into(file: _LocalFile) -> tuple[str | None, bytes]:
    """What kind of archive a file is, if it is one, and its first bytes, unpacked."""
    with file.open() as stored:
        stream = unpacked(stored)
        kind = archive_kind(stream)
        return kind, (stream if kind else unpacked(stream)).head(HEAD_BYTES)


def _base(name: str | Path) -> Path:
    """The folder, or that above a pattern: what the names of found files are shown without."""
    path = Path(name).expanduser()
    return path if path.is_dir() else _plain_part(path)


def _some(shown: list[str]) -> str:
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def _local_files(name: str | Path) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        files = _files_below(path)
        if not files:
            raise UserError(f"{_printable(path)}: the folder holds no file")
    elif path.is_file():
        files = [path]
    elif path.exists():
        raise UserError(f"{_printable(path)}: neither a file nor a folder; save what it gives as a file first")
    else:
        files = _matching(path)
        if not files:
            hint = f"; for the hub's set of that name: hf:{name}" if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) else ""
            raise UserError(f"{_printable(path)}: no such file or folder{hint}")
    return files


_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESRCH)  # (the last: the folder of a process that has ended)


def _files_below(folder: Path) -> list[Path]:
    """All files below a folder but hidden ones; linked folders once, so that a circle of links ends.

    What is taken away while we look is as if it had never been there. OSError: a folder may not be looked into.
    """
    files: list[Path] = []
    top = Path(os.path.realpath(folder))
    seen = {str(parent) for parent in top.parents}  # a link upwards would bring in what lies beside the folder

    def stop(error: OSError) -> None:
        if error.errno not in _GONE:
            raise error

    for root, folders, names in os.walk(folder, followlinks=True, onerror=stop):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(root, name) for name in names if not name.startswith(".")):
            if path.is_symlink() and not path.exists():
                raise UserError(f"{_printable(path)}: a link to a file that is not there; remove it, or fetch the file")
            if path.is_file():
                files.append(path)
    return sorted(files)


def _matching(pattern: Path) -> list[Path]:
    """The files that a pattern names; `**` goes through folders but not through links to folders."""
    folder = _plain_part(pattern)
    if folder == pattern:
        return []
    rest = PurePosixPath(*pattern.parts[len(folder.parts) :])
    hidden_wanted = any(part.startswith(".") for part in rest.parts)
    matches = sorted(path for path in folder.glob(str(rest)) if path.is_file())
    return [
        path
        for path in matches
        if hidden_wanted or not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _plain_part(pattern: Path) -> Path:
    """What stands before the first part with a wildcard: all of it where there is none."""
    is_plain = [re.search(r"[*?\[]", part) is None for part in pattern.parts]
    return Path(*pattern.parts[: [*is_plain, False].index(False)])


def _printable(path: Path) -> str:
    """A path as text; one whose bytes are no UTF-8 can be opened, but neither printed nor stored."""
    return str(path).encode("utf-8", errors="backslashreplace").decode("utf-8")


# ---- archives and servers ----


@dataclass(frozen=True)
class _ArchiveMember:
    archive: Archive
    member: Member
    stored: _Bytes  # the archive itself

    def open(self) -> AbstractContextManager[Stream]:
        return self.archive.open(self.member)

    def fingerprint(self) -> str:
        return sha256_of_text(canonical_json([self.stored.fingerprint(), self.member.index, self.member.name]))


def _in_archive(archive: Archive, key: str, stored: _Bytes) -> Iterator[_Found]:
    for member in archive.members():
        origin = _ArchiveMember(archive, member, stored)
        yield f"{key}/{member.index}", f"{archive.name}/{member.name}", member.size, origin


def _in_web_file(web: WebFile) -> Iterator[_Found]:
    with web.open() as stream:
        kind = archive_kind(unpacked(stream))
    if kind is None:
        yield web.url, web.name, web.size, web
    else:
        yield from _in_archive(Archive(web.name, kind, _Download(web).open), web.url, web)


class _Download:
    """A copy on the disk of a server's archive, whose parts are wanted in another order than they come."""

    def __init__(self, web: WebFile) -> None:
        self._web = web
        self._copy: AbstractContextManager[BinaryIO] | None = None
        self._file: BinaryIO | None = None

    @contextmanager
    def open(self) -> Iterator[Stream]:
        if self._file is None:
            with self._web.open() as stream:
                self._copy = copy_on_disk(stream, f"fetching {self._web.name}")
                self._file = self._copy.__enter__()
        self._file.seek(0)
        yield Stream(self._web.name, self._file, size=self._web.size, seekable_file=self._file)


# ---- labels ----


def _labels(names: list[tuple[str, bool]]) -> dict[str, str]:
    """Name → label: the file's name without its endings, with its folder where two are alike, whole where need be."""
    labels = {name: _stem(name, is_hub_set) for name, is_hub_set in names}
    for longer in (_with_folder, str):
        counts = Counter(labels.values())
        labels = {name: label if counts[label] == 1 else longer(name) for name, label in labels.items()}
    return labels


def _stem(name: str, is_hub_set: bool) -> str:
    if is_hub_set:  # hf:owner/name/config:train
        owner_and_name = name.removeprefix("hf:").rpartition(":")[0]
        return owner_and_name.split("/")[1] if owner_and_name[0].isalnum() else PurePosixPath(owner_and_name).name
    path = _path_of(name)
    return PurePosixPath(path.stem).stem if path.suffix.lower() in PACKED_SUFFIXES else path.stem


def _with_folder(name: str) -> str:
    path = _path_of(name)
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def _path_of(name: str) -> PurePosixPath:
    return PurePosixPath(urlsplit(name).path if "://" in name else name)
