"""What a stage minimises: sums over a micro-batch, each with the unit that its global mean counts.

An objective returns sums, never means. The loop divides them by the number of units in the *global* batch, so the
loss is the same however that batch is split into micro-batches, accumulation steps and ranks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from model.decoder import LMOutput
from model.head import IGNORED

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

    loss_unit: ClassVar[str]  # for people

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

    loss_unit: ClassVar[str] = "nats a token"

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
        return terms | _balance_term(output)


def _balance_term(output: LMOutput) -> dict[str, Term]:
    """What keeps a mixture of experts in balance; nothing for a dense model."""
    if output.balance_loss is None:
        return {}
    return {
        "balance_loss": Term(output.balance_loss, "segments", output.balance_weight, expert_load=output.expert_load)
    }


# ---- preferences ----------------------------------------------------------------------------------------------

PreferenceLoss = Literal["sigmoid", "ipo", "hinge", "simpo", "orpo"]
REFERENCE_FREE = ("simpo", "orpo")


class Answers(NamedTuple):
    """The answers of a batch of preference pairs, each [batch, pairs]; a place without a pair has no tokens."""

    chosen: Tensor  # log p of the whole answer
    rejected: Tensor
    chosen_tokens: Tensor  # how many there are
    rejected_tokens: Tensor


def answers_of(token_losses: Tensor, batch: Batch) -> Answers:
    """Sum the losses of each answer's tokens; the prompt and all padding count nothing.

    Args:
        token_losses: [batch, seq] −log p of each target, 0 where there is none.
        batch: `targets` and `segment_ids`, [batch, seq]; a row's segments are chosen, rejected, chosen, …
    """
    rows, seq = token_losses.shape
    # As many places as a row can have segments, an even number: the shape does not depend on the data.
    places = seq + seq % 2
    index = batch["segment_ids"].clamp(min=0)  # what belongs to no segment has neither loss nor target
    log_p = token_losses.new_zeros(rows, places).scatter_add(1, index, -token_losses)
    is_target = (batch["targets"] != IGNORED).to(token_losses.dtype)
    tokens = token_losses.new_zeros(rows, places).scatter_add(1, index, is_target)
    return Answers(log_p[:, 0::2], log_p[:, 1::2], tokens[:, 0::2], tokens[:, 1::2])


@dataclass(frozen=True)
class PreferenceOptimization:
    """Make the chosen answer of each pair more probable, compared with the rejected one.

    With log-ratios ρ = log π(answer) − log π_ref(answer), β the weight of staying near the reference, Δ = ρ_chosen −
    ρ_rejected of sums over an answer's tokens, and Δ̄ of means over them:

        sigmoid  −(1 − ε) log σ(βΔ) − ε log σ(−βΔ)     DPO (arXiv:2305.18290); ε > 0: cDPO, some labels are wrong
        ipo      (Δ̄ − 1/2β)²                           IPO (arXiv:2310.12036), per token as TRL has it
        hinge    max(0, 1 − βΔ)                         SLiC-HF (arXiv:2305.10425)
        simpo    sigmoid's with β(mean log π_c − mean log π_r) − γ in the place of βΔ (arXiv:2405.14734); no reference
        orpo     −β log σ(log odds_c − log odds_r), odds of the mean log π (arXiv:2403.07691); no reference

    Args:
        loss, beta, label_smoothing, gamma: as above (ε is the label smoothing).
        sft_weight: weight of −log p of the chosen answer, a mean over its tokens, which is added (ORPO's own term).
        document_mask: both sides of a pair are segments of one row, so it has to be on.
        reference: gives the reference's `Answers` for a batch, where the batch does not bring `reference_logps`.
    """

    loss_unit: ClassVar[str] = "mean over pairs"

    loss: PreferenceLoss = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    gamma: float = 0.0
    sft_weight: float = 0.0
    document_mask: bool = True
    reference: Callable[[Batch], Answers] | None = field(default=None, repr=False, compare=False)

    def __call__(self, model: Forward, batch: Batch) -> dict[str, Term]:
        output = preference_forward(model, batch)
        assert output.token_losses is not None
        answers = answers_of(output.token_losses, batch)
        is_pair = answers.chosen_tokens > 0
        chosen, rejected = self._rewards(answers, batch)
        losses = self._losses(answers, chosen - rejected)

        def total(values: Tensor) -> Tensor:
            return torch.where(is_pair, values, 0.0).sum()

        terms = {"loss": Term(total(losses), "pairs")}
        if self.sft_weight:
            terms["sft_loss"] = Term(total(-_mean(answers.chosen, answers.chosen_tokens)), "pairs", self.sft_weight)
        measured = {
            "accuracy": (chosen > rejected).to(losses.dtype) + 0.5 * (chosen == rejected),  # a tie is a guess
            "reward_margin": chosen - rejected,
            "chosen_reward": chosen,
            "rejected_reward": rejected,
            "chosen_logps": answers.chosen,
            "rejected_logps": answers.rejected,
            "chosen_tokens": answers.chosen_tokens,
            "rejected_tokens": answers.rejected_tokens,
        }
        terms |= {name: Term(total(values.detach()), "pairs", 0.0) for name, values in measured.items()}
        return terms | _balance_term(output)

    def _rewards(self, answers: Answers, batch: Batch) -> tuple[Tensor, Tensor]:
        """The implicit rewards of both sides, each [batch, pairs]: β times what their loss compares."""
        chosen, rejected = answers.chosen, answers.rejected
        if self.loss not in REFERENCE_FREE:
            reference = self.reference(batch) if self.reference is not None else _stored_reference(batch)
            # The set stores as many as its fullest row has.
            chosen, rejected = (
                chosen - _fitted(reference.chosen, chosen),
                rejected - _fitted(reference.rejected, rejected),
            )
        if self.loss in ("ipo", *REFERENCE_FREE):
            chosen, rejected = _mean(chosen, answers.chosen_tokens), _mean(rejected, answers.rejected_tokens)
        return self.beta * chosen, self.beta * rejected

    def _losses(self, answers: Answers, margins: Tensor) -> Tensor:
        """[batch, pairs] from the rewards' margins; anything where there is no pair."""
        if self.loss == "hinge":
            return relu(1 - margins)
        if self.loss == "ipo":
            return (margins / self.beta - 1 / (2 * self.beta)) ** 2
        if self.loss == "orpo":
            chosen = _mean(answers.chosen, answers.chosen_tokens)
            rejected = _mean(answers.rejected, answers.rejected_tokens)
            return -self.beta * logsigmoid(_log_odds(chosen) - _log_odds(rejected))
        margins = margins - self.gamma if self.loss == "simpo" else margins
        right, wrong = logsigmoid(margins), logsigmoid(-margins)
        return -(1 - self.label_smoothing) * right - self.label_smoothing * wrong


def preference_forward(model: Forward, batch: Batch) -> LMOutput:
    """Read pairs: both sides of each are segments of one row, and see only themselves."""
    return model(
        batch["input_ids"],
        targets=batch["targets"],
        position_ids=batch["position_ids"],
        segment_ids=batch["segment_ids"],
        document_mask=True,
    )


def _stored_reference(batch: Batch) -> Answers:
    stored = batch["reference_logps"]
    chosen, rejected = stored[:, 0::2], stored[:, 1::2]
    return Answers(chosen, rejected, torch.zeros_like(chosen), torch.zeros_like(rejected))


def _fitted(values: Tensor, like: Tensor) -> Tensor:
    """`values` with as many columns as `like`, zeros behind."""
    return torch.nn.functional.pad(values, (0, like.shape[1] - values.shape[1])).to(like.dtype)


def _mean(sums: Tensor, tokens: Tensor) -> Tensor:
    return sums / tokens.clamp(min=1)


def _log_odds(log_p: Tensor) -> Tensor:
    """log p/(1 − p). A probability of 1 (or no answer at all) would have infinite odds."""
    log_p = log_p.clamp(max=-1e-6)
    return log_p - torch.log(-torch.expm1(log_p))
