"""From logits to a token: small pure functions, one idea each, and the order in which they are applied.

Every function takes logits `[batch, vocab]` and returns new ones, where −∞ marks a token that may not be
chosen. Order and arithmetic are those of transformers' logits processors, so settings found there mean the
same here.
"""

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from inference.sampling_params import SamplingParams
from model.errors import UserError


def choose_tokens(
    logits: Tensor, histories: Sequence[Sequence[int]], params: SamplingParams, draws: Sequence[float]
) -> list[int]:
    """Choose the next token of each sequence.

    Args:
        logits: [batch, vocab] of the last position.
        histories: the token ids of each sequence so far, prompt included.
        params: the sampling settings.
        draws: a random number in [0, 1) for each sequence; unused at temperature 0.

    Raises:
        UserError: when no token has a probability, as after a training that diverged.
    """
    if logits.dtype != torch.float64:
        logits = logits.float()  # small probabilities do not survive 16 bits
    logits = apply_repetition_penalty(logits, histories, params.repetition_penalty)
    logits = ban_repeated_ngrams(logits, histories, params.no_repeat_ngram_size)
    best_logits, best_tokens = logits.max(dim=-1)
    if not torch.isfinite(best_logits).all():  # the maximum is NaN if any logit is
        raise UserError(
            "the model gives no usable probabilities (NaN or infinite logits): its training diverged, "
            "or --dtype is too narrow for it; try --dtype float32 or an earlier checkpoint"
        )
    if params.temperature == 0:
        return best_tokens.tolist()
    logits = apply_temperature(logits, params.temperature)
    logits = keep_top_k(logits, params.top_k)
    logits = keep_top_p(logits, params.top_p)
    logits = keep_min_p(logits, params.min_p)
    return draw_tokens(logits, draws).tolist()


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide: below 1 sharpens the distribution, above 1 flattens it."""
    # Only differences count. With the largest at 0, a tiny temperature cannot overflow into infinity or NaN.
    return (logits - logits.max(dim=-1, keepdim=True).values) / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest logits, and those equal to the k-th; 0 keeps all (arXiv:1805.04833)."""
    if not 0 < k < logits.shape[-1]:
        return logits
    smallest_kept = logits.topk(k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < smallest_kept, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Nucleus sampling: keep the fewest most probable tokens whose sum reaches p (arXiv:1904.09751)."""
    if p >= 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    # A token stays if those before it do not reach p yet: the one that crosses the line is kept, so never
    # none is.
    before = probabilities.cumsum(dim=-1) - probabilities
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= p)
    dropped.scatter_(-1, order[:, :1], False)  # rounding must not cost the first its place
    return logits.masked_fill(dropped, -math.inf)


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Keep tokens at least min_p times as probable as the most probable one (arXiv:2407.01082)."""
    if min_p == 0:
        return logits
    # p ≥ min_p · p_max is a difference of logits: no softmax needed.
    return logits.masked_fill(logits < logits.max(dim=-1, keepdim=True).values + math.log(min_p), -math.inf)


def apply_repetition_penalty(logits: Tensor, histories: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Make every token of its history less likely, once each (CTRL, arXiv:1909.05858, section 4.1)."""
    if penalty == 1:
        return logits
    logits = logits.clone()
    for row, history in zip(logits, histories, strict=True):
        seen = torch.tensor(sorted(set(history)), device=logits.device, dtype=torch.long)
        # Dividing a negative logit would make its token likelier.
        row[seen] = torch.where(row[seen] < 0, row[seen] * penalty, row[seen] / penalty)
    return logits


def ban_repeated_ngrams(logits: Tensor, histories: Sequence[Sequence[int]], size: int) -> Tensor:
    """Ban each token that would complete a run of `size` tokens which its history already holds."""
    if size == 0:
        return logits
    logits = logits.clone()
    for row, history in zip(logits, histories, strict=True):
        beginning = list(history[len(history) - (size - 1) :]) if len(history) >= size - 1 else None
        banned = {
            history[start + size - 1]
            for start in range(len(history) - size + 1)
            if list(history[start : start + size - 1]) == beginning
        }
        row[torch.tensor(sorted(banned), device=logits.device, dtype=torch.long)] = -math.inf
    return logits


def draw_tokens(logits: Tensor, draws: Sequence[float]) -> Tensor:
    """Draw one token of each row: the first at which the cumulative probability exceeds the row's draw.

    One number a token (inverse transform sampling) instead of one per vocabulary entry, and the last step
    always in
    float64 on the CPU: a seed gives the same text on every device that gives the same logits.
    """
    cumulative = logits.softmax(dim=-1).cpu().double().cumsum(dim=-1)
    total = cumulative[:, -1:]
    targets = torch.tensor(draws, dtype=torch.float64)[:, None] * total
    # Rounded up to the total, a draw would point behind the last token.
    targets = torch.minimum(targets, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, targets, right=True)[:, 0]


def random_source(seed: int | None, index: int) -> random.Random:
    """The random numbers of one sequence: a function of seed and index, whatever its company in a batch.

    No seed, or a negative one, gives other numbers each time.
    """
    return random.Random() if seed is None or seed < 0 else random.Random(f"{seed}/{index}")
