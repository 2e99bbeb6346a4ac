"""Muon: momentum whose update is turned into the nearest orthogonal matrix (Jordan et al., 2024).

Gradients of a matrix tend to be dominated by a few directions. Orthogonalised, every direction moves by the same
amount, and a model reaches the same loss in fewer updates. The arithmetic is that of `torch.optim.Muon` with
`adjust_lr_fn="match_rms_adamw"` (arXiv:2502.16982); torch's runs in bf16, which takes seconds an update on a CPU
without bf16, so here the iteration runs in the gradient's own precision where the hardware has no better one.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Coefficients of the quintic iteration x → a·x + b·x³ + c·x⁵, chosen to bring singular values near 1 in five steps.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon for matrices; everything else belongs to AdamW.

    Args:
        params: 2-D parameters, or groups of them.
        lr: learning rate, on AdamW's scale: an update's root mean square is 0.2 · lr.
        weight_decay: decoupled, as AdamW's.
        momentum: share of the earlier gradients kept (Nesterov).
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None, "the loop computes the loss itself"
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group)

    def _update(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Update parameters of one shape together: one batched product is faster than many small ones."""
        directions = []
        for parameter in parameters:
            assert parameter.grad is not None
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
            directions.append(parameter.grad.lerp(momentum, group["momentum"]))
        updates = orthogonalize(torch.stack(directions))
        rows, columns = parameters[0].shape
        rate = group["lr"] * 0.2 * max(rows, columns) ** 0.5
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.to(parameter.dtype), alpha=-rate)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring the singular values of `matrices` [count, rows, columns] near 1 (Newton–Schulz iteration)."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16() if matrices.device.type == "cuda" and matrices.dtype == torch.float32 else matrices
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:  # the products below are rows × rows: take the smaller side
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
