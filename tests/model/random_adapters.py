"""Adapters that have learned something, on the random models, for the tests of LoRA."""

from typing import Any

import torch

from model.checkpoint import Checkpoint, weights_of
from model.decoder import CausalLM
from model.lora import LoRAConfig, adapter_parameters, attach_lora, default_targets
from tests.model.random_models import MOE
from tests.tiny_model import tiny_tokenizer

# What an adapter may be put on: every kind of layer, square and not, with biases and without.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "dense": {},
    "untied": {"tie_embeddings": False, "qkv_bias": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "qwen3_moe": {**MOE, "qk_norm": True, "n_shared_experts": 0},
    "granite": {**MOE},
}


def put_on(model: CausalLM, seed: int = 1, std: float = 0.1, **changes: Any) -> LoRAConfig:
    """Put an adapter on the model whose every parameter matters: it is as if it had been trained."""
    config = LoRAConfig(**{"targets": default_targets(model), "rank": 4, "alpha": 6.0, **changes})
    attach_lora(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * std)
    return config


def checkpoint_of(model: CausalLM, base: Checkpoint | None = None, base_path: str = "base.pth") -> Checkpoint:
    """What is stored of the adapter that is on the model."""
    known = {"lora": model.adapter.to_dict(), "base_digest": base.digest if base else "", "base_path": base_path}
    weights = weights_of(model, copy=True, only_trained=True)
    return Checkpoint("lora", model.config, weights, tiny_tokenizer().files, adapter=known)
