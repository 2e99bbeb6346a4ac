"""How many processes, and how much memory for what: `--memory_gb` shared out."""

import os
from dataclasses import dataclass

from dataset.dedup import NearDuplicateSettings
from dataset.sources import Input
from model.errors import UserError

_SMALL_INPUT_BYTES = 4 << 20  # starting workers takes longer than doing it
# Measured with benchmarks/pack_memory.py, with a margin: Python, its libraries, and the blocks on their way.
_MAIN_BYTES = 450 << 20
_WORKER_BYTES = 200 << 20
_NEAR_WORKER_BYTES = 100 << 20  # more, for shingles and signatures
_LEAST_FINDER_BYTES = 32 << 20
# Digests alone fill memory with what is better left to others: sorting on the disk costs them little.
_MOST_EXACT_BYTES = 64 << 20


@dataclass(frozen=True)
class MemoryPlan:
    """Processes that encode (0: the main one does it), and what the search for duplicates may hold in memory."""

    num_workers: int
    finder_bytes: int


def plan_memory(
    num_workers: int, memory_gb: float, inputs: list[Input], near: NearDuplicateSettings | None
) -> MemoryPlan:
    """Share the memory out. With -1 workers: one a core, as far as memory allows; none for a small input.

    Raises:
        UserError: it is too little for that many workers.
    """
    total = int(memory_gb * (1 << 30))
    per_worker = _WORKER_BYTES + (_NEAR_WORKER_BYTES if near else 0)
    least = _MAIN_BYTES + _LEAST_FINDER_BYTES
    allowed = (total - least) // per_worker
    if num_workers < 0:
        wanted = 0 if _is_small(inputs) else os.cpu_count() or 1
        num_workers = max(0, min(wanted, allowed))
    needed = least + num_workers * per_worker
    if total < needed:
        raise UserError(
            f"--memory_gb {memory_gb:g}: too little for {num_workers} worker processes; expected at least "
            f"{needed / (1 << 30):.2f}{', or fewer --num_workers' if num_workers else ''}"
        )
    left = total - _MAIN_BYTES - num_workers * per_worker
    return MemoryPlan(num_workers, left if near else min(left, _MOST_EXACT_BYTES))


def _is_small(inputs: list[Input]) -> bool:
    """Whether all sizes are known, and small (a compressed input grows, but not out of all proportion)."""
    sizes = [each.size for each in inputs]
    return None not in sizes and sum(size or 0 for size in sizes) < _SMALL_INPUT_BYTES
