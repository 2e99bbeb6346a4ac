import torch

from model.config import LMConfig
from model.decoder import CausalLM
from trainer.optimizer import build_optimizer, restore_state, set_learning_rate, state_by_name
from trainer.settings import TrainSettings

CONFIG = LMConfig(dim=16, n_layers=2, n_heads=2, n_kv_heads=1, vocab_size=40, max_seq_len=8, qk_norm=True, qkv_bias=True)


def _step(model, optimizer):
    input_ids = torch.arange(16).view(2, 8)
    model(input_ids, targets=input_ids).token_losses.mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_every_parameter_is_in_one_group_and_only_matrices_decay():
    model = CausalLM(CONFIG)
    groups = build_optimizer(model, TrainSettings(weight_decay=0.1)).param_groups
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted({id(parameter) for parameter in model.parameters()})
    decay_of = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        is_gain_or_bias = "norm" in name or name.endswith("bias")
        assert decay_of[id(parameter)] == (0.0 if is_gain_or_bias else 0.1), name


def test_update_is_that_of_a_plain_adamw():
    torch.manual_seed(0)
    model = CausalLM(CONFIG).double()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = TrainSettings(learning_rate=1e-2, weight_decay=0.1, beta1=0.9, beta2=0.95)
    optimizer = build_optimizer(model, settings)
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


def test_state_by_name_restores_exactly():
    torch.manual_seed(0)
    model = CausalLM(CONFIG)
    optimizer = build_optimizer(model, TrainSettings())
    _step(model, optimizer)
    twin = CausalLM(CONFIG)
    twin.load_state_dict(model.state_dict())
    twin_optimizer = build_optimizer(twin, TrainSettings())
    restore_state(twin, twin_optimizer, state_by_name(model, optimizer))
    for each in (optimizer, twin_optimizer):
        set_learning_rate(each, 3e-3)
    _step(model, optimizer)
    _step(twin, twin_optimizer)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)
