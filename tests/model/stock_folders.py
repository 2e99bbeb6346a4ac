"""Hugging Face folders with small random models of the stock architectures, as transformers writes them."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from model.tokenizer import ChatTokenizer
from tests.model.random_models import LLAMA3, YARN

# No value is a default of transformers, or of ours.
SHAPE = {
    "vocab_size": 509,  # more than the tokenizer has ids
    "hidden_size": 48,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 3e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 490_000.0},
}
TIED = {"tie_word_embeddings": True}
GRANITE = {
    "intermediate_size": 20,
    "shared_intermediate_size": 40,
    "num_local_experts": 5,
    "num_experts_per_tok": 3,
    "attention_multiplier": 8**-0.5,
    "router_aux_loss_coef": 0.003,
}
QWEN3_MOE = {"num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 20, "norm_topk_prob": True}


def rope(**scaling: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 490_000.0, **scaling}}


# name → model type and what differs from SHAPE
STOCK: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama_tied": ("llama", {**TIED, "head_dim": 12}),
    "llama_multi_head": ("llama", {"num_key_value_heads": 6}),
    "llama_attention_bias": ("llama", {"attention_bias": True}),
    "llama_mlp_bias": ("llama", {"mlp_bias": True}),
    "llama_linear": ("llama", rope(rope_type="linear", factor=2.0)),
    "llama_llama3": ("llama", rope(**LLAMA3)),
    "llama_yarn": ("llama", rope(**YARN)),
    "llama_yarn_options": ("llama", rope(**YARN, beta_fast=8, beta_slow=2, attention_factor=1.3, truncate=True)),
    "llama_yarn_short": ("llama", rope(rope_type="yarn", factor=4.0)),  # its context is max_position_embeddings
    "mistral": ("mistral", {"sliding_window": 7, "head_dim": 12}),
    "mistral_no_window": ("mistral", {**TIED, "sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2_tied": ("qwen2", {**TIED, "sliding_window": 7}),  # `use_sliding_window` is false
    "qwen2_window": ("qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0}),
    "qwen2_late_window": ("qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2}),
    "qwen3": ("qwen3", {"head_dim": 20}),
    "qwen3_tied": ("qwen3", {**TIED, "head_dim": 8, "attention_bias": True}),
    "qwen3_window": ("qwen3", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0}),
    "granite": ("granitemoeshared", GRANITE),
    "granite_tied": ("granitemoeshared", {**TIED, **GRANITE, "attention_bias": True, "num_experts_per_tok": 2}),
    "granite_no_shared": ("granitemoeshared", {**GRANITE, "shared_intermediate_size": 0}),
    "qwen3_moe": ("qwen3_moe", {**QWEN3_MOE, "head_dim": 20}),
    "qwen3_moe_tied": ("qwen3_moe", {**TIED, **QWEN3_MOE, "norm_topk_prob": False, "num_experts_per_tok": 1}),
    "qwen3_moe_window": ("qwen3_moe", {**QWEN3_MOE, "use_sliding_window": True, "sliding_window": 7}),
}


def stock_twin(name: str) -> PreTrainedModel:
    """A model of transformers whose every parameter matters: no bias is zero, no norm is one."""
    model_type, changes = STOCK[name]
    config = AutoConfig.for_model(model_type, **{**SHAPE, **changes})
    twin = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(noise * 0.3)
            else:
                parameter.copy_(noise * 0.15)
    return twin.eval()


def write_folder(folder: Path, twin: PreTrainedModel, tokenizer: ChatTokenizer, **options: Any) -> Path:
    """As a user gets it: what `save_pretrained` writes, and the tokenizer's files."""
    tokenizer.save(folder)
    twin.save_pretrained(folder, **options)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    """Change keys of config.json; None removes one, `...` makes it null."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    for key, value in changes.items():
        values[key] = None if value is ... else value
        if value is None:
            del values[key]
    path.write_text(json.dumps(values))


def logits_of(model: Any, input_ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids).logits
