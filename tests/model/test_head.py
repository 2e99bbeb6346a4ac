"""The head's losses against PyTorch's cross-entropy, in one piece and in chunks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model import head
from model.head import IGNORED, LMHead

DIM, VOCAB = 12, 31


def make_inputs(dtype: torch.dtype = torch.float64) -> tuple[LMHead, Tensor, Tensor]:
    torch.manual_seed(0)
    lm_head = LMHead(DIM, VOCAB).to(dtype)
    torch.nn.init.normal_(lm_head.weight)
    hidden_states = torch.randn(3, 7, DIM, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, VOCAB, (3, 7))
    targets[0, 2:5] = IGNORED
    targets[2] = IGNORED  # a row without any target
    return lm_head, hidden_states, targets


def reference(lm_head: LMHead, hidden_states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = hidden_states @ lm_head.weight.T
    losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view(targets.shape), logits.logsumexp(-1) * (targets != IGNORED)


# Below this share of trained positions they alone get logits: never, or always where any position is ignored.
GATHERED_SHARES = pytest.mark.parametrize("gathered_share", [0.0, 1.0])


@GATHERED_SHARES
@pytest.mark.parametrize("rows_a_chunk", [None, 1, 4, 5, 21, 22])
def test_losses_and_gradients(rows_a_chunk, gathered_share, monkeypatch):
    """Chunks of every size, a last short one too, give what all logits at once give."""
    monkeypatch.setattr(head, "GATHERED_SHARE", gathered_share)
    if rows_a_chunk is not None:
        monkeypatch.setattr(head, "MAX_LOGIT_ELEMENTS", rows_a_chunk * VOCAB)
    lm_head, hidden_states, targets = make_inputs()
    weights = torch.randn(2, *targets.shape, dtype=torch.float64)
    outcomes = []
    for function in (lm_head, lambda *inputs: reference(lm_head, *inputs)):
        losses, log_sum_exp = function(hidden_states, targets)
        objective = (losses * weights[0]).sum() + (log_sum_exp.square() * weights[1]).sum()  # a z-loss as well
        outcomes.append([losses, log_sum_exp, *torch.autograd.grad(objective, [hidden_states, lm_head.weight])])
    for mine, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@GATHERED_SHARES
@pytest.mark.parametrize("rows_a_chunk", [1, 100])
def test_ignored_positions_are_zero_and_teach_nothing(rows_a_chunk, gathered_share, monkeypatch):
    monkeypatch.setattr(head, "GATHERED_SHARE", gathered_share)
    monkeypatch.setattr(head, "MAX_LOGIT_ELEMENTS", rows_a_chunk * VOCAB)
    lm_head, hidden_states, targets = make_inputs()
    losses, log_sum_exp = lm_head(hidden_states, targets)
    ignored = targets == IGNORED
    assert losses[ignored].tolist() == log_sum_exp[ignored].tolist() == [0.0] * int(ignored.sum())
    (losses.sum() + log_sum_exp.sum()).backward()
    assert hidden_states.grad[ignored].abs().max() == 0
    assert (hidden_states.grad[~ignored].abs().sum(-1) > 0).all()


@GATHERED_SHARES
@pytest.mark.parametrize("rows_a_chunk", [1, 100])
def test_nothing_to_train_on_gives_zero_and_no_nan(rows_a_chunk, gathered_share, monkeypatch):
    monkeypatch.setattr(head, "GATHERED_SHARE", gathered_share)
    monkeypatch.setattr(head, "MAX_LOGIT_ELEMENTS", rows_a_chunk * VOCAB)
    lm_head, hidden_states, targets = make_inputs()
    losses, _ = lm_head(hidden_states, torch.full_like(targets, IGNORED))
    losses.sum().backward()
    assert losses.abs().max() == 0
    assert lm_head.weight.grad.abs().max() == 0


@pytest.mark.parametrize("wrong", [-1, -99, VOCAB])
def test_a_target_outside_the_vocabulary_is_an_error(wrong):
    """Only −100 is ignored: another negative number is a mistake, not token 0."""
    lm_head, hidden_states, targets = make_inputs()
    targets[1, 1] = wrong
    with pytest.raises((RuntimeError, IndexError)):
        lm_head(hidden_states, targets)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_wide_in_16_bits(dtype):
    lm_head, hidden_states, targets = make_inputs(dtype)
    losses, log_sum_exp = lm_head(hidden_states, targets)
    assert losses.dtype == log_sum_exp.dtype == torch.float32
    logits = torch.nn.functional.linear(hidden_states, lm_head.weight).float()
    expected = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    torch.testing.assert_close(losses.flatten(), expected, rtol=1e-5, atol=1e-5)


def test_huge_logits_stay_finite():
    lm_head, hidden_states, targets = make_inputs(torch.float32)
    losses, log_sum_exp = lm_head(hidden_states * 1e6, targets)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert log_sum_exp.isfinite().all()
    assert hidden_states.grad.isfinite().all()


def test_autocast_holds_in_the_recomputed_chunks(monkeypatch):
    lm_head, hidden_states, targets = make_inputs(torch.float32)
    gradients = []
    for elements in (VOCAB, 10**6):
        monkeypatch.setattr(head, "MAX_LOGIT_ELEMENTS", elements)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses, _ = lm_head(hidden_states, targets)
        gradients.append(torch.autograd.grad(losses.sum(), [hidden_states, lm_head.weight]))
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=0.02, atol=0.02)


class _Saved:
    """Counts what autograd keeps for the backward pass, in elements."""

    def __init__(self) -> None:
        self.elements = 0

    def pack(self, tensor: Tensor) -> Tensor:
        self.elements += tensor.numel()
        return tensor


def test_chunks_keep_no_logits_for_the_backward_pass(monkeypatch):
    lm_head, hidden_states, targets = make_inputs()
    kept = []
    for rows_a_chunk in (100, 2):
        monkeypatch.setattr(head, "MAX_LOGIT_ELEMENTS", rows_a_chunk * VOCAB)
        saved = _Saved()
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
            lm_head(hidden_states, targets)
        kept.append(saved.elements)
    assert kept[0] >= targets.numel() * VOCAB
    assert kept[1] < targets.numel() * VOCAB / 2


@pytest.mark.slow
def test_chunks_lower_the_peak_of_memory(repository):
    """Measured by the operating system, in a process of its own each."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process is read from /proc, which this system does not have")
    script = """
import sys, torch
from pathlib import Path
from model import head
def peak():  # not getrusage's, which begins at the size of the process that started this one
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
head.MAX_LOGIT_ELEMENTS = int(sys.argv[1])
torch.set_num_threads(1)
lm_head = head.LMHead(16, 20000)
torch.nn.init.normal_(lm_head.weight)
hidden = torch.randn(1, 4000, 16, requires_grad=True)
before = peak()
losses, _ = lm_head(hidden, torch.zeros(1, 4000, dtype=torch.long))
losses.sum().backward()
print(peak() - before)
"""
    # glibc keeps freed pieces of this size for later, whole logits not: both go back to the system here.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "100000", "MALLOC_TRIM_THRESHOLD_": "0"}
    whole, in_chunks = (
        int(
            subprocess.run(
                [sys.executable, "-c", script, elements],
                check=True,
                capture_output=True,
                env=environment,
                cwd=repository,
            ).stdout
        )
        for elements in ("1000000000", "2000000")
    )
    assert in_chunks < whole / 4
