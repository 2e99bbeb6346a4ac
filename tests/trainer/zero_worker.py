"""What each process of `test_zero.py` does under DeepSpeed: `python zero_worker.py FOLDER`."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import model.head
from model.config import LMConfig
from model.decoder import CausalLM
from model.device import Precision
from model.errors import UserError
from trainer.engine import Engine
from trainer.parallel import Parallel
from trainer.settings import TrainSettings
from trainer.zero import ZeroEngine, read_configuration

NUM_RANKS, NUM_STEPS, HALF = 2, 10, 5
FP32, BF16 = (Precision(torch.device("cpu"), dtype) for dtype in (torch.float32, torch.bfloat16))
LEARNING_RATE = 1e-2
TRAINING = TrainSettings(optimizer="adamw", learning_rate=LEARNING_RATE, grad_clip=0.5)
# Odd sizes, which two ranks cannot share evenly; the head is the embedding.
_DENSE = LMConfig(
    dim=15, n_heads=3, n_kv_heads=1, head_dim=6, n_layers=2, hidden_dim=21, vocab_size=41, max_seq_len=16, qkv_bias=True
)
CONFIGS = {
    "dense": _DENSE,
    "moe": _DENSE.with_changes(qkv_bias=False, use_moe=True, n_routed_experts=3, n_shared_experts=1, moe_hidden_dim=9),
}
# The head then works in pieces, and again in the backward pass. Set by who trains, never by importing this file.
MAX_LOGIT_ELEMENTS = 41 * 10


travelled: set[torch.dtype] = set()  # what was sent to other ranks


def watched(collective: Callable) -> Callable:
    def call(*values: Any, **named: Any) -> Any:
        travelled.update(each.dtype for each in (*values, *named.values()) if isinstance(each, torch.Tensor))
        return collective(*values, **named)

    return call


def watch_collectives() -> None:
    """Note the dtypes that travel; DeepSpeed takes these functions when it is imported."""
    for name in ("all_reduce", "reduce", "reduce_scatter_tensor", "all_gather_into_tensor"):
        setattr(dist, name, watched(getattr(dist, name)))


def stage(number: int) -> dict:
    """A stage that really spreads what is as small as here."""
    return {"zero_optimization": {"stage": number, "stage3_param_persistence_threshold": 0}}


def new_model(kind: str) -> CausalLM:
    torch.manual_seed(0)
    return CausalLM(CONFIGS[kind])


def micro_batches(step: int) -> list[list[torch.Tensor]]:
    """Token ids [rows, seq] of each micro-batch of each rank; the numbers of all of them change from step to step."""
    random = torch.Generator().manual_seed(step)
    return [
        [
            torch.randint(0, 8, (1 + (step + rank + 2 * index) % 3, 8 + 4 * ((step + rank) % 2)), generator=random)
            for rank in range(NUM_RANKS)
        ]
        for index in range(1 + step % 3)
    ]


def part_of_loss(engine: Engine, tokens: torch.Tensor, num_tokens: int, num_rows: int) -> torch.Tensor:
    output = engine.forward(tokens, targets=tokens.roll(-1, 1))
    loss = output.token_losses.sum() / num_tokens
    if output.balance_loss is not None:
        loss = loss + 0.1 * output.balance_loss / num_rows
    return loss


def accumulate(engine: Engine, step: int, ranks: list[int], factor: float = 1.0, until: int | None = None) -> float:
    """Forward and backward of the step's micro-batches of these ranks (up to `until`); their part of the loss."""
    batches = micro_batches(step)
    every = [tokens for each in batches for tokens in each]
    num_tokens, num_rows = sum(map(torch.numel, every)), sum(map(len, every))
    mine = [batch[rank] for batch in batches for rank in ranks]
    total = 0.0
    for index, tokens in enumerate(mine[:until]):
        with engine.micro_batch(index == len(mine) - 1), engine.autocast():
            loss = part_of_loss(engine, tokens, num_tokens, num_rows)
        engine.backward(loss * factor)
        total += loss.item()
    return total


def whole(value: float, parallel: Parallel) -> float:
    return parallel.sum(torch.tensor(value, dtype=torch.float64)).item()


def update(engine: Engine, step: int, ranks: list[int], parallel: Parallel) -> tuple[float, float]:
    """One update; the loss of the global batch and the norm of its gradients."""
    loss = whole(accumulate(engine, step, ranks), parallel)
    return loss, engine.update(LEARNING_RATE / (1 + step % 2))


def validation_loss(engine: Engine, ranks: list[int], parallel: Parallel) -> float:
    engine.model.eval()
    with torch.no_grad(), engine.autocast():
        loss = sum(part_of_loss(engine, torch.arange(13)[None] + rank, 26, 2).item() for rank in ranks)
    engine.model.train()
    return whole(loss, parallel)


def flat(tensors: dict | None, prefix: str = "") -> dict[str, torch.Tensor]:
    if tensors is None:
        return {}
    found: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        found |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
    return found


def is_same(left: dict | None, right: dict | None) -> bool:
    first, second = flat(left), flat(right)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---- what the processes do ------------------------------------------------------------------------------------


def run_with_accidents(engine: Engine, rank: int, parallel: Parallel) -> dict:
    """Ten updates; among them gradients that are dropped, and some that are not finite on one rank alone."""
    found: dict = {"losses": [], "norms": [], "untouched": [], "bad_norms": [], "validation": []}
    for step in range(NUM_STEPS):
        if step in (0, 2, 5):
            accumulate(engine, 8, [rank], factor=50.0, until=2)  # three micro-batches, so this is no whole update
            engine.drop_gradients()
        if step in (1, 2):
            accumulate(engine, 8, [rank], factor=50.0)
            engine.drop_gradients()
        if step in (0, 6):
            before = engine.tensors()
            for factor in (float("nan"), float("inf")):
                accumulate(engine, 7, [rank], factor=factor if rank == 1 else 1.0)
                found["bad_norms"].append(engine.update(1.0))
            found["untouched"].append(is_same(before, engine.tensors()))
        if step % 4 == 1:
            found["validation"].append(validation_loss(engine, [rank], parallel))
        if step == HALF:
            found["half"] = engine.tensors()
        loss, norm = update(engine, step, [rank], parallel)
        found["losses"].append(loss)
        found["norms"].append(norm)
    found["end"] = engine.tensors()
    return found


def go_on(kind: str, zero: dict, tensors: dict | None, rank: int, world_size: int) -> dict:
    """The second half from saved tensors."""
    parallel = Parallel(rank, world_size, zero=zero)
    engine = ZeroEngine(new_model(kind), TRAINING, FP32, parallel)
    engine.load_tensors(tensors)
    restored = engine.tensors()
    pairs = [update(engine, step, [rank], parallel) for step in range(HALF, NUM_STEPS)]
    return {"restored": restored, "losses": [loss for loss, _ in pairs], "norms": [norm for _, norm in pairs]}


def try_bfloat16(number: int, rank: int) -> dict:
    parallel = Parallel(rank, NUM_RANKS, zero=stage(number))
    engine = ZeroEngine(new_model("moe"), TRAINING, BF16, parallel)
    dtypes = {}
    for name, module in engine.model.named_modules():
        if name.endswith(("q_proj", "layernorm", "model.norm")):
            module.register_forward_hook(lambda _, __, output, name=name: dtypes.update({name: output.dtype}))
    travelled.clear()
    loss = accumulate(engine, 1, [rank])
    norm = engine.update(LEARNING_RATE)
    dtypes_travelled = sorted(map(str, travelled))
    return {
        "loss": whole(loss, parallel),
        "norm": norm,
        "dtypes": dtypes,
        "travelled": dtypes_travelled,
        "end": engine.tensors(),
    }


def refuse_muon(rank: int, world_size: int) -> str:
    parallel = Parallel(rank, world_size, zero=stage(1))
    saved = None
    if parallel.is_main:
        engine = Engine(new_model("dense"), replace(TRAINING, optimizer="muon"), FP32, Parallel())
        update(engine, 0, [0], Parallel())
        saved = engine.tensors()
    try:
        ZeroEngine(new_model("dense"), TRAINING, FP32, parallel).load_tensors(saved)
    except UserError as error:
        return str(error)
    return "nothing was refused"


def main(folder: Path) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    model.head.MAX_LOGIT_ELEMENTS = MAX_LOGIT_ELEMENTS
    dist.init_process_group("gloo")
    watch_collectives()
    if world_size == 1:
        parallel = Parallel(zero=read_configuration("zero2", FP32.device))
        engine = parallel.engine(new_model("dense"), replace(TRAINING, grad_clip=0.0), FP32)
        torch.save([update(engine, step, [0, 1], parallel) for step in range(3)], folder / "alone.pt")
        return
    plain = torch.load(folder / "plain.pt", weights_only=True)
    found: dict = {}
    for kind in CONFIGS:
        for number in (1, 2, 3):
            parallel = Parallel(rank, world_size, zero=stage(number))
            engine = ZeroEngine(new_model(kind), TRAINING, FP32, parallel)
            found[kind, number] = run_with_accidents(engine, rank, parallel)
        for number in (1, 2, 3):
            saved = found[kind, 1 + number % 3]["half"]
            found[kind, number]["gone_on"] = go_on(kind, stage(number), saved, rank, world_size)
    for number in (1, 2, 3):
        found["bfloat16", number] = try_bfloat16(number, rank)
    for name in ("zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"):
        found[name] = go_on("dense", read_configuration(name, FP32.device), plain["dense"], rank, world_size)
    found["muon"] = refuse_muon(rank, world_size)
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
