"""Each step of sampling against transformers' logits processor of that name, the draw against its odds."""

import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from inference.sampling import (
    apply_repetition_penalty,
    apply_temperature,
    ban_repeated_ngrams,
    choose_tokens,
    draw_tokens,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    random_source,
)
from inference.sampling_params import SamplingParams
from model.errors import UserError

VOCAB = 50
seeds = st.integers(0, 10**6)


def random_logits(seed: int, batch: int = 3, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(batch, VOCAB, generator=generator, dtype=torch.float64)


def random_histories(seed: int, batch: int = 3, length: int = 24, num_tokens: int = VOCAB) -> torch.Tensor:
    return torch.randint(0, num_tokens, (batch, length), generator=torch.Generator().manual_seed(seed))


@given(seed=seeds, temperature=st.floats(0.05, 10))
def test_temperature_gives_the_distribution_of_transformers(seed, temperature):
    logits = random_logits(seed)
    expected = TemperatureLogitsWarper(temperature)(None, logits).softmax(-1)
    torch.testing.assert_close(apply_temperature(logits, temperature).softmax(-1), expected)


def test_a_tiny_temperature_is_greedy_and_not_nan():
    logits = random_logits(0).float()
    probabilities = apply_temperature(logits, 1e-40).softmax(-1)
    assert torch.equal(probabilities.argmax(-1), logits.argmax(-1))
    assert torch.equal(probabilities.sum(-1), torch.ones(3))


@given(seed=seeds, k=st.integers(1, 2 * VOCAB))
def test_top_k_keeps_what_transformers_keeps(seed, k):
    logits = random_logits(seed).round()  # with ties
    assert torch.equal(keep_top_k(logits, k), TopKLogitsWarper(k)(None, logits))


@given(seed=seeds, p=st.floats(0.01, 1.0))
def test_top_p_keeps_what_transformers_keeps(seed, p):
    logits = random_logits(seed)
    expected = TopPLogitsWarper(p)(None, logits) if p < 1 else logits
    assert torch.equal(keep_top_p(logits, p), expected)


def test_top_p_keeps_the_fewest_that_reach_it():
    logits = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64).log()
    assert keep_top_p(logits, 0.5).isfinite().tolist() == [[True, False, False]]
    assert keep_top_p(logits, 0.51).isfinite().tolist() == [[True, False, True]]
    assert keep_top_p(logits, 1e-9).isfinite().tolist() == [[True, False, False]]


@given(seed=seeds, min_p=st.floats(0.001, 1.0))
def test_min_p_keeps_what_transformers_keeps(seed, min_p):
    logits = random_logits(seed)
    assert torch.equal(keep_min_p(logits, min_p), MinPLogitsWarper(min_p)(None, logits))


@given(seed=seeds, penalty=st.floats(0.5, 3.0))
def test_repetition_penalty_is_that_of_transformers(seed, penalty):
    logits, histories = random_logits(seed), random_histories(seed)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(histories, logits.clone())
    torch.testing.assert_close(apply_repetition_penalty(logits, histories.tolist(), penalty), expected)


@given(seed=seeds, size=st.integers(1, 5), length=st.integers(1, 24))
def test_ngram_ban_is_that_of_transformers(seed, size, length):
    logits, histories = random_logits(seed), random_histories(seed, length=length, num_tokens=3)
    expected = NoRepeatNGramLogitsProcessor(size)(histories, logits.clone())
    assert torch.equal(ban_repeated_ngrams(logits, histories.tolist(), size), expected)


def test_ngram_ban_bans_the_completion_of_a_run():
    banned = ban_repeated_ngrams(torch.zeros(1, VOCAB), [[5, 6, 7, 5, 6]], 3)
    assert banned.isneginf().nonzero().tolist() == [[0, 7]]


@given(seed=seeds)
def test_the_whole_chain_has_the_distribution_of_transformers(seed):
    """Same order too: the draw that just reaches a token's cumulative probability gives that token."""
    logits, histories = random_logits(seed), random_histories(seed, num_tokens=8)
    params = SamplingParams(
        temperature=1.3, top_k=20, top_p=0.9, min_p=0.02, repetition_penalty=1.4, no_repeat_ngram_size=2
    )
    chain = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(1.4),
            NoRepeatNGramLogitsProcessor(2),
            TemperatureLogitsWarper(1.3),
            TopKLogitsWarper(20),
            TopPLogitsWarper(0.9),
            MinPLogitsWarper(0.02),
        ]
    )
    expected = chain(histories, logits.clone()).softmax(-1)
    for row in range(len(logits)):
        cumulative = expected[row].cumsum(-1)
        for token in expected[row].nonzero()[:, 0].tolist():
            middle = float(cumulative[token] - expected[row, token] / 2)
            one_row = logits[row : row + 1]
            assert choose_tokens(one_row, [histories[row].tolist()], params, [middle]) == [token]


def test_draws_follow_the_odds():
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    random = random_source(0, 0)
    count = 20_000
    tokens = draw_tokens(probabilities.log().expand(count, -1), [random.random() for _ in range(count)])
    shares = tokens.bincount(minlength=4) / count
    # Four standard errors of a share: 4 · √(0.25 / 20,000) = 0.014.
    assert (shares - probabilities).abs().max() < 0.014
    assert shares[1] == 0


@pytest.mark.parametrize("draw", [0.0, math.nextafter(1.0, 0.0)])
def test_the_extreme_draws_give_possible_tokens(draw):
    logits = torch.tensor([[-math.inf, 0.1, -math.inf, 0.2, 0.3, -math.inf]])
    assert draw_tokens(logits, [draw]).item() == (1 if draw == 0 else 4)


def test_temperature_zero_takes_the_most_probable_token_whatever_the_draw():
    logits = random_logits(4)
    greedy = SamplingParams(temperature=0, top_k=5, top_p=0.5)
    assert choose_tokens(logits, [[1]] * 3, greedy, [0.99] * 3) == logits.argmax(-1).tolist()


def test_random_numbers_depend_on_seed_and_index_alone():
    first = [random_source(7, index).random() for index in range(3)]
    assert first == [random_source(7, index).random() for index in range(3)]
    assert len({*first, random_source(8, 0).random()}) == 4
    assert random_source(-1, 0).random() != random_source(-1, 0).random()
    assert random_source(None, 0).random() != random_source(None, 0).random()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_diverged_model_is_named(value, temperature):
    logits = random_logits(0)
    logits[1, 7] = value
    with pytest.raises(UserError, match="diverged"):
        choose_tokens(logits, [[1]] * 3, SamplingParams(temperature=temperature), [0.5] * 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("no_repeat_ngram_size", -2),
        ("stop", [""]),
        ("stop_token_ids", [-1]),
    ],
)
def test_impossible_settings_are_refused_by_name(name, value):
    with pytest.raises(UserError, match=f"--{name}: found"):
        SamplingParams(**{name: value})


def test_every_setting_has_its_line_of_help():
    assert all(each.metadata["help"] for each in fields(SamplingParams))
