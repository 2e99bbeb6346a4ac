"""Where a build works before its sets appear: a hidden folder beside them, one process at a time.

    dataset/packed/.wiki.building-3f2a…/    shards and unfinished sets of the build with this hash
    dataset/packed/.wiki.lock               held while a process builds "wiki"

The folder's name holds the hash of everything that decides what is in the sets, so the same command finds its
own unfinished work, and never that of another one.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_HASH_CHARS = 16


def working_folder(packed_dir: Path, name: str, build_hash: str) -> Path:
    """The folder in which one build works."""
    return packed_dir / f"{_prefix(name)}{build_hash[:_HASH_CHARS]}"


def working_folders(packed_dir: Path, name: str) -> list[Path]:
    """Those of all builds of this name, unfinished ones of earlier runs included."""
    return sorted(path for path in packed_dir.glob(".*") if path.name.startswith(_prefix(name)) and path.is_dir())


def _prefix(name: str) -> str:
    return f".{name}.building-"


@contextmanager
def locked(packed_dir: Path, names: list[str]) -> Iterator[None]:
    """Hold the names of some sets: who comes later waits, and says so.

    A lock ends with its process, whatever ends the process.
    """
    packed_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(_locked(packed_dir / f".{name}.lock", name))
        yield


@contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    waited = False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            waited = _lock(handle, name, waited)
            # Whoever held it removed the file: another process may hold a new one of this name by now.
            if _is_open_file(handle, path):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
        finally:
            os.close(handle)


def _is_open_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _lock(handle: int, name: str, waited: bool) -> bool:
    """Wait until the lock is ours; whether we had to."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not waited:
            print(f"{name}: another process is building it; waiting for its end", flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
        return True
    return waited


def finish_replacing(path: Path) -> None:
    """Tidy up after a run that was killed while it put a new set in the place of an old one (model/files.py)."""
    asides = [each for each in path.parent.glob(".*") if each.name.startswith(f".{path.name}.old.")]
    for aside in asides:
        old = aside / path.name
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(aside)


def folder_bytes(folder: Path) -> int:
    """The size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
