"""Small models with random weights, for the tests of the decoder."""

import torch
from torch import Tensor

from model.config import LMConfig
from model.decoder import CausalLM

TINY = {"dim": 48, "n_layers": 3, "n_heads": 6, "n_kv_heads": 2, "vocab_size": 97, "max_seq_len": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
MOE = {"use_moe": True, "moe_hidden_dim": 20, "n_routed_experts": 5}


def random_model(**changes) -> CausalLM:
    """A model in evaluation mode whose every parameter matters: no bias is zero, no norm is one."""
    torch.manual_seed(0)
    model = CausalLM(LMConfig(**{**TINY, **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            elif "embed" not in name and "lm_head" not in name:
                parameter.mul_(5)  # larger than at the start of training, so that attention is not uniform
    return model.eval()


def random_ids(batch: int, seq: int, seed: int = 1) -> Tensor:
    return torch.randint(0, TINY["vocab_size"], (batch, seq), generator=torch.Generator().manual_seed(seed))


def assert_close(found: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    """The issue's bound: relative × max(1, largest logit)."""
    bound = relative * max(1.0, expected.abs().max().item())
    difference = (found - expected).abs().max().item()
    assert difference <= bound, f"{difference:.2e} > {bound:.2e}"
