"""The Wilson interval against its definition and published values."""

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.statistics import macro_average, wilson_interval

counts = st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


@pytest.mark.parametrize(
    ("num_right", "num_total", "expected"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3 (score without continuity correction).
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0000, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_published_intervals(num_right, num_total, expected):
    assert wilson_interval(num_right, num_total) == pytest.approx(expected, abs=6e-5)


@given(counts, st.floats(0.5, 0.999))
def test_the_ends_are_where_the_score_test_just_rejects(count, confidence):
    num_right, num_total = count
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = num_right / num_total
    for end in wilson_interval(num_right, num_total, confidence):
        assert (share - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / num_total, rel=1e-6, abs=1e-12)


@given(counts)
def test_it_holds_the_observed_share_and_stays_a_share(count):
    num_right, num_total = count
    low, high = wilson_interval(num_right, num_total)
    assert 0 <= low <= num_right / num_total <= high <= 1
    assert low < high


def test_nothing_observed_says_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_macro_average_counts_each_group_once():
    assert macro_average([1.0, 0.5, 0.0]) == 0.5
    assert math.isnan(macro_average([]))
