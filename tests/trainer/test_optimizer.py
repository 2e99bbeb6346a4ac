import pytest
import torch

from model.config import LMConfig
from model.decoder import CausalLM
from trainer.optimizer import build_optimizers, restore_state, set_learning_rate, state_by_name
from trainer.settings import TrainSettings

CONFIG = LMConfig(
    dim=16, n_layers=2, n_heads=2, n_kv_heads=1, vocab_size=40, max_seq_len=8, qk_norm=True, qkv_bias=True
)


def _step(model, optimizers):
    input_ids = torch.arange(16).view(2, 8)
    model(input_ids, targets=input_ids).token_losses.mean().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_is_in_one_group_and_only_matrices_decay(name):
    model = CausalLM(CONFIG)
    optimizers = build_optimizers(model, TrainSettings(weight_decay=0.1, optimizer=name, learning_rate=1e-3))
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted({id(parameter) for parameter in model.parameters()})
    decay_of = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        is_gain_or_bias = "norm" in name or name.endswith("bias")
        assert decay_of[id(parameter)] == (0.0 if is_gain_or_bias else 0.1), name


def test_muon_gets_the_layers_matrices_and_nothing_else():
    config = CONFIG.with_changes(use_moe=True, qk_norm=False)
    model = CausalLM(config)
    _, muon = build_optimizers(model, TrainSettings(optimizer="muon", learning_rate=1e-3))
    theirs = {id(parameter) for parameter in muon.param_groups[0]["params"]}
    chosen = {name.split(".", 3)[-1] for name, parameter in model.named_parameters() if id(parameter) in theirs}
    projections = {f"self_attn.{each}_proj.weight" for each in "qkvo"}
    assert chosen == projections | {f"mlp.shared_experts.{each}_proj.weight" for each in ("gate", "up", "down")}


def test_update_is_that_of_a_plain_adamw():
    torch.manual_seed(0)
    model = CausalLM(CONFIG).double()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = TrainSettings(optimizer="adamw", learning_rate=1e-2, weight_decay=0.1, beta1=0.9, beta2=0.95)
    [optimizer] = build_optimizers(model, settings)
    moments = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in weights.items()}
    for step in (1, 2, 3):
        input_ids = torch.arange(16).view(2, 8)
        model(input_ids, targets=input_ids).token_losses.mean().backward()
        for name, parameter in model.named_parameters():
            first, second = moments[name]
            first.mul_(0.9).add_(0.1 * parameter.grad)
            second.mul_(0.95).add_(0.05 * parameter.grad**2)
            decay = 0.1 if parameter.ndim > 1 else 0.0
            update = (first / (1 - 0.9**step)) / ((second / (1 - 0.95**step)).sqrt() + 1e-8)
            weights[name] -= 1e-2 * (decay * weights[name] + update)
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), weights[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_by_name_restores_exactly(name):
    torch.manual_seed(0)
    model = CausalLM(CONFIG)
    optimizers = build_optimizers(model, TrainSettings(optimizer=name, learning_rate=1e-3))
    _step(model, optimizers)
    twin = CausalLM(CONFIG)
    twin.load_state_dict(model.state_dict())
    twin_optimizers = build_optimizers(twin, TrainSettings(optimizer=name, learning_rate=1e-3))
    restore_state(twin, twin_optimizers, state_by_name(model, optimizers))
    for each in (optimizers, twin_optimizers):
        set_learning_rate(each, 3e-3)
    _step(model, optimizers)
    _step(twin, twin_optimizers)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)
