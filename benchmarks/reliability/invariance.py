"""The loss and the weights do not depend on how one global batch is split.

    python -m benchmarks.reliability.invariance
    python -m benchmarks.reliability.invariance --only moe

Every row trains the same model on the same global batches (all of a small set) for 50 updates: in one process at
once, by accumulation, on 2 and 4 processes with DistributedDataParallel and with DeepSpeed's ZeRO-1, 2 and 3, packed
and padded. The first row of each block is what the others are compared with.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.reliability.launching import Launched, losses, run
from benchmarks.reliability.worlds import make_world
from dataset.packing import PackedSet
from model.checkpoint import load_checkpoint
from model.errors import UserError, run_script
from trainer.settings import flag, parse_settings

SIZES = ["--dim", 64, "--n_layers", 2, "--n_heads", 4, "--n_kv_heads", 2]
MOE = [*SIZES, "--use_moe", "--n_routed_experts", 4, "--n_shared_experts", 1, "--num_experts_per_tok", 2]
ADAMW = ["--optimizer", "adamw", "--learning_rate", "2e-3"]
MUON = ["--optimizer", "muon", "--learning_rate", "7e-3"]


@dataclass(frozen=True)
class Split:
    """One way to share out the global batch."""

    launched: Launched
    accumulation_steps: int
    padded: bool = False


@dataclass(frozen=True)
class Block:
    """Runs that have to agree."""

    name: str
    script: str
    flags: list[Any]
    loss_bound: float  # largest relative difference of any update's loss
    weight_bound: float | None  # largest ‖Δw‖ / ‖w‖
    splits: list[Split]


def ways(*processes_and_zero: tuple[int, str | None], padded: bool = True) -> list[Split]:
    """One process at once, by accumulation, packed and padded; then the given launches."""
    splits = [Split(Launched(), 1), Split(Launched(), 4)]
    if padded:
        splits += [Split(Launched(), 3, padded=True)]
    splits += [Split(Launched(processes, zero), 2) for processes, zero in processes_and_zero]
    return splits


DDP = [(2, None), (4, None)]
ZERO = [(2, "zero1"), (4, "zero1"), (2, "zero2"), (4, "zero2"), (2, "zero3"), (4, "zero3")]
FLOAT64 = ["--dtype", "float64"]
RANK = ["--lora_rank", 4]
SETS = {"1": "text", "3": "chat", "4": "chat", "5": "pairs"}  # by the number of the script

BLOCKS = [
    Block("pretrain dense", "1-pretrain.py", [*SIZES, *ADAMW], 1e-5, 1e-4, ways(*DDP, *ZERO)),
    Block("pretrain moe", "1-pretrain.py", [*MOE, *ADAMW], 1e-5, 1e-4, ways(*DDP, (2, "zero2"), (2, "zero3"))),
    Block("sft dense", "3-full_sft.py", ADAMW, 1e-5, 1e-4, ways(*DDP, (2, "zero1"), (2, "zero2"), (2, "zero3"))),
    Block("sft moe", "3-full_sft.py", ADAMW, 1e-5, 1e-4, ways(*DDP, (2, "zero2"))),
    Block("lora dense", "4-lora_sft.py", [*ADAMW, *RANK], 1e-5, 1e-4, ways(*DDP, (2, "zero2"), (2, "zero3"))),
    Block("lora moe", "4-lora_sft.py", [*ADAMW, *RANK], 1e-5, 1e-4, ways(*DDP, (2, "zero2"))),
    Block("dpo dense", "5-dpo_train.py", ADAMW, 1e-5, 1e-4, ways(*DDP, (2, "zero2"), (2, "zero3"))),
    Block("dpo moe", "5-dpo_train.py", ADAMW, 1e-5, 1e-4, ways(*DDP, (2, "zero2"))),
    Block("dpo dense lora", "5-dpo_train.py", [*ADAMW, *RANK], 1e-5, 1e-4, ways(*DDP, (2, "zero2"))),
    Block("lora dense float64", "4-lora_sft.py", [*ADAMW, *RANK, *FLOAT64], 1e-9, 1e-9, ways(*DDP)),
    Block("dpo dense float64", "5-dpo_train.py", [*ADAMW, *FLOAT64], 1e-9, 1e-9, ways(*DDP)),
    Block("pretrain dense float64", "1-pretrain.py", [*SIZES, *ADAMW, *FLOAT64], 1e-9, 1e-9, ways(*DDP)),
    Block("pretrain moe float64", "1-pretrain.py", [*MOE, *ADAMW, *FLOAT64], 1e-9, 1e-9, ways(*DDP)),
    Block("sft dense float64", "3-full_sft.py", [*ADAMW, *FLOAT64], 1e-9, 1e-9, ways(*DDP)),
    Block("pretrain dense muon", "1-pretrain.py", [*SIZES, *MUON], 1e-3, None, ways(*DDP)),
    Block("pretrain moe muon", "1-pretrain.py", [*MOE, *MUON], 1e-3, None, ways(*DDP)),
]


@dataclass(frozen=True)
class InvarianceSettings:
    """How much of it."""

    steps: int = flag(50, "updates of each run")
    only: str | None = flag(None, "only blocks whose name has this in it")
    folder: str | None = flag(None, "where to work (default: a temporary folder)")


def main() -> int:
    """Settings → world → blocks of runs → table."""
    (settings,) = parse_settings(InvarianceSettings, description=__doc__)
    blocks = [block for block in BLOCKS if settings.only is None or settings.only in block.name]
    if not blocks:
        raise UserError(f"--only: found {settings.only!r}, expected a part of {', '.join(b.name for b in BLOCKS)}")
    with tempfile.TemporaryDirectory() as temporary:
        world = make_world(Path(settings.folder or temporary))
        print(f"{'block':<24}{'processes':<12}{'accumulation':>13}{'rows':>8}  {'loss':>9}{'weights':>10}")
        is_good = [measure(world, block, settings.steps) for block in blocks]
    print("all within their bounds" if all(is_good) else "NOT within the bounds")
    return 0 if all(is_good) else 1


def measure(world: Path, block: Block, steps: int) -> bool:
    """Run a block's splits, print each one's distance from the first, say whether all are within the bounds."""
    reference: tuple[np.ndarray, torch.Tensor] | None = None
    is_good = True
    for split in block.splits:
        found = train(world, block, split, steps)
        if reference is None:
            reference = found
        loss = float(np.max(np.abs(found[0] - reference[0]) / np.abs(reference[0])))
        weights = float((found[1] - reference[1]).norm() / reference[1].norm())
        is_within = loss <= block.loss_bound and (block.weight_bound is None or weights <= block.weight_bound)
        is_good &= is_within
        rows = "padded" if split.padded else "packed"
        print(
            f"{block.name:<24}{split.launched.name:<12}{split.accumulation_steps:>13}{rows:>8}  "
            f"{loss:>9.1e}{weights:>10.1e}{'' if is_within else '  outside'}",
            flush=True,
        )
    return is_good


def train(world: Path, block: Block, split: Split, steps: int) -> tuple[np.ndarray, torch.Tensor]:
    """One run: the loss of every update, and all final weights as one vector."""
    data_path = world / "packed" / (SETS[block.script[0]] + ("_padded" if split.padded else ""))
    # The whole set is one global batch, so packed and padded rows hold the same segments in every update.
    shares = split.launched.processes * split.accumulation_steps
    batch_size = -(-PackedSet.open(data_path).num_rows // shares)
    name = f"{block.name}_{split.launched.name}_{split.accumulation_steps}_{data_path.name}".replace(" ", "_")
    flags = ["--data_path", data_path, "--out_dir", world / "out", "--run_name", name, "--max_steps", steps]
    flags += ["--batch_size", batch_size, "--accumulation_steps", split.accumulation_steps, "--device", "cpu"]
    flags += ["--log_interval", 1, "--document_mask", "true", "--sample_interval", -1, "--num_threads", 1]
    flags += ["--warmup_iters", 5, "--max_rollbacks", 0, "--overwrite"]
    if not block.script.startswith("1"):
        flags += ["--init_from", parent(world, moe="moe" in block.name)]
    run(block.script, *flags, *block.flags, launched=split.launched)
    weights = load_checkpoint(world / "out" / f"{name}.pth").weights
    vector = torch.cat([weights[key].double().flatten() for key in sorted(weights)])
    return np.array(losses(world / "out" / name)), vector


def parent(world: Path, moe: bool) -> Path:
    """A pretrained model for fine-tuning to start from."""
    path = world / "out" / f"parent{'_moe' if moe else ''}.pth"
    if not path.exists():
        flags = ["--data_path", world / "packed" / "text", "--out_dir", path.parent, "--run_name", path.stem]
        sizes = MOE if moe else SIZES
        run("1-pretrain.py", *flags, *sizes, "--max_steps", 20, "--device", "cpu", "--sample_interval", -1)
    return path


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    run_script(main)
