"""The same model in transformers: the stock architecture that carries ours, with our weights copied into it.

It is the independent second opinion of the parity tests and of the speed comparison.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GraniteMoeSharedConfig,
    GraniteMoeSharedForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from model.config import LMConfig
from model.decoder import CausalLM


def stock_model(model: CausalLM, attention: str = "sdpa") -> PreTrainedModel:
    """The transformers twin of `model`, in evaluation mode; `attention` is "sdpa" or "eager".

    A sliding window wants "eager" where a row is no longer than the window's mask can show.
    """
    config = model.config
    assert config.unexportable_reason() is None, config.unexportable_reason()
    twin = _empty_twin(config, attention)
    twin.load_state_dict({_stock_name(config, name): value for name, value in _stock_weights(model).items()})
    weight = model.model.embed_tokens.weight
    return nn.Module.to(twin, weight).eval()


def _empty_twin(config: LMConfig, attention: str) -> PreTrainedModel:
    settings: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            **(config.rope_scaling or {}),
        },
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": config.qkv_bias or config.attention_bias,
        "attn_implementation": attention,
    }
    if config.use_moe and config.qk_norm:
        settings |= {
            "num_experts": config.n_routed_experts,
            "num_experts_per_tok": config.num_experts_per_tok,
            "moe_intermediate_size": config.moe_hidden_dim,
            "norm_topk_prob": config.norm_topk_prob,
        }
        return Qwen3MoeForCausalLM(Qwen3MoeConfig(**settings))
    if config.use_moe:
        assert config.head_dim is not None and config.moe_hidden_dim is not None
        del settings["head_dim"]
        settings |= {
            "intermediate_size": config.moe_hidden_dim,
            "shared_intermediate_size": config.n_shared_experts * config.moe_hidden_dim,
            "num_local_experts": config.n_routed_experts,
            "num_experts_per_tok": config.num_experts_per_tok,
            "attention_multiplier": config.head_dim**-0.5,
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "logits_scaling": 1.0,
        }
        return GraniteMoeSharedForCausalLM(GraniteMoeSharedConfig(**settings))
    if config.qk_norm:
        return Qwen3ForCausalLM(Qwen3Config(**settings))
    if config.sliding_window:
        return MistralForCausalLM(MistralConfig(**settings, sliding_window=config.sliding_window))
    return LlamaForCausalLM(LlamaConfig(**settings, mlp_bias=config.mlp_bias))


def _stock_weights(model: CausalLM) -> dict[str, Tensor]:
    """Our weights, with those of the shared experts joined and missing output biases as zeros."""
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    for name in list(weights):
        if name.endswith("q_proj.bias"):
            # The stock models have a bias on o too once q, k and v have one.
            weights.setdefault(name.replace("q_proj", "o_proj"), torch.zeros(model.config.dim))
        if name.endswith("shared_experts.gate_proj.weight"):
            up = weights.pop(name.replace("gate_proj", "up_proj"))
            weights[name.replace("gate_proj", "gate_up_proj")] = torch.cat((weights.pop(name), up))
    return weights


def _stock_name(config: LMConfig, name: str) -> str:
    if config.use_moe and config.qk_norm:
        return name.replace("mlp.router", "mlp.gate")
    for ours, theirs in {
        "mlp.router": "block_sparse_moe.router",
        "mlp.experts": "block_sparse_moe.experts",
        "mlp.shared_experts.gate_up_proj": "shared_mlp.input_linear",
        "mlp.shared_experts.down_proj": "shared_mlp.output_linear",
    }.items():
        name = name.replace(ours, theirs)
    return name
