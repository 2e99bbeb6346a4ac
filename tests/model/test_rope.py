"""Rotary embeddings against transformers' tables, complex numbers, and the property they exist for."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from model.config import LMConfig
from model.rope import RotaryEmbedding, rope_frequencies, rotate

SHAPE = {"dim": 64, "n_heads": 2, "n_kv_heads": 1, "max_seq_len": 4096}
SCALINGS = [
    None,
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    {"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 512},
    {
        "rope_type": "yarn",
        "factor": 16,
        "original_max_position_embeddings": 256,
        "beta_fast": 16,
        "beta_slow": 2,
    },
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512, "attention_factor": 0.8},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
]


@pytest.mark.parametrize("rope_theta", [10_000.0, 1e6])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_tables_are_those_of_transformers(scaling, rope_theta):
    config = LMConfig(**SHAPE, rope_theta=rope_theta, rope_scaling=scaling)
    stock = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=64,
            num_attention_heads=2,
            max_position_embeddings=4096,
            rope_parameters={"rope_type": "default", "rope_theta": rope_theta, **(scaling or {})},
        )
    )
    positions = torch.tensor([[0, 1, 2, 500, 4095], [7, 3, 3, 1000, 2]])
    frequencies, factor = rope_frequencies(config)
    torch.testing.assert_close(frequencies, stock.inv_freq, rtol=1e-6, atol=0)
    assert factor == pytest.approx(stock.attention_scaling)
    cos, sin = RotaryEmbedding(config)(positions)
    sin = torch.cat((-sin[..., :16], sin[..., 16:]), dim=-1)  # ours holds the minus of the rotation
    for mine, theirs in zip((cos, sin), stock(torch.zeros(2, 5, 64), positions), strict=True):
        torch.testing.assert_close(mine.squeeze(1), theirs, rtol=0, atol=1e-3)  # float32's limit at 4095 rad


def test_rotation_is_that_of_transformers():
    config, positions = LMConfig(**SHAPE), torch.arange(7)[None]
    queries, keys = torch.randn(1, 2, 7, 32), torch.randn(1, 1, 7, 32)
    stock = LlamaRotaryEmbedding(LlamaConfig(hidden_size=64, num_attention_heads=2))
    expected = apply_rotary_pos_emb(queries, keys, *stock(queries, positions))
    cos, sin = RotaryEmbedding(config)(positions)
    for mine, theirs in zip((queries, keys), expected, strict=True):
        torch.testing.assert_close(rotate(mine, cos, sin), theirs)


def test_rotation_is_a_product_of_complex_numbers():
    config = LMConfig(**SHAPE)
    heads = torch.randn(2, 3, 5, 32, dtype=torch.float64)
    positions = torch.arange(10).view(2, 5)
    cos, sin = RotaryEmbedding(config).double()(positions)
    found = rotate(heads, cos, sin)
    points = torch.complex(heads[..., :16], heads[..., 16:])
    angles = positions[:, None, :, None] / 10_000.0 ** (torch.arange(16).double() / 16)
    expected = points * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(found[..., :16], expected.real, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[..., 16:], expected.imag, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.norm(dim=-1), heads.norm(dim=-1))


def test_scores_depend_on_distance_alone():
    config = LMConfig(**SHAPE)
    rotary = RotaryEmbedding(config).double()
    query, key = torch.randn(2, 1, 1, 1, 32, dtype=torch.float64)

    def score(query_position: int, key_position: int) -> float:
        rotated = [
            rotate(heads, *rotary(torch.tensor([[position]])))
            for heads, position in ((query, query_position), (key, key_position))
        ]
        return (rotated[0] * rotated[1]).sum().item()

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-9)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_angles_survive_a_model_in_16_bits(scaling, dtype):
    rotary = RotaryEmbedding(LMConfig(**SHAPE, rope_scaling=scaling))
    positions = torch.tensor([[4001, 4002]])
    before = rotary(positions)
    after = rotary.to(dtype)(positions)
    assert rotary.frequencies.dtype == torch.float32
    for first, second in zip(before, after, strict=True):
        assert torch.equal(first, second)


def test_float64_and_back():
    rotary = RotaryEmbedding(LMConfig(**SHAPE))
    before = rotary.frequencies.clone()
    assert rotary.double().frequencies.dtype == torch.float64
    assert torch.equal(rotary.float().frequencies, before)


def test_leaves_the_meta_device_with_its_angles():
    """Large models are made without memory first: `to_empty` must not leave garbage in the angles."""
    with torch.device("meta"):
        rotary = RotaryEmbedding(LMConfig(**SHAPE))
    rotary.to_empty(device="cpu")
    assert torch.equal(rotary.frequencies, rope_frequencies(LMConfig(**SHAPE))[0])


def test_is_no_parameter_and_in_no_checkpoint():
    rotary = RotaryEmbedding(LMConfig(**SHAPE))
    assert not list(rotary.parameters())
    assert not rotary.state_dict()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rotate_keeps_the_dtype(dtype):
    cos, sin = RotaryEmbedding(LMConfig(**SHAPE))(torch.arange(4)[None])
    assert rotate(torch.randn(1, 2, 4, 32, dtype=dtype), cos, sin).dtype == dtype
