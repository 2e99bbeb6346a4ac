from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup

from trainer.schedule import learning_rate


@given(
    total=st.integers(1, 300),
    warmup=st.integers(0, 300),
    peak=st.floats(1e-6, 1.0),
    min_ratio=st.floats(0, 1),
)
def test_rate_stays_between_its_bounds(total, warmup, peak, min_ratio):
    rates = [learning_rate(step, total, peak, warmup, min_ratio) for step in range(total)]
    assert all(0 <= rate <= peak * (1 + 1e-12) for rate in rates)
    after_warmup = rates[warmup:]
    assert all(earlier >= later for earlier, later in pairwise(after_warmup))
    assert rates[:warmup] == sorted(rates[:warmup])


def test_peak_is_reached_at_the_end_of_warmup_and_the_last_step_has_the_lowest_rate():
    rates = [learning_rate(step, 100, 1e-3, 10, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-4)


def test_warmup_as_long_as_the_run_divides_by_nothing():
    assert learning_rate(9, 10, 1.0, 10, 0.1) == 1.0
    assert learning_rate(0, 1, 1.0, 0, 0.1) == pytest.approx(0.1)


def test_shape_is_that_of_transformers():
    """Theirs starts at 0 and ours at the first warm-up step, so theirs is one step behind."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=10, num_training_steps=50)
    for step in range(50):
        optimizer.step()
        theirs.step()
        assert learning_rate(step, 50, 1.0, 10, 0.0) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
