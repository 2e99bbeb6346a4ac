"""Which rows are trained when: a pure function of the seed and the step, the same on every machine.

Nothing is stored and nothing is advanced: step k of a run is the same rows whether the run got there in one
go, after ten restarts, on one process or on sixteen. The random numbers are Philox's raw output, which is
fixed by its definition (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011); numpy's
`shuffle` may change with its version, `random_raw` and a stable sort may not.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

SkippedWindows = Iterable[tuple[int, int]]


@lru_cache(maxsize=2)  # the epoch that runs and, for a prefetching reader, the next one
def epoch_order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """[num_rows] int64: every row once, in the order of this epoch (read-only: it is cached)."""
    keys = np.random.Philox(key=np.array([seed % 2**64, epoch], np.uint64)).random_raw(num_rows)
    order = np.argsort(keys, kind="stable")
    order.flags.writeable = False
    return order


def steps_per_epoch(num_rows: int, global_batch: int) -> int:
    """Steps of one epoch: the last one is shorter when the rows do not divide."""
    assert num_rows > 0 and global_batch > 0
    return -(-num_rows // global_batch)


def position_of_step(step: int, skipped: SkippedWindows = ()) -> int:
    """Where in the endless order of global batches step `step` reads.

    `skipped` are windows `(first, last)` of positions, both ends included, that are jumped over (a stretch of
    data that made a run diverge, say): step k reads the k-th position outside all windows. They count
    positions, not steps, so a window added later does not move what an earlier one means.
    """
    assert step >= 0
    position, covered_to = step, -1
    for first, last in sorted(skipped):
        first = max(first, covered_to + 1)  # windows may overlap
        if first > position:
            break
        if last >= first:
            position += last - first + 1
            covered_to = last
    return position


def num_skipped(end: int, skipped: SkippedWindows) -> int:
    """How many of the positions 0 … end − 1 lie in windows `(first, last)`, both ends included."""
    count, covered_to = 0, -1
    for first, last in sorted(skipped):
        first, last = max(first, covered_to + 1), min(last, end - 1)
        if last >= first:
            count += last - first + 1
            covered_to = last
    return count


def rows_of_step(num_rows: int, global_batch: int, seed: int, step: int, skipped: SkippedWindows = ()) -> np.ndarray:
    """The row ids of global step `step` (from 0), `global_batch` of them or, at the end of an epoch, fewer.

    An epoch holds every row exactly once. How the rows of a step are shared among ranks and micro-batches is
    the trainer's affair and does not enter here, so it cannot change what a step trains on.
    """
    position = position_of_step(step, skipped)
    epoch, step_of_epoch = divmod(position, steps_per_epoch(num_rows, global_batch))
    first = step_of_epoch * global_batch
    return epoch_order(num_rows, seed, epoch)[first : first + global_batch]


@dataclass(frozen=True)
class PlainOrder:
    """The order of one set of rows, epoch after epoch. A mixture has its own (`dataset/mixed_order.py`)."""

    num_rows: int
    global_batch: int
    seed: int

    @property
    def end_step(self) -> None:
        """Where the order ends: never."""
        return

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch."""
        return steps_per_epoch(self.num_rows, self.global_batch)

    def position_of_step(self, step: int, skipped: SkippedWindows = ()) -> int:
        """Where in the endless order of global batches a step reads."""
        return position_of_step(step, skipped)

    def rows_of_step(self, step: int, skipped: SkippedWindows = ()) -> np.ndarray:
        """Row ids of a global step."""
        return rows_of_step(self.num_rows, self.global_batch, self.seed, step, skipped)

    def total_steps(self, epochs: float, max_steps: int = 0) -> int:
        """Steps of a run of so many epochs, or `max_steps` when that is given."""
        return max_steps or max(1, round(epochs * self.steps_per_epoch))

    def place_of_step(self, step: int) -> dict[str, Any]:
        """For the log: how far the data has been read after so many steps."""
        return {"epoch": step / self.steps_per_epoch}
