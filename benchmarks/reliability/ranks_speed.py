"""What is lost when one machine's cores are shared by two processes: tokens a second of two ranks against one.

    python -m benchmarks.reliability.ranks_speed                        Muon, the script's default
    python -m benchmarks.reliability.ranks_speed --optimizer adamw --rounds 5

Both train the preset `small` (26.9 million parameters) on rows of 512 random tokens, 4 rows a rank and update: one
process with all threads, and two with half of them each, which exchange 108 MB of gradients every update. They run in
turns, so that other work on the machine disturbs both alike; each round gives one ratio. The seconds of an update are
those that the run itself logs.
"""

import itertools
import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reliability.launching import Launched, run
from benchmarks.reliability.worlds import make_random_set
from model.device import num_cores
from model.errors import UserError, run_script
from trainer.settings import flag, parse_settings

ROWS = 4  # of each rank in an update
WARM_UP = 3  # updates
BOUND = 0.85


@dataclass(frozen=True)
class SpeedSettings:
    """How much of it."""

    rounds: int = flag(5, "pairs of runs")
    steps: int = flag(12, "updates of each run, of which the first 3 are not timed")
    optimizer: str = flag("auto", "auto (the script's default), muon or adamw")
    preset: str = flag("small", "the model")
    max_seq_len: int = flag(512, "tokens in a row")
    num_threads: int = flag(0, "of the one process, half of them for each of two; default all cores")
    folder: str | None = flag(None, "where to work (default: a temporary folder)")


def main() -> int:
    """Settings → packed set → rounds of two runs → ratios."""
    (settings,) = parse_settings(SpeedSettings, description=__doc__)
    threads = settings.num_threads or num_cores()
    if settings.rounds < 1 or settings.steps <= WARM_UP or settings.max_seq_len < 1:
        raise UserError(f"--rounds and --max_seq_len: expected 1 or more; --steps: more than {WARM_UP}")
    if threads < 2:
        raise UserError(f"--num_threads: found {threads}, expected 2 or more: one for each process")
    ratios = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(settings.folder or temporary)
        make_random_set(folder, 2 * ROWS * settings.steps, settings.max_seq_len)
        for number in range(settings.rounds):
            one = tokens_per_second(folder, settings, Launched(1), threads)
            two = tokens_per_second(folder, settings, Launched(2), threads // 2)
            ratios.append(two / one)
            print(
                f"round {number + 1}: 1 rank × {threads} threads {one:,.0f} tokens/s, "
                f"2 ranks × {threads // 2} threads {two:,.0f} tokens/s, ratio {ratios[-1]:.3f}{load()}",
                flush=True,
            )
    median = statistics.median(ratios)
    is_within = median >= BOUND
    print(
        f"{settings.preset}, {settings.optimizer}: ratio {median:.3f} (median; {min(ratios):.3f} to "
        f"{max(ratios):.3f}), asked for at least {BOUND}{'' if is_within else '  outside'}"
    )
    return 0 if is_within else 1


def tokens_per_second(folder: Path, settings: SpeedSettings, launched: Launched, threads: int) -> float:
    """One run's speed, by the median of its warm updates."""
    name = f"ranks_{launched.processes}"
    flags: list[Any] = ["--data_path", folder / "packed" / "random", "--out_dir", folder / "out", "--run_name", name]
    flags += ["--preset", settings.preset, "--optimizer", settings.optimizer, "--max_steps", settings.steps]
    flags += ["--batch_size", ROWS, "--accumulation_steps", 1, "--num_threads", threads, "--device", "cpu"]
    # Nothing is saved before the end: a save writes beside the updates.
    flags += ["--log_interval", 1, "--sample_interval", -1, "--max_rollbacks", 0, "--overwrite"]
    run("1-pretrain.py", *flags, launched=launched)
    lines = (folder / "out" / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    pairs = list(itertools.pairwise(rows))[WARM_UP - 1 :]
    return statistics.median(
        (now["tokens"] - before["tokens"]) / (now["seconds"] - before["seconds"]) for before, now in pairs
    )


def load() -> str:
    """How busy the machine was in the last minute, where it can be asked."""
    return f" (load {os.getloadavg()[0]:.1f})" if hasattr(os, "getloadavg") else ""


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    run_script(main)
