"""How fast `data_process.py pretrain` is, against `datasets.map` with `tokenizers` alone, from JSON Lines to the disk.

    python -m benchmarks.pack_speed                                   100 MB of generated text, and the poems
    python -m benchmarks.pack_speed mine.jsonl --tokenizer out/tokenizer --num_workers 8 --rounds 5

Both are commands of their own, timed from start to end, with the same tokenizer and the same number of processes, in
turns. The peer does nothing but tokenise: no document mark, no duplicates, no rows. Ours runs with cleaning off, but
looks for exact duplicates, as it always does. Beside the whole commands stands the peer's `map` alone, without
starting Python and reading JSON. Above 1 means that ours is faster.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.inputs import real_file, run, write_documents
from model.errors import UserError, run_script
from trainer.settings import flag, parse_settings

# The peer, as its documentation would have it: one batched map.
PEER = """
import os, sys, time
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
import datasets
from tokenizers import Tokenizer
path, tokenizer_path, num_proc, folder = sys.argv[1:]
tokenizer = Tokenizer.from_file(tokenizer_path)
datasets.disable_progress_bars()
rows = datasets.load_dataset("json", data_files=path, split="train", cache_dir=folder)
started = time.perf_counter()
rows.map(
    lambda batch: {"input_ids": [encoding.ids for encoding in tokenizer.encode_batch(batch["text"])]},
    batched=True, num_proc=int(num_proc), remove_columns=rows.column_names,
)
print(time.perf_counter() - started)
"""


@dataclass(frozen=True)
class PackSpeedSettings:
    """What is packed, and how often."""

    tokenizer: str | None = flag(None, "a tokenizer's folder (default: one trained on the first input)")
    num_workers: int = flag(4, "processes of either")
    rounds: int = flag(3, "how often each runs")
    megabytes: int = flag(100, "size of the generated text")


def main() -> None:
    """Settings → inputs → rounds of both → table."""
    positionals = {
        "path": {"nargs": "?", "help": "JSON Lines (default: generated text, and the poems of the real data)"}
    }
    settings, rest = parse_settings(PackSpeedSettings, description=__doc__, positionals=positionals)
    if min(settings.num_workers, settings.rounds, settings.megabytes) < 1:
        raise UserError("--num_workers, --rounds and --megabytes: expected at least 1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [Path(rest.path)] if rest.path else default_inputs(folder, settings.megabytes)
        tokenizer = settings.tokenizer
        if tokenizer is None:
            tokenizer = str(folder / "tokenizer")
            run("train_tokenizer.py", "--data_path", paths[0], "--tokenizer", tokenizer)
        for path in paths:
            compare(path, tokenizer, settings, folder)


def default_inputs(folder: Path, megabytes: int) -> list[Path]:
    """Generated text, and the poems where they are."""
    generated = folder / "generated.jsonl"
    write_documents(generated, megabytes * 1_000_000, lambda numbers: numbers.randint(2, 40))
    poems = real_file("text/poems.jsonl")
    return [generated, poems] if poems else [generated]


def compare(path: Path, tokenizer: str, settings: PackSpeedSettings, folder: Path) -> None:
    """Time both in turns on one input, and print medians and ratios."""
    ours, peers, maps = [], [], []
    for _ in range(settings.rounds):
        ours.append(time_ours(path, tokenizer, settings.num_workers, folder))
        whole, map_alone = time_peer(path, tokenizer, settings.num_workers, folder)
        peers.append(whole)
        maps.append(map_alone)
    ratios = [peer / own for own, peer in zip(ours, peers, strict=True)]
    map_ratios = [map_alone / own for own, map_alone in zip(ours, maps, strict=True)]
    megabytes = path.stat().st_size / 1e6
    print(f"{path.name}: {megabytes:,.1f} MB, {settings.num_workers} processes, median of {settings.rounds} rounds")
    for seconds, meaning in (
        (ours, "data_process.py pretrain, to a packed set"),
        (peers, "datasets.map + tokenizers, to an Arrow file"),
        (maps, "its map alone"),
    ):
        median = statistics.median(seconds)
        print(f"  {median:8.2f} s  {megabytes / median:7.1f} MB/s  {meaning}")
    print(
        f"  ratio to the peer {statistics.median(ratios):.2f}x (to its map alone {statistics.median(map_ratios):.2f}x)"
    )


def time_ours(path: Path, tokenizer: str, num_workers: int, folder: Path) -> float:
    """Seconds of the whole command."""
    with tempfile.TemporaryDirectory(dir=folder) as packed_dir:
        started = time.perf_counter()
        flags = ["--data_path", path, "--name", "measured", "--packed_dir", packed_dir, "--tokenizer", tokenizer]
        run("data_process.py", "pretrain", *flags, "--cleaning", "none", "--num_workers", num_workers)
        return time.perf_counter() - started


def time_peer(path: Path, tokenizer: str, num_workers: int, folder: Path) -> tuple[float, float]:
    """Seconds of the whole command, and of the map in it."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        started = time.perf_counter()
        command = [sys.executable, "-c", PEER, str(path), f"{tokenizer}/tokenizer.json", str(num_workers), cache]
        result = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - started
        if result.returncode:
            raise UserError(f"{path}: the peer could not read it; expected JSON Lines with a field text")
        return seconds, float(result.stdout)


if __name__ == "__main__":
    run_script(main)
