"""The memory estimate against what PyTorch really keeps, makes and measures."""

import pytest
import torch

from model.config import LMConfig
from model.decoder import CausalLM
from model.device import Precision
from trainer import memory
from trainer.memory import Setup, memory_of_run, zero_of
from trainer.objectives import LanguageModeling
from trainer.optimizer import build_optimizers
from trainer.settings import TrainSettings

SHAPE = {"dim": 64, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 128}
ROWS, SEQ = 2, 96


def setup_of(dtype=torch.float32, device="cpu", optimizer="adamw", changes=None, **values) -> Setup:
    config = LMConfig(**{**SHAPE, "max_seq_len": SEQ, **(changes or {})})
    training = TrainSettings(optimizer=optimizer, learning_rate=1e-3)
    return Setup(config, training, Precision(torch.device(device), dtype), SEQ, **values)


def kept_by_autograd(setup: Setup) -> int:
    """Bytes that a forward pass leaves for the backward pass, by PyTorch's own hook; weights not counted."""
    model = CausalLM(setup.config)
    storages: dict[int, int] = {}
    tensors = []

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        tensors.append(tensor)  # alive, so that no address is used twice
        return tensor

    ids = torch.randint(setup.config.vocab_size, (ROWS, SEQ))
    places = torch.arange(SEQ).expand(ROWS, SEQ)
    batch = {"input_ids": ids, "targets": ids, "position_ids": places % 32, "segment_ids": places // 32}
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda each: each), setup.precision.autocast():
        LanguageModeling(setup.document_mask)(model, batch)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(size for address, size in storages.items() if address not in weights)


@pytest.mark.parametrize(
    ("dtype", "document_mask", "changes"),
    [
        (torch.float32, False, {}),
        (torch.float32, True, {}),
        (torch.float32, False, {"n_kv_heads": 4}),
        (torch.float32, False, {"qk_norm": True}),
        (torch.float32, False, {"sliding_window": 16}),
        (torch.float32, False, {"dropout": 0.1}),
        (torch.float32, True, {"use_moe": True}),
        (torch.bfloat16, False, {}),
        (torch.bfloat16, True, {"use_moe": True}),
        (torch.bfloat16, False, {"qk_norm": True}),
    ],
)
def test_activations_are_what_autograd_keeps(dtype, document_mask, changes):
    setup = setup_of(dtype, changes=changes, document_mask=document_mask)
    log_probabilities = ROWS * SEQ * setup.config.vocab_size * 4
    expected = kept_by_autograd(setup) - log_probabilities
    assert memory_of_run(setup, ROWS).activations == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("changes", [{}, {"use_moe": True}, {"use_moe": True, "n_shared_experts": 0}])
def test_the_optimizers_state(optimizer, changes):
    setup = setup_of(optimizer=optimizer, changes=changes)
    model = CausalLM(setup.config)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers = build_optimizers(model, setup.training)
    held = 0
    for each in optimizers:
        each.step()
        held += sum(
            tensor.nbytes for state in each.state.values() for tensor in state.values() if torch.as_tensor(tensor).ndim
        )
    found = memory_of_run(setup, 1)
    assert found.optimizer == held
    assert found.weights == found.gradients == sum(parameter.nbytes for parameter in model.parameters())


def test_zero_divides_what_it_shards():
    alone, parts = memory_of_run(setup_of(), 1), {}
    for stage in (1, 2, 3):
        parts[stage] = memory_of_run(setup_of(world_size=4, zero_stage=stage), 1)
        # Two moments and DeepSpeed's own copy of the weights.
        assert parts[stage].optimizer == 3 * alone.weights // 4
    assert [parts[stage].gradients for stage in (1, 2, 3)] == [alone.weights, alone.weights // 4, alone.weights // 4]
    assert [parts[stage].weights for stage in (1, 2, 3)] == [alone.weights, alone.weights, alone.weights // 4]
    assert not setup_of(optimizer="auto", zero_stage=1).uses_muon
    assert setup_of(optimizer="auto").uses_muon


def test_a_gpu_keeps_copies_and_what_is_offloaded_elsewhere():
    on_gpu = memory_of_run(setup_of(device="cuda", zero_stage=2, world_size=2), 1)
    offloaded = memory_of_run(setup_of(device="cuda", zero_stage=2, world_size=2, offload=True), 1)
    assert on_gpu.saving == offloaded.saving == 0
    assert offloaded.optimizer == 0
    assert offloaded.host - on_gpu.host == on_gpu.optimizer
    assert memory_of_run(setup_of(), 1).saving == 3 * memory_of_run(setup_of(), 1).weights


def test_the_zero_configuration_is_read():
    assert zero_of(None) == (0, False)
    assert zero_of({"zero_optimization": {"stage": 2}}) == (2, False)
    assert zero_of({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}) == (3, True)
    assert zero_of({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "none"}}}) == (3, False)


def test_what_makes_the_peak_larger_or_smaller():
    def peak(rows: int = 8, accumulation_steps: int = 1, **values) -> int:
        return memory_of_run(setup_of(changes={"n_layers": 8}, **values), rows, accumulation_steps).peak

    assert peak(rows=16) > peak(rows=8)
    assert peak(accumulation_steps=2) > peak()
    assert peak(document_mask=True) > peak()
    assert peak(gradient_checkpointing=True) < peak()


def test_many_logits_are_made_in_pieces():
    """The head never makes more than MAX_LOGIT_ELEMENTS at once."""
    setup = setup_of(changes={"vocab_size": 60_000})
    assert memory._logits(setup, 1000) == memory._logits(setup, 100)
    assert memory._logits(setup, 4) > memory._logits(setup, 2)
