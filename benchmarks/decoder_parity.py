"""How far our logits and losses are from transformers', and cached logits from uncached ones.

    python -m benchmarks.decoder_parity

Same weights, float32, on a CPU. The bound is 1e-5 × max(1, largest logit): transformers' own two attention
implementations differ by that much from each other. Exits with 1 when a figure is beyond its bound.
"""

import argparse
import random
import sys
from typing import Any

import torch
from torch import Tensor

from benchmarks.stock_models import stock_model
from model.config import LMConfig
from model.decoder import CausalLM
from model.kv_cache import KVCache

BOUND = 1e-5
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    ("tiny", "tiny", {}),
    ("small", "small", {}),
    ("moe", "moe", {}),
    ("small, untied head", "small", {"tie_embeddings": False}),
    ("tiny, bias on q, k, v", "tiny", {"qkv_bias": True}),
    ("tiny, bias on all of attention", "tiny", {"attention_bias": True}),
    ("tiny, bias in the feed-forward", "tiny", {"mlp_bias": True}),
    ("tiny, QK-norm", "tiny", {"qk_norm": True}),
    ("tiny, heads wider than dim / n_heads", "tiny", {"head_dim": 48}),
    ("tiny, RoPE linear", "tiny", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    ("tiny, RoPE YaRN", "tiny", {"rope_scaling": YARN}),
    ("tiny, RoPE Llama 3", "tiny", {"rope_scaling": LLAMA3}),
    ("tiny, sliding window", "tiny", {"sliding_window": 32}),
    ("tiny, mixture with QK-norm", "tiny", {"use_moe": True, "qk_norm": True, "n_shared_experts": 0}),
]


def lively_model(config: LMConfig) -> CausalLM:
    """A model with larger weights than at the start of training: biases count, attention is not uniform."""
    torch.manual_seed(0)
    model = CausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.mul_(2)
    return model


def difference_to_transformers(model: CausalLM, input_ids: Tensor) -> tuple[float, float, float]:
    """Largest difference of logits, difference of the mean loss, and largest logit."""
    twin = stock_model(model, attention="eager" if model.config.sliding_window else "sdpa")
    expected = twin(input_ids, labels=input_ids)
    found = model(input_ids).logits
    loss = model(input_ids[:, :-1], targets=input_ids[:, 1:]).token_losses.mean()
    # A mixture's loss in transformers carries its balancing loss: the language loss is taken from its logits.
    expected_loss = torch.nn.functional.cross_entropy(expected.logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())
    difference = (found - expected.logits).abs().max().item()
    return difference, abs(loss.item() - expected_loss.item()), expected.logits.abs().max().item()


def difference_to_uncached(model: CausalLM, batch_size: int, seed: int) -> tuple[float, float]:
    """Largest difference of logits over ragged rows read in random ragged chunks, and largest logit."""
    chooser = random.Random(seed)
    totals = [chooser.randint(1, 96) for _ in range(batch_size)]
    input_ids = torch.randint(0, model.config.vocab_size, (batch_size, max(totals)))
    cache = KVCache(model.config, batch_size, max(totals), "cpu", torch.float32)
    expected, worst = model(input_ids).logits, 0.0
    while cache.lengths != totals:
        starts = list(cache.lengths)
        chunk = [
            min(chooser.choice([0, 1, 1, 5, 32]), total - start) for total, start in zip(totals, starts, strict=True)
        ]
        ids = torch.zeros(batch_size, max(1, *chunk), dtype=torch.long)
        for row, (start, new) in enumerate(zip(starts, chunk, strict=True)):
            ids[row, :new] = input_ids[row, start : start + new]
        found = model(ids, kv_cache=cache, chunk_lengths=chunk).logits
        for row, (start, new) in enumerate(zip(starts, chunk, strict=True)):
            if new:
                difference = found[row, :new] - expected[row, start : start + new]
                worst = max(worst, difference.abs().max().item())
    return worst, expected.abs().max().item()


def main() -> int:
    """Print the table; 1 when a figure is beyond its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq_len", type=int, default=256, help="tokens a row in the comparison with transformers")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    is_fine = True

    def report(name: str, what: str, found: float, bound: float) -> None:
        nonlocal is_fine
        is_fine &= found <= bound
        verdict = "yes" if found <= bound else "NO"
        print(f"{name:<38} {what:<30} {bound:>9.1e} {found:>9.1e}  {verdict}", flush=True)

    print(f"{'model':<38} {'difference of':<30} {'asked':>9} {'got':>9}  within")
    with torch.no_grad():
        for name, preset, changes in VARIANTS:
            model = lively_model(LMConfig.preset(preset, **changes))
            input_ids = torch.randint(0, model.config.vocab_size, (2, arguments.seq_len))
            logits, loss, largest = difference_to_transformers(model, input_ids)
            bound = BOUND * max(1.0, largest)
            report(name, "logits to transformers", logits, bound)
            report("", "loss to transformers", loss, bound)
            rounds = [difference_to_uncached(model, batch_size, batch_size) for batch_size in (1, 2, 5, 8)]
            bound = BOUND * max(1.0, *(largest for _, largest in rounds))
            report("", "cached to uncached, batch 1-8", max(worst for worst, _ in rounds), bound)
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
