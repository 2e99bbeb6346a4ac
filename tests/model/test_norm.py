"""RMSNorm and its hand-written gradient against PyTorch's own."""

import pytest
import torch
from torch.nn.functional import rms_norm

from model.norm import RMSNorm


@pytest.mark.parametrize("shape", [(3, 16), (2, 5, 16), (2, 4, 3, 16), (1, 1, 16)])
def test_values_and_gradients(shape):
    torch.manual_seed(0)
    norm = RMSNorm(16, 1e-5).double()
    torch.nn.init.normal_(norm.weight)
    hidden_states = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(shape, dtype=torch.float64)
    outcomes = []
    for output in (norm(hidden_states), rms_norm(hidden_states, (16,), norm.weight, 1e-5)):
        outcomes.append([output, *torch.autograd.grad(output, [hidden_states, norm.weight], gradient)])
    for mine, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)


def test_gradient_by_differences():
    norm = RMSNorm(6, 1e-3).double()
    hidden_states = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: norm(x), (hidden_states, norm.weight))


def test_heads_that_are_not_contiguous():
    """QK-norm gets views of the projections."""
    norm, heads = RMSNorm(8, 1e-5), torch.randn(2, 3, 5, 8).transpose(1, 2)
    torch.testing.assert_close(norm(heads), norm(heads.contiguous()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_computes_in_float32(dtype):
    norm = RMSNorm(64, 1e-5).to(dtype)
    values = (torch.randn(5, 64) * 300).to(dtype).requires_grad_()
    wide = values.float()
    expected = wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    found = norm(values)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected.to(dtype), rtol=2**-7, atol=0)  # a rounding step at most
    found.sum().backward()
    assert values.grad.dtype == norm.weight.grad.dtype == dtype


def test_zeros_stay_zeros():
    hidden_states = torch.zeros(2, 8, requires_grad=True)
    output = RMSNorm(8, 1e-5)(hidden_states)
    output.sum().backward()
    assert torch.equal(output, torch.zeros(2, 8))
    assert hidden_states.grad.isfinite().all()


def test_without_gradients():
    with torch.inference_mode():
        assert not RMSNorm(8, 1e-5)(torch.ones(2, 8)).requires_grad
