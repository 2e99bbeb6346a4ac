"""How much memory packing takes with a small and a large input: all processes together, at the worst moment.

    python -m benchmarks.pack_memory                                       0.5 GB and 2 GB of generated text
    python -m benchmarks.pack_memory --megabytes 50 200 --num_workers 2    quicker

The figure is the proportional set size without file pages, summed over all processes (benchmarks/process_memory.py).
It should not grow with the input. `--near_dedup` and whatever else data_process.py takes can be put behind `--flags`.
"""

import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.inputs import REPOSITORY, run, write_documents
from benchmarks.process_memory import MemoryWatch
from model.errors import UserError, run_script
from trainer.settings import flag, parse_settings


@dataclass(frozen=True)
class PackMemorySettings:
    """What is packed."""

    megabytes: list[int] = flag([500, 2000], "sizes of the inputs, the smallest first")
    num_workers: int = flag(4, "processes that tokenise")
    tokenizer: str | None = flag(None, "a tokenizer's folder (default: one trained on generated text)")
    flags: str = flag("", "more flags of data_process.py, in quotes")


def main() -> None:
    """Settings → inputs → a watched run of each → table."""
    (settings,) = parse_settings(PackMemorySettings, description=__doc__)
    if min(settings.megabytes) < 1:
        raise UserError("--megabytes: expected at least 1")
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = settings.tokenizer
        if tokenizer is None:
            sample, tokenizer = folder / "sample.jsonl", str(folder / "tokenizer")
            write_documents(sample, 20_000_000, lambda numbers: numbers.randint(2, 40))
            run("train_tokenizer.py", "--data_path", sample, "--tokenizer", tokenizer)
        for megabytes in settings.megabytes:
            path = folder / f"{megabytes}mb.jsonl"
            write_documents(path, megabytes * 1_000_000, lambda numbers: numbers.randint(2, 40), seed=megabytes)
            peak, seconds, output = watched_run(path, tokenizer, settings, folder / "packed")
            peaks.append(peak)
            print(f"{megabytes:6,} MB: peak {peak / (1 << 20):7,.0f} MiB, {seconds:6.1f} s, {output}", flush=True)
            path.unlink()
    ratio = peaks[-1] / peaks[0]
    print(
        f"largest against smallest input: {ratio:.3f}x; at most {max(peaks) / (1 << 30):.2f} GiB "
        f"over all processes ({settings.num_workers} workers)"
    )


def watched_run(path: Path, tokenizer: str, settings: PackMemorySettings, packed_dir: Path) -> tuple[int, float, str]:
    """Pack a file: the peak in bytes, seconds, and what was packed."""
    command = [sys.executable, str(REPOSITORY / "data_process.py"), "pretrain", "--data_path", str(path)]
    command += ["--tokenizer", tokenizer, "--packed_dir", str(packed_dir), "--num_workers", str(settings.num_workers)]
    command += shlex.split(settings.flags)
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with MemoryWatch(process.pid) as watch:
        output, _ = process.communicate()
    if process.returncode:
        sys.exit(process.returncode)
    summary = next(line for line in output.splitlines() if " tokens in " in line)
    return watch.peak_bytes, time.monotonic() - started, summary.split(" (max_seq_len")[0]


if __name__ == "__main__":
    run_script(main)
