"""Losses that are only measured: over a whole validation set, and apart for each source of the data."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.mixed_set import AnySet
from model.decoder import CausalLM
from model.head import IGNORED
from trainer.objectives import Batch, Objective, Unit
from trainer.parallel import Parallel


def sum_dtype(device: torch.device) -> torch.dtype:
    """What long sums are kept in."""
    return torch.float32 if device.type == "mps" else torch.float64


class SourceLosses:
    """The mean loss of each source, gathered beside training: its sums never enter the loss that is minimised.

    Args:
        sources: names; a batch's `source_ids` are indices of them.
        device: where batches are.
        token_bytes: [vocab] bytes of text that each token stands for, to measure bits a byte too.
    """

    def __init__(self, sources: Sequence[str], device: torch.device, token_bytes: Tensor | None = None) -> None:
        self._sources, self._token_bytes = sources, token_bytes
        # Rows: of losses, of targets, of the targets' bytes.
        self._sums = torch.zeros(3, len(sources), device=device, dtype=sum_dtype(device))

    def add(self, batch: Batch, token_losses: Tensor) -> None:
        """Add a micro-batch. Nothing waits for the device."""
        # Padding belongs to no source (−1) and has neither loss nor target: it adds zeros to the first.
        source_ids = batch["source_ids"].flatten().clamp(min=0)
        targets = batch["targets"].flatten()
        trained = targets != IGNORED
        self._sums[0].index_add_(0, source_ids, token_losses.flatten().to(self._sums.dtype))
        self._sums[1].index_add_(0, source_ids, trained.to(self._sums.dtype))
        if self._token_bytes is not None:
            num_bytes = self._token_bytes[targets.clamp(min=0)] * trained
            self._sums[2].index_add_(0, source_ids, num_bytes.to(self._sums.dtype))

    def summed(self, parallel: Parallel) -> list[list[float]]:
        """Over all ranks [3][source]: losses in nats, targets, bytes of the targets' text."""
        sums: list[list[float]] = parallel.sum(self._sums).tolist()
        return sums

    def means(self, parallel: Parallel) -> dict[str, float]:
        """Nats a target token by source, over all ranks; sources without a target are left out."""
        losses, targets, _ = self.summed(parallel)
        return {name: losses[i] / targets[i] for i, name in enumerate(self._sources) if targets[i]}


@dataclass(frozen=True)
class Validation:
    """What a model loses on a validation set."""

    loss: float  # nats a target token (or a segment or pair, where the objective counts those)
    by_source: dict[str, float] = field(default_factory=dict)  # the same; empty where all is of one source
    bits_per_byte: float | None = None  # of the targets' text, special tokens apart; None where that is not known
    bits_per_byte_by_source: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)  # means of the other terms

    def values(self) -> dict[str, Any]:
        """As a row of metrics.jsonl: without what is not known."""
        row = {
            "loss": self.loss,
            "bits_per_byte": self.bits_per_byte,
            "loss_by_source": self.by_source,
            "bits_per_byte_by_source": self.bits_per_byte_by_source,
        }
        return {name: value for name, value in row.items() if value not in (None, {})} | self.measured


@torch.no_grad()
def validate(
    forward: Callable[..., Any],
    model: CausalLM,
    objective: Objective,
    packed: AnySet,
    batch_size: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
    parallel: Parallel | None = None,
    token_bytes: np.ndarray | None = None,
    stopped_by: Callable[[], int] = lambda: 0,
) -> Validation | None:
    """Mean loss a target token over a whole set, and over each of its sources. Every rank calls it, and each takes
    its share of the batches.

    Args:
        forward: what the objective calls as the model (an engine's).
        model: the same weights; it is put into evaluation mode meanwhile.
        packed: at least one row.
        autocast: the context in which the objective runs.
        parallel: the ranks that share the work.
        token_bytes: what `token_byte_lengths` gives, to measure bits a byte too.
        stopped_by: asked before each batch; anything but 0, on any rank, ends it.

    Returns:
        what was found; None when it was stopped.
    """
    parallel = parallel or Parallel()
    was_training = model.training
    model.eval()
    totals: dict[str, Tensor] = {}  # by term
    units: dict[str, Unit] = {}
    lengths = None if token_bytes is None else torch.from_numpy(token_bytes).to(device)
    by_source = SourceLosses(packed.sources, device, lengths)
    starts = range(0, packed.num_rows, batch_size)
    # Every rank makes as many forward passes: some of ZeRO's are meetings of all. A rank that has nothing left to do
    # reads the first batch once more, and does not count it.
    for turn in range(math.ceil(len(starts) / parallel.world_size)):
        if parallel.max(torch.tensor(float(stopped_by()))).item():
            model.train(was_training)
            return None
        number = turn * parallel.world_size + parallel.rank
        start = starts[number] if number < len(starts) else 0
        batch = _batch(packed, start, batch_size, device)
        with autocast():
            terms = objective(forward, batch)
        for name, term in terms.items():
            if term.expert_load is not None:
                continue  # the balance of experts is a matter of the micro-batch
            units[name] = term.unit
            totals.setdefault(name, torch.zeros((), device=device, dtype=sum_dtype(device)))
            totals[name] += term.total if number < len(starts) else 0
        token_losses = terms["loss"].token_losses
        if number < len(starts) and token_losses is not None:
            by_source.add(batch, token_losses)
    model.train(was_training)
    sums = dict(zip(totals, parallel.sum(torch.stack(list(totals.values()))).tolist(), strict=True))
    means = {name: total / max(_count(packed, units[name]), 1) for name, total in sums.items()}
    return _summary(means, units["loss"], packed.sources, by_source.summed(parallel))


def _batch(packed: AnySet, start: int, batch_size: int, device: torch.device) -> dict[str, Tensor]:
    rows = np.arange(start, min(start + batch_size, packed.num_rows))
    return {name: torch.from_numpy(array).to(device) for name, array in packed.batch(rows).items()}


def _count(packed: AnySet, unit: Unit) -> int:
    """How many of these a whole set holds."""
    if unit == "tokens":
        return int(packed.targets_per_row.sum())
    segments = int(packed.segments_per_row.sum())
    return segments if unit == "segments" else segments // 2


def _summary(means: dict[str, float], unit: Unit, sources: Sequence[str], sums: list[list[float]]) -> Validation:
    measured = {name: mean for name, mean in means.items() if name != "loss"}
    mean = means["loss"]
    if unit != "tokens":
        return Validation(mean, measured=measured)
    losses, targets, num_bytes = sums
    has_bytes = sum(num_bytes) > 0
    bits_per_byte = sum(losses) / math.log(2) / sum(num_bytes) if has_bytes else None
    if len(sources) < 2:
        return Validation(mean, {}, bits_per_byte, measured=measured)
    by_source = {name: losses[i] / targets[i] for i, name in enumerate(sources) if targets[i]}
    of_bytes = {name: losses[i] / math.log(2) / num_bytes[i] for i, name in enumerate(sources) if num_bytes[i]}
    return Validation(mean, by_source, bits_per_byte, of_bytes, measured)
