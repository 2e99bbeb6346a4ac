"""The optimizers: AdamW with the decay where it belongs, Muon for matrices, and their state by parameter name."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer.muon import Muon
from trainer.settings import TrainSettings

Optimizers = Sequence[torch.optim.Optimizer]
# What each keeps for a parameter.
MOMENTS = {torch.optim.AdamW: {"exp_avg", "exp_avg_sq", "step"}, Muon: {"momentum_buffer"}}


def build_optimizers(model: nn.Module, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """AdamW (arXiv:1711.05101) for everything, or Muon for the layers' matrices and AdamW for the rest.

    Matrices decay; gains and biases do not: decay pulls towards zero, but a norm's gain belongs near one, and a
    bias costs no capacity.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    # Embeddings and the head are tables of rows, and stacked experts are no 2-D matrices: not for Muon.
    matrices = [each for each in named if each[1].ndim == 2 and ".layers." in each[0] and "router" not in each[0]]
    for_muon = matrices if settings.optimizer == "muon" else []
    chosen = {name for name, _ in for_muon}
    rest = [each for each in named if each[0] not in chosen]
    groups = [
        {"params": [each for each in rest if each[1].ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [each for each in rest if each[1].ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    assert settings.learning_rate is not None, "decided before (trainer/plan.py)"
    betas = (settings.beta1, settings.beta2)
    optimizers: list[torch.optim.Optimizer] = []
    if groups:
        optimizers.append(torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=True))
    if for_muon:
        optimizers.append(Muon(for_muon, lr=settings.learning_rate, weight_decay=settings.weight_decay))
    return optimizers


def set_learning_rate(optimizers: Optimizers, learning_rate: float) -> None:
    """Use this learning rate for the next update, in every group."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate


def state_by_name(model: nn.Module, optimizers: Optimizers) -> dict[str, dict[str, Tensor]]:
    """A copy of the optimizers' tensors by parameter name: independent of how they were grouped or sharded."""
    return {
        name: {key: value.detach().to("cpu", copy=True) for key, value in optimizer.state[parameter].items()}
        for name, parameter in model.named_parameters()
        for optimizer in optimizers
        if parameter in optimizer.state
    }


def restore_state(model: nn.Module, optimizers: Optimizers, state: dict[str, dict[str, Tensor]]) -> None:
    """The inverse of `state_by_name`; KeyError names what another optimizer would have stored.

    Before its first update an optimizer has no state: then it has none again.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not state or parameters.keys() == state.keys(), "the optimizer's state belongs to another model"
    for optimizer in optimizers:
        optimizer.state.clear()
    owner = {
        id(parameter): optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, values in state.items():
        parameter = parameters[name]
        expected = MOMENTS[type(owner[id(parameter)])]
        if missing := expected - values.keys():
            raise KeyError(f"{name}.{sorted(missing)[0]}")
        restored: dict[str, Any] = {}
        for key, value in values.items():
            is_moment = value.shape == parameter.shape
            restored[key] = value.to(parameter.device, parameter.dtype if is_moment else value.dtype).clone()
        owner[id(parameter)].state[parameter] = restored
