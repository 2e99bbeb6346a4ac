"""From a packed set to micro-batches on the device, in the order that (seed, step) alone decides."""

import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dataset.mixed_order import MixedOrder
from dataset.mixed_set import AnySet, MixedSet
from dataset.packing import IGNORED_TARGET
from dataset.sampler import PlainOrder
from model.errors import UserError

Window = Sequence[int]  # first and last position of the data order that is jumped over


@dataclass(frozen=True)
class Step:
    """One update's data."""

    index: int
    micro_batches: list[dict[str, Tensor]]  # this rank's, on the device; what `PackedSet.batch` gives
    units: dict[str, int]  # how many tokens, segments and pairs the global batch counts
    num_positions: int  # input positions of the global batch, padding included


@dataclass(frozen=True)
class MicroBatchRows:
    """Which rows one rank reads for one micro-batch."""

    rows: np.ndarray  # [batch]
    is_idle: bool = False  # nothing is left for this rank: the row only keeps it in step with the others


class _PackedRows(Dataset):
    """Makes a micro-batch of tensors from row numbers (in a worker, when there are any)."""

    def __init__(self, packed: AnySet) -> None:
        self.packed = packed

    def __getitem__(self, chosen: MicroBatchRows) -> dict[str, Tensor]:
        batch = {name: torch.from_numpy(array) for name, array in self.packed.batch(chosen.rows).items()}
        if chosen.is_idle:
            batch["targets"] = torch.full_like(batch["targets"], IGNORED_TARGET)
            for name in ("segment_ids", "source_ids"):  # padding, as far as any loss is concerned
                batch[name] = torch.full_like(batch[name], -1)
        return batch


@dataclass(frozen=True)
class Loader:
    """Reads the global batches of a run: of each, this rank's part.

    Args:
        packed: the set, or several that read as one; a mixture brings its own order.
        batch_size: rows in a micro-batch.
        accumulation_steps: micro-batches of each rank in an update.
        seed: decides the order.
        device: where batches are put; the copy overlaps with the work before it.
        num_workers: processes that read ahead.
        rank, world_size: this process among those that share each global batch.
    """

    packed: AnySet
    batch_size: int
    accumulation_steps: int
    seed: int
    device: torch.device
    num_workers: int = 0
    rank: int = 0
    world_size: int = 1

    @property
    def global_batch(self) -> int:
        """Rows in one update."""
        return self.batch_size * self.accumulation_steps * self.world_size

    @cached_property
    def order(self) -> PlainOrder | MixedOrder:
        """Which rows each update trains on."""
        if isinstance(self.packed, MixedSet):
            return self.packed.order(self.global_batch, self.seed)
        return PlainOrder(self.packed.num_rows, self.global_batch, self.seed)

    def steps(self, first: int, last: int | None, skipped: Sequence[Window] = ()) -> Generator[Step, None, None]:
        """The updates first, first + 1, …, last − 1; without `last`, on and on.

        `skipped` are windows of positions that are jumped over (`dataset.sampler.position_of_step`).
        """
        windows = [(window[0], window[1]) for window in skipped]
        numbers = itertools.count(first) if last is None else range(first, last)
        loader = DataLoader(
            _PackedRows(self.packed),
            # Worked out as the reader asks: a long run has millions of steps.
            sampler=(chosen for step in numbers for chosen in self._micro_batches(self._rows(step, windows))),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
        )
        batches = iter(loader)
        for step in itertools.count(first) if last is None else range(first, last):
            rows = self._rows(step, windows)
            micro_batches = [self._to_device(next(batches)) for _ in self._micro_batches(rows)]
            yield Step(step, micro_batches, self._units(rows), len(rows) * (self.packed.row_length - 1))

    def _rows(self, step: int, windows: Sequence[tuple[int, int]]) -> np.ndarray:
        return self.order.rows_of_step(step, windows)

    def _micro_batches(self, rows: np.ndarray) -> list[MicroBatchRows]:
        """This rank's part of a global batch; every rank has equally many micro-batches.

        At the end of an epoch there are fewer rows. They are shared out evenly, and a rank without any computes on
        one row that counts nothing: the others would wait for it for ever.
        """
        together = self.batch_size * self.world_size
        chosen = []
        for start in range(0, len(rows), together):
            shared = rows[start : start + together]
            mine = np.array_split(shared, self.world_size)[self.rank]
            chosen.append(MicroBatchRows(mine) if len(mine) else MicroBatchRows(shared[:1], is_idle=True))
        return chosen

    def _units(self, rows: np.ndarray) -> dict[str, int]:
        """How much the batch counts: known from the packed set before the first backward pass."""
        segments = int(self.packed.segments_per_row[rows].sum())
        return {
            "tokens": int(self.packed.targets_per_row[rows].sum()),
            "segments": segments,
            "pairs": segments // 2,
        }

    def _to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    # ---- how long a run is -------------------------------------------------------------------------------------

    def total_steps(self, epochs: float, max_steps: int, max_tokens: int) -> int:
        """Updates of a run of so many epochs, steps or target tokens."""
        if not max_tokens:
            return self.order.total_steps(epochs, max_steps)
        return self.order.total_steps(1.0, self._steps_of_tokens(max_tokens))

    def _steps_of_tokens(self, tokens: int) -> int:
        """The updates that come nearest to so many target tokens, at least one."""
        steps, found = 0, 0
        targets = self.packed.targets_per_row
        if isinstance(self.order, PlainOrder):
            of_epoch = int(targets.sum())
            if not of_epoch:
                raise UserError(f"{self.packed.folder}: has no token to train on, so --max_tokens is never reached")
            epochs = tokens // of_epoch
            steps, found = epochs * self.order.steps_per_epoch, epochs * of_epoch
        while found < tokens and steps != self.order.end_step:
            more = int(targets[self.order.rows_of_step(steps)].sum())
            if found + more - tokens > tokens - found and steps:
                break
            steps, found = steps + 1, found + more
        return max(steps, 1)

    def window(self, first: int, last: int, skipped: Sequence[Window]) -> list[int]:
        """The positions of the data order that the updates first … last (both included) read.

        Raises:
            UserError: the windows leave nothing for them to read.
        """
        windows = [(window[0], window[1]) for window in skipped]
        return [self.order.position_of_step(each, windows) for each in (first, last)]
