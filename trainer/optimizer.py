"""AdamW with the decay where it belongs, and its state by parameter name."""

from typing import Any

import torch
from torch import Tensor, nn

from trainer.settings import TrainSettings


def build_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW (arXiv:1711.05101) over two groups: matrices decay, gains and biases do not.

    Decay pulls a weight towards zero; a norm's gain belongs near one, and a bias costs no capacity.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in named if each[1].ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [each for each in named if each[1].ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), fused=True
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Use this learning rate for the next update, in every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def state_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """The optimizer's tensors by parameter name: independent of how the parameters were grouped or sharded."""
    return {
        name: {key: value.detach().cpu() for key, value in optimizer.state[parameter].items()}
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }


def restore_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, dict[str, Tensor]]
) -> None:
    """The inverse of `state_by_name`."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not state or parameters.keys() == state.keys(), "the optimizer's state belongs to another model"
    for name, values in state.items():
        parameter = parameters[name]
        restored: dict[str, Any] = {}
        for key, value in values.items():
            is_moment = value.shape == parameter.shape
            restored[key] = value.to(parameter.device, parameter.dtype if is_moment else value.dtype).clone()
        optimizer.state[parameter] = restored
