import pytest
import torch

from trainer.muon import Muon, orthogonalize

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


def test_float64_stays_float64_and_directions_are_kept():
    torch.manual_seed(0)
    matrix = torch.randn(1, 12, 20, dtype=torch.float64)
    result = orthogonalize(matrix)
    assert result.dtype == torch.float64
    left, _, right = torch.linalg.svd(matrix[0], full_matrices=False)
    in_their_basis = left.T @ result[0] @ right.T
    off_diagonal = in_their_basis - torch.diag(in_their_basis.diagonal())
    assert off_diagonal.abs().max() < 1e-10
