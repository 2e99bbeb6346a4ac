"""Validation: the loss over a whole set and by source, in nats a token and bits a byte, on one rank or several."""

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dataset.filling import TextFiller
from dataset.packing import PackedSet, PackedSetWriter
from model.decoder import CausalLM
from model.head import IGNORED
from tests.tiny_model import tiny_model, tiny_tokenizer
from trainer.objectives import LanguageModeling, Term
from trainer.parallel import Parallel
from trainer.token_bytes import token_byte_lengths
from trainer.validation import Validation, validate

TEXTS = ["The fox eats red berries.", "北京是中国的首都。", "What is the capital of Japan? Tokyo.", "诗🦊 x", "a b c"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedSet:
    """Documents of two sources, several in a row and some over two."""
    folder = tmp_path_factory.mktemp("sets") / "texts"
    folder.mkdir()
    tokenizer = tiny_tokenizer()
    writer = PackedSetWriter(folder, "pretrain", 24, tokenizer.vocab_size, pad_token_id=1)
    filler = TextFiller(25, writer.add_row)
    for number, text in enumerate(TEXTS * 3):
        filler.add(np.array([0, *tokenizer.encode(text), 0], np.uint16), number % 2)
    filler.finish()
    writer.finish(tokenizer, {"name": "texts", "sources": ["a", "b"], "num_documents": 15})
    return PackedSet.open(folder)


@pytest.fixture(scope="module")
def model() -> CausalLM:
    return tiny_model()


@dataclass(frozen=True)
class FakeParallel(Parallel):
    """One of several ranks whose sums are noted, to be added up afterwards; one of them may read the sums."""

    noted: list[Tensor] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)

    def max(self, tensor: Tensor) -> Tensor:
        return tensor

    def sum(self, tensor: Tensor) -> Tensor:
        self.noted.append(tensor.clone())
        return self.sums[len(self.noted) - 1] if self.sums else tensor


def measure(model: CausalLM, packed: PackedSet, batch_size: int = 2, **changes: Any) -> Validation:
    arguments: dict[str, Any] = {"token_bytes": token_byte_lengths(tiny_tokenizer()), **changes}
    forward = arguments.pop("forward", model)
    objective = arguments.pop("objective", LanguageModeling(document_mask=True))
    found = validate(forward, model, objective, packed, batch_size, CPU, nullcontext, **arguments)
    assert found is not None
    return found


@torch.no_grad()
def by_hand(model: CausalLM, packed: PackedSet) -> dict[str, list[float]]:
    """[nats, targets, bytes] of each source and of all, token by token, from whole logits and the decoded text."""
    tokenizer = tiny_tokenizer()
    sums: dict[str, list[float]] = {name: [0.0, 0, 0] for name in ("a", "b", "all")}
    for row in range(packed.num_rows):
        batch = {name: torch.from_numpy(array) for name, array in packed.batch(np.array([row])).items()}
        output = model(
            batch["input_ids"],
            position_ids=batch["position_ids"],
            segment_ids=batch["segment_ids"],
            document_mask=True,
            logits="all",
        )
        log_probs = output.logits.double().log_softmax(-1)[0]
        for place, target in enumerate(batch["targets"][0].tolist()):
            if target != IGNORED:
                is_text = target not in tokenizer.special_tokens.values()
                name = tokenizer.entry_name(target)  # one character a byte
                for key in ("ab"[int(batch["source_ids"][0, place])], "all"):
                    sums[key][0] -= float(log_probs[place, target])
                    sums[key][1] += 1
                    sums[key][2] += len(name) if is_text else 0
    return sums


def test_it_agrees_with_a_sum_by_hand(model: CausalLM, packed: PackedSet) -> None:
    found, sums = measure(model, packed), by_hand(model, packed)
    assert found.loss == pytest.approx(sums["all"][0] / sums["all"][1], rel=1e-9)
    assert found.bits_per_byte == pytest.approx(sums["all"][0] / math.log(2) / sums["all"][2], rel=1e-9)
    for name in ("a", "b"):
        nats, targets, num_bytes = sums[name]
        assert found.by_source[name] == pytest.approx(nats / targets, rel=1e-9)
        assert found.bits_per_byte_by_source[name] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-9)
    assert set(found.values()) == {"loss", "bits_per_byte", "loss_by_source", "bits_per_byte_by_source"}


def test_bytes_are_those_of_the_texts(packed: PackedSet, model: CausalLM) -> None:
    """Every document begins and ends with a special token, so all of its text is predicted."""
    whole = 3 * sum(len(text.encode()) for text in TEXTS)
    assert by_hand(model, packed)["all"][2] == whole


def test_without_bytes_there_are_no_bits(model: CausalLM, packed: PackedSet) -> None:
    found = measure(model, packed, token_bytes=None)
    assert found.bits_per_byte is None and set(found.values()) == {"loss", "loss_by_source"}


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_changes_nothing(model: CausalLM, packed: PackedSet, batch_size: int) -> None:
    assert measure(model, packed, batch_size).loss == pytest.approx(measure(model, packed).loss, rel=1e-12)


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 2), (3, 4), (5, 3), (4, 100)])
def test_ranks_share_the_work(model: CausalLM, packed: PackedSet, world_size: int, batch_size: int) -> None:
    alone = measure(model, packed, batch_size)
    ranks = [FakeParallel(rank, world_size) for rank in range(world_size)]
    passes = [0] * world_size

    def counted(rank: int) -> Any:
        class Forward:
            config = model.config

            def __call__(self, *arguments: Any, **keywords: Any) -> Any:
                passes[rank] += 1
                return model(*arguments, **keywords)

        return Forward()

    for rank, parallel in enumerate(ranks):
        measure(model, packed, batch_size, parallel=parallel, forward=counted(rank))
    assert len(set(passes)) == 1  # ranks with fewer batches would leave the others waiting
    sums = [torch.stack(each).sum(0) for each in zip(*(rank.noted for rank in ranks), strict=True)]
    for rank in range(world_size):
        found = measure(model, packed, batch_size, parallel=FakeParallel(rank, world_size, sums=sums))
        assert found.loss == pytest.approx(alone.loss, rel=1e-12)
        assert found.by_source == pytest.approx(alone.by_source, rel=1e-12)
        assert found.bits_per_byte == pytest.approx(alone.bits_per_byte, rel=1e-12)


def test_a_stop_ends_it_before_the_next_batch_and_gives_nothing(model: CausalLM, packed: PackedSet) -> None:
    model.train()
    seen = iter(range(100))
    found = validate(
        model,
        model,
        LanguageModeling(document_mask=True),
        packed,
        1,
        CPU,
        nullcontext,
        stopped_by=lambda: 15 * (next(seen) == 2),
    )
    assert found is None and next(seen) == 3
    assert model.training


def test_the_model_is_left_as_it_was(packed: PackedSet) -> None:
    model = tiny_model(dropout=0.5)
    once = measure(model, packed).loss
    model.train()
    state = torch.get_rng_state()
    assert measure(model, packed).loss == once and model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_other_units_are_counted_as_they_are(model: CausalLM, packed: PackedSet) -> None:
    def one_a_segment(forward: Any, batch: Any) -> dict[str, Term]:
        firsts = (batch["position_ids"] == 0) & (batch["segment_ids"] >= 0)
        return {"loss": Term(3.0 * firsts.sum(), "segments")}

    assert measure(model, packed, objective=one_a_segment) == Validation(3.0)


def test_one_source_is_not_told_apart(model: CausalLM, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    writer = PackedSetWriter(tmp_path, "pretrain", 24, tokenizer.vocab_size, pad_token_id=1)
    filler = TextFiller(25, writer.add_row)
    filler.add(np.array([0, *tokenizer.encode(TEXTS[0]), 0], np.uint16), 0)
    filler.finish()
    writer.finish(tokenizer, {"name": "one", "sources": ["a"], "num_documents": 1})
    found = measure(model, PackedSet.open(tmp_path))
    assert set(found.values()) == {"loss", "bits_per_byte"}
