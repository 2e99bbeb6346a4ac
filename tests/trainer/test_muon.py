import pytest
import torch

from trainer.muon import COEFFICIENTS, NUM_ITERATIONS, Muon, orthogonalize

SHAPES = [(24, 24), (8, 24), (40, 24), (24, 40), (24, 24)]


def test_updates_are_those_of_torchs_muon():
    """Theirs iterates in bf16: equal to about three digits."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    start = [parameter.detach().clone() for parameter in ours]
    our_muon = Muon(ours, lr=1e-2, weight_decay=0.1)
    their_muon = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for our, their in zip(ours, theirs, strict=True):
            our.grad = torch.randn_like(our)
            their.grad = our.grad.clone()
        our_muon.step()
        their_muon.step()
    for our, their, before in zip(ours, theirs, start, strict=True):
        assert (our - their).norm() < 0.02 * (their - before).norm()


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 32), (2, 32, 8)])
def test_singular_values_are_near_one(shape):
    torch.manual_seed(0)
    singular_values = torch.linalg.svdvals(orthogonalize(torch.randn(shape, dtype=torch.float64)))
    assert singular_values.min() > 0.3 and singular_values.max() < 1.3


@pytest.mark.parametrize("shape", [(3, 24, 64), (3, 64, 24), (1, 16, 200)])
def test_wide_matrices_get_what_the_plain_iteration_gives(shape):
    """By the Gram matrix or step by step: the same polynomial of the singular values, also of tiny ones."""
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    values = torch.logspace(0, -5, min(shape[1:]), dtype=torch.float64)
    matrices = left @ torch.diag(values) @ right
    expected = values / values.norm()
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        expected = a * expected + b * expected**3 + c * expected**5
    wanted = left @ torch.diag(expected) @ right
    torch.testing.assert_close(orthogonalize(matrices), wanted, atol=1e-11, rtol=0)
    assert (orthogonalize(matrices.float()) - wanted).norm() < 1e-3 * wanted.norm()


def test_float64_stays_float64_and_directions_are_kept():
    torch.manual_seed(0)
    matrix = torch.randn(1, 12, 20, dtype=torch.float64)
    result = orthogonalize(matrix)
    assert result.dtype == torch.float64
    left, _, right = torch.linalg.svd(matrix[0], full_matrices=False)
    in_their_basis = left.T @ result[0] @ right.T
    off_diagonal = in_their_basis - torch.diag(in_their_basis.diagonal())
    assert off_diagonal.abs().max() < 1e-10
