"""What people point at → inputs, each of which gives its rows in blocks, in bounded memory.

    data/wiki.jsonl  books/  'data/*.json'       files, folders and patterns
    wiki.jsonl.gz  dump.zip  pages.tar.xz        compressed files, and archives, each file in them an input
    https://example.org/wiki.jsonl.zst           a file on a web server
    hf:owner/name/config:train                   a set of the Hugging Face hub, or a file of one (reading/hub.py)
    ms:owner/name  ms:owner/name/folder          a set of ModelScope, or a part of one (reading/modelscope.py)

What a file holds is seen from its content (dataset/reading/formats.py). Only what spoils a whole input is a UserError:
missing, empty, damaged, not text, cut in the middle of its last row, or changed while it was read.
"""

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
from dataset.reading.formats import PACKED_SUFFIXES, Block, Reject, Row, parse_block
from dataset.reading.hub import HubSplit, find_hub_file, find_hub_split
from dataset.reading.modelscope import find_modelscope_files
from dataset.reading.streams import Stamp, Stream, copy_on_disk, open_file, unpacked
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
            if stream.head(1):
                yield from cut_blocks(stream, block_bytes, max_row_bytes, text_piece_bytes)
            else:
                yield Block(self.name, "values", 1, rejects=(Reject(self.name, 1, "empty file"),))

    def fingerprint(self) -> str:
        """What identifies its content: a hash of its bytes, or of its version on a server or hub."""
        return self.origin.fingerprint()


def find_inputs(names: Iterable[str | Path]) -> list[Input]:
    """Everything that some names stand for, each once: in the order of the names, in a folder or pattern by path, in
    an archive in its own order. Hidden files are left out.

    Raises:
        UserError: nothing is there, a folder or archive holds no file, a file is empty, or a server refuses.
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
    else:
        for path in _local_files(name):
            yield from _in_file(_LocalFile(path, _printable(path), Stamp.of(path)))


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


def _in_file(file: _LocalFile) -> Iterator[_Found]:
    """The file, or the files in it where it is an archive."""
    key = os.path.realpath(file.path)
    if file.stamp.size == 0:
        raise UserError(f"{file.name}: the file is empty")
    with file.open() as stream:
        kind = archive_kind(unpacked(stream))
    if kind is None:
        yield key, file.name, file.stamp.size, file
    else:
        yield from _in_archive(Archive(file.name, kind, file.open), key, file)


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


def _files_below(folder: Path) -> list[Path]:
    """All files below a folder but hidden ones; linked folders once, so that a circle of links ends."""
    files: list[Path] = []
    top = Path(os.path.realpath(folder))
    seen = {str(parent) for parent in top.parents}  # a link upwards would bring in what lies beside the folder

    def stop(error: OSError) -> None:
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
    parts = pattern.parts
    plain = next((index for index, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
    if plain is None:
        return []
    folder, rest = Path(*parts[:plain]), PurePosixPath(*parts[plain:])
    hidden_wanted = any(part.startswith(".") for part in rest.parts)
    matches = sorted(path for path in folder.glob(str(rest)) if path.is_file())
    return [
        path
        for path in matches
        if hidden_wanted or not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


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
