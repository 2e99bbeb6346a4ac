"""The learning rate of each step, as a pure function: resuming never has anything to restore."""

import math
from dataclasses import dataclass
from typing import Literal

DEFAULT_DECAY_SHARE = 0.2
DEFAULT_DECAY_SHAPE: Literal["linear", "cosine", "sqrt"] = "sqrt"


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak`, then down to `min_ratio · peak` in one of several ways.

    `cosine` (SGDR, arXiv:1608.03983) and `linear` decay from the warm-up's end on, `constant` never does, and `wsd`
    (warm-up, stable, decay; MiniCPM, arXiv:2404.06395) stays at the peak and decays in the last `decay_share` of all
    steps: linearly, as a half cosine, or as 1 − √progress (arXiv:2405.18392).
    """

    peak: float
    warmup_steps: int
    min_ratio: float = 0.1
    kind: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    decay_share: float = DEFAULT_DECAY_SHARE
    decay_shape: Literal["linear", "cosine", "sqrt"] = DEFAULT_DECAY_SHAPE

    def learning_rate(self, step: int, total_steps: int | None) -> float:
        """The rate of one update.

        Args:
            step: the update about to be made, from 0.
            total_steps: updates of the whole run; None while that is not known yet, which counts as endless.
        """
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if total_steps is None or self.kind == "constant":
            return self.peak
        decay_steps = total_steps - self.warmup_steps
        if self.kind == "wsd":
            decay_steps = min(decay_steps, round(self.decay_share * total_steps))
        # The first decaying update is already below the peak, the last one is at the minimum.
        made = step - (total_steps - max(decay_steps, 0)) + 1
        if made <= 0:
            return self.peak
        progress = min(made / max(decay_steps, 1), 1.0)
        shape = self.decay_shape if self.kind == "wsd" else self.kind
        return self.peak * (self.min_ratio + (1 - self.min_ratio) * _remaining(shape, progress))


def _remaining(shape: str, progress: float) -> float:
    """What is left of the way down, from 1 to 0."""
    if shape == "linear":
        return 1 - progress
    if shape == "sqrt":
        return 1 - math.sqrt(progress)
    return 0.5 * (1 + math.cos(math.pi * progress))
