"""Zip and tar archives: the files in them, read one after another without unpacking anything to the disk.

Nothing is ever extracted, so a member's name is only a name: none can point out of a folder.
"""

import io
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import IO, Self

from dataset.reading.streams import Stream, damaged, seekable_file, unpacked
from model.errors import UserError

OpenStream = Callable[[], AbstractContextManager[Stream]]

_MAX_TAR_HEADER_BYTES = 1 << 20  # of a long name or of attributes: they are held in memory
# Others exist, and are rare. Those that the library knows, it unpacks without a bound on memory.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_TAR_ATTRIBUTES = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


@dataclass(frozen=True)
class Member:
    """A file in an archive: its number among all entries, its name, and its size when it is unpacked."""

    index: int
    name: str
    size: int


def archive_kind(stream: Stream) -> str | None:
    """zip, tar or None, by the first bytes, which stay in the stream."""
    head = stream.head(tarfile.BLOCKSIZE)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")  # a header holds a checksum of itself
    except tarfile.HeaderError:
        return None
    return "tar"


class Archive:
    """An archive, whose members cost one pass together when they are read in their order.

    A compressed tar can only be read from its beginning, and a zip's table of contents may be long: so what is open
    stays open for the next member. One member is read at a time.
    """

    def __init__(self, name: str, kind: str, open_stream: OpenStream) -> None:
        self.name, self.kind = name, kind
        self._open_stream = open_stream
        self._opened = ExitStack()
        self._zip: zipfile.ZipFile | None = None
        self._tar: Iterator[tuple[int, tarfile.TarInfo, tarfile.TarFile]] | None = None
        self._tar_index = -1  # of the entry that was read last
        self._last_index = -1  # of the last member
        self._busy = False

    def members(self) -> list[Member]:
        """The files in the archive, in its order, without folders, links and hidden files.

        Raises:
            UserError: it is damaged, encrypted, or no file is in it.
        """
        try:
            with self._reading():
                entries = self._zip_entries() if self.kind == "zip" else self._tar_entries()
                members = _with_names_of_their_own(member for member in entries if not _is_hidden(member.name))
        finally:
            self.close()
        if not members:
            raise UserError(f"{self.name}: the archive holds no file")
        self._last_index = members[-1].index
        return members

    @contextmanager
    def open(self, member: Member) -> Iterator[Stream]:
        """The bytes of a member. UserError: the archive is damaged, or changed since it was found."""
        assert not self._busy, "one member at a time"
        self._busy = True
        try:
            with self._reading():
                file = self._open_zip_member(member) if self.kind == "zip" else self._open_tar_member(member)
            with closing(file):
                yield Stream(f"{self.name}/{member.name}", file, self.kind, member.size)
        except BaseException:
            self.close()  # the place in the archive is not certain any more
            raise
        finally:
            self._busy = False
        if member.index == self._last_index:
            self.close()

    def close(self) -> None:
        """Let go of the file; it is opened again when it is needed."""
        self._zip = self._tar = None
        self._opened.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Errors of the libraries as one line."""
        try:
            yield
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
            raise damaged(self.name, self.kind, error) from error
        except (NotImplementedError, RuntimeError) as error:  # parts of the format that the library does not know
            raise UserError(f"{self.name}: this zip cannot be read here ({error}); unpack it first") from error

    # ---- zip ----

    def _open_zip(self) -> zipfile.ZipFile:
        if self._zip is None:
            stream = unpacked(self._opened.enter_context(self._open_stream()))
            file = self._opened.enter_context(seekable_file(stream))
            self._zip = self._opened.enter_context(zipfile.ZipFile(file))
        return self._zip

    def _zip_entries(self) -> Iterator[Member]:
        for index, info in enumerate(self._open_zip().infolist()):
            if info.filename == "[Content_Types].xml":
                raise UserError(f"{self.name}: an office document; save its text or table as .txt or .csv")
            if info.flag_bits & 1:
                raise UserError(f"{self.name}: the archive is encrypted ({info.filename}); unpack it with its password")
            if info.compress_type not in _ZIP_METHODS:
                raise UserError(
                    f"{self.name}: {info.filename} is packed by method {info.compress_type}, which is not read here; "
                    f"unpack it first, or pack it by the usual one (8, deflate)"
                )
            if not info.is_dir():
                yield Member(index, _shown(_zip_name(info)), info.file_size)

    def _open_zip_member(self, member: Member) -> IO[bytes]:
        archive = self._open_zip()
        return archive.open(archive.infolist()[member.index])

    # ---- tar ----

    def _tar_entries(self) -> Iterator[Member]:
        for index, info, _ in self._read_tar():
            if info.isfile():
                yield Member(index, _shown(info.name), info.size)

    def _read_tar(self) -> Iterator[tuple[int, tarfile.TarInfo, tarfile.TarFile]]:
        stream = unpacked(self._opened.enter_context(self._open_stream()))
        file = io.BufferedReader(stream)
        tar = tarfile.open(fileobj=file, mode="r|", tarinfo=_StrictTarInfo)  # noqa: SIM115 - closed in `close`
        self._opened.enter_context(tar)
        index = 0
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # else it remembers every one
            yield index, info, tar
            index += 1
        while file.read(1 << 16):  # to its end, where a checksum or a cut shows
            pass

    def _open_tar_member(self, member: Member) -> IO[bytes]:
        if self._tar is None or member.index <= self._tar_index:
            self.close()
            self._tar = self._read_tar()
        for index, info, tar in self._tar:
            self._tar_index = index
            if index == member.index:
                file = tar.extractfile(info)
                assert file is not None, "only files are members"
                return file
        raise UserError(f"{self.name}: {member.name} is not in the archive any more; it changed while it was read")


class _StrictTarInfo(tarfile.TarInfo):
    """Headers as the library reads them; but where it takes a damaged one for the end, this says so."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header. ReadError: it is cut, damaged, or claims gigabytes of attributes."""
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # zeros: the regular end
            raise tarfile.ReadError(str(error)) from error
        if info.size < 0 or (info.type in _TAR_ATTRIBUTES and info.size > _MAX_TAR_HEADER_BYTES):
            raise tarfile.ReadError(f"a header with {info.size} bytes")
        return info


def _with_names_of_their_own(members: Iterable[Member]) -> list[Member]:
    """A tar may hold a name twice (the second was added later): the second is called `name (2)`."""
    counts: Counter[str] = Counter()
    named = []
    for member in members:
        counts[member.name] += 1
        count = counts[member.name]
        named.append(member if count == 1 else replace(member, name=f"{member.name} ({count})"))
    return named


def _is_hidden(name: str) -> bool:
    """Whether a member is one of the files that systems add (.DS_Store, __MACOSX/._a.txt) or people hide."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or any(part.startswith(".") and part not in (".", "..") for part in parts)


def _shown(name: str) -> str:
    """A member's name as it is shown: without ./, and without bytes that are no text."""
    return str(PurePosixPath(name)).encode("utf-8", errors="backslashreplace").decode("utf-8")


def _zip_name(info: zipfile.ZipInfo) -> str:
    """A member's name; those of old Windows archives are in the system's own encoding, which is not said."""
    if info.flag_bits & 0x800 or info.filename.isascii():
        return info.filename
    stored = info.filename.encode("cp437")
    for encoding in ("utf-8", "gb18030"):
        try:
            return stored.decode(encoding)
        except UnicodeDecodeError:
            continue
    return info.filename
