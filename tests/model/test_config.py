"""The configuration: what it refuses and in which words, and its counts against real modules."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import PRESETS, LMConfig
from model.decoder import CausalLM
from model.errors import UserError

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
MOE = {"use_moe": True}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_heads": 16, "n_kv_heads": 3}, ["n_kv_heads", "3", "16", "[1, 2, 4, 8, 16]"]),
        ({"n_kv_heads": 32}, ["n_kv_heads", "32"]),
        ({"dim": 500}, ["n_heads", "16", "500"]),  # 31.25 wide heads
        ({"n_heads": 1024, "n_kv_heads": 1}, ["n_heads", "1024"]),
        ({"dim": 48, "n_heads": 16}, ["head_dim", "3", "even"]),
        ({"head_dim": 31}, ["head_dim", "31", "even"]),
        ({"head_dim": 0}, ["head_dim", "0"]),
        ({"max_seq_len": 0}, ["max_seq_len", "0"]),
        ({"max_seq_len": -5}, ["max_seq_len", "-5"]),
        ({"n_layers": 0}, ["n_layers"]),
        ({"dim": 0}, ["dim"]),
        ({"dim": 512.0}, ["dim", "512.0", "whole"]),
        ({"dim": "512"}, ["dim", "'512'"]),
        ({"n_layers": True}, ["n_layers", "True"]),
        ({"n_heads": 0}, ["n_heads"]),
        ({"n_kv_heads": 0}, ["n_kv_heads"]),
        ({"vocab_size": 0}, ["vocab_size"]),
        ({"multiple_of": 0}, ["multiple_of"]),
        ({"hidden_dim": 0}, ["hidden_dim"]),
        ({"hidden_dim": 3.5}, ["hidden_dim", "3.5"]),
        ({"dropout": 1.0}, ["dropout"]),
        ({"dropout": -0.1}, ["dropout"]),
        ({"dropout": "0.1"}, ["dropout", "number"]),
        ({"dropout": float("nan")}, ["dropout", "nan"]),
        ({"norm_eps": 0.0}, ["norm_eps"]),
        ({"norm_eps": float("inf")}, ["norm_eps", "inf"]),
        ({"rope_theta": -1.0}, ["rope_theta"]),
        ({"sliding_window": 0}, ["sliding_window"]),
        ({"tie_embeddings": "no"}, ["tie_embeddings", "'no'", "true or false"]),
        ({"use_moe": 1}, ["use_moe"]),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, ["rope_scaling", "dynamic", "yarn"]),
        ({"rope_scaling": {"factor": 2.0}}, ["rope_scaling", "rope_type"]),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, ["original_max_position_embeddings"]),
        ({"rope_scaling": {**YARN, "mscale": 1.0}}, ["rope_scaling", "mscale"]),
        ({"rope_scaling": {**YARN, "factor": 0.5}}, ["rope_scaling", "factor", "0.5"]),
        ({"rope_scaling": {**YARN, "factor": "4"}}, ["rope_scaling", "factor", "'4'"]),
        ({"rope_scaling": {**YARN, "beta_fast": None}}, ["rope_scaling", "beta_fast"]),
        (
            {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 0}},
            ["original_max_position_embeddings"],
        ),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, ["high_freq_factor", "low_freq_factor"]),
        ({**MOE, "num_experts_per_tok": 5}, ["num_experts_per_tok", "5", "n_routed_experts 4"]),
        ({**MOE, "num_experts_per_tok": 0}, ["num_experts_per_tok", "0"]),
        ({**MOE, "num_experts_per_tok": 1.5}, ["num_experts_per_tok", "1.5"]),
        ({**MOE, "num_experts_per_tok": 1}, ["num_experts_per_tok", "norm_topk_prob"]),
        ({**MOE, "n_routed_experts": 0}, ["n_routed_experts"]),
        ({**MOE, "n_shared_experts": -1}, ["n_shared_experts"]),
        ({**MOE, "moe_hidden_dim": 0}, ["moe_hidden_dim"]),
        ({**MOE, "aux_loss_alpha": -0.01}, ["aux_loss_alpha"]),
        ({**MOE, "seq_aux": None}, ["seq_aux"]),
    ],
    ids=str,
)
def test_impossible_configurations_name_what_to_change(values, words):
    with pytest.raises(UserError) as caught:
        LMConfig(**values)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(UserError, match=r"--preset.*'huge'.*tiny, small, base, moe"):
        LMConfig.preset("huge")


@pytest.mark.parametrize(
    ("preset", "total", "active"),
    [
        ("small", 26_878_464, 26_878_464),
        ("base", 108_749_568, 108_749_568),
        # Two of four routed experts are passed by: 8 layers · 2 · 3 · 512 · 1408.
        ("moe", 113_402_368, 113_402_368 - 8 * 2 * 3 * 512 * 1408),
    ],
)
def test_presets_have_the_promised_sizes(preset, total, active):
    config = LMConfig.preset(preset)
    assert config.num_parameters() == total
    assert config.num_parameters(active_only=True) == active
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in CausalLM(config).parameters()) == total


def test_presets_are_what_the_documents_say():
    assert list(PRESETS) == ["tiny", "small", "base", "moe"]
    small, tiny = LMConfig.preset("small"), LMConfig.preset("tiny")
    assert (small.dim, small.n_layers, small.n_heads, small.n_kv_heads, small.hidden_dim) == (
        512,
        8,
        16,
        8,
        1408,
    )
    assert (small.vocab_size, small.max_seq_len, small.norm_eps, small.rope_theta) == (
        6400,
        512,
        1e-5,
        10_000.0,
    )
    assert LMConfig.preset("base").hidden_dim == 2048
    assert (tiny.dim, tiny.n_layers) == (256, 4)
    moe = LMConfig.preset("moe")
    assert (moe.n_shared_experts, moe.n_routed_experts, moe.num_experts_per_tok) == (2, 4, 2)
    assert all(LMConfig.preset(name).unexportable_reason() is None for name in PRESETS)


@st.composite
def configs(draw) -> LMConfig:
    n_kv_heads = draw(st.integers(1, 3))
    n_heads = n_kv_heads * draw(st.integers(1, 3))
    top_k = draw(st.integers(1, 3))
    return LMConfig(
        dim=n_heads * draw(st.sampled_from([2, 4, 6])),
        n_layers=draw(st.integers(1, 3)),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=draw(st.sampled_from([None, 2, 10])),
        vocab_size=draw(st.integers(1, 40)),
        hidden_dim=draw(st.sampled_from([None, 1, 7])),
        multiple_of=draw(st.sampled_from([1, 8, 64])),
        max_seq_len=draw(st.integers(1, 100)),
        tie_embeddings=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        use_moe=draw(st.booleans()),
        n_routed_experts=top_k + draw(st.integers(0, 3)),
        n_shared_experts=draw(st.integers(0, 2)),
        num_experts_per_tok=top_k,
        moe_hidden_dim=draw(st.sampled_from([None, 3, 8])),
        norm_topk_prob=False,
    )


@given(configs())
@settings(max_examples=150, deadline=None)
def test_counts_are_those_of_the_modules(config):
    with torch.device("meta"):
        model = CausalLM(config)
    assert config.num_parameters() == sum(parameter.numel() for parameter in model.parameters())
    active = 0
    for name, parameter in model.named_parameters():
        passed = config.num_experts_per_tok / config.n_routed_experts if ".experts." in name else 1
        active += round(parameter.numel() * passed)
    assert config.num_parameters(active_only=True) == active


@given(configs())
@settings(max_examples=50, deadline=None)
def test_plain_values_and_back(config):
    assert LMConfig.from_dict(config.to_dict()) == config
    assert LMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_flops_of_a_token():
    """6·N + 12·L·T·d by hand, for `small`; untied embeddings are looked up, not multiplied."""
    config = LMConfig.preset("small")
    assert config.flops_per_token() == 6 * 26_878_464 + 12 * 8 * 512 * 512
    assert config.flops_per_token(seq_len=100) == 6 * 26_878_464 + 12 * 8 * 100 * 512
    assert config.with_changes(tie_embeddings=False).flops_per_token() == config.flops_per_token()


def test_flops_agree_with_torchs_own_count():
    """PyTorch counts the products as they are run (all keys of causal attention, as the formula does)."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    for changes in ({}, {"tie_embeddings": False, "head_dim": 16}):
        config = LMConfig(dim=64, n_layers=2, n_heads=8, n_kv_heads=8, vocab_size=100, **changes)
        model = CausalLM(config)
        input_ids = torch.randint(0, 100, (1, 64))
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model(input_ids, targets=input_ids).token_losses.sum().backward()
        norms = 6 * 64 * (2 * config.n_layers + 1)  # counted among the parameters, but no matrix
        expected = 64 * (config.flops_per_token(64) - norms)
        assert counter.get_total_flops() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("key", [each.name for each in dataclasses.fields(LMConfig)])
def test_a_file_that_lacks_a_key_is_not_guessed(key):
    values = LMConfig().to_dict()
    del values[key]
    with pytest.raises(UserError, match=f"lacks {key}"):
        LMConfig.from_dict(values)


def test_a_file_with_an_unknown_key_is_refused():
    with pytest.raises(UserError, match="unknown keys rotary_dim"):
        LMConfig.from_dict({**LMConfig().to_dict(), "rotary_dim": 3})


def test_changes_are_validated():
    assert LMConfig().with_changes(vocab_size=7).vocab_size == 7
    with pytest.raises(UserError, match="n_kv_heads"):
        LMConfig().with_changes(n_kv_heads=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(LMConfig(), "dim", 3)  # noqa: B010


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({**MOE, "qk_norm": True}, "qk_norm"),
        ({**MOE, "norm_topk_prob": False}, "norm_topk_prob"),
        ({**MOE, "n_shared_experts": 0, "norm_topk_prob": False}, "norm_topk_prob"),
        ({**MOE, "head_dim": 64}, "head_dim"),
        ({**MOE, "mlp_bias": True}, "mlp_bias"),
        ({"qk_norm": True, "mlp_bias": True}, "qk_norm"),
        ({"sliding_window": 8, "attention_bias": True}, "sliding_window"),
    ],
)
def test_what_no_stock_architecture_carries_is_said(values, word):
    assert word in (LMConfig(**values).unexportable_reason() or "")


def test_needs_no_torch(repository):
    """So that a data worker, and `--help`, never wait for it."""
    script = "import sys, model.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=repository).returncode == 0
