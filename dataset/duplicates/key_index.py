"""Finding equal keys among more records than memory holds: an external sort of (key, value) records.

Records gather in memory; each time it is full they are sorted and written as one *run*. Because every run is
sorted, the records of any range of keys lie side by side in each of them, so the runs can be read back together,
one range of keys after another, each just large enough for memory. Nothing depends on how the keys are spread: a
range that is too large is halved until it fits, and one key with more records than memory holds comes in pieces.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

RECORD_BYTES = 12  # a uint64 key and a uint32 value
# What sorting and reading cost beside the records themselves: the order (an index of 8 bytes and the sort's own
# working space), the sorted copy, and the batch that the reader still holds while the next one is made.
_WORKING_BYTES = 64
_LARGEST_KEY = 2**64 - 1

Run = tuple[np.ndarray, np.ndarray]  # sorted keys and their values, equally long
Keep = Callable[[np.ndarray], np.ndarray]  # values → a mask of those that count


class KeyIndex:
    """Records of a uint64 key and a uint32 value, given back sorted by key, in at most `memory_bytes` of memory.

    Values of equal keys come back in the order in which they were appended.
    """

    def __init__(self, path: Path, memory_bytes: int) -> None:
        """`path`: the file to spill to; it is made when needed, and replaced if it is there already."""
        self.path = path
        self.num_records = 0
        self._capacity = max(1, memory_bytes // _WORKING_BYTES)
        # Reserved but not touched: the system gives pages of it as they fill.
        self._keys, self._values = np.empty(self._capacity, np.uint64), np.empty(self._capacity, np.uint32)
        self._filled = 0
        self._run_lengths: list[int] = []

    @property
    def num_bytes(self) -> int:
        """The size of all records, in memory and on disk."""
        return self.num_records * RECORD_BYTES

    @property
    def num_runs(self) -> int:
        """How often memory was full; 0 when nothing has been spilled."""
        return len(self._run_lengths)

    def append(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Add records: `keys` uint64 [n], `values` uint32 [n]."""
        assert keys.dtype == np.uint64 and values.dtype == np.uint32 and keys.shape == values.shape and keys.ndim == 1
        start = 0
        while start < len(keys):
            if self._filled == self._capacity:
                self._spill()
            end = min(len(keys), start + self._capacity - self._filled)
            place = slice(self._filled, self._filled + end - start)
            self._keys[place], self._values[place] = keys[start:end], values[start:end]
            self._filled, start = place.stop, end
        self.num_records += len(keys)

    def batches(self, keep: Keep | None = None) -> Iterator[Run]:
        """Yield all records as (keys, values), sorted by key from the first batch to the last.

        A batch ends where a key ends, so equal keys are never torn apart; only a key with more records than memory
        holds fills several batches, alone, all of them full but the last. `keep`: which of some values to yield, as a
        mask; the others are passed over as if they had never been appended. Nothing can be appended any more.
        """
        if self._run_lengths:
            self._spill()
            runs = self._open_runs()
        else:
            runs = [self._sorted()]
        self._keys, self._values = np.empty(0, np.uint64), np.empty(0, np.uint32)
        for keys, values in self._merged(runs, 0, _LARGEST_KEY, keep):
            if len(keys):
                yield keys, values

    def remove(self) -> None:
        """Forget everything and delete the file."""
        self._keys, self._values = np.empty(0, np.uint64), np.empty(0, np.uint32)
        self.path.unlink(missing_ok=True)

    def _sorted(self) -> Run:
        keys, values = self._keys[: self._filled], self._values[: self._filled]
        order = np.argsort(keys, kind="stable")
        return keys[order], values[order]

    def _spill(self) -> None:
        """Write what memory holds as one sorted run: all keys, then all values."""
        if not self._filled:
            return
        with self.path.open("ab" if self._run_lengths else "wb") as file:
            for column in self._sorted():
                file.write(column.data)
        self._run_lengths.append(self._filled)
        self._filled = 0

    def _open_runs(self) -> list[Run]:
        file = np.memmap(self.path, np.uint8, "r").view(np.ndarray)
        runs, start = [], 0
        for length in self._run_lengths:
            middle, end = start + 8 * length, start + RECORD_BYTES * length
            # A run may start at an odd multiple of 4 bytes: NumPy reads unaligned views as well.
            runs.append((file[start:middle].view(np.uint64), file[middle:end].view(np.uint32)))
            start = end
        return runs

    def _merged(self, runs: list[Run], lowest: int, highest: int, keep: Keep | None) -> Iterator[Run]:
        """The records of `runs`, whose keys all lie within the two bounds, in sorted batches."""
        runs = [run for run in runs if len(run[0])]
        if sum(len(keys) for keys, _ in runs) <= self._capacity:
            keys, values = _merge(runs)
            kept = slice(None) if keep is None else keep(values)
            yield keys[kept], values[kept]
        elif lowest == highest:
            for values in self._values_of_one_key(runs, keep):
                yield np.full(len(values), lowest, np.uint64), values
        else:
            middle = (lowest + highest) // 2
            cuts = [int(np.searchsorted(keys, np.uint64(middle), side="right")) for keys, _ in runs]
            lower = [(keys[:cut], values[:cut]) for (keys, values), cut in zip(runs, cuts, strict=True)]
            upper = [(keys[cut:], values[cut:]) for (keys, values), cut in zip(runs, cuts, strict=True)]
            yield from self._merged(lower, lowest, middle, keep)
            yield from self._merged(upper, middle + 1, highest, keep)

    def _values_of_one_key(self, runs: list[Run], keep: Keep | None) -> Iterator[np.ndarray]:
        """The values of runs that hold nothing but one key, in pieces as large as memory allows."""
        held = np.empty(0, np.uint32)
        for _, values in runs:
            for start in range(0, len(values), self._capacity):
                part = values[start : start + self._capacity]
                held = np.concatenate([held, part if keep is None else part[keep(part)]])
                if len(held) >= self._capacity:
                    yield held[: self._capacity]
                    held = held[self._capacity :]
        yield held


def _merge(runs: list[Run]) -> Run:
    """Runs made into one; of equal keys those of the earlier run come first, because the sort is stable."""
    if not runs:
        return np.empty(0, np.uint64), np.empty(0, np.uint32)
    if len(runs) == 1:
        return runs[0]
    keys = np.concatenate([keys for keys, _ in runs])
    order = np.argsort(keys, kind="stable")
    return keys[order], np.concatenate([values for _, values in runs])[order]


def group_starts(keys: np.ndarray) -> np.ndarray:
    """Where each group of equal keys begins in a sorted array, and its end: int64 [groups + 1]."""
    changes = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    return np.concatenate([[0], changes, [len(keys)]]) if len(keys) else np.zeros(1, np.int64)


def zeros_on_disk(path: Path, dtype: type[np.generic], count: int) -> np.ndarray:
    """An array of zeros in a file of its own, to be read and written in place: `dtype` [count].

    The zeros are really written. A file that is only declared to be long gets its disk space when a page is first
    changed, and on a full disk that kills the process instead of raising an error.
    """
    block = bytes(1 << 20)
    num_bytes = np.dtype(dtype).itemsize * count
    with path.open("wb") as file:
        for start in range(0, num_bytes, len(block)):
            file.write(block[: num_bytes - start])
    if not count:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, "r+").view(np.ndarray)
