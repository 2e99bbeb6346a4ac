"""What saving costs: seconds that one save takes away from training, as a share of the five minutes between two.

    python -m benchmarks.reliability.save_stall                          small, Muon and AdamW
    python -m benchmarks.reliability.save_stall --optimizer adamw --rounds 5

The preset `small` trains the same updates in turns with a save every few of them and without any. A save costs twice:
the loop waits while weights and optimizer state are copied, and then a thread writes, sums and reads back beside the
updates, which become slower. The first is measured by itself; both together are the difference between the two runs.
"""

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.reliability.launching import run_here
from benchmarks.reliability.ranks_speed import load
from benchmarks.reliability.worlds import make_random_set
from model.errors import UserError, run_script
from trainer import loop
from trainer.saving import Writer
from trainer.settings import flag, parse_settings
from trainer.update import Update, make_update

ROWS = 4
WARM_UP = 2  # updates
BOUND = 0.05


@dataclass(frozen=True)
class StallSettings:
    """How much of it."""

    rounds: int = flag(3, "pairs of runs")
    saves: int = flag(3, "saves of each run")
    save_interval: int = flag(5, "updates between two saves: long enough for one to be written")
    optimizer: str = flag("both", "muon, adamw or both")
    preset: str = flag("small", "the model")
    max_seq_len: int = flag(512, "tokens in a row")
    num_threads: int = flag(0, "default all cores")
    folder: str | None = flag(None, "where to work (default: a temporary folder)")


@dataclass
class Times:
    """What a run did when, in seconds of `time.monotonic`."""

    updates: list[float] = field(default_factory=list)  # beginnings
    blocked: list[float] = field(default_factory=list)  # for how long the loop waited for a save
    written: list[float] = field(default_factory=list)  # for how long a save was written beside

    def trained(self, last: int) -> float:
        """Seconds from the first warm update to the beginning of update `last`, counted from 0."""
        return self.updates[last] - self.updates[WARM_UP]


def main() -> int:
    """Settings → packed set → rounds of two runs, for each optimizer → shares."""
    (settings,) = parse_settings(StallSettings, description=__doc__)
    if min(settings.rounds, settings.saves, settings.max_seq_len) < 1 or settings.save_interval <= WARM_UP:
        raise UserError(f"--rounds, --saves, --max_seq_len: expected 1 or more; --save_interval: more than {WARM_UP}")
    if settings.optimizer not in ("muon", "adamw", "both"):
        raise UserError(f"--optimizer: found {settings.optimizer!r}, expected muon, adamw or both")
    optimizers = ["muon", "adamw"] if settings.optimizer == "both" else [settings.optimizer]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(settings.folder or temporary)
        make_random_set(folder, ROWS * settings.save_interval * (settings.saves + 1), settings.max_seq_len)
        is_good = [measure(folder, settings, optimizer) for optimizer in optimizers]
    return 0 if all(is_good) else 1


def measure(folder: Path, settings: StallSettings, optimizer: str) -> bool:
    """Print what a save costs with this optimizer; whether it is within the bound."""
    differences: list[float] = []
    blocked: list[float] = []
    written: list[float] = []
    for number in range(settings.rounds):
        plain = train(folder, settings, optimizer, saves=False)
        saving = train(folder, settings, optimizer, saves=True)
        last = settings.save_interval * (settings.saves + 1) - 1
        difference = (saving.trained(last) - plain.trained(last)) / settings.saves
        differences.append(difference)
        # The last save is the run's end, not beside training.
        blocked += saving.blocked[: settings.saves]
        written += saving.written[: settings.saves]
        print(
            f"{optimizer}, round {number + 1}: {last - WARM_UP} updates in {plain.trained(last):.1f} s, with "
            f"{settings.saves} saves in {saving.trained(last):.1f} s: {difference:+.2f} s a save{load()}",
            flush=True,
        )
    taken, waits = statistics.median(differences), statistics.median(blocked)
    # The difference of two long times is uncertain; what the loop waited is the least that it can be.
    share = max(taken, waits) / loop.SAVE_SECONDS
    is_within = share <= BOUND
    print(
        f"{settings.preset}, {optimizer}: a save takes {taken:.2f} s from training (median; {min(differences):.2f} to "
        f"{max(differences):.2f}), of which the loop waits {waits:.2f} s; written beside in "
        f"{statistics.median(written):.2f} s; {share:.2%} of the {loop.SAVE_SECONDS:.0f} s between two saves, "
        f"asked for at most {BOUND:.0%}{'' if is_within else '  outside'}",
        flush=True,
    )
    return is_within


def train(folder: Path, settings: StallSettings, optimizer: str, saves: bool) -> Times:
    """One run of 1-pretrain.py in this process, with a save every few updates, or with one at its end alone."""
    times = Times()
    steps = settings.save_interval * (settings.saves + 1)
    flags: list[Any] = ["--data_path", folder / "packed" / "random", "--out_dir", folder / "out"]
    flags += ["--run_name", "stall", "--preset", settings.preset, "--optimizer", optimizer, "--max_steps", steps]
    flags += ["--batch_size", ROWS, "--device", "cpu", "--num_threads", settings.num_threads, "--overwrite"]
    flags += ["--save_interval", settings.save_interval if saves else steps, "--max_rollbacks", 0]
    with timed(times):
        run_here("1-pretrain.py", *flags, "--sample_interval", -1, log=folder / "stall.log")
    return times


@contextlib.contextmanager
def timed(times: Times) -> Iterator[None]:
    """While this lasts, updates and saves are timed."""
    save, submit = loop._save, Writer.submit

    def timed_update(*arguments: Any) -> Update:
        times.updates.append(time.monotonic())
        return make_update(*arguments)

    def timed_save(run: Any) -> None:
        begin = time.monotonic()
        save(run)
        times.blocked.append(time.monotonic() - begin)

    def timed_submit(writer: Writer, job: Callable[[], object]) -> None:
        def timed_job() -> None:
            begin = time.monotonic()
            job()
            times.written.append(time.monotonic() - begin)

        submit(writer, timed_job)

    with (
        mock.patch.object(loop, "make_update", timed_update),
        mock.patch.object(loop, "_save", timed_save),
        mock.patch.object(Writer, "submit", timed_submit),
    ):
        yield


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    run_script(main)
