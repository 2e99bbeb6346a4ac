"""From a packed set to micro-batches on the device, in the order that (seed, step) alone decides."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dataset.mixed_order import MixedOrder
from dataset.mixed_set import AnySet, MixedSet
from dataset.sampler import PlainOrder


@dataclass(frozen=True)
class Step:
    """One update's data."""

    index: int
    micro_batches: list[dict[str, Tensor]]  # on the device; what `PackedSet.batch` gives
    units: dict[str, int]  # how many tokens, segments and pairs the global batch counts


class _PackedRows(Dataset):
    """Makes a micro-batch of tensors from an array of row numbers (in a worker, when there are any)."""

    def __init__(self, packed: AnySet) -> None:
        self.packed = packed

    def __getitem__(self, rows: np.ndarray) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array) for name, array in self.packed.batch(rows).items()}


@dataclass(frozen=True)
class Loader:
    """Reads the global batches of a run.

    Args:
        packed: the set, or several that read as one; a mixture brings its own order.
        batch_size: rows in a micro-batch.
        accumulation_steps: micro-batches in an update.
        seed: decides the order.
        device: where batches are put; the copy overlaps with the work before it.
        num_workers: processes that read ahead.
    """

    packed: AnySet
    batch_size: int
    accumulation_steps: int
    seed: int
    device: torch.device
    num_workers: int = 0

    @property
    def global_batch(self) -> int:
        """Rows in one update."""
        return self.batch_size * self.accumulation_steps

    @cached_property
    def order(self) -> PlainOrder | MixedOrder:
        """Which rows each update trains on."""
        if isinstance(self.packed, MixedSet):
            return self.packed.order(self.global_batch, self.seed)
        return PlainOrder(self.packed.num_rows, self.global_batch, self.seed)

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """The updates first, first + 1, …, last − 1."""
        loader = DataLoader(
            _PackedRows(self.packed),
            # Worked out as the reader asks: a long run has millions of steps.
            sampler=(rows for step in range(first, last) for rows in self._micro_batch_rows(step)),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
        )
        batches = iter(loader)
        for step in range(first, last):
            step_rows = self._micro_batch_rows(step)
            micro_batches = [self._to_device(next(batches)) for _ in step_rows]
            yield Step(step, micro_batches, self._units(np.concatenate(step_rows)))

    def _micro_batch_rows(self, step: int) -> list[np.ndarray]:
        rows = self.order.rows_of_step(step)
        return [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]

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
