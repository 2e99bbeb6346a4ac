"""The mixture-of-experts feed-forward: a router chooses a few of many small networks for each token.

The form is DeepSeekMoE's (arXiv:2401.06066): softmax gate, top-k routed experts, and shared experts that
every token passes through. Without the balancing loss a router soon sends everything to a few favourites.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config import LMConfig


class RouterStatistics(NamedTuple):
    """What one layer's router did with a batch."""

    balance_loss: Tensor  # scalar: sum over sequences (or batch value × sequences), not yet weighted
    expert_load: Tensor  # [n_routed_experts] tokens sent to each expert, padding excluded


class Experts(nn.Module):
    """The routed experts' weights, stacked: an expert that got no token has a gradient of zero, not None."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        assert config.moe_hidden_dim is not None
        count, dim, hidden = config.n_routed_experts, config.dim, config.moe_hidden_dim
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * hidden, dim))
        self.down_proj = nn.Parameter(torch.empty(count, dim, hidden))

    def forward(self, tokens: Tensor, num_tokens: Tensor) -> Tensor:
        """Apply expert e to its block of `tokens` [total, dim], sorted by expert; `num_tokens` [experts]."""
        gate, up = self.product("gate_up_proj", tokens, num_tokens).chunk(2, dim=-1)
        return self.product("down_proj", nn.functional.silu(gate) * up, num_tokens)

    def product(self, name: str, tokens: Tensor, num_tokens: Tensor) -> Tensor:
        """`tokens` [total, in], sorted by expert, times each expert's own matrix of the stack of that name."""
        return grouped_linear(tokens, getattr(self, name), num_tokens)


class MoEFeedForward(nn.Module):
    """Router, routed experts and shared experts in place of one SwiGLU."""

    def __init__(self, config: LMConfig, shared_experts: nn.Module | None) -> None:
        super().__init__()
        self.config = config
        self.router = nn.Linear(config.dim, config.n_routed_experts, bias=False)
        self.experts = Experts(config)
        self.shared_experts = shared_experts

    def forward(self, hidden_states: Tensor, segment_ids: Tensor | None) -> tuple[Tensor, RouterStatistics]:
        """Mix the chosen experts' outputs.

        Args:
            hidden_states: [batch, seq, dim].
            segment_ids: [batch, seq], −1 for padding; None means one segment a row and no padding.
        """
        tokens = hidden_states.flatten(0, 1)
        # The gate decides between close candidates: it is computed in at least float32, under autocast too.
        with torch.autocast(tokens.device.type, enabled=False):
            wide = tokens if tokens.dtype == torch.float64 else tokens.float()
            scores = nn.functional.linear(wide, self.router.weight.to(wide.dtype)).softmax(dim=-1)
        weights, chosen = scores.topk(self.config.num_experts_per_tok, dim=-1)
        if self.config.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        output = self._route(tokens, weights, chosen).view_as(hidden_states)
        if self.shared_experts is not None:
            output = output + self.shared_experts(hidden_states)
        return output, self._statistics(scores, chosen, hidden_states.shape[:2], segment_ids)

    def _route(self, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Sort (token, expert) pairs by expert, run each expert on its block, and add the results up."""
        pairs = chosen.flatten()
        order = pairs.argsort(stable=True)
        token_of_pair = order // chosen.shape[1]
        num_tokens = _count(pairs, self.config.n_routed_experts)
        results = self.experts(tokens[token_of_pair], num_tokens)
        results = results * weights.flatten()[order, None].to(results.dtype)
        # Undo the sort, then sum over a token's k experts: no scatter, so the result is the same every time.
        unsorted = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return results[unsorted].view(*chosen.shape, -1).sum(dim=1)

    def _statistics(
        self, scores: Tensor, chosen: Tensor, shape: torch.Size, segment_ids: Tensor | None
    ) -> RouterStatistics:
        """Balancing loss Σ_i f_i·P_i: f_i the share of tokens sent to expert i, P_i its mean probability.

        f is scaled by the number of experts, so perfect balance gives 1 (DeepSeek-V2, arXiv:2405.04434, eq.
        23–25).
        """
        batch, seq = shape
        num_experts, top_k = scores.shape[-1], chosen.shape[-1]
        if segment_ids is None:
            segment_ids = torch.zeros(batch, seq, dtype=torch.long, device=scores.device)
        is_real = (segment_ids >= 0).flatten()
        # A sequence is a segment of a row. A fixed number of groups (one a token is enough) keeps shapes
        # static.
        row = torch.arange(batch, device=scores.device)[:, None]
        group = (row * seq + segment_ids.clamp(min=0)).flatten()
        picked = torch.zeros_like(scores).scatter_(1, chosen, 1.0) * is_real[:, None]
        scores = scores * is_real[:, None]
        num_groups = batch * seq
        tokens_of = _sum_by_group(is_real[:, None].to(scores.dtype), group, num_groups)
        num_sequences = (tokens_of > 0).sum()
        if self.config.seq_aux:
            frequency = _sum_by_group(picked, group, num_groups) * num_experts / top_k
            probability = _sum_by_group(scores, group, num_groups)
            balance = (frequency * probability / tokens_of.clamp(min=1) ** 2).sum()
        else:
            # Over the whole micro-batch: a product of means, so it does depend on how a batch is split.
            total = is_real.sum().clamp(min=1)
            frequency = picked.sum(0) * num_experts / (top_k * total)
            balance = (frequency * scores.sum(0) / total).sum() * num_sequences
        return RouterStatistics(balance, picked.detach().sum(0))


def grouped_linear(tokens: Tensor, weight: Tensor, num_tokens: Tensor) -> Tensor:
    """Multiply each expert's block of rows with its own matrix.

    Args:
        tokens: [total, in], the rows of expert 0 first, then those of expert 1, …
        weight: [experts, out, in].
        num_tokens: [experts], rows per expert; they sum to `total`.

    Returns:
        [total, out].
    """
    if torch.is_autocast_enabled(tokens.device.type):
        # Autocast knows F.linear but not the grouped product: both are given the same dtype here.
        dtype = torch.get_autocast_dtype(tokens.device.type)
        tokens, weight = tokens.to(dtype), weight.to(dtype)
    # The grouped product reads rows that start at multiples of 16 bytes.
    is_aligned = all(size * tokens.element_size() % 16 == 0 for size in weight.shape[1:])
    if is_aligned and supports_grouped_mm(tokens.device.type, tokens.dtype):
        offsets = num_tokens.cumsum(0).to(torch.int32)
        return torch.nn.functional.grouped_mm(tokens, weight.transpose(-2, -1), offs=offsets)
    blocks = tokens.split(num_tokens.tolist())
    return torch.cat([nn.functional.linear(block, matrix) for block, matrix in zip(blocks, weight, strict=True)])


@lru_cache
def supports_grouped_mm(device_type: str, dtype: torch.dtype) -> bool:
    """Whether this torch has a grouped product, with its gradient, for this device and dtype.

    On a CPU it is a loop like ours, so only accelerators are asked.
    """
    if device_type == "cpu" or not hasattr(torch.nn.functional, "grouped_mm"):
        return False
    return _try_grouped_mm(device_type, dtype)


def _try_grouped_mm(device_type: str, dtype: torch.dtype) -> bool:
    try:
        with torch.enable_grad(), torch.autocast(device_type, enabled=False):
            tokens = torch.ones(16, 16, device=device_type, dtype=dtype, requires_grad=True)
            weight = torch.ones(2, 16, 16, device=device_type, dtype=dtype, requires_grad=True)
            offsets = torch.tensor([8, 16], device=device_type, dtype=torch.int32)
            product = torch.nn.functional.grouped_mm(tokens, weight.transpose(-2, -1), offs=offsets)
            product.square().sum().backward()  # a plain sum's gradient has strides of 0, which it refuses
    except (RuntimeError, NotImplementedError, ValueError):
        return False
    return True


def _count(values: Tensor, num_bins: int) -> Tensor:
    """How often each of 0…num_bins − 1 occurs; unlike `bincount`, without a host synchronisation."""
    bins = torch.arange(num_bins, device=values.device)
    return (values[:, None] == bins).sum(0)


def _sum_by_group(values: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Sum rows of `values` [tokens, columns] with the same `group` [tokens]: [num_groups, columns]."""
    return values.new_zeros(num_groups, values.shape[1]).index_add(0, group, values)
