from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_wsd_schedule,
)

from trainer.schedule import Schedule

KINDS = ["cosine", "linear", "constant", "wsd"]
SHAPES = ["linear", "cosine", "sqrt"]


@given(
    total=st.integers(1, 300),
    warmup=st.integers(0, 300),
    peak=st.floats(1e-6, 1.0),
    min_ratio=st.floats(0, 1),
    kind=st.sampled_from(KINDS),
    share=st.floats(0, 1),
    shape=st.sampled_from(SHAPES),
)
def test_rate_stays_between_its_bounds(total, warmup, peak, min_ratio, kind, share, shape):
    schedule = Schedule(peak, warmup, min_ratio, kind, share, shape)
    rates = [schedule.learning_rate(step, total) for step in range(total)]
    assert all(0 <= rate <= peak * (1 + 1e-12) for rate in rates)
    after_warmup = rates[warmup:]
    assert all(earlier >= later for earlier, later in pairwise(after_warmup))
    assert rates[:warmup] == sorted(rates[:warmup])
    if after_warmup and kind != "constant" and (kind != "wsd" or round(share * total) >= 1):
        assert rates[-1] == pytest.approx(peak * min_ratio, abs=1e-12)


def test_peak_is_reached_at_the_end_of_warmup_and_the_last_step_has_the_lowest_rate():
    rates = [Schedule(1e-3, 10).learning_rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_warmup_as_long_as_the_run_divides_by_nothing(kind):
    assert Schedule(1.0, 10, kind=kind).learning_rate(9, 10) == 1.0
    assert Schedule(1.0, 20, kind=kind).learning_rate(9, 10) == 0.5
    expected = {"constant": 1.0, "wsd": 1.0}.get(kind, 0.1)  # wsd: a fifth of one step is none
    assert Schedule(1.0, 0, kind=kind).learning_rate(0, 1) == pytest.approx(expected)


def test_wsd_is_constant_until_its_decay_and_has_three_shapes():
    for shape, middle in [("linear", 0.5), ("cosine", 0.5), ("sqrt", 1 - 0.5**0.5)]:
        schedule = Schedule(1.0, 10, 0.0, "wsd", 0.2, shape)
        rates = [schedule.learning_rate(step, 100) for step in range(100)]
        assert rates[9:80] == [1.0] * 71
        assert rates[80] < 1.0 and rates[89] == pytest.approx(middle) and rates[99] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_length_not_known_yet_stays_at_the_peak(kind):
    schedule = Schedule(2.0, 4, kind=kind)
    assert [schedule.learning_rate(step, None) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (Schedule(1.0, 10, 0.0, "cosine"), lambda o: get_cosine_schedule_with_warmup(o, 10, 50)),
        (Schedule(1.0, 10, 0.0, "linear"), lambda o: get_linear_schedule_with_warmup(o, 10, 50)),
        (Schedule(1.0, 10, 0.0, "constant"), lambda o: get_constant_schedule_with_warmup(o, 10)),
        (
            Schedule(1.0, 10, 0.0, "wsd", 0.4, "cosine"),
            lambda o: get_wsd_schedule(o, 10, 20, num_stable_steps=20, min_lr_ratio=0.0, decay_type="cosine"),
        ),
        (
            Schedule(1.0, 10, 0.0, "wsd", 0.4, "linear"),
            lambda o: get_wsd_schedule(o, 10, 20, num_stable_steps=20, min_lr_ratio=0.0, decay_type="linear"),
        ),
        (
            Schedule(1.0, 10, 0.0, "wsd", 0.4, "sqrt"),
            lambda o: get_wsd_schedule(o, 10, 20, num_stable_steps=20, min_lr_ratio=0.0, decay_type="1-sqrt"),
        ),
    ],
    ids=["cosine", "linear", "constant", "wsd-cosine", "wsd-linear", "wsd-sqrt"],
)
def test_shape_is_that_of_transformers(schedule, theirs):
    """Theirs starts at 0 and ours at the first warm-up step, so theirs is one step behind."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    their_schedule = theirs(optimizer)
    for step in range(50):
        optimizer.step()
        their_schedule.step()
        assert schedule.learning_rate(step, 50) == pytest.approx(their_schedule.get_last_lr()[0], abs=1e-12)
