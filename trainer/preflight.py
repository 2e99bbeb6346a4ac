"""What a run will need, said before it starts: parameters, arithmetic, memory, disk and time.

The numbers are worked out (trainer/memory.py has the memory's); only seconds are measured, by the caller. The same
estimate chooses the micro-batch of `--batch_size auto`.
"""

import gc
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from model.decoder import CausalLM
from model.device import Memory, memory_of
from model.errors import UserError
from trainer.memory import RunMemory, Setup, memory_of_run, optimizer_state_bytes
from trainer.objectives import Objective
from trainer.settings import WatchSettings

USABLE_SHARE = 0.9  # of the free memory; the estimate is no better than ±15 %
REFUSED_SHARE = 1.2  # of all memory: a CPU run whose estimate is above it is not begun
TRAINING_SHARE = 0.9  # of --max_minutes; the rest is for validation, samples and saving
LOG_BYTES = 16 * 2**20  # metrics, curves and report: generous
SAVED_STEPS_UNKNOWN = 4  # counted for "keep all" when the number of saves is not known yet


@dataclass(frozen=True)
class Estimate:
    """What a run will need. Bytes unless said otherwise; None where it is not known yet."""

    parameters: int
    active_parameters: int
    flops_per_token: float
    global_batch: int  # rows of one update
    micro_batch: int
    accumulation_steps: int
    world_size: int
    tokens_per_step: int  # target tokens
    total_steps: int | None
    memory: RunMemory  # of one process
    device: str
    device_memory: Memory  # one process's share of it
    disk_per_save: int
    disk: int  # all that a new run of this kind leaves at most
    free_disk: int
    out_dir: str
    seconds: float | None = None  # expected for the whole run, where steps were measured

    @property
    def total_tokens(self) -> int | None:
        """Target tokens of the whole run."""
        return None if self.total_steps is None else self.total_steps * self.tokens_per_step


def estimate(
    setup: Setup,
    watch: WatchSettings,
    out_dir: str | Path,
    *,
    micro_batch: int,
    accumulation_steps: int,
    targets_per_row: float,
    total_steps: int | None,
    processes_here: int = 1,
    device_memory: Memory | None = None,
    free_disk: int | None = None,
) -> Estimate:
    """Work out what a run needs.

    Args:
        setup: the model and how it is trained.
        watch: of it, how many saved steps are kept.
        out_dir: where the run writes; it need not exist.
        micro_batch: rows of one forward pass.
        accumulation_steps: forward passes of each process in one update.
        targets_per_row: target tokens of a row, on average over the set.
        total_steps: updates of the run; None while that is not known.
        processes_here: processes of this machine, which share a CPU's memory.
        device_memory: default: what the device has.
        free_disk: default: what `out_dir`'s disk has.
    """
    config, device = setup.config, setup.precision.device
    global_batch = micro_batch * accumulation_steps * setup.world_size
    disk_per_save, disk = disk_needed(setup, watch, total_steps)
    return Estimate(
        parameters=config.num_parameters(),
        active_parameters=config.num_parameters(active_only=True),
        flops_per_token=config.flops_per_token(setup.seq_len),
        global_batch=global_batch,
        micro_batch=micro_batch,
        accumulation_steps=accumulation_steps,
        world_size=setup.world_size,
        tokens_per_step=round(targets_per_row * global_batch),
        total_steps=total_steps,
        memory=memory_of_run(setup, micro_batch, accumulation_steps),
        device=str(device),
        device_memory=device_memory or memory_for_each(device, processes_here),
        disk_per_save=disk_per_save,
        disk=disk,
        free_disk=_free_disk(Path(out_dir)) if free_disk is None else free_disk,
        out_dir=str(out_dir),
    )


def memory_for_each(device: torch.device, processes_here: int) -> Memory:
    """The device's memory for one process: a CPU's is shared by those of this machine, a GPU has one process."""
    found = memory_of(device)
    share = processes_here if device.type == "cpu" else 1
    return Memory(found.total // share, found.available // share)


def disk_needed(setup: Setup, watch: WatchSettings, total_steps: int | None) -> tuple[int, int]:
    """Bytes that one save writes (a saved step and the .pth), and that the whole run leaves at most."""
    weights = setup.trained_parameters * setup.wide_bytes
    step = weights + optimizer_state_bytes(setup)
    kept = max(watch.save_total_limit, 2) + 1  # and the best one; the last two in calm are the way back from a spike
    if not watch.save_total_limit:
        can_count = total_steps is not None and watch.save_interval
        kept = -(-(total_steps or 0) // watch.save_interval) if can_count else SAVED_STEPS_UNKNOWN
    # One step more and a second .pth while they are written: what they replace goes last.
    return step + weights, (kept + 1) * step + 2 * weights + LOG_BYTES


def _free_disk(folder: Path) -> int:
    """Free bytes where `folder` is or will be."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


# ---- the micro-batch ------------------------------------------------------------------------------------------


def largest_micro_batch(fits: Callable[[int], bool], rows_per_rank: int, shortage: str = "") -> int:
    """The largest divisor of `rows_per_rank` that fits, so that the global batch stays what it is.

    Args:
        fits: whether a micro-batch of so many rows fits.
        rows_per_rank: rows of the global batch that fall to one process.
        shortage: how much one row needs and what there is, for the error.

    Raises:
        UserError: not even one row fits.
    """
    for rows in _divisors_down(rows_per_rank):
        if fits(rows):
            return rows
    raise UserError(
        f"--batch_size auto: not even one row fits{shortage and f' ({shortage})'}; choose a smaller model or shorter "
        "rows, pass --gradient_checkpointing, or spread it over processes with --deepspeed zero3"
    )


def automatic_micro_batch(setup: Setup, rows_per_rank: int, device_memory: Memory) -> int:
    """The largest micro-batch whose estimate fits into the free memory.

    Raises:
        UserError: not even one row fits; says how much that needs and what there is.
    """
    usable = int(USABLE_SHARE * device_memory.available)

    def needed(rows: int) -> int:
        return memory_of_run(setup, rows, rows_per_rank // rows).peak

    shortage = f"it needs {bytes_text(needed(1))}, usable are {bytes_text(usable)}"
    return largest_micro_batch(lambda rows: needed(rows) <= usable, rows_per_rank, shortage)


def try_micro_batch(
    attempt: Callable[[int], None],
    first: int,
    rows_per_rank: int,
    release: Callable[[], None] | None = None,
) -> int:
    """The largest micro-batch from `first` downwards whose `attempt` does not run out of memory (for CUDA).

    On a CPU the system would end the process instead: use the estimate alone there. With several processes each
    finds its own number; the smallest of them suits all.

    Args:
        attempt: trains on so many rows, see `attempt_micro_batch`; without the other processes, which may fit more.
        first: the estimate's choice, a divisor of `rows_per_rank`.
        rows_per_rank: rows of the global batch that fall to one process.
        release: gives cached memory back; default CUDA's.

    Raises:
        UserError: one row does not fit.
    """
    rows = first
    while rows:
        try:
            attempt(rows)
        except torch.OutOfMemoryError:
            # Nothing is cleaned up in here: the exception still holds the frames, and they hold the tensors.
            smaller = next((each for each in _divisors_down(rows_per_rank) if each <= rows // 2), 0)
        else:
            smaller = rows
        gc.collect()
        (release or torch.cuda.empty_cache)()
        if smaller == rows:
            return rows
        rows = smaller
    return largest_micro_batch(lambda _: False, rows_per_rank, "the device ran out of memory")


def attempt_micro_batch(setup: Setup, model: CausalLM, objective: Objective, rows: int) -> None:
    """Forward and backward passes like those of a run, on tokens that mean nothing; weights stay as they are.

    The second pass finds the first one's gradients, as in accumulation. The optimizer's state, which is made in the
    first update only, is stood in for by as many bytes.

    Raises:
        torch.OutOfMemoryError: it does not fit.
    """
    device, shape = setup.precision.device, (rows, setup.seq_len)
    memory = memory_of_run(setup, rows)
    reserved = torch.empty(memory.optimizer + memory.update, dtype=torch.uint8, device=device)
    tokens = torch.randint(setup.config.vocab_size, shape, device=device)
    positions = torch.arange(setup.seq_len, device=device).expand(shape)
    batch = {"input_ids": tokens, "targets": tokens, "position_ids": positions, "segment_ids": torch.zeros_like(tokens)}
    batch["reference_logps"] = torch.zeros(rows, 2, device=device)  # of one pair; only preference training reads it
    try:
        for _ in range(2):
            with setup.precision.autocast():
                terms = objective(model, batch)
                loss = torch.stack([term.weight * term.total for term in terms.values()]).sum()
            loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    finally:
        model.zero_grad(set_to_none=True)
        del reserved


def _divisors_down(number: int) -> list[int]:
    return [each for each in range(number, 0, -1) if number % each == 0]


# ---- what does not fit ----------------------------------------------------------------------------------------


def check_memory(estimate: Estimate) -> None:
    """UserError for a run that would surely run out of a CPU's memory: there the system ends whole programs."""
    needed, total = estimate.memory.peak, estimate.device_memory.total
    if estimate.device == "cpu" and needed > REFUSED_SHARE * total:
        raise UserError(
            f"memory: the run needs about {bytes_text(needed)}, this machine has {bytes_text(total)} for each process; "
            "choose a smaller --batch_size (auto finds one), a smaller model or shorter rows, or pass "
            "--gradient_checkpointing"
        )


def memory_warning(estimate: Estimate) -> str | None:
    """A line when the memory may not be enough, else None."""
    needed, memory = estimate.memory.peak, estimate.device_memory
    if needed <= USABLE_SHARE * memory.available:
        return None
    judgement = "more than there is" if needed > memory.total else "close to or above what is free"
    return (
        f"warning: memory: the run needs about {bytes_text(needed)}, {estimate.device} has "
        f"{bytes_text(memory.available)} free of {bytes_text(memory.total)}: {judgement}; "
        "--batch_size auto or --gradient_checkpointing needs less"
    )


def check_disk(estimate: Estimate) -> None:
    """UserError when the disk has no room for a single save."""
    if estimate.free_disk < estimate.disk_per_save:
        raise UserError(
            f"{estimate.out_dir}: one save needs {bytes_text(estimate.disk_per_save)} of disk, "
            f"{bytes_text(estimate.free_disk)} are free; free some space or choose another --out_dir"
        )


def disk_warning(estimate: Estimate) -> str | None:
    """A line when the disk has room for a save but not for all that a new run keeps, else None."""
    if estimate.free_disk >= estimate.disk:
        return None
    return (
        f"warning: disk: a whole run keeps up to {bytes_text(estimate.disk)}, "
        f"{bytes_text(estimate.free_disk)} are free; free some space or keep fewer with --save_total_limit"
    )


# ---- time -----------------------------------------------------------------------------------------------------


def steps_for_minutes(minutes: float, seconds_per_step: float) -> int:
    """How many updates `--max_minutes` allows, at least one.

    A tenth of the time (1 − TRAINING_SHARE) is left for validation, samples and saving.
    """
    assert seconds_per_step > 0
    return max(1, math.floor(TRAINING_SHARE * minutes * 60 / seconds_per_step))


# ---- words ----------------------------------------------------------------------------------------------------


def first_lines(estimate: Estimate) -> list[str]:
    """The head of a run: five or six short lines."""
    active = f" ({count_text(estimate.active_parameters)} met by a token)" if _has_experts(estimate) else ""
    length = "as many steps as the time allows"
    if estimate.total_steps is not None:
        length = f"{estimate.total_steps:,} steps, {count_text(estimate.total_tokens or 0)} tokens"
    lines = [
        f"model: {count_text(estimate.parameters)} parameters{active}, "
        f"{count_text(estimate.flops_per_token)}FLOP a token",
        f"a step: {_batch_text(estimate)}, about {estimate.tokens_per_step:,} tokens",
        f"length: {length}",
        f"memory: {_of(estimate.memory.peak, estimate.device_memory.total)} (estimated)",
        f"disk: {_of(estimate.disk, estimate.free_disk)} free",
    ]
    return lines if estimate.seconds is None else [*lines, f"time: about {duration(estimate.seconds)}"]


def as_table(estimate: Estimate, price_per_hour: float = 0.0) -> list[tuple[str, str]]:
    """The rows (label, value) of --dry_run."""
    memory, unknown = estimate.memory, "not known yet"
    rows = [("parameters", f"{estimate.parameters:,}")]
    if _has_experts(estimate):
        rows.append(("parameters met by a token", f"{estimate.active_parameters:,}"))
    rows += [
        ("arithmetic", f"{count_text(estimate.flops_per_token)}FLOP a token"),
        ("a step", _batch_text(estimate)),
        ("tokens a step", f"{estimate.tokens_per_step:,}"),
        ("steps", unknown if estimate.total_steps is None else f"{estimate.total_steps:,}"),
        ("tokens", unknown if estimate.total_tokens is None else f"{estimate.total_tokens:,}"),
        ("memory, at most together", f"{_of(memory.peak, estimate.device_memory.total)} on {estimate.device}"),
    ]
    rows += [(f"memory: {label}", bytes_text(size)) for label, size in memory_rows(memory)]
    rows += [
        ("disk", f"{_of(estimate.disk, estimate.free_disk)} free"),
        ("disk: one save", bytes_text(estimate.disk_per_save)),
        ("expected time", "not measured" if estimate.seconds is None else duration(estimate.seconds)),
    ]
    if price_per_hour and estimate.seconds is not None:
        rows.append(("expected cost", cost_text(estimate.seconds, price_per_hour)))
    return rows


def memory_rows(memory: RunMemory) -> list[tuple[str, int]]:
    """The parts of the memory with their names, without those that are not there."""
    parts = [
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("optimizer state", memory.optimizer),
        ("activations", memory.activations),
        ("logits and passing gradients", memory.logits),
        ("the optimizer's update", memory.update),
        ("copy being saved", memory.saving),
        ("program and libraries", memory.base),
        ("in the CPU's memory besides", memory.host),
    ]
    return [(label, size) for label, size in parts if size]


def _has_experts(estimate: Estimate) -> bool:
    return estimate.active_parameters != estimate.parameters


def _batch_text(estimate: Estimate) -> str:
    text = f"{_plural(estimate.global_batch, 'row')} ({estimate.micro_batch} at a time"
    if estimate.accumulation_steps > 1:
        text += f" × {estimate.accumulation_steps}"
    return text + (f" on {estimate.world_size} processes)" if estimate.world_size > 1 else ")")


def _of(part: int, whole: int) -> str:
    """Two sizes in the larger one's unit: 1.9 of 23.4 GiB."""
    unit, size = _unit(max(part, whole))
    return f"{part / size:.1f} of {whole / size:.1f} {unit}"


def duration(seconds: float) -> str:
    """A time in its two largest units: 2 h 13 min."""
    total = max(0, round(seconds))
    units = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)]
    for (large, length), (small, part) in pairwise(units):
        if total >= length:
            rest = total % length // part
            return f"{total // length} {large}" + (f" {rest} {small}" if rest else "")
    return f"{total} s"


def bytes_text(size: int) -> str:
    """A size with its unit: 1.9 GiB."""
    unit, length = _unit(size)
    return f"{size / length:.1f} {unit}" if length > 1 else f"{size} bytes"


def _unit(size: int) -> tuple[str, int]:
    for unit, length in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= length:
            return unit, length
    return "bytes", 1


def count_text(count: float) -> str:
    """A count with three digits, for a unit to follow: 26.9 M."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:#.3g} {prefix}".replace(". ", " ")  # "161. M"
    return f"{count:.0f}"


def cost_text(seconds: float, price_per_hour: float) -> str:
    """What so much time of this machine costs, in the currency of the price."""
    return f"{seconds / 3600 * price_per_hour:,.2f}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
