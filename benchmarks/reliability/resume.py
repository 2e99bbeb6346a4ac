"""A killed run goes on to the same weights, bit for bit.

    python -m benchmarks.reliability.resume                      30 kills of one process and of two
    python -m benchmarks.reliability.resume --kills 6 --processes 2
    python -m benchmarks.reliability.resume --stage dpo          preferences (or lora) in the place of pretraining

A run of 200 updates that saves every 5 is trained once without a disturbance. Then it is trained again and again, each
time killed with −9 once: at a uniformly random time, or in the middle of a save (seen by its half-written folder). The
same command is started once more, and weights, optimizer state and log are compared with the undisturbed run's. At the
end: from 4 processes to 2 and to 1 in the middle of an epoch, and from DDP to ZeRO-2 to one process.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch

from benchmarks.reliability.invariance import ADAMW, MOE, SETS, SIZES, parent
from benchmarks.reliability.launching import Launched, losses, run, start
from benchmarks.reliability.worlds import make_world
from model.checkpoint import load_checkpoint
from model.errors import UserError, run_script
from trainer.metrics import read_metrics
from trainer.settings import flag, parse_settings
from trainer.state import load_newest

STEPS, SAVE_INTERVAL = 200, 5
BY_THE_CLOCK = ("seconds", "tokens_per", "mfu", "memory")


@dataclass(frozen=True)
class ResumeSettings:
    """How much of it."""

    stage: Literal["pretrain", "lora", "dpo"] = flag("pretrain", "what is trained")
    kills: int = flag(30, "killed runs")
    processes: int = flag(0, "of each run; 0: two thirds of the runs have one, the others two")
    at_once: int = flag(2, "runs side by side")
    seed: int = flag(0, "decides when is killed")
    folder: str | None = flag(None, "where to work (default: a temporary folder)")


@dataclass(frozen=True)
class Kill:
    """One disturbed run."""

    number: int
    processes: int
    in_a_save: bool
    share: float  # of the run's time until the kill, or until the kill waits for a save


def main() -> int:
    """Settings → world → undisturbed runs → killed runs → other numbers of processes."""
    (settings,) = parse_settings(ResumeSettings, description=__doc__)
    if settings.kills < 1 or settings.at_once < 1 or settings.processes not in (0, 1, 2):
        raise UserError("--kills and --at_once: expected 1 or more; --processes: expected 0, 1 or 2")
    with tempfile.TemporaryDirectory() as temporary:
        world = make_world(Path(settings.folder or temporary))
        is_good = measure_kills(world, settings)
        if settings.stage == "pretrain":
            is_good = measure_changes(world) and is_good
    return 0 if is_good else 1


SCRIPTS = {"pretrain": "1-pretrain.py", "lora": "4-lora_sft.py", "dpo": "5-dpo_train.py"}


def flags_of(world: Path, stage: str, name: str) -> list[Any]:
    """A mixture of experts with dropout, accumulation, data workers: whatever could be restored wrongly."""
    data_path = world / "packed" / SETS[SCRIPTS[stage][0]]
    flags = ["--data_path", data_path, "--val_path", data_path.with_name(f"{data_path.name}_padded")]
    flags += ["--out_dir", world / "resumed", "--run_name", name, "--max_steps", STEPS, "--device", "cpu"]
    flags += ["--save_interval", SAVE_INTERVAL, "--eval_interval", 50, "--log_interval", 1, "--num_threads", 1]
    flags += ["--batch_size", 2, "--accumulation_steps", 3, "--num_workers", 1, "--warmup_iters", 10]
    if stage == "pretrain":
        return [*flags, *MOE, "--dropout", 0.1]
    flags += ["--init_from", parent(world, moe=True)]
    return [*flags, "--lora_dropout", 0.1] if stage == "lora" else flags


# ---- kills ----------------------------------------------------------------------------------------------------


def measure_kills(world: Path, settings: ResumeSettings) -> bool:
    """Print one line a killed run; whether all of them went on exactly."""
    numbers = random.Random(settings.seed)
    kills = [
        Kill(
            number,
            settings.processes or (2 if number % 3 == 2 else 1),
            in_a_save=number % 5 in (0, 2, 3),
            share=numbers.random(),
        )
        for number in range(settings.kills)
    ]
    seconds = {}
    for processes in sorted({kill.processes for kill in kills}):
        begin = time.monotonic()
        flags = flags_of(world, settings.stage, f"whole_{processes}")
        run(SCRIPTS[settings.stage], *flags, launched=Launched(processes))
        seconds[processes] = time.monotonic() - begin
    with ThreadPoolExecutor(settings.at_once) as pool:
        results = list(pool.map(lambda kill: _killed(world, settings.stage, kill, seconds[kill.processes]), kills))
    saves = sum(was_in_save for _, was_in_save in results)
    equal = sum(not differences for differences, _ in results)
    print(f"{equal} of {len(kills)} runs ended with the undisturbed run's bits; {saves} were killed inside a save")
    return equal == len(kills)


def _killed(world: Path, stage: str, kill: Kill, seconds: float) -> tuple[list[str], bool]:
    """Kill a run, start it again, compare. Returns what differs, and whether a save was cut off."""
    name = f"killed_{kill.number}"
    launched, flags, script = Launched(kill.processes), flags_of(world, stage, name), SCRIPTS[stage]
    folder = world / "resumed" / name
    was_in_save = None
    while was_in_save is None:  # a run that had ended before it was killed proves nothing
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".pth").unlink(missing_ok=True)
        was_in_save = _kill(start(script, flags, launched), folder / "resume", kill, seconds)
        kill = replace(kill, share=kill.share / 2)
    rows = read_metrics(folder / "metrics.jsonl")
    reached = rows[-1]["step"] if rows else 0
    output = run(script, *flags, launched=launched)
    going_on = next((line for line in output.splitlines() if line.startswith("going on from")), "from the beginning")
    differences = compare(world, name, f"whole_{kill.processes}")
    where = "inside a save" if was_in_save else "between saves"
    print(
        f"run {kill.number:>2}, {launched.name}: killed {where} after about step {reached}, {going_on.split(' (')[0]}: "
        f"{'the same bits' if not differences else 'DIFFERS in ' + ', '.join(differences)}",
        flush=True,
    )
    if not differences:
        shutil.rmtree(folder)
        folder.with_suffix(".pth").unlink()
    return differences, was_in_save


def _kill(process: "subprocess.Popen[str]", resume: Path, kill: Kill, seconds: float) -> bool | None:
    """Send −9 to a run and to all that it started; whether it was writing a saved step. None: it had ended."""
    time_to_kill = time.monotonic() + kill.share * seconds
    while time.monotonic() < time_to_kill and process.poll() is None:
        time.sleep(0.001)
    half_written: list[Path] = []
    while kill.in_a_save and process.poll() is None and not half_written:
        half_written = list(resume.glob(".step-*"))
    # torchrun's processes are in groups of their own: killed with their launcher alone, they would live on for seconds.
    with suppress(psutil.NoSuchProcess):
        launcher = psutil.Process(process.pid)
        for each in [*launcher.children(recursive=True), launcher]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    process.communicate()
    record = resume.parent / "run.json"
    if record.exists() and json.loads(record.read_text())["finished"]:
        return None
    return bool(list(resume.glob(".step-*")))


def compare(world: Path, name: str, reference: str) -> list[str]:
    """Which parts of two runs differ: weights, optimizer, .pth, log."""
    folder = world / "resumed"
    differences = []
    ours, theirs = load_newest(folder / name / "resume"), load_newest(folder / reference / "resume")
    assert ours is not None and theirs is not None
    for part in ("weights", "optimizer"):
        if not _equal(ours.tensors[part], theirs.tensors[part]):
            differences.append(part)
    weights = [load_checkpoint(folder / f"{each}.pth").weights for each in (name, reference)]
    if not _equal(*weights):
        differences.append(".pth")
    if _log(folder / name) != _log(folder / reference):
        differences.append("log")
    return differences


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(_equal(value, theirs[key]) for key, value in ours.items())
    return torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else bool(ours == theirs)


def _log(folder: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith(BY_THE_CLOCK)} for row in rows]


# ---- other numbers of processes -------------------------------------------------------------------------------


def measure_changes(world: Path) -> bool:
    """Go on with fewer processes, and with another engine, in the middle of an epoch; whether the losses agree."""
    four, ddp = Launched(4), Launched(2)
    chains = {
        "4 → 2 → 1 processes": ([four, ddp, Launched()], 8),
        "DDP → ZeRO-2 → one process": ([ddp, Launched(2, "zero2"), Launched()], 8),
    }
    is_good = True
    for name, (launches, global_batch) in chains.items():
        found = []
        for label, chain in (("whole", launches[:1]), ("changed", launches)):
            run_name = f"{label}_{'_'.join(str(each.processes) + (each.zero or '') for each in launches)}"
            # The first launch decides the global batch; the same flags then go on with another number of processes.
            batch_size = global_batch // launches[0].processes
            flags = ["--data_path", world / "packed" / "text", "--out_dir", world / "changed", "--run_name", run_name]
            flags += ["--max_steps", 42, "--batch_size", batch_size, "--device", "cpu", "--log_interval", 1]
            flags += ["--num_threads", 1, *SIZES, *ADAMW, "--sample_interval", -1]
            for number, launched in enumerate(chain):
                is_last = number == len(chain) - 1
                _train_until(None if is_last else 14 * (number + 1) + 1, flags, launched, world / "changed" / run_name)
            found.append(np.array(losses(world / "changed" / run_name)))
        difference = float(np.max(np.abs(found[1] - found[0]) / np.abs(found[0])))
        is_within = len(found[0]) == len(found[1]) == 42 and difference <= 1e-5
        is_good &= is_within
        print(f"{name}: losses of 42 updates differ by at most {difference:.1e}{'' if is_within else '  outside'}")
    return is_good


def _train_until(step: int | None, flags: list[Any], launched: Launched, folder: Path) -> None:
    """Run, and stop with SIGTERM as soon as the log has this step; None runs to the end."""
    if step is None:
        run("1-pretrain.py", *flags, launched=launched)
        return
    process = start("1-pretrain.py", flags, launched)
    while process.poll() is None:
        path = folder / "metrics.jsonl"
        rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if any(f'"step": {step},' in row for row in rows):
            os.killpg(process.pid, signal.SIGTERM)
            break
        time.sleep(0.005)
    output, _ = process.communicate()
    if "stopped at step" not in output:
        print(output, file=sys.stderr)
        sys.exit(f"the run on {launched.name} did not stop at about step {step}")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    run_script(main)
