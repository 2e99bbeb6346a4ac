"""RMSNorm, and a quicker way to differentiate it where PyTorch has no kernel for it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RMSNorm(nn.Module):
    """x / √(mean(x²) + ε) · weight over the last dimension (arXiv:1910.07467), in at least float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states if hidden_states.dtype == torch.float64 else hidden_states.float()
        weight = self.weight.to(wide.dtype)
        if wide.device.type == "cpu" and not torch.compiler.is_compiling():
            normed = _RMSNormOnCPU.apply(wide, weight, self.eps)
        else:
            normed = nn.functional.rms_norm(wide, weight.shape, weight, self.eps)
        return normed.to(hidden_states.dtype)


class _RMSNormOnCPU(torch.autograd.Function):
    """The same with its gradient written out.

    On a CPU `rms_norm` is a chain of small operations, each of which autograd differentiates by itself. With
    n = x / rms the whole gradient is (w·g − n · mean(w·g·n)) / rms: half as many passes over the memory.
    """

    @staticmethod
    def forward(ctx: Any, hidden_states: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse_rms = torch.rsqrt(hidden_states.square().mean(-1, keepdim=True) + eps)
        normed = hidden_states * inverse_rms
        ctx.save_for_backward(normed, weight, inverse_rms)
        return normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, weight, inverse_rms = ctx.saved_tensors
        gradient_times_normed = gradient * normed
        weight_gradient = gradient_times_normed.flatten(0, -2).sum(0)
        mean = (gradient_times_normed @ weight / len(weight)).unsqueeze(-1)
        input_gradient = torch.addcmul(gradient * weight, normed, mean, value=-1).mul_(inverse_rms)
        return input_gradient, weight_gradient, None
