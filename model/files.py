"""Files that are whole or absent: written beside their place, flushed to the disk, then renamed into it."""

import ctypes
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model.errors import UserError

_BLOCK_BYTES = 4 << 20  # read and hashed without Python's lock: larger blocks disturb other threads less often
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a failing write says, without the file's name


def sha256_of_file(path: str | Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK_BYTES))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(block[:size])
    return digest.hexdigest()


def sha256_of_text(text: str) -> str:
    """The sha256 of a string's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text, so it can be hashed."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it replaces `path`, on an error it is removed.

    A reader therefore sees the old file or the new one, never half of one, even after a power cut: the bytes
    reach the disk (fsync) before the rename does.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path}: is no ordinary file, so it is not replaced; choose another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; ours are ordinary ones
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    except OSError as error:
        if error.filename is None and error.errno in _NO_ROOM:
            error.filename = str(path)
        _name_for_users(error, path)
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes that name, on an error it is removed.

    Raises UserError when `path` exists and `overwrite` is False.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise UserError(f"{path}: exists already; remove it, name another folder, or pass --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary: Path | None = None
    try:
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        publish_folder(temporary, path, overwrite)
    except OSError as error:
        _name_for_users(error, path)
        raise
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def publish_folder(temporary: Path, path: Path, overwrite: bool = False) -> None:
    """Flush a finished folder to the disk and move it to `path`, in the place of an older one with `overwrite`."""
    for item in [*temporary.rglob("*"), temporary]:
        _fsync(item)
    if path.exists() and overwrite:
        _replace_folder(temporary, path)
    else:
        _rename_to_new(temporary, path)
    _fsync(path.parent)


def _rename_to_new(temporary: Path, path: Path) -> None:
    try:
        os.rename(temporary, path)
    except OSError as error:
        if path.exists():  # made by another process in the meantime
            raise UserError(f"{path}: was made by another process just now; name another folder") from error
        raise


def _replace_folder(temporary: Path, path: Path) -> None:
    """Put a folder in the place of another, which is removed."""
    if _exchange(temporary, path):
        _fsync(path.parent)  # the new one's name reaches the disk before the old one is removed
        shutil.rmtree(temporary)
        return
    # Without such a call the old one steps aside first, and back if that fails; a kill between finds neither.
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
    os.replace(path, aside / path.name)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.replace(aside / path.name, path)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders' names in one step, so that a kill finds one of them; False where the system cannot."""
    if sys.platform != "linux" or second.is_symlink() or not second.is_dir():
        return False
    current_folder, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE, linux/fs.h
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return rename(current_folder, os.fsencode(first), current_folder, os.fsencode(second), exchange) == 0


def _name_for_users(error: OSError, path: Path) -> None:
    """Let an error of the disk name `path`, not the temporary one beside it, which will be gone."""
    hidden = str(path.absolute().parent / f".{path.name}.")
    for attribute in ("filename", "filename2"):
        name = getattr(error, attribute)
        absolute = str(Path(name).absolute()) if isinstance(name, str) else ""
        if absolute.startswith(hidden):
            _, slash, inner = absolute.removeprefix(hidden).partition(os.sep)
            setattr(error, attribute, f"{path}{slash}{inner}")


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as readable JSON, atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; UserError names the file when it is missing, not UTF-8, or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a JSON file ({error})") from error


def read_json_lines(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a small JSON Lines file, each with its place "file:line"; UserError names a bad line.

    For files that a program wrote, where one bad row means a mistake in all; raw data is read by `dataset/sources.py`.
    """
    try:
        lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")  # not splitlines: U+2028 may stand in a string
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{path}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{place}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise UserError(f"{place}: expected a JSON object, found {type(row).__name__}")
            rows.append((place, row))
    return rows


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
