"""Streams of bytes: files that must not change while they are read, compressed ones unpacked as they are read.

Whatever goes wrong below (a damaged archive, a disk error, a file that shrinks) comes out as one line that names the
input.
"""

import bz2
import errno
import gzip
import io
import lzma
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from tqdm import tqdm

from model.errors import UserError

_BUFFER_BYTES = 1 << 17
_XZ_MEMORY_BYTES = 512 << 20  # `xz -9` needs 65 MB; a file may demand 4 GB

_COMPRESSIONS = {
    "gzip": rb"\x1f\x8b\x08",
    "bzip2": rb"BZh[1-9](1AY&SY|\x17rE8P\x90)",
    "xz": rb"\xfd7zXZ\x00",
    "zstd": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",  # (pzstd begins with a frame that is to be skipped)
}

# What the unpacking libraries raise for damaged input. (pyarrow's errors are OSErrors.)
_DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)


class Stream(io.RawIOBase):
    """Bytes of one input from front to back, by its name; `head` looks at the beginning and does not use it up."""

    def __init__(
        self,
        name: str,
        file: IO[bytes],
        what: str = "file",
        size: int | None = None,
        stored_bytes: Callable[[], int] | None = None,
        seekable_file: BinaryIO | None = None,
    ) -> None:
        """`size` is that of the input as it is stored; `stored_bytes` says how many of those were read so far."""
        self.name, self.size = name, size
        self.seekable_file = seekable_file  # where the same bytes can be read in any order
        self._file, self._what = file, what
        self._count, self._ahead = 0, b""
        self.stored_bytes = stored_bytes or (lambda: self._count)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._ahead or self._read(len(buffer))
        data, self._ahead = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)

    def head(self, size: int) -> bytes:
        """The first `size` bytes that are not used up yet, fewer only at the end."""
        while len(self._ahead) < size and (more := self._read(size - len(self._ahead))):
            self._ahead += more
        return self._ahead[:size]

    def _read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except _DAMAGE as error:
            raise damaged(self.name, self._what, error) from error
        self._count += len(data)
        return data


def damaged(name: str, what: str, error: BaseException) -> UserError:
    """The error for an input that its library cannot read."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the disk, not the content
        advice = "change its permissions" if isinstance(error, PermissionError) else "copy it to another disk"
        return UserError(f"{name}: cannot be read ({error.strerror or error}); {advice}, then try again")
    if "memory" in str(error).lower():
        advice = f"unpack it first ({'zstd -d --long=31' if what == 'zstd' else 'xz -d'})"
        return UserError(f"{name}: made with so large a window that unpacking takes gigabytes of memory; {advice}")
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(f"{name}: damaged or cut {what} data ({reason}); fetch it again")


# ---- files ----


@dataclass(frozen=True)
class Stamp:
    """What tells that a file is still the one that was found."""

    size: int
    mtime_ns: int

    @staticmethod
    def of(path: Path) -> "Stamp":
        """Of a file as it is now."""
        return Stamp._from(path.stat())

    @staticmethod
    def of_open(file: IO[bytes]) -> "Stamp":
        """Of an open file, which may have another name by now, or none."""
        return Stamp._from(os.fstat(file.fileno()))

    @staticmethod
    def _from(facts: os.stat_result) -> "Stamp":
        return Stamp(facts.st_size, facts.st_mtime_ns)


class _UnchangedFile(io.RawIOBase):
    """A file that is compared with its stamp when it is opened, when its end is met, and when it is closed."""

    def __init__(self, path: Path, name: str, stamp: Stamp) -> None:
        self.name, self._stamp = name, stamp
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed in `close`
        except FileNotFoundError as error:
            raise UserError(f"{name}: was there a moment ago, and is gone") from error
        except OSError as error:
            raise damaged(name, "file", error) from error
        self.check()

    def check(self) -> None:
        """UserError when the file changed since it was found."""
        now = Stamp.of_open(self._file)
        if now != self._stamp:
            change = "changed" if now.size == self._stamp.size else f"from {self._stamp.size} to {now.size} bytes"
            raise UserError(
                f"{self.name}: the file changed while it was read ({change}); let whatever writes it finish, "
                f"then run the same command again"
            )

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(buffer)
        if not count:
            self.check()
        return count or 0

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextmanager
def open_file(path: Path, name: str, stamp: Stamp) -> Iterator[Stream]:
    """A file as it is stored.

    Raises:
        UserError: it is gone, cannot be read, or changed since `stamp` was taken.
    """
    with _UnchangedFile(path, name, stamp) as raw:
        file = io.BufferedReader(raw, _BUFFER_BYTES)
        yield Stream(name, file, size=stamp.size, seekable_file=cast(BinaryIO, file))
        raw.check()


def unpacked(stream: Stream) -> Stream:
    """The stream with its compression undone (gzip, bzip2, xz or zstd, seen from its first bytes)."""
    what = compression_of(stream.head(10))
    if what is None:
        return stream
    packed = io.BufferedReader(stream, _BUFFER_BYTES)
    file: IO[bytes]
    if what == "gzip":
        file = cast(IO[bytes], gzip.GzipFile(fileobj=packed))
    elif what == "bzip2":
        file = bz2.BZ2File(packed)
    elif what == "xz":
        file = cast(IO[bytes], _XzFile(cast(IO[bytes], packed)))
    else:
        import pyarrow as pa  # it sees when zstd data are cut, which the `zstandard` package's reader does not

        file = pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), "zstd")
    return Stream(stream.name, file, what, stream.size, stream.stored_bytes)


def compression_of(head: bytes) -> str | None:
    """gzip, bzip2, xz, zstd, or None: by the first ten bytes."""
    return next((what for what, magic in _COMPRESSIONS.items() if re.match(magic, head)), None)


class _XzFile:
    """xz data, read with a limit on memory, which the standard library's `LZMAFile` does not set."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed, self._decompressor = packed, self._new()

    def _new(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES)

    def read(self, size: int) -> bytes:
        """At most `size` bytes, none only at the end; LZMAError or EOFError for damaged data."""
        while True:
            if self._decompressor.eof:  # several streams may follow each other, with zeros between them
                rest = self._decompressor.unused_data.lstrip(b"\0")
                while not rest and (more := self._packed.read(_BUFFER_BYTES)):
                    rest = more.lstrip(b"\0")
                if not rest:
                    return b""
                self._decompressor = self._new()
                data = self._decompressor.decompress(rest, size)
            else:
                more = self._packed.read(_BUFFER_BYTES) if self._decompressor.needs_input else b""
                if self._decompressor.needs_input and not more:
                    raise EOFError("the end is missing")
                data = self._decompressor.decompress(more, size)
            if data:
                return data


def seekable_file(stream: Stream) -> AbstractContextManager[BinaryIO]:
    """The same bytes to be read in any order: the file itself, or a copy of the stream on the disk."""
    if stream.seekable_file is not None:
        return nullcontext(stream.seekable_file)
    return copy_on_disk(stream)


@contextmanager
def copy_on_disk(stream: Stream, what: str | None = None) -> Iterator[BinaryIO]:
    """A temporary copy of a stream; `TMPDIR` says where. It may take long: a bar shows how far `what` is.

    Raises:
        UserError: the disk is full, or what reading the stream raises.
    """
    with tempfile.TemporaryFile() as copy:
        source = io.BufferedReader(stream)
        hidden = what is None or None  # (tqdm takes None for: hidden unless on a terminal)
        with tqdm.wrapattr(source, "read", total=stream.size, desc=what, disable=hidden, leave=False) as wrapped:
            try:
                shutil.copyfileobj(wrapped, copy, _BUFFER_BYTES)
            except OSError as error:
                raise UserError(
                    f"{stream.name}: a temporary copy of it cannot be written to {tempfile.gettempdir()} "
                    f"({error.strerror}); free some space there, or set TMPDIR to another folder"
                ) from error
        copy.seek(0)
        yield cast(BinaryIO, copy)
