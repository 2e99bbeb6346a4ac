"""Every dtype is really what arithmetic sees, and fp16 with its scaler trains, skips and goes on as it should.

A CPU multiplies 16-bit matrices slowly, so `--dtype float16` is refused there; PyTorch can, so the code that a GPU
runs is tested here.
"""

import signal
from collections import defaultdict
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.checkpoint import load_checkpoint
from model.config import LMConfig
from model.decoder import CausalLM
from model.device import Precision
from trainer.engine import Engine
from trainer.metrics import read_metrics
from trainer.objectives import LanguageModeling
from trainer.parallel import Parallel
from trainer.settings import TrainSettings
from trainer.state import load_newest

PRODUCTS = ("mm", "bmm", "addmm", "_grouped_mm")
ATTENTION = ("_scaled_dot_product_flash_attention_for_cpu",)
REDUCTIONS = ("_log_softmax", "_log_softmax_backward_data", "mean", "rsqrt")
UPDATES = ("_fused_adamw_",)
CPU = torch.device("cpu")


class Watched(TorchDispatchMode):
    """Which floating-point dtypes each kind of operation is given, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[torch.dtype]] = defaultdict(set)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        tensors = [each for each in leaves if isinstance(each, torch.Tensor) and each.ndim]  # scalars count steps
        self.seen[func.overloadpacket.__name__].update(each.dtype for each in tensors if each.is_floating_point())
        return func(*args, **(kwargs or {}))

    def of(self, names: tuple[str, ...]) -> set[torch.dtype]:
        return set().union(*(self.seen.get(name, set()) for name in names))


def engine_of(dtype: torch.dtype, **changes: Any) -> Engine:
    torch.manual_seed(0)
    config = LMConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=16, vocab_size=64, **changes)
    precision = Precision(CPU, dtype)
    model = CausalLM(config).to(precision.weights)
    return Engine(model, TrainSettings(optimizer="adamw", learning_rate=1e-2), precision, Parallel())


def backward(engine: Engine, seed: int, factor: float = 1.0) -> float:
    """Loss and gradients of a batch of random ids, the loss times `factor` in the backward pass."""
    ids = torch.randint(8, (4, 16), generator=torch.Generator().manual_seed(seed))
    batch = {"input_ids": ids, "targets": ids, "position_ids": torch.arange(16).expand(4, 16)}
    batch["segment_ids"] = torch.zeros_like(ids)
    with engine.micro_batch(is_last=True), engine.autocast():
        loss = LanguageModeling(document_mask=False)(engine.forward, batch)["loss"].total / ids.numel()
    engine.backward(loss * factor)
    return loss.item()


def set_scale(engine: Engine, scale: float) -> None:
    tensors = engine.tensors()
    assert tensors is not None
    tensors["scaler"]["scale"] = scale
    engine.load_tensors(tensors)


@pytest.mark.parametrize("changes", [{}, {"use_moe": True}, {"qk_norm": True}], ids=["dense", "moe", "qk_norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_dtypes_that_arithmetic_sees(dtype, changes):
    engine = engine_of(dtype, **changes)
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    with Watched() as watched:
        backward(engine, 0)
        gradients = {parameter.grad.dtype for parameter in engine.model.parameters()}
        engine.update(1e-2)
    router = {kept} if "use_moe" in changes else set()  # scores experts in full precision, as the loss is
    assert watched.of(PRODUCTS) == {dtype} | router
    assert watched.of(ATTENTION) == {dtype}
    assert watched.of(REDUCTIONS) == {kept}
    assert watched.of(UPDATES) == {kept}
    assert gradients == {parameter.dtype for parameter in engine.model.parameters()} == {kept}
    state = engine.tensors()["optimizer"]
    assert {tensor.dtype for each in state.values() for tensor in each.values() if tensor.ndim} == {kept}


def test_fp16_learns_as_fp32_does():
    losses = {}
    for dtype in (torch.float32, torch.float16):
        engine = engine_of(dtype)
        losses[dtype] = []
        for step in range(12):
            losses[dtype].append(backward(engine, step))
            engine.update(1e-2)
    assert losses[torch.float16] == pytest.approx(losses[torch.float32], rel=1e-2)
    assert losses[torch.float16] != losses[torch.float32]
    assert losses[torch.float16][-1] < 0.8 * losses[torch.float16][0]


def test_small_gradients_survive_by_the_scale():
    """A ten-thousandth of a loss has gradients that fp16 rounds to 0; scaled, they are those of fp32."""

    def gradient(dtype, scale):
        engine = engine_of(dtype)
        if scale:
            set_scale(engine, scale)
        weight = engine.model.model.layers[0].self_attn.q_proj.weight
        backward(engine, 0, factor=1e-4)
        found = weight.grad / engine.loss_scale
        return found, engine.update(0.0)

    expected, norm = gradient(torch.float32, None)
    scaled, scaled_norm = gradient(torch.float16, 2.0**16)
    plain, _ = gradient(torch.float16, 1.0)
    assert (scaled - expected).norm() <= 2e-2 * expected.norm()
    assert scaled_norm == pytest.approx(norm, rel=1e-2)
    assert (plain - expected).norm() > 0.5 * expected.norm()


@pytest.mark.parametrize("before", [torch.float32, torch.bfloat16])
def test_fp16_goes_on_from_a_step_saved_without_a_scale(before):
    saved = engine_of(before)
    backward(saved, 0)
    saved.update(1e-2)
    engine = engine_of(torch.float16)
    scale = engine.loss_scale
    engine.load_tensors(saved.tensors())
    assert engine.loss_scale == scale > 1
    found, expected = engine.tensors(), saved.tensors()
    assert all(torch.equal(tensor, found["weights"][name]) for name, tensor in expected["weights"].items())
    assert backward(engine, 1) == pytest.approx(backward(saved, 1), rel=1e-2)
    assert torch.tensor(engine.update(1e-2)).isfinite()


def test_an_overflow_changes_nothing_but_the_scale():
    engine = engine_of(torch.float16)
    set_scale(engine, 2.0**40)
    before = engine.tensors()
    backward(engine, 0)
    assert not torch.tensor(engine.update(1e-2)).isfinite()
    after = engine.tensors()
    assert all(torch.equal(tensor, after["weights"][name]) for name, tensor in before["weights"].items())
    assert engine.loss_scale == 2.0**39
    while engine.loss_scale > 2.0**8:
        backward(engine, 0)
        if torch.tensor(engine.update(1e-2)).isfinite():
            break
    learned = engine.tensors()["weights"]
    assert all(not torch.equal(tensor, learned[name]) for name, tensor in before["weights"].items())


def test_a_run_in_fp16_goes_on_with_its_scale_and_to_the_same_weights(start_run, tmp_path):
    changes: dict[str, Any] = {"dtype": torch.float16, "epochs": 2.0, "accumulation_steps": 2}

    def stopping(objective: LanguageModeling) -> Any:
        calls = iter(range(1000))

        class Stopping:
            document_mask = objective.document_mask
            loss_unit = objective.loss_unit

            def __call__(self, model: Any, batch: Any) -> Any:
                if model.training and next(calls) == 9:
                    signal.raise_signal(signal.SIGTERM)
                return objective(model, batch)

            def __repr__(self) -> str:
                return repr(objective)

        return Stopping()

    assert start_run(**changes, run_name="whole") == 0
    assert start_run(**changes, run_name="stopped", wrap_objective=stopping) == 128 + signal.SIGTERM
    scaler = load_newest(tmp_path / "stopped" / "resume").tensors["scaler"]
    assert scaler["scale"] > 1 and scaler["_growth_tracker"] > 0
    assert start_run(**changes, run_name="stopped") == 0
    whole, stopped = (load_checkpoint(tmp_path / f"{name}.pth").weights for name in ("whole", "stopped"))
    assert [name for name in whole if not torch.equal(whole[name], stopped[name])] == []
    rows = [row for row in read_metrics(tmp_path / "whole" / "metrics.jsonl") if row["kind"] == "train"]
    assert rows[-1]["loss"] < rows[0]["loss"]
