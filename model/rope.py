"""Rotary position embeddings (RoFormer, arXiv:2104.09864), in the half-rotation layout of transformers.

Each head's vector is read as head_dim / 2 points (x[i], x[i + head_dim / 2]) in the plane; position p turns
point i by the angle p · θ^(-2i / head_dim). Scaled variants change the angles so that a model reads longer
texts.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.config import LMConfig


def rope_frequencies(config: LMConfig) -> tuple[Tensor, float]:
    """Angles per position `[head_dim / 2]` (float32), and the factor on the tables (1 but for YaRN)."""
    assert config.head_dim is not None
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies, 1.0
    if scaling["rope_type"] == "linear":  # position interpolation, arXiv:2306.15595
        return frequencies / scaling["factor"], 1.0
    if scaling["rope_type"] == "llama3":
        return _llama3_frequencies(frequencies, scaling), 1.0
    return _yarn_frequencies(frequencies, scaling, config)


def _llama3_frequencies(frequencies: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Llama 3.1: keep the fast rotations, interpolate the slow ones, blend those between."""
    context = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = context * frequencies / (2 * math.pi)  # full turns over the original context
    blend = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - blend) * frequencies / scaling["factor"] + blend * frequencies


def _yarn_frequencies(frequencies: Tensor, scaling: Mapping[str, Any], config: LMConfig) -> tuple[Tensor, float]:
    """YaRN (arXiv:2309.00071): interpolate by parts, and sharpen attention with the factor 0.1·ln(s) + 1."""
    assert config.head_dim is not None
    head_dim, half = config.head_dim, len(frequencies)
    context, factor = scaling["original_max_position_embeddings"], scaling["factor"]

    def dimension_that_turns(num_turns: float) -> float:
        assert config.head_dim is not None
        return config.head_dim * math.log(context / (num_turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    first = max(math.floor(dimension_that_turns(scaling.get("beta_fast", 32))), 0)
    last = min(math.ceil(dimension_that_turns(scaling.get("beta_slow", 1))), head_dim - 1)
    ramp = ((torch.arange(half).float() - first) / max(last - first, 0.001)).clamp(0, 1)
    attention_factor = scaling.get("attention_factor") or (0.1 * math.log(factor) + 1 if factor > 1 else 1.0)
    return frequencies / factor * ramp + frequencies * (1 - ramp), attention_factor


class RotaryEmbedding(nn.Module):
    """Makes the cosine and sine tables of a batch of positions."""

    frequencies: Tensor

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        frequencies, self.table_factor = rope_frequencies(config)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RotaryEmbedding":
        # `model.to(torch.bfloat16)` would round the angles, and far positions would turn by the wrong amount:
        # the buffer follows the model to its device, but never below float32.
        wanted = fn(self.frequencies)
        precise = rope_frequencies(self.config)[0].to(wanted.device)
        self.frequencies = precise.double() if wanted.dtype == torch.float64 else precise
        return self

    def forward(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Tables for `position_ids` [batch, seq]: cos and signed sin, each [batch, 1, seq, head_dim]."""
        angles = position_ids[:, None, :, None].to(self.frequencies.dtype) * self.frequencies
        cos, sin = angles.cos() * self.table_factor, angles.sin() * self.table_factor
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn `heads` [batch, n_heads, seq, head_dim] by the tables' angles; the dtype stays.

    The point (x, y) becomes (x·cos − y·sin, y·cos + x·sin). Rolling by half a head puts each y where its x
    was; the minus is in the table.
    """
    rotated = heads * cos + heads.roll(heads.shape[-1] // 2, dims=-1) * sin
    return rotated.to(heads.dtype)
