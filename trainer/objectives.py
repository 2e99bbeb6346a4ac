"""What a stage minimises: sums over a micro-batch, each with the unit that its global mean counts.

An objective returns sums, never means. The loop divides them by the number of units in the *global* batch, so the
loss is the same however that batch is split into micro-batches, accumulation steps and ranks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from model.decoder import LMOutput

Unit = Literal["tokens", "segments", "pairs"]


class Term(NamedTuple):
    """One part of the loss."""

    total: Tensor  # scalar: the sum over the micro-batch
    unit: Unit  # what the global batch is counted in
    weight: float = 1.0  # its share of the loss that is minimised; 0 only reports it
    token_losses: Tensor | None = None  # [batch, seq] what `total` adds up, detached; for the loss per source
    expert_load: Tensor | None = None  # [layers, experts] tokens that each expert got (balance loss)


Batch = Mapping[str, Tensor]
Forward = Callable[..., LMOutput]  # a `CausalLM`, or what several processes wrap around one


class Objective(Protocol):
    """What the loop asks for; its `repr` is part of the run's identity."""

    @property
    def document_mask(self) -> bool:
        """Whether attention stays inside a segment."""

    def __call__(self, model: Forward, batch: Batch) -> dict[str, Term]:
        """The terms of the loss over one micro-batch; the one called "loss" is what is reported and watched."""


@dataclass(frozen=True)
class LanguageModeling:
    """Predict each next token: −log p(target) over all targets of the batch.

    Pretraining and fine-tuning share it; they differ in which tokens are targets (the packed set's mask).

    Args:
        document_mask: attention and positions restart at each segment of a row.
        z_loss: weight of log²Z, which keeps the logits' scale from drifting (PaLM, arXiv:2204.02311).
    """

    document_mask: bool
    z_loss: float = 0.0

    def __call__(self, model: Forward, batch: Batch) -> dict[str, Term]:
        output = model(
            batch["input_ids"],
            targets=batch["targets"],
            position_ids=batch["position_ids"] if self.document_mask else None,
            segment_ids=batch["segment_ids"],
            document_mask=self.document_mask,
        )
        assert output.token_losses is not None and output.log_sum_exp is not None
        terms = {"loss": Term(output.token_losses.sum(), "tokens", token_losses=output.token_losses.detach())}
        if self.z_loss:
            terms["z_loss"] = Term(output.log_sum_exp.square().sum(), "tokens", self.z_loss)
        if output.balance_loss is not None:
            terms["balance_loss"] = Term(
                output.balance_loss, "segments", output.balance_weight, expert_load=output.expert_load
            )
        return terms
