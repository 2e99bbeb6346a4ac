"""The decoder: pre-norm transformer blocks with grouped-query attention and a SwiGLU or a mixture of experts.

Plain modules, with the parameter names of the stock transformers architectures, so that exporting is a copy.
One `forward` serves training, prefill and decoding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.config import LMConfig
from model.head import LMHead
from model.kv_cache import KVCache
from model.moe import MoEFeedForward, RouterStatistics
from model.norm import RMSNorm
from model.rope import RotaryEmbedding, rotate


class AttentionInputs(NamedTuple):
    """What every layer's attention needs, made once a forward pass."""

    cos: Tensor  # [batch, 1, seq, head_dim]
    sin: Tensor  # the same, its first half negative
    mask: Tensor | None  # bool [batch, 1, seq, keys], True = may look; None with `is_causal` or a lone query
    is_causal: bool
    kv_cache: KVCache | None
    slots: Tensor | None  # [batch, seq] where the cache keeps this chunk
    num_slots: int  # slots of the cache that any query may see


class Attention(nn.Module):
    """Grouped-query attention (arXiv:2305.13245): several query heads share one key/value head."""

    def __init__(self, config: LMConfig, layer: int) -> None:
        super().__init__()
        assert config.head_dim is not None
        self.layer, self.head_dim, self.dropout = layer, config.head_dim, config.dropout
        query, key_value = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        bias = config.qkv_bias or config.attention_bias
        self.q_proj = nn.Linear(config.dim, query, bias=bias)
        self.k_proj = nn.Linear(config.dim, key_value, bias=bias)
        self.v_proj = nn.Linear(config.dim, key_value, bias=bias)
        self.o_proj = nn.Linear(query, config.dim, bias=config.attention_bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, hidden_states: Tensor, inputs: AttentionInputs) -> Tensor:
        batch, seq, _ = hidden_states.shape
        heads_shape = (batch, seq, -1, self.head_dim)
        queries = self.q_norm(self.q_proj(hidden_states).view(heads_shape)).transpose(1, 2)
        keys = self.k_norm(self.k_proj(hidden_states).view(heads_shape)).transpose(1, 2)
        values = self.v_proj(hidden_states).view(heads_shape).transpose(1, 2)
        queries, keys = rotate(queries, inputs.cos, inputs.sin), rotate(keys, inputs.cos, inputs.sin)
        if inputs.kv_cache is not None and inputs.slots is not None:
            inputs.kv_cache.write(self.layer, inputs.slots, keys, values)
            keys, values = inputs.kv_cache.read(self.layer, inputs.num_slots)
        mixed = nn.functional.scaled_dot_product_attention(
            queries,
            keys.to(queries.dtype),
            values.to(queries.dtype),
            attn_mask=inputs.mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=inputs.is_causal,
            enable_gqa=queries.shape[1] != keys.shape[1],
        )
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, seq, -1))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) (arXiv:2002.05202)."""

    def __init__(self, dim: int, hidden_dim: int, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden_dim, bias=bias)
        self.up_proj = nn.Linear(dim, hidden_dim, bias=bias)
        self.down_proj = nn.Linear(hidden_dim, dim, bias=bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class DecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: LMConfig, layer: int) -> None:
        super().__init__()
        assert config.hidden_dim is not None and config.moe_hidden_dim is not None
        self.self_attn = Attention(config, layer)
        self.mlp: SwiGLU | MoEFeedForward
        if config.use_moe:
            # One network as wide as all shared experts together computes exactly their sum.
            shared_width = config.n_shared_experts * config.moe_hidden_dim
            shared = SwiGLU(config.dim, shared_width, config.mlp_bias) if shared_width else None
            self.mlp = MoEFeedForward(config, shared)
        else:
            self.mlp = SwiGLU(config.dim, config.hidden_dim, config.mlp_bias)
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, hidden_states: Tensor, inputs: AttentionInputs, segment_ids: Tensor | None
    ) -> tuple[Tensor, RouterStatistics | None]:
        attended = self.self_attn(self.input_layernorm(hidden_states), inputs)
        hidden_states = hidden_states + self.dropout(attended)
        normed = self.post_attention_layernorm(hidden_states)
        if isinstance(self.mlp, MoEFeedForward):
            fed, statistics = self.mlp(normed, segment_ids)
        else:
            fed, statistics = self.mlp(normed), None
        return hidden_states + self.dropout(fed), statistics


class Decoder(nn.Module):
    """Embeddings, the layers, and the final norm: token ids in, hidden states out."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.rotary = RotaryEmbedding(config)
        self.dropout = nn.Dropout(config.dropout)
        # Training may keep only each layer's input and compute the rest again in the backward pass: memory for time.
        self.gradient_checkpointing = False

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        segment_ids: Tensor | None,
        document_mask: bool,
        kv_cache: KVCache | None,
        chunk_lengths: Sequence[int],
    ) -> tuple[Tensor, list[RouterStatistics]]:
        assert not (document_mask and segment_ids is None), "document_mask needs segment_ids"
        assert not (document_mask and kv_cache is not None), "a cache holds one document a sequence"
        inputs = self._attention_inputs(
            input_ids, position_ids, segment_ids if document_mask else None, kv_cache, chunk_lengths
        )
        hidden_states = self.dropout(self.embed_tokens(input_ids))
        statistics = []
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                hidden_states, layer_statistics = checkpoint(
                    layer, hidden_states, inputs, segment_ids, use_reentrant=False
                )
            else:
                hidden_states, layer_statistics = layer(hidden_states, inputs, segment_ids)
            if layer_statistics is not None:
                statistics.append(layer_statistics)
        return self.norm(hidden_states), statistics

    def _attention_inputs(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        segment_ids: Tensor | None,
        kv_cache: KVCache | None,
        chunk_lengths: Sequence[int],
    ) -> AttentionInputs:
        seq, slots, num_slots = input_ids.shape[1], None, 0
        steps = torch.arange(seq, device=input_ids.device)[None]
        query_index, key_index = steps, steps  # places in the row: what "earlier" means
        is_fresh = kv_cache is None or not any(kv_cache.lengths)
        if kv_cache is not None:
            query_index, slots = kv_cache.next_slots(chunk_lengths, seq)
            num_slots = max(old + new for old, new in zip(kv_cache.lengths, chunk_lengths, strict=True))
            if is_fresh and seq <= kv_cache.capacity:
                num_slots = seq  # ragged or not, plain causal attention then hides the padding
            key_index = torch.arange(num_slots, device=input_ids.device)[None]
            position_ids = query_index
        elif position_ids is None:
            position_ids = steps
        cos, sin = self.rotary(position_ids)
        # Sequences of one length that start afresh are plain causal; so is a lone query that sees all slots.
        window, is_causal, mask = self.config.sliding_window, False, None
        if segment_ids is None and is_fresh and num_slots in (0, seq) and (window is None or window >= seq):
            is_causal = seq > 1
        elif not (kv_cache and seq == 1 and window is None and len(set(kv_cache.lengths)) == 1):
            if num_slots:
                # Padding beyond the last slot looks from there: a row that sees nothing is NaN on some
                # devices.
                query_index = query_index.clamp(max=num_slots - 1)
            mask = _visible(query_index, key_index, segment_ids, window)
        return AttentionInputs(cos, sin, mask, is_causal, kv_cache, slots, num_slots)


def _visible(query_index: Tensor, key_index: Tensor, segment_ids: Tensor | None, window: int | None) -> Tensor:
    """Mask [batch, 1, queries, keys]: keys that are not later, in the window, and in the query's segment."""
    distance = query_index[:, :, None] - key_index[:, None, :]
    visible = distance >= 0
    if window is not None:
        visible = visible & (distance < window)
    if segment_ids is not None:
        visible = visible & (segment_ids[:, :, None] == segment_ids[:, None, :])
    return visible[:, None]


@dataclass
class LMOutput:
    """What a forward pass gives; what was not asked for is None."""

    hidden_states: Tensor  # [batch, seq, dim], after the final norm
    logits: Tensor | None = None  # [batch, seq, vocab], or [batch, vocab] with logits="last"
    token_losses: Tensor | None = None  # [batch, seq] −log p of each target, 0 where ignored
    log_sum_exp: Tensor | None = None  # [batch, seq] of the logits, 0 where ignored
    balance_loss: Tensor | None = None  # scalar: summed over layers and sequences (MoE)
    balance_weight: float = 0.0  # its share of what is minimised: the architecture's aux_loss_alpha
    expert_load: Tensor | None = None  # [n_layers, n_routed_experts] tokens (MoE)


class CausalLM(nn.Module):
    """The language model: the decoder and its output head."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.adapter: Any = None  # the LoRAConfig of the adapter that is on it (model/lora.py)
        self.model = Decoder(config)
        self.lm_head = LMHead(config.dim, config.vocab_size)
        if config.tie_embeddings:
            self.lm_head.weight = cast(nn.Parameter, self.model.embed_tokens.weight)
        self.initialize()

    @torch.no_grad()
    def initialize(self, std: float = 0.02) -> None:
        """Normal weights; the 2·n_layers that add up in the residual stream are smaller (GPT-2)."""
        depth_scaled = std / math.sqrt(2 * self.config.n_layers)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 1:
                parameter.fill_(1.0)  # the gains of the norms
            else:
                writes_to_residual = "o_proj" in name or "down_proj" in name
                parameter.normal_(0.0, depth_scaled if writes_to_residual else std)

    def forward(
        self,
        input_ids: Tensor,
        *,
        targets: Tensor | None = None,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        document_mask: bool = False,
        kv_cache: KVCache | None = None,
        chunk_lengths: Sequence[int] | None = None,
        logits: Literal["all", "last", "none"] = "all",
    ) -> LMOutput:
        """Read tokens.

        Args:
            input_ids: [batch, seq]; padding, if any, on the right.
            targets: [batch, seq] token ids to be predicted, −100 where none; gives losses instead of logits.
            position_ids: [batch, seq]; default 0, 1, 2, … (with a cache they follow from it).
            segment_ids: [batch, seq] number of each token's segment in its row, −1 for padding.
            document_mask: attention stays inside a segment (positions are the caller's to restart).
            kv_cache: read and extended by this chunk.
            chunk_lengths: real tokens of each row, when rows are ragged; default all.
            logits: "all", only the "last" real token's, or "none".
        """
        batch, seq = input_ids.shape
        lengths = [seq] * batch if chunk_lengths is None else list(chunk_lengths)
        hidden_states, statistics = self.model(input_ids, position_ids, segment_ids, document_mask, kv_cache, lengths)
        if kv_cache is not None:
            kv_cache.advance(lengths)
        output = LMOutput(hidden_states)
        if statistics:
            output.balance_loss = torch.stack([each.balance_loss for each in statistics]).sum()
            output.balance_weight = self.config.aux_loss_alpha
            output.expert_load = torch.stack([each.expert_load for each in statistics])
        if targets is not None:
            output.token_losses, output.log_sum_exp = self.lm_head(hidden_states, targets)
        elif logits == "all":
            output.logits = self.lm_head.logits(hidden_states)
        elif logits == "last":
            last = torch.tensor([max(length, 1) - 1 for length in lengths], device=input_ids.device)
            rows = torch.arange(batch, device=input_ids.device)
            output.logits = self.lm_head.logits(hidden_states[rows, last])
        return output
