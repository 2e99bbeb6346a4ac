"""How many near-duplicates are found among many short rows, how surely, how fast and in how much memory.

    python -m benchmarks.near_duplicates                              1,000,000 rows
    python -m benchmarks.near_duplicates --rows 100000 --memory_mb 16 --num_workers 2

Rows of 60 to 200 characters, half of them Chinese-like and half English-like, are generated from a seed. One in ten
is a planted near-duplicate (Jaccard similarity of at least 0.85 with an earlier row, never equal to it), one in ten a
decoy (0.5 to 0.7). The truth is computed while planting, with plain Python sets of substrings, and by nothing that the
finder uses. Whatever else is dropped counts as a mistake. Generating is not part of the time.
"""

import json
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.process_memory import MemoryWatch
from dataset.cleaning import digest
from dataset.dedup import KEEP, DuplicateFinder, NearDuplicateSettings, NearKeys
from model.errors import UserError, run_script
from trainer.settings import flag, parse_settings

CHUNK_ROWS = 5_000
NGRAM, THRESHOLD = 5, 0.85
DECOY_RANGE = (0.5, 0.7)
PLAIN, PLANTED, DECOY = 0, 1, 2


@dataclass(frozen=True)
class NearDuplicateBenchmarkSettings:
    """How much to generate, and what to find it with."""

    rows: int = flag(1_000_000, "rows to generate")
    num_workers: int = flag(4, "processes that compute signatures")
    memory_mb: int = flag(1024, "memory of the finder; what does not fit is sorted on disk")
    seed: int = flag(1, "of the generated rows")


def main() -> None:
    """Settings → rows on disk → keys, in processes → decisions → table."""
    (settings,) = parse_settings(NearDuplicateBenchmarkSettings, description=__doc__)
    if settings.rows < 1 or settings.num_workers < 1 or settings.memory_mb < 1:
        raise UserError("--rows, --num_workers and --memory_mb: expected at least 1")
    starts = range(0, settings.rows, CHUNK_ROWS)
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / f"rows-{start}.jsonl" for start in starts]
        with ProcessPoolExecutor(settings.num_workers, get_context("spawn")) as pool:
            jobs = [
                (path, range(start, min(start + CHUNK_ROWS, settings.rows)), settings.seed)
                for path, start in zip(paths, starts, strict=True)
            ]
            kinds = np.concatenate(list(in_order(pool, write_rows, jobs, settings.num_workers)))
        measure(settings, Path(name), paths, kinds)


def measure(settings: NearDuplicateBenchmarkSettings, folder: Path, paths: list[Path], kinds: np.ndarray) -> None:
    """Find the duplicates among the rows in `paths` and print how that went."""
    near = NearDuplicateSettings(THRESHOLD, NGRAM)
    finder = DuplicateFinder(folder, settings.memory_mb << 20, near)
    with MemoryWatch() as memory:
        start = time.perf_counter()
        with ProcessPoolExecutor(settings.num_workers, get_context("spawn")) as pool:
            for keys in in_order(pool, keys_of_file, [(path, near) for path in paths], settings.num_workers):
                finder.add(*keys)
        middle = time.perf_counter()
        dropped = finder.finish() != KEEP
        end = time.perf_counter()
    planted, found = int((kinds == PLANTED).sum()), int(dropped[kinds == PLANTED].sum())
    num_dropped = int(dropped.sum())
    print(
        f"{len(kinds):,} rows: {planted:,} planted near-duplicates (Jaccard >= {THRESHOLD:g}), "
        f"{(kinds == DECOY).sum():,} decoys ({DECOY_RANGE[0]:g} to {DECOY_RANGE[1]:g})"
    )
    bands = f"{near.bands} bands of {near.rows}"
    print(f"  {found / max(1, planted):9.3%}  recall ({near.recall:.1%} expected at the threshold, {bands})")
    print(f"  {found / max(1, num_dropped):9.3%}  precision ({num_dropped - found} of {num_dropped:,} dropped wrongly)")
    print(f"  {end - start:7.1f} s  {len(kinds) / (end - start):,.0f} rows/s:")
    print(f"  {middle - start:7.1f} s  - keys, in {settings.num_workers} processes")
    print(f"  {end - middle:7.1f} s  - grouping, verifying, deciding, in one")
    print(f"  {finder.index_bytes / 1e6:6.0f} MB  index on disk and in memory, {finder.bytes_per_row:.0f} bytes a row")
    print(
        f"  {memory.own_peak_bytes / 1e6:6.0f} MB  peak memory of the finder's process (allowed: "
        f"{settings.memory_mb << 20:,} bytes beside Python and its libraries)"
    )
    print(f"  {memory.peak_bytes / 1e6:6.0f} MB  peak memory of all processes")


def in_order(
    pool: ProcessPoolExecutor, job: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], num_workers: int
) -> Iterator[Any]:
    """The results of jobs in their order, with only a few on their way at any time."""
    on_their_way: deque[Future[Any]] = deque()
    for some in arguments:
        on_their_way.append(pool.submit(job, *some))
        if len(on_their_way) > 2 * num_workers:
            yield on_their_way.popleft().result()
    while on_their_way:
        yield on_their_way.popleft().result()


def keys_of_file(path: Path, near: NearDuplicateSettings) -> tuple[np.ndarray, ...]:
    """What the finder wants to know about the rows of a file."""
    texts = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    digests = np.frombuffer(b"".join(map(digest, texts)), np.uint8).reshape(len(texts), -1)
    return digests, *near_keys(near)(texts)


@lru_cache(maxsize=1)
def near_keys(near: NearDuplicateSettings) -> NearKeys:
    """One for each process."""
    return NearKeys(near)


# The rows. Row i is a function of (seed, i), so any process can make any of them.


def write_rows(path: Path, rows: range, seed: int) -> np.ndarray:
    """Write some rows as a file; returns what kind each of them is."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row_text(seed, row), ensure_ascii=False) + "\n")
    return np.array([kind_of(seed, row) for row in rows], np.uint8)


def kind_of(seed: int, row: int) -> int:
    """Whether a row is planted, a decoy, or neither."""
    chance = int.from_bytes(digest(f"{seed} {row}")[:4], "big") / 2**32
    return PLANTED if row and chance < 0.1 else DECOY if row and chance < 0.2 else PLAIN


def row_text(seed: int, row: int) -> str:
    """A row's text; that of a planted row or a decoy is made of an earlier plain row."""
    kind = kind_of(seed, row)
    if kind == PLAIN:
        return plain_text(seed, row)
    chance = random.Random(f"edit {seed} {row}")
    source = 0
    for _ in range(100):
        source = chance.randrange(row)
        if kind_of(seed, source) == PLAIN:
            break
    else:
        source = 0
    low, high = DECOY_RANGE if kind == DECOY else (THRESHOLD, 1.0)
    return edited(plain_text(seed, source), low, high, chance)


def edited(text: str, low: float, high: float, chance: random.Random) -> str:
    """A text edited until its exact similarity to the original lies in a range, somewhere in it."""
    original, (language, *_) = shingles(text), languages()[is_chinese(text)]
    while True:
        target, copy, similarity = chance.uniform(low, high), text, 1.0
        while copy == text or similarity > max(target, low + 0.02):
            place = chance.randrange(len(copy) + 1)
            removed = chance.choice((0, 0, 1, 2, 5))
            copy = copy[:place] + chance.choice(language).strip() * (removed != 5) + copy[place + removed :]
            copy = " ".join(copy.split())
            similarity = jaccard(original, shingles(copy))
        if low <= similarity <= high:
            return copy


def shingles(text: str) -> set[str]:
    """All substrings of five characters. The texts here are in normal form already."""
    return {text[start : start + NGRAM] for start in range(len(text) - NGRAM + 1)}


def jaccard(one: set[str], other: set[str]) -> float:
    """The share of common elements."""
    return len(one & other) / len(one | other)


def plain_text(seed: int, row: int) -> str:
    """Words as frequent as in real text (Zipf's law), sometimes after a phrase that many rows begin with."""
    chance = random.Random(f"plain {seed} {row}")
    words, weights, phrases = languages()[chance.random() < 0.5]
    length = chance.randint(60, 200)
    text = chance.choice(phrases) if chance.random() < 0.3 else ""
    while len(text) < length:
        text += "".join(chance.choices(words, cum_weights=weights, k=8))
    return text[:length].strip()


def is_chinese(text: str) -> bool:
    """Whether a generated text is of the Chinese-like kind."""
    return any("\u4e00" <= character <= "\u9fff" for character in text[:8])


@lru_cache(maxsize=1)
def languages() -> tuple[tuple[list[str], list[float], list[str]], ...]:
    """Two invented vocabularies, English-like and Chinese-like: words, cumulated weights, opening phrases."""
    chance = random.Random("words")
    syllables = [a + b for a in ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "st", "th", "v") for b in "aeiou"]
    latin = ["".join(chance.choices(syllables, k=chance.choice((1, 2, 2, 3)))) + " " for _ in range(8000)]
    characters = [chr(0x4E00 + number) for number in chance.sample(range(0x5000), 3000)]
    han = ["".join(chance.choices(characters, k=chance.choice((1, 2, 2, 3)))) for _ in range(8000)]
    weights = list(accumulate(1 / rank for rank in range(1, 8001)))
    return tuple(
        (words, weights, ["".join(chance.choices(words, cum_weights=weights, k=6)) for _ in range(50)])
        for words in (latin, han)
    )


if __name__ == "__main__":
    run_script(main)
