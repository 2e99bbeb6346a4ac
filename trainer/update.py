"""One update from one global batch: the heart of the loop."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.engine import Engine
from trainer.loader import Step
from trainer.objectives import Objective
from trainer.validation import SourceLosses
from trainer.watch import UpdateRatio


class Update(NamedTuple):
    """What one update was."""

    losses: dict[str, float]  # of each term, a mean over the global batch
    grad_norm: float  # before clipping; NaN when it was not even asked for
    ratio: float | None  # how far the weights moved, against their size
    is_overflow: bool  # left out because fp16's scaled gradients did not fit; the scale is lower now
    expert_load: Tensor | None  # [layers, experts] tokens, over all ranks
    words: list[bool]  # what some rank had to say

    @property
    def was_made(self) -> bool:
        """False: loss or gradient was not finite, so the weights stayed as they were."""
        return math.isfinite(self.grad_norm)


def make_update(
    engine: Engine,
    objective: Objective,
    step: Step,
    learning_rate: float,
    seed: int,
    ratio: UpdateRatio | None = None,
    by_source: SourceLosses | None = None,
    words: Callable[[], Sequence[bool]] = tuple,
) -> Update:
    """Forward and backward of all micro-batches, then the update, unless something in it is not finite.

    Args:
        step: the global batch, of which this rank has its part.
        seed: the run's; dropout of step k depends on (seed, k, rank) alone: nothing random is saved or restored.
        ratio: measures how far the weights move.
        by_source: gathers the loss of each source beside.
        words: gives what this rank has to tell the others; the answer has what any of them said.
    """
    engine.model.train()
    seed_step(seed, step.index, engine.parallel.rank)
    totals: dict[str, Tensor] = {}
    expert_load: Tensor | None = None
    # A batch without any target teaches nothing; 0 / 0 would spoil every weight.
    units = {name: max(count, 1) for name, count in step.units.items()}
    for number, batch in enumerate(step.micro_batches):
        with engine.micro_batch(is_last=number == len(step.micro_batches) - 1):
            with engine.autocast():
                terms = objective(engine.forward, batch)
            # Divided by what the whole global batch counts, not by this part of it: the parts may differ.
            parts = [each.weight * each.total / units[each.unit] for each in terms.values() if each.weight]
            engine.backward(torch.stack(parts).sum())
        for name, term in terms.items():
            mean = term.total.detach() / units[term.unit]
            totals[name] = totals[name] + mean if name in totals else mean
            if term.expert_load is not None:
                expert_load = term.expert_load if expert_load is None else expert_load + term.expert_load
        token_losses = terms["loss"].token_losses
        if by_source is not None and token_losses is not None:
            by_source.add(batch, token_losses)
    # All that the ranks have to agree on before the weights change, in one small message.
    said = torch.tensor([float(word) for word in words()]).to(totals["loss"])
    answer: list[float] = engine.parallel.sum(torch.cat([torch.stack(list(totals.values())), said])).tolist()
    losses = dict(zip(totals, answer[: len(totals)], strict=True))
    grad_norm, moved, is_overflow = math.nan, None, False
    if all(math.isfinite(loss) for loss in losses.values()):
        if ratio is not None:
            ratio.before()
        grad_norm = engine.update(learning_rate)
        distance = ratio.after() if ratio is not None else None
        # What the run does next follows from these. Ranks on unlike hardware may differ in their last bits.
        grad_norm, moved = engine.parallel.from_main([grad_norm, None if distance is None else distance.item()])
        is_overflow = not math.isfinite(grad_norm) and engine.loss_scale > 1
    else:
        engine.drop_gradients()
    load = None if expert_load is None else engine.parallel.sum(expert_load)
    return Update(losses, grad_norm, moved, is_overflow, load, [bool(word) for word in answer[len(totals) :]])


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed what is random in one step of one rank."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))
