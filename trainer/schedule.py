"""The learning rate of each step, as a pure function: resuming never has anything to restore."""

import math


def learning_rate(step: int, total_steps: int, peak: float, warmup_steps: int, min_ratio: float) -> float:
    """Linear warm-up, then a half cosine down to `min_ratio · peak` (SGDR, arXiv:1608.03983).

    Args:
        step: the update about to be made, from 0.
        total_steps: updates of the whole run.
        peak: highest learning rate; reached at the last warm-up step and never exceeded.
        warmup_steps: updates of the rise; may be as long as the run.
        min_ratio: last learning rate / peak.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    decay_steps = max(total_steps - warmup_steps, 1)
    progress = min((step - warmup_steps + 1) / decay_steps, 1.0)
    return peak * (min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))
