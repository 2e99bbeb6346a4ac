"""Preference losses: numbers and gradients are TRL's, whatever row a pair lies in and whatever lies beside it."""

import importlib
import math
import os
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dataset.packing import PackedSet
from model.decoder import LMOutput
from model.head import IGNORED
from tests.packed_sets import Side, pairs_of, write_pairs
from tests.tiny_model import tiny_model
from trainer.loader import MicroBatchRows, _PackedRows
from trainer.objectives import PreferenceOptimization, answers_of

MAX_SEQ_LEN = 24
# One pair, three, two of unlike length, one that fills its row, one that ends in the last slot but one.
ROWS = [[(3, 4, 5)], [(2, 3, 2), (3, 2, 4), (2, 2, 2)], [(5, 10, 9), (2, 4, 3)], [(5, 20, 20)], [(4, 20, 21)]]
NUM_PAIRS = sum(map(len, ROWS))
MEASURED = [f"{side}_{what}" for side in ("chosen", "rejected") for what in ("reward", "logps", "tokens")]


@pytest.fixture(scope="module")
def pairs(tokenizer, tmp_path_factory) -> PackedSet:
    """The rows above, and a reference's numbers with them."""
    folder = tmp_path_factory.mktemp("pairs")
    packed = write_pairs(folder / "letters", tokenizer, ROWS, MAX_SEQ_LEN)
    numbers = np.random.default_rng(1)
    np.save(folder / "reference.npy", numbers.uniform(-30, -2, len(packed.segments)))
    packed.attach("reference_logps", folder / "reference.npy", int(packed.segments_per_row.max()))
    return packed


@pytest.fixture(scope="session")
def trl() -> Any:
    """TRL's trainers; they load for some seconds."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    rooms = {"DPO": "trl", "CPO": "trl.experimental.cpo", "ORPO": "trl.experimental.orpo"}
    trainers = {name: getattr(importlib.import_module(room), f"{name}Trainer") for name, room in rooms.items()}
    return SimpleNamespace(**trainers)


def batch_of(packed: PackedSet, rows: Any = None, is_idle: bool = False) -> dict[str, Tensor]:
    chosen = np.arange(packed.num_rows) if rows is None else np.array(rows)
    return _PackedRows(packed)[MicroBatchRows(chosen, is_idle)]


def random_log_probs(batch: dict[str, Tensor], seed: int = 0) -> Tensor:
    """A policy's log p of each target [batch, seq], a leaf."""
    numbers = torch.Generator().manual_seed(seed)
    shape = batch["targets"].shape
    return (-4 * torch.rand(shape, generator=numbers, dtype=torch.float64)).requires_grad_()


def with_log_probs(log_probs: Tensor) -> Any:
    """A model that finds the targets as probable as it was told."""

    def forward(input_ids: Tensor, targets: Tensor, **others: Any) -> LMOutput:
        assert others["document_mask"] is True
        losses = torch.where(targets != IGNORED, -log_probs, 0.0)
        return LMOutput(hidden_states=torch.empty(0), token_losses=losses)

    return forward


def answer_log_probs(log_probs: Tensor, side: Side) -> Tensor:
    """[length − 1] of one side, zero outside of its answer: the target at a slot stands one place further on."""
    end = side.start + len(side.tokens) - 1
    return log_probs[side.row, side.start : end] * torch.from_numpy(side.is_answer[1:])


def mean_log_probs(log_probs: Tensor, side: Side) -> Tensor:
    return answer_log_probs(log_probs, side).sum() / int(side.is_answer.sum())


def assert_equal_loss(terms: dict[str, Any], ours: Tensor, expected: Tensor, theirs: Tensor) -> None:
    """Mean loss a pair, and its gradient with respect to each token's log-probability."""
    minimised = [each for each in terms.values() if each.weight]
    assert {each.unit for each in minimised} == {"pairs"}
    loss = torch.stack([each.weight * each.total for each in minimised]).sum() / NUM_PAIRS
    torch.testing.assert_close(loss, expected.to(loss.dtype), rtol=1e-5, atol=1e-5)
    loss.backward()
    expected.backward()
    assert ours.grad.abs().max() > 1e-3
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


# ---- TRL ------------------------------------------------------------------------------------------------------


def trl_dpo_loss(trl: Any, loss: Any, beta: float, sides: list[Any], reference: Tensor, log_probs: Tensor) -> Any:
    """`DPOTrainer._compute_loss` of these pairs, and what it logs; only the model is made up."""
    both = [side for number in (0, 1) for side in (pair[number] for pair in sides)]
    longest = max(len(side.tokens) for side in both)
    completion_mask = torch.zeros(len(both), longest, dtype=torch.long)
    rows = []
    for index, side in enumerate(both):
        completion_mask[index, : len(side.tokens)] = torch.from_numpy(side.is_answer)
        mine = answer_log_probs(log_probs, side)
        rows.append(torch.nn.functional.pad(mine, (0, longest - 1 - len(mine))))
    stacked = torch.stack(rows)
    nothing = torch.zeros(stacked.shape, dtype=torch.float64)
    output = SimpleNamespace(log_probs=stacked, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())
    chosen, rejected = (torch.stack([reference[pair[number].number] for pair in sides]) for number in (0, 1))
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(device="cpu", gather=lambda each: each, gather_for_metrics=lambda each: each),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        loss_types=[loss],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=0.0,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.zeros_like(completion_mask),
        "attention_mask": torch.ones_like(completion_mask),
        "completion_mask": completion_mask,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    found = trl.DPO._compute_loss(trainer, lambda **_: output, inputs, False)
    return found, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def stored_reference(packed: PackedSet) -> Tensor:
    [(path, _, _)] = packed._attached.values()
    return torch.from_numpy(np.load(path))


@pytest.mark.parametrize("beta", [0.05, 0.5])
@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge"])
def test_losses_with_a_reference_are_those_of_trl(trl, pairs, loss, beta):
    batch = batch_of(pairs)
    ours, theirs = random_log_probs(batch), random_log_probs(batch)
    terms = PreferenceOptimization(loss, beta)(with_log_probs(ours), batch)
    expected, logged = trl_dpo_loss(trl, loss, beta, [*pairs_of(pairs)], stored_reference(pairs), theirs)
    assert_equal_loss(terms, ours, expected, theirs)
    found = {name: (terms[name].total / NUM_PAIRS).item() for name in ("accuracy", *MEASURED)}
    assert found["chosen_logps"] == pytest.approx(logged["logps/chosen"], rel=1e-6)
    assert found["rejected_logps"] == pytest.approx(logged["logps/rejected"], rel=1e-6)
    if loss != "ipo":  # its rewards are what its loss compares: means, where TRL logs the sums
        assert found["chosen_reward"] == pytest.approx(logged["rewards/chosen"], rel=1e-6)
        assert found["rejected_reward"] == pytest.approx(logged["rewards/rejected"], rel=1e-6)
        assert (terms["reward_margin"].total / NUM_PAIRS).item() == pytest.approx(logged["rewards/margins"], rel=1e-6)
        assert found["accuracy"] == pytest.approx(logged["rewards/accuracies"])
        assert 0 < found["accuracy"] < 1


@pytest.mark.parametrize(("beta", "gamma", "label_smoothing"), [(2.0, 1.0, 0.0), (2.5, 0.5, 0.1), (0.1, 0.0, 0.0)])
def test_simpo_is_that_of_trl(trl, pairs, beta, gamma, label_smoothing):
    batch = batch_of(pairs)
    ours, theirs = random_log_probs(batch), random_log_probs(batch)
    del batch["reference_logps"]
    objective = PreferenceOptimization("simpo", beta, label_smoothing, gamma)
    terms = objective(with_log_probs(ours), batch)
    trainer = SimpleNamespace(
        alpha=0.0,
        loss_type="simpo",
        beta=beta,
        simpo_gamma=gamma,
        label_smoothing=label_smoothing,
        accelerator=SimpleNamespace(device="cpu"),
    )
    means = [torch.stack([mean_log_probs(theirs, pair[number]) for pair in pairs_of(pairs)]) for number in (0, 1)]
    losses, chosen, rejected = trl.CPO.cpo_loss(trainer, *means)
    assert_equal_loss(terms, ours, losses.mean(), theirs)
    assert terms["chosen_reward"].total.item() == pytest.approx(chosen.sum().item(), rel=1e-6)
    assert terms["rejected_reward"].total.item() == pytest.approx(rejected.sum().item(), rel=1e-6)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_orpo_is_that_of_trl(trl, pairs, beta):
    """Its odds ratio. TRL's own term for the chosen answer trains the prompt too; ours is tested below."""
    batch = batch_of(pairs)
    ours, theirs = random_log_probs(batch), random_log_probs(batch)
    del batch["reference_logps"]
    terms = PreferenceOptimization("orpo", beta)(with_log_probs(ours), batch)
    trainer = SimpleNamespace(beta=beta, accelerator=SimpleNamespace(device="cpu"))
    means = [torch.stack([mean_log_probs(theirs, pair[number]) for pair in pairs_of(pairs)]) for number in (0, 1)]
    losses = trl.ORPO.odds_ratio_loss(trainer, *means)[0]
    assert_equal_loss(terms, ours, -losses.mean(), theirs)


@pytest.mark.parametrize("weight", [1.0, 0.2])
def test_the_chosen_answers_own_loss_is_that_of_trl(trl, pairs, weight):
    """Pair by pair: TRL's mean is over the tokens of the whole batch, which gives long answers more weight."""
    batch = batch_of(pairs)
    ours, theirs = random_log_probs(batch), random_log_probs(batch)
    terms = PreferenceOptimization("sigmoid", 0.1, sft_weight=weight)(with_log_probs(ours), batch)
    reference, parts = stored_reference(pairs), []
    for pair in pairs_of(pairs):
        preference, _ = trl_dpo_loss(trl, "sigmoid", 0.1, [pair], reference, theirs)
        own, _ = trl_dpo_loss(trl, "sft", 0.1, [pair], reference, theirs)
        parts.append(preference + weight * own)
    assert terms["sft_loss"].weight == weight
    assert_equal_loss(terms, ours, torch.stack(parts).mean(), theirs)


# ---- plain references -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.1, 0.49])
def test_label_smoothing_is_cdpo(pairs, smoothing):
    """Each pair is the wrong way round with that probability (cDPO); TRL's "robust" corrects for it instead."""
    batch, beta = batch_of(pairs), 0.3
    ours, theirs = random_log_probs(batch), random_log_probs(batch)
    terms = PreferenceOptimization("sigmoid", beta, smoothing)(with_log_probs(ours), batch)
    reference, losses = stored_reference(pairs), []
    for pair in pairs_of(pairs):
        ratios = [answer_log_probs(theirs, side).sum() - reference[side.number] for side in pair]
        probability = 1 / (1 + torch.exp(-beta * (ratios[0] - ratios[1])))
        losses.append(-(1 - smoothing) * probability.log() - smoothing * (1 - probability).log())
    assert_equal_loss(terms, ours, torch.stack(losses).mean(), theirs)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge", "simpo", "orpo"])
def test_what_is_measured(pairs, loss):
    batch, beta = batch_of(pairs), 0.4
    log_probs, reference = random_log_probs(batch), stored_reference(pairs).tolist()
    terms = PreferenceOptimization(loss, beta, gamma=0.5)(with_log_probs(log_probs), batch)
    sums: dict[str, float] = defaultdict(float)
    for pair in pairs_of(pairs):
        rewards = []
        for name, side in zip(("chosen", "rejected"), pair, strict=True):
            tokens = [t for t in range(1, len(side.tokens)) if side.is_answer[t]]
            log_p = sum(log_probs[side.row, side.start + t - 1].item() for t in tokens)
            ratio = log_p if loss in ("simpo", "orpo") else log_p - reference[side.number]
            rewards.append(beta * (ratio if loss in ("sigmoid", "hinge") else ratio / len(tokens)))
            sums[f"{name}_logps"] += log_p
            sums[f"{name}_tokens"] += len(tokens)
            sums[f"{name}_reward"] += rewards[-1]
        sums["reward_margin"] += rewards[0] - rewards[1]
        sums["accuracy"] += rewards[0] > rewards[1]
    found = {name: term for name, term in terms.items() if not term.weight}
    assert {name: term.total.item() for name, term in found.items()} == pytest.approx(sums, rel=1e-6)
    assert {term.unit for term in found.values()} == {"pairs"}
    assert not any(term.total.requires_grad for term in found.values())


def test_a_tie_is_a_guess(pairs):
    """As before the first update, where policy and reference are one."""
    batch = batch_of(pairs)
    log_probs = random_log_probs(batch)
    objective = PreferenceOptimization(reference=lambda batch: answers_of(-log_probs.detach() * answered(batch), batch))
    terms = objective(with_log_probs(log_probs), batch)
    assert terms["accuracy"].total.item() == NUM_PAIRS / 2
    assert terms["reward_margin"].total.item() == 0
    assert terms["loss"].total.item() == pytest.approx(NUM_PAIRS * math.log(2))


def answered(batch: Any) -> Tensor:
    return batch["targets"] != IGNORED


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge", "simpo", "orpo"])
@pytest.mark.parametrize("far", [500.0, -500.0])
def test_numbers_far_out_are_finite(pairs, loss, far):
    """Also where a whole answer is certain (log p of 0) or as good as impossible; in float32, as in training."""
    batch = batch_of(pairs)
    sign = torch.where(batch["segment_ids"] % 2 == 0, far, -far)
    for log_probs in (sign.clamp(max=0) / 5, sign.clamp(max=0) * 100, torch.full_like(sign, -1e-9)):
        leaf = log_probs.clone().requires_grad_()
        reference = answers_of(torch.where(answered(batch), sign, 0.0), batch)
        objective = PreferenceOptimization(loss, 1.0, 0.1, 0.5, 0.5, reference=lambda _, found=reference: found)
        terms = objective(with_log_probs(leaf), batch)
        assert terms["loss"].total.dtype == torch.float32
        assert all(math.isfinite(term.total.item()) for term in terms.values())
        (terms["loss"].total + terms["sft_loss"].total).backward()
        assert torch.isfinite(leaf.grad).all()


# ---- where a pair lies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge", "simpo", "orpo"])
def test_the_split_into_batches_changes_nothing(pairs, loss):
    whole = batch_of(pairs)
    log_probs = random_log_probs(whole)
    objective = PreferenceOptimization(loss, sft_weight=0.3)
    expected = objective(with_log_probs(log_probs), whole)
    parts = [objective(with_log_probs(log_probs[rows]), batch_of(pairs, rows)) for rows in ([4, 0], [2], [1, 3])]
    for name, term in expected.items():
        torch.testing.assert_close(sum(part[name].total for part in parts), term.total)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge", "simpo", "orpo"])
def test_an_idle_row_counts_nothing(pairs, loss):
    """What keeps a rank in step with the others at the end of an epoch."""
    batch = batch_of(pairs, [1], is_idle=True)
    assert (batch["targets"] == IGNORED).all() and (batch["segment_ids"] == -1).all()
    log_probs = random_log_probs(batch)
    terms = PreferenceOptimization(loss, 0.1, 0.1, 0.5, 1.0)(with_log_probs(log_probs), batch)
    assert all(term.total.item() == 0 for term in terms.values())
    (terms["loss"].total + terms["sft_loss"].total).backward()
    assert not log_probs.grad.any()


# ---- a real model ---------------------------------------------------------------------------------------------


def test_each_side_is_read_as_if_it_were_alone(pairs):
    """Sums and gradients: no prompt is counted, and neither the other side nor another pair can be seen."""
    model = tiny_model(max_seq_len=2 * (MAX_SEQ_LEN + 1))
    batch = batch_of(pairs)
    terms = PreferenceOptimization("sigmoid", 0.2)(model, batch)
    terms["loss"].total.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    reference, alone, sums = stored_reference(pairs), torch.zeros((), dtype=torch.float64), []
    for pair in pairs_of(pairs):
        log_p = []
        for side in pair:
            tokens = torch.from_numpy(side.tokens.astype(np.int64))
            log_probs = model(tokens[None, :-1]).logits[0].log_softmax(dim=-1)
            at_targets = log_probs.gather(1, tokens[1:, None]).squeeze(1)
            log_p.append(at_targets[torch.from_numpy(side.is_answer[1:])].sum())
        ratios = [each - reference[side.number] for each, side in zip(log_p, pair, strict=True)]
        alone = alone - torch.log(torch.sigmoid(0.2 * (ratios[0] - ratios[1])))
        sums.append(torch.stack(log_p))
    torch.testing.assert_close(terms["loss"].total, alone)
    expected = torch.stack(sums).sum(dim=0)
    torch.testing.assert_close(torch.stack([terms[f"{side}_logps"].total for side in ("chosen", "rejected")]), expected)
    alone.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-6, atol=1e-9)


def test_experts_add_their_balance_loss(pairs):
    model = tiny_model(use_moe=True, max_seq_len=2 * (MAX_SEQ_LEN + 1), aux_loss_alpha=0.02)
    terms = PreferenceOptimization()(model, batch_of(pairs))
    term = terms["balance_loss"]
    assert (term.unit, term.weight) == ("segments", 0.02) and term.expert_load is not None
    (term.total * term.weight).backward()
    assert all(layer.mlp.router.weight.grad.abs().max() > 0 for layer in model.model.layers)


def test_only_what_is_minimised_makes_a_run_another(pairs):
    """The objective's repr is part of the run's identity; where the reference's numbers come from is not."""
    objective = PreferenceOptimization()
    assert f"{objective!r}" == f"{replace(objective, reference=lambda batch: answers_of(batch['targets'], batch))!r}"
    for change in ({"beta": 0.2}, {"loss": "ipo"}, {"label_smoothing": 0.1}, {"gamma": 1.0}, {"sft_weight": 1.0}):
        assert f"{objective!r}" != f"{replace(objective, **change)!r}"
