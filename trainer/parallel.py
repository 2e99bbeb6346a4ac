"""How many processes train together: the only file that knows.

One process today. The loop asks this object for its rank, wraps the model through it, sums over ranks through it
and marks the last micro-batch of an update through it; with several processes these become real.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from model.errors import UserError


@dataclass(frozen=True)
class Parallel:
    """This process's place among those that train together."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` over all ranks."""
        return tensor

    @contextmanager
    def micro_batch(self, is_last: bool) -> Iterator[None]:
        """Gradients are exchanged only in the last micro-batch of an update."""
        yield


def start() -> Parallel:
    """Find out how the script was launched."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1:
        raise UserError(f"launched with {world_size} processes: this version trains in one; start it with python")
    return Parallel()
