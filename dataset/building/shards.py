"""Finished work on the disk: encoded blocks in shard files, so that an interrupted build goes on where it was.

A shard is an `.npz` file of some megabytes: one `EncodedBlock` joined from many. It appears whole or not
at all (written beside its place, flushed, renamed), carries the checksums of the zip format, and says which rows
of the input it ends with. Shards are numbered in the order of the input, so that the next run reads the last one
and knows where to go on.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from dataset.building.encoding import EncodedBlock, NearArrays
from dataset.building.report import ReadCounts
from model.errors import UserError
from model.files import atomic_path

SHARD_BYTES = 8 << 20
_ARRAYS = ("tokens", "lengths", "lines", "path_of", "source_of", "digests", "letters")
_NEAR = tuple(column.name for column in fields(NearArrays))


@dataclass(frozen=True)
class Position:
    """How far the input has been read: an input's name, its blocks up to here, and its bytes as stored."""

    input: str
    num_blocks: int
    bytes_read: int


class ShardFolder:
    """The shards of one build, in order."""

    def __init__(self, folder: Path) -> None:
        """Open a folder, new or with the shards of an interrupted run; what is not a whole shard is removed."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.position: Position | None = None  # after the last shard
        self.num_shards = self._count_whole()
        for path in folder.iterdir():
            if path not in set(self.paths):
                path.unlink()

    @property
    def paths(self) -> list[Path]:
        return [self._path(number) for number in range(self.num_shards)]

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number:06}.npz"

    def _count_whole(self) -> int:
        """How many shards can be read, from the first one on."""
        number = 0
        while (path := self._path(number)).exists():
            try:
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip() is not None:
                        break
                self.position = _read_facts(path)[1]
            except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
                break
            number += 1
        return number

    def write(self, block: EncodedBlock, position: Position) -> None:
        """Add a shard; `position` is where the input goes on after it."""
        arrays = {name: getattr(block, name) for name in _ARRAYS}
        if block.mask is not None:
            arrays["mask"] = block.mask
        if block.near is not None:
            arrays.update(vars(block.near))
        facts = {"paths": block.paths, "sources": block.sources, "read": block.read.as_lists()}
        encoded_facts = json.dumps({**facts, "position": asdict(position)}).encode("ascii")
        arrays["facts"] = np.frombuffer(encoded_facts, np.uint8)
        arrays["rejects"] = np.frombuffer(block.rejects, np.uint8)
        with atomic_path(self._path(self.num_shards)) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        self.num_shards += 1
        self.position = position

    def read(self, with_near: bool = False) -> Iterator[EncodedBlock]:
        """The shards one after another; what near-duplicates are found by only if wanted.

        Raises:
            UserError: a shard was damaged since it was written.
        """
        for path in self.paths:
            try:
                facts, _ = _read_facts(path)
                with np.load(path, allow_pickle=False) as stored:
                    names = {*_ARRAYS, "mask", *(_NEAR if with_near else ())}.intersection(stored.files)
                    arrays: dict[str, Any] = {name: stored[name] for name in names}
                    rejects = stored["rejects"].tobytes()
            except (ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
                raise UserError(
                    f"{path}: damaged since it was written ({error}); run the same command again: it makes it anew"
                ) from error
            near = [arrays.pop(name) for name in _NEAR if name in arrays]
            yield EncodedBlock(
                facts["paths"],
                [(label, input_label) for label, input_label in facts["sources"]],
                ReadCounts.from_lists(facts["read"]),
                rejects,
                near=NearArrays(*near) if near else None,
                **arrays,
            )


def _read_facts(path: Path) -> tuple[dict[str, Any], Position]:
    with np.load(path, allow_pickle=False) as stored:
        facts = json.loads(stored["facts"].tobytes())
    return facts, Position(**facts["position"])
