"""How fast a packed set opens and reads, and whether processes share its pages.

    python -m benchmarks.packed_reading                           a generated set of 400 MB
    python -m benchmarks.packed_reading --data_path dataset/packed/wiki --processes 8

Opening: so many processes at once, as the ranks of one run, each from nothing to its first batch. Sharing: each
then touches every page of the set. RSS counts a shared page in full for each process, PSS (proportional set size)
as its part of it, so all PSS together is what the machine really holds: one copy of the set, if pages are shared.
Reading: one process, random rows, all that a training step gets (inputs, targets, segments, positions, sources).
Files are in the page cache: what is measured is our code, not the disk.
"""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.errors import UserError, run_script
from trainer.settings import flag, parse_settings

_barriers: list[Any] = []  # one, in each process of the pool

MAX_SECONDS, MIN_TOKENS_PER_SECOND = 1.0, 50e6  # what this project asks of itself


@dataclass(frozen=True)
class ReadingSettings:
    """What to read, and by how many."""

    data_path: str | None = flag(None, "a packed set (default: one is generated)")
    megabytes: int = flag(400, "size of the generated set's tokens")
    max_seq_len: int = flag(512, "inputs in a row of the generated set")
    segments: int = flag(3, "documents in a row of the generated set, on average")
    processes: int = flag(4, "how many open it at once")
    batch_size: int = flag(32, "rows in a batch")
    seconds: float = flag(3.0, "how long reading is measured, the best of five parts of it")


def main() -> None:
    """Settings → set → opening, sharing, reading."""
    (settings,) = parse_settings(ReadingSettings, description=__doc__)
    for name in ("megabytes", "max_seq_len", "segments", "processes", "batch_size", "seconds"):
        if not getattr(settings, name) > 0:
            raise UserError(f"--{name}: found {getattr(settings, name)}, expected a number above 0")
    with chosen_set(settings) as folder:
        from dataset.packing import PackedSet

        packed = PackedSet.open(folder)
        if packed.num_rows == 0:
            raise UserError(f"{folder}: has no rows to read")
        size = sum((folder / name).stat().st_size for name in packed.meta["files"])
        rows = f"{packed.num_rows:,} rows of {packed.max_seq_len} tokens"
        print(
            f"{folder.name}: {rows}, {len(packed.segments) / packed.num_rows:.1f} segments each, {size / 1e6:,.0f} MB"
        )
        measure_opening(folder, settings.processes)
        speed = tokens_per_second(packed, settings.batch_size, settings.seconds)
        goal = f"at least {MIN_TOKENS_PER_SECOND / 1e6:.0f}"
        print(f"reading {settings.batch_size} random rows at a time, one process: {speed / 1e6:.1f}M tokens/s ({goal})")


@contextmanager
def chosen_set(settings: ReadingSettings) -> Iterator[Path]:
    """The set that was named, or one made for this."""
    if settings.data_path is not None:
        yield Path(settings.data_path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield generate(Path(folder) / "generated", settings)


class NoTokenizer:
    """In place of a tokenizer: the generated ids stand for no text."""

    vocabulary_hash = template_hash = "none"

    def save(self, folder: Path) -> None:
        """Leave an empty folder."""
        folder.mkdir()


def generate(folder: Path, settings: ReadingSettings) -> Path:
    """Rows of random tokens in random segments."""
    from dataset.packing import PackedSetWriter, Piece

    folder.mkdir()
    random = np.random.default_rng(0)
    length = settings.max_seq_len + 1
    writer = PackedSetWriter(folder, "pretrain", settings.max_seq_len, vocab_size=6400, pad_token_id=1)
    for _ in range(max(1, settings.megabytes * 1_000_000 // (2 * length))):
        tokens = random.integers(64, 6400, length, dtype=np.uint16)
        count = min(1 + random.poisson(settings.segments - 1), length)
        cuts = np.sort(random.choice(length - 1, count - 1, replace=False) + 1)
        writer.add_row([Piece(part, None, int(cuts.sum()) % 3, 0) for part in np.split(tokens, cuts)])
    facts = {"name": folder.name, "sources": ["a", "b", "c"], "num_documents": settings.segments * writer.num_rows}
    writer.finish(NoTokenizer(), facts)
    return folder


def measure_opening(folder: Path, processes: int) -> None:
    """Open the set in several processes at once, let each touch all of it, and print time and memory."""
    # Each starts afresh: a forked one would inherit what this one has mapped.
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes, timeout=300)
    with ProcessPoolExecutor(processes, context, initializer=remember, initargs=(barrier,)) as pool:
        found = list(pool.map(open_and_touch, [folder] * processes))
    seconds = ", ".join(f"{each:.3f}" for each, _ in sorted(found, key=lambda each: each[0]))
    print(f"opening, to the first batch, {processes} processes at once: {seconds} s (at most {MAX_SECONDS:g})")
    if not found[0][1]:
        print(f"page sharing: not measured, {sys.platform} has no /proc/<pid>/smaps")
        return
    rss, pss = (sum(memory[name] for _, memory in found) for name in ("Rss", "Pss"))
    print(
        f"its pages, all touched by each of {processes}: RSS together {rss / 1e6:,.0f} MB, PSS together "
        f"{pss / 1e6:,.0f} MB: held {pss * processes / rss:.2f} times"
    )


def remember(barrier: Any) -> None:
    """Keep what the processes wait for each other with; it cannot travel with a task."""
    _barriers.append(barrier)


def open_and_touch(folder: Path) -> tuple[float, dict[str, int]]:
    """What one process does: open, count and read a first batch, touch every page; its seconds and its memory."""
    from dataset.packing import PackedSet

    [barrier] = _barriers
    barrier.wait()
    start = time.perf_counter()
    packed = PackedSet.open(folder)
    rows = np.arange(min(32, packed.num_rows))
    packed.targets_per_row[rows].sum(), packed.segments_per_row[rows].sum()
    packed.batch(rows)
    seconds = time.perf_counter() - start
    for array in (packed.tokens, packed.mask, packed.segments, packed.rows):
        if array is not None:
            array.view(np.uint8).reshape(-1)[::4096].sum()
    barrier.wait()  # all have touched everything, and nobody has left
    memory = mapped_bytes(folder)
    barrier.wait()
    return seconds, memory


def mapped_bytes(folder: Path) -> dict[str, int]:
    """Rss and Pss of this process's maps of the set's files; empty where the system does not tell."""
    path = Path("/proc/self/smaps")
    if not path.exists():
        return {}
    sums, is_ours = {"Rss": 0, "Pss": 0}, False
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, rest = line.partition(":")
        if name in sums and is_ours:
            sums[name] += int(rest.split()[0]) * 1024
        elif "-" in name.split(" ")[0]:  # the first line of a map: its addresses, ..., its file
            is_ours = f"{folder.resolve()}/" in line
    return sums


def tokens_per_second(packed: Any, batch_size: int, seconds: float) -> float:
    """Tokens read from random rows: the best of five stretches, so that a busy machine does not count as slow code."""
    random = np.random.default_rng(1)
    packed.batch(random.integers(0, packed.num_rows, batch_size))
    best = 0.0
    for _ in range(5):
        batches = 0
        start = time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds / 5:
            packed.batch(random.integers(0, packed.num_rows, batch_size))
            batches += 1
        best = max(best, batches * batch_size * (packed.row_length - 1) / passed)
    return best


if __name__ == "__main__":
    run_script(main)
