"""How far a model has gone from its start, against plain sums over its logits; and that looking changes nothing."""

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataset.packing import PackedSet
from model.checkpoint import Checkpoint
from model.decoder import CausalLM
from model.device import Precision
from model.tokenizer import ChatTokenizer
from tests.packed_sets import pairs_of, write_pairs
from tests.tiny_model import tiny_model
from trainer import drift
from trainer.drift import COLLAPSE, DriftProbe
from trainer.engine import Engine
from trainer.parallel import Parallel
from trainer.settings import TrainSettings
from trainer.stages import Origin

MAX_SEQ_LEN = 24
ROWS = [[(3, 4, 5)], [(2, 3, 2), (3, 2, 4), (2, 2, 2)], [(5, 10, 9), (2, 4, 3)], [(5, 20, 20)], [(4, 20, 21)]]
FLOAT32 = Precision(torch.device("cpu"), torch.float32)


@pytest.fixture
def packed(tokenizer: ChatTokenizer, tmp_path: Path) -> PackedSet:
    return write_pairs(tmp_path / "pairs", tokenizer, ROWS, MAX_SEQ_LEN)


def model_of(seed: int) -> CausalLM:
    return tiny_model(seed, torch.float32, max_seq_len=2 * (MAX_SEQ_LEN + 1))


def origin_of(model: CausalLM, tokenizer: ChatTokenizer) -> Origin:
    return Origin(model, tokenizer.files, parent=Checkpoint("full_sft", model.config, {}, {}, digest="5eed"))


def engine_of(model: CausalLM) -> Engine:
    return Engine(model, TrainSettings(optimizer="adamw", learning_rate=1e-3), FLOAT32, Parallel())


@pytest.fixture
def probe(packed: PackedSet, tokenizer: ChatTokenizer) -> DriftProbe:
    return DriftProbe(packed, origin_of(model_of(0), tokenizer), FLOAT32, Parallel())


def distributions(packed: PackedSet, model: CausalLM) -> tuple[Any, torch.Tensor]:
    """Of the next token at each place of every chosen answer, each read alone; and the tokens that come there."""
    logits, targets = [], []
    for side, _ in pairs_of(packed):
        tokens, is_answer = torch.from_numpy(side.tokens.astype(np.int64)), torch.from_numpy(side.is_answer[1:])
        with torch.no_grad():
            logits.append(model(tokens[None, :-1]).logits[0][is_answer])
        targets.append(tokens[1:][is_answer])
    return torch.distributions.Categorical(logits=torch.cat(logits)), torch.cat(targets)


def test_nothing_has_moved_at_the_start(probe):
    found, alarms = probe(engine_of(model_of(0)))
    assert found["kl"] == found["chosen_drop"] == 0
    assert alarms == []


def test_kl_and_drop_are_those_of_plain_logits(packed, probe):
    model = model_of(1)
    found, _ = probe(engine_of(model))
    start, targets = distributions(packed, model_of(0))
    now, _ = distributions(packed, model)
    expected = torch.distributions.kl_divergence(now, start).mean().item()
    assert found["kl"] == pytest.approx(expected, rel=1e-5) and expected > 0.1
    drop = (start.log_prob(targets) - now.log_prob(targets)).mean().item()
    assert found["chosen_drop"] == pytest.approx(drop, rel=1e-5) and abs(drop) > 0.01
    assert 0 <= found["answer_tokens"] <= drift.ANSWER_TOKENS


def test_of_many_places_some_are_taken_for_kl_and_all_for_the_drop(packed, tokenizer, monkeypatch):
    """Evenly, so that the first rows are not all that is seen."""
    start, targets = distributions(packed, model_of(0))
    now, _ = distributions(packed, model_of(1))
    monkeypatch.setattr(drift, "MOST_ELEMENTS", 5 * model_of(0).config.vocab_size)
    probe = DriftProbe(packed, origin_of(model_of(0), tokenizer), FLOAT32, Parallel())
    each = torch.distributions.kl_divergence(now, start)
    taken = each[torch.linspace(0, len(each) - 1, 5).long()]
    found, _ = probe(engine_of(model_of(1)))
    assert found["kl"] == pytest.approx(taken.mean().item(), rel=1e-5)
    drop = (start.log_prob(targets) - now.log_prob(targets)).mean().item()
    assert found["chosen_drop"] == pytest.approx(drop, rel=1e-5)


def test_chosen_answers_on_their_way_out_are_an_alarm(packed, probe):
    """A little unlikelier is no alarm."""
    model = model_of(0)
    engine = engine_of(model)
    optimizer, dropped = torch.optim.SGD(model.parameters(), lr=5e-4), []
    batch = {name: torch.from_numpy(array) for name, array in packed.batch(np.arange(5)).items()}
    is_chosen = batch["segment_ids"] % 2 == 0
    for _ in range(30):
        found, alarms = probe(engine)
        dropped.append(found["chosen_drop"])
        assert len(alarms) == (dropped[-1] > COLLAPSE)
        if alarms:
            break
        output = model(
            batch["input_ids"],
            targets=batch["targets"].where(is_chosen, -100),
            position_ids=batch["position_ids"],
            segment_ids=batch["segment_ids"],
            document_mask=True,
        )
        optimizer.zero_grad()
        (-output.token_losses.sum() / 60).backward()
        optimizer.step()
    assert len([each for each in dropped if each > 0]) > 2 and dropped == sorted(dropped)
    assert alarms == [
        f"chosen answers have become less probable, by {dropped[-1]:.2f} nats a token: lower --learning_rate, raise "
        "--beta, or hold them with --sft_weight"
    ]


@pytest.mark.parametrize("is_training", [True, False])
def test_looking_changes_nothing(probe, is_training):
    model = model_of(1).train(is_training)
    modes = [module.training for module in model.modules()]
    engine = engine_of(model)
    before = [each.detach().clone() for each in model.parameters()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = probe(engine)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(each, old) for each, old in zip(model.parameters(), before, strict=True))
    assert all(each.grad is None for each in model.parameters())
    torch.manual_seed(4)
    assert probe(engine) == first, "the same model gives the same numbers"


def test_a_later_start_finds_the_same(packed, tokenizer):
    """As after a restart, which makes the probe anew, from a model that may be training."""
    probes = [
        DriftProbe(packed, origin_of(model, tokenizer), FLOAT32, Parallel()) for model in (model_of(0), model_of(0))
    ]
    model = model_of(1)
    assert probes[0](engine_of(model)) == probes[1](engine_of(model.train()))


def test_the_start_is_remembered_not_looked_up(packed, tokenizer):
    """The origin's model is the one that is trained."""
    model = model_of(0)
    probe = DriftProbe(packed, origin_of(model, tokenizer), FLOAT32, Parallel())
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    assert probe(engine_of(model))[0]["kl"] > 0.01


def test_only_the_main_process_looks(packed, tokenizer):
    class Other:
        @contextmanager
        def speaking_model(self) -> Any:
            yield None

    class Untouched:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"{name} was asked for")

    untouched: Any = Untouched()
    other: Any = Other()
    probe = DriftProbe(packed, untouched, FLOAT32, Parallel(rank=1, world_size=2))
    assert probe(other) == ({}, [])


def test_a_set_without_rows_is_no_trouble(tokenizer, tmp_path):
    empty = write_pairs(tmp_path / "empty", tokenizer, [], MAX_SEQ_LEN)
    probe = DriftProbe(empty, origin_of(model_of(0), tokenizer), FLOAT32, Parallel())
    assert probe(engine_of(model_of(1))) == ({}, [])
