"""Losses that are only measured: over a whole validation set, and apart for each source of the data."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dataset.mixed_set import AnySet
from model.decoder import CausalLM
from model.device import Precision
from model.head import IGNORED
from trainer.loader import Loader
from trainer.objectives import Batch, Objective
from trainer.parallel import Parallel


def sum_dtype(device: torch.device) -> torch.dtype:
    """What long sums are kept in."""
    return torch.float32 if device.type == "mps" else torch.float64


class SourceLosses:
    """The mean loss of each source, gathered beside training: its sums never enter the loss that is minimised."""

    def __init__(self, sources: Sequence[str], device: torch.device) -> None:
        self._sources = sources
        self._sums = torch.zeros(2, len(sources), device=device, dtype=sum_dtype(device))  # of losses, of targets

    def add(self, batch: Batch, token_losses: Tensor) -> None:
        """Add a micro-batch. Nothing waits for the device."""
        # Padding belongs to no source (−1) and has neither loss nor target: it adds zeros to the first.
        source_ids = batch["source_ids"].flatten().clamp(min=0)
        trained = batch["targets"].flatten() != IGNORED
        self._sums[0].index_add_(0, source_ids, token_losses.flatten().to(self._sums.dtype))
        self._sums[1].index_add_(0, source_ids, trained.to(self._sums.dtype))

    def means(self, parallel: Parallel) -> dict[str, float]:
        """Nats a target token by source, over all ranks; sources without a target are left out."""
        losses, targets = parallel.sum(self._sums).tolist()
        return {name: losses[i] / targets[i] for i, name in enumerate(self._sources) if targets[i]}


@dataclass(frozen=True)
class Validation:
    """What a model loses on a validation set, in nats a target token."""

    loss: float
    by_source: dict[str, float]  # empty where all is of one source


@torch.no_grad()
def validate(
    model: CausalLM, objective: Objective, packed: AnySet, batch_size: int, precision: Precision
) -> Validation:
    """Mean loss a target token over a whole set, and over each of its sources."""
    was_training = model.training
    model.eval()
    total = torch.zeros((), device=precision.device, dtype=sum_dtype(precision.device))
    by_source = SourceLosses(packed.sources, precision.device) if len(packed.sources) > 1 else None
    loader = Loader(packed, batch_size, 1, 0, precision.device)
    tokens = 0
    for step in loader.steps(0, loader.order.total_steps(epochs=1)):
        batch: Batch = step.micro_batches[0]
        with precision.autocast():
            term = objective(model, batch)["loss"]
        total += term.total
        if by_source is not None and term.token_losses is not None:
            by_source.add(batch, term.token_losses)
        tokens += step.units["tokens"]
    model.train(was_training)
    # Every rank reads the whole set, so there is nothing to sum over ranks.
    return Validation(total.item() / max(tokens, 1), by_source.means(Parallel()) if by_source else {})
