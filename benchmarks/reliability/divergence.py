"""A planted divergence: the run notices, goes back, and ends as well as if nothing had happened.

    python -m benchmarks.reliability.divergence
    python -m benchmarks.reliability.divergence --only moe

Each model is trained four times by the real script: undisturbed; disturbed with rollbacks switched off; and disturbed
twice as a user would run it. The disturbance is a learning rate 30 times as high in ten updates from step 100 on. As
a fault of the *machine* it acts when those updates are made for the first time; as a fault of the *data* it acts
whenever the global batches of those updates are trained on, until they are skipped. Asked for: an alarm before the loss
leaves its running mean ± 6 σ, no person's help, a final validation loss within 2 % of the undisturbed run's, and
silence in that run. When the loss leaves is seen in the run without rollbacks, which does the same until the first.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.reliability.launching import run, run_here
from dataset.little_world.generator import little_world_files
from dataset.packing import PackedSet
from dataset.sampler import rows_of_step
from model.errors import RunFailed, UserError, run_script
from trainer.engine import Engine
from trainer.journal import Journal
from trainer.loader import Step
from trainer.settings import flag, parse_settings
from trainer.state import TrainState
from trainer.update import Update, make_update

SIZES = ["--dim", 64, "--n_layers", 2, "--n_heads", 4, "--n_kv_heads", 2]
EXPERTS = ["--use_moe", "--n_routed_experts", 4, "--n_shared_experts", 1, "--num_experts_per_tok", 2]
MODELS = {
    "dense muon": [*SIZES, "--optimizer", "muon"],
    "dense adamw": [*SIZES, "--optimizer", "adamw"],
    "moe muon": [*SIZES, *EXPERTS, "--optimizer", "muon"],
}
FIRST, COUNT = 100, 10  # the disturbed updates, counted from 0
SEED, BATCH_SIZE, MAX_SEQ_LEN = 1337, 8, 96
WINDOW, SIGMAS = 50, 6
BOUND = 0.02


@dataclass(frozen=True)
class DivergenceSettings:
    """How much of it."""

    steps: int = flag(400, "updates of each run")
    factor: float = flag(30.0, "how many times too high the learning rate is")
    only: str | None = flag(None, "only models whose name has this in it")
    folder: str | None = flag(None, "where to work (default: a temporary folder)")


def main() -> int:
    """Settings → packed sets → four runs a model → what they did."""
    (settings,) = parse_settings(DivergenceSettings, description=__doc__)
    if settings.steps < FIRST + 2 * COUNT or not settings.factor > 0:
        raise UserError(f"--steps: expected {FIRST + 2 * COUNT} or more; --factor: expected a number above 0")
    models = {name: flags for name, flags in MODELS.items() if settings.only is None or settings.only in name}
    if not models:
        raise UserError(f"--only: found {settings.only!r}, expected a part of {', '.join(MODELS)}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_sets(Path(settings.folder or temporary))
        is_good = [measure(folder, name, flags, settings) for name, flags in models.items()]
    print("all within their bounds" if all(is_good) else "NOT within the bounds")
    return 0 if all(is_good) else 1


def make_sets(folder: Path) -> Path:
    """`packed/text` and `packed/text_val` of the little world: no row of the first is seen twice in 400 updates."""
    if (folder / "packed").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    lines = little_world_files()["pretrain.jsonl"].splitlines()
    tokenizer, making = folder / "tokenizer", folder / "making"
    for name, chosen in (("text", lines[::3]), ("text_val", lines[1::60])):
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(chosen) + "\n", encoding="utf-8")
        if name == "text":
            run("train_tokenizer.py", "--data_path", path, "--vocab_size", 512, "--tokenizer", tokenizer)
        flags = ["--name", name, "--tokenizer", tokenizer, "--packed_dir", making, "--max_seq_len", MAX_SEQ_LEN]
        run("data_process.py", "pretrain", "--data_path", path, *flags)
    making.rename(folder / "packed")
    return folder


# ---- a run that is disturbed and watched --------------------------------------------------------------------------


@dataclass
class Fault:
    """Makes some updates with a learning rate that is too high.

    `batches` are the disturbed global batches, each [rows, seq]; None: the updates are disturbed, each once.
    """

    factor: float
    batches: list[torch.Tensor] | None = None
    made: set[int] = field(default_factory=set)

    def acts(self, step: Step) -> bool:
        """Whether this update is disturbed."""
        if self.batches is not None:
            inputs = torch.cat([batch["input_ids"] for batch in step.micro_batches])
            return any(torch.equal(inputs, batch) for batch in self.batches)
        is_first_time = step.index not in self.made
        self.made.add(step.index)
        return FIRST <= step.index < FIRST + COUNT and is_first_time


@dataclass
class Seen:
    """What a run did, noted beside its log: that forgets what was rolled back."""

    steps: list[int] = field(default_factory=list)  # of every update made, counted from 1 as the log does
    losses: list[float] = field(default_factory=list)
    alarms: list[tuple[int, str]] = field(default_factory=list)  # after how many updates; the sentence
    rollbacks: list[tuple[int, int, list[int]]] = field(default_factory=list)  # from, to, skipped positions
    disturbed: int = 0
    validation_loss: float = float("nan")
    failure: str | None = None

    @property
    def skipped(self) -> int:
        """Global batches that were jumped over."""
        positions: set[int] = set()
        for _, _, (first, last) in self.rollbacks:
            positions |= set(range(first, last + 1))
        return len(positions)


def train(folder: Path, name: str, flags: list[Any], fault: Fault | None) -> Seen:
    """One run of 1-pretrain.py in this process."""
    seen = Seen()
    arguments = ["--data_path", folder / "packed" / "text", "--out_dir", folder / "out", "--run_name", name]
    arguments += ["--batch_size", BATCH_SIZE, "--seed", SEED, "--device", "cpu", "--num_threads", 1, "--overwrite"]
    arguments += ["--sample_interval", -1, *flags]
    with watched(seen, fault):
        try:
            run_here("1-pretrain.py", *arguments, log=folder / f"{name}.log")
        except RunFailed as error:
            seen.failure = str(error)
    rows = [json.loads(row) for row in (folder / "out" / name / "metrics.jsonl").read_text("utf-8").splitlines()]
    if seen.failure is None:
        seen.validation_loss = [row["loss"] for row in rows if row["kind"] == "validation"][-1]
    return seen


@contextlib.contextmanager
def watched(seen: Seen, fault: Fault | None) -> Iterator[None]:
    """While this lasts, the loop's updates are disturbed by `fault` and noted in `seen`."""
    say_alarm, say_rollback = Journal.alarm, Journal.rolled_back

    def update(engine: Engine, objective: Any, step: Step, learning_rate: float, *others: Any) -> Update:
        if fault is not None and fault.acts(step):
            seen.disturbed += 1
            learning_rate *= fault.factor
        made = make_update(engine, objective, step, learning_rate, *others)
        seen.steps.append(step.index + 1)
        seen.losses.append(made.losses["loss"])
        return made

    def alarm(journal: Journal, step: int, sentence: str) -> None:
        seen.alarms.append((len(seen.steps), sentence))
        say_alarm(journal, step, sentence)

    def rolled_back(journal: Journal, state: TrainState, spiked_at: int, window: list[int]) -> None:
        seen.rollbacks.append((spiked_at, state.step, window))
        say_rollback(journal, state, spiked_at, window)

    with (
        mock.patch("trainer.loop.make_update", update),
        mock.patch.object(Journal, "alarm", alarm),
        mock.patch.object(Journal, "rolled_back", rolled_back),
    ):
        yield


def batches_of(packed: PackedSet) -> list[torch.Tensor]:
    """The inputs of the global batches that stand where the disturbance is."""
    rows = [rows_of_step(packed.num_rows, BATCH_SIZE, SEED, position) for position in range(FIRST, FIRST + COUNT)]
    return [torch.from_numpy(packed.batch(each)["input_ids"]) for each in rows]


# ---- what is asked of it ------------------------------------------------------------------------------------------


def measure(folder: Path, name: str, flags: list[Any], settings: DivergenceSettings) -> bool:
    """Train one model four times, print what happened, say whether it is what we ask for."""
    batches = batches_of(PackedSet.open(folder / "packed" / "text"))
    flags = [*flags, "--max_steps", settings.steps]
    run_name = name.replace(" ", "_")
    whole = train(folder, f"{run_name}_whole", flags, None)
    alone = train(folder, f"{run_name}_alone", [*flags, "--max_rollbacks", 0], Fault(settings.factor))
    left_at = leaves(alone.losses, FIRST)
    lost = alone.validation_loss / whole.validation_loss - 1
    print(
        f"{name}, undisturbed: validation loss {whole.validation_loss:.4f}, {len(whole.alarms)} alarms, "
        f"{len(whole.rollbacks)} rollbacks"
    )
    print(
        f"{name}, without rollbacks: the loss leaves mean ± {SIGMAS} σ at step {left_at or 'none'}, "
        f"validation loss {alone.validation_loss:.4f} ({lost:+.1%})",
        flush=True,
    )
    is_good = not whole.alarms and not whole.rollbacks
    for kind, fault in (("machine", Fault(settings.factor)), ("data", Fault(settings.factor, batches))):
        seen = train(folder, f"{run_name}_{kind}", flags, fault)
        is_good &= judge(f"{name}, fault of the {kind}", seen, left_at, whole.validation_loss)
    return is_good


def judge(name: str, seen: Seen, left_at: int | None, undisturbed: float) -> bool:
    """Print a disturbed run's line; whether it is within the bounds."""
    alarms = [made for made, _ in seen.alarms if made > FIRST]
    alarm_at = seen.steps[alarms[0] - 1] if alarms else None
    is_early = alarm_at is not None and (left_at is None or alarm_at < left_at)
    difference = seen.validation_loss / undisturbed - 1
    is_within = is_early and seen.failure is None and abs(difference) <= BOUND
    ways = ", ".join(f"{start} → {end}" for start, end, _ in seen.rollbacks)
    print(
        f"{name}: first alarm at step {alarm_at or 'none'}, {len(seen.rollbacks)} rollbacks"
        f"{f' ({ways})' if ways else ''}, {seen.disturbed} updates disturbed, {seen.skipped} global batches skipped, "
        f"validation loss {seen.validation_loss:.4f} ({difference:+.2%}){'' if is_within else '  outside'}"
        f"{f': {seen.failure}' if seen.failure else ''}",
        flush=True,
    )
    return is_within


def leaves(losses: list[float], first: int) -> int | None:
    """The first step, counted from 1, whose loss is outside the mean ± 6 σ of the last 50 before update `first`."""
    usual = np.array(losses[max(0, first - WINDOW) : first])
    outside = np.abs(np.array(losses[first:]) - usual.mean()) > SIGMAS * usual.std()
    # A loss that is not a number has left as well.
    found = np.flatnonzero(outside | ~np.isfinite(losses[first:]))
    return first + int(found[0]) + 1 if len(found) else None


if __name__ == "__main__":
    run_script(main)
