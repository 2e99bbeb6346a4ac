"""Several ranks ask the reference together: each its share, and all get the same numbers."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dataset.packing import PackedSet
from model.errors import UserError
from model.tokenizer import ChatTokenizer
from tests.asked_reference import FLOAT32, MAX_SEQ_LEN, ROWS, attach, files_of, model_of, origin_of
from tests.packed_sets import write_pairs
from trainer import reference
from trainer.objectives import preference_forward
from trainer.parallel import Parallel
from trainer.reference import reference_logps


@pytest.fixture
def packed(tokenizer: ChatTokenizer, tmp_path: Path) -> PackedSet:
    return write_pairs(tmp_path / "pairs", tokenizer, ROWS, MAX_SEQ_LEN, 0)


@dataclass(frozen=True)
class Thread(Parallel):
    """A rank that is a thread: all of them live in this process, and meet here."""

    meeting: Any = None
    said: dict[int, Tensor] = field(default_factory=dict, compare=False)

    def _reduced(self, tensor: Tensor, operation: Any) -> Tensor:
        self.said[self.rank] = tensor
        self.meeting.wait(timeout=20)
        together = torch.stack([self.said[rank] for rank in range(self.world_size)])
        self.meeting.wait(timeout=20)
        return together.sum(dim=0) if operation == torch.distributed.ReduceOp.SUM else together.amax(dim=0)


def in_threads(number: int, function: Callable[[Parallel], Any]) -> list[Any]:
    """What it gives on each rank."""
    meeting = threading.Barrier(number)
    said: dict[int, Tensor] = {}
    found: dict[int, Any] = {}

    def run(rank: int) -> None:
        try:
            found[rank] = function(Thread(rank, number, rank, number, meeting=meeting, said=said))
        except Exception as error:
            meeting.abort()
            found[rank] = error
            raise

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not [each for each in found.values() if isinstance(each, Exception)], found
    return [found[rank] for rank in range(number)]


@pytest.mark.parametrize("number", [2, 3, 7])
def test_ranks_share_the_work(packed, monkeypatch, number):
    """Also more of them than there are batches of rows."""
    model = model_of()
    expected = reference_logps(packed, model, FLOAT32, Parallel(), 1)
    asked: list[int] = []

    def counted(model: Any, batch: Any) -> Any:
        asked.append(len(batch["input_ids"]))
        return preference_forward(model, batch)

    monkeypatch.setattr(reference, "preference_forward", counted)
    models = [model_of() for _ in range(number)]
    found = in_threads(number, lambda rank: reference_logps(packed, models[rank.rank], FLOAT32, rank, 1))
    assert sum(asked) == packed.num_rows
    assert all(np.array_equal(each, expected) for each in found)


@pytest.mark.parametrize("number", [2, 3])
def test_ranks_share_it_part_by_part(packed, monkeypatch, number):
    monkeypatch.setattr(reference, "PART_BATCHES", 1)
    folder, models = packed.folder, [model_of() for _ in range(number)]
    expected = reference_logps(PackedSet.open(folder), model_of(), FLOAT32, Parallel(), 1)

    def numbers(rank: Parallel) -> None:
        attach(PackedSet.open(folder), origin=origin_of(models[rank.rank]), parallel=rank, batch_size=1)

    in_threads(number, numbers)
    assert np.array_equal(np.load(files_of(PackedSet.open(folder))[1]), expected)


def test_ranks_that_were_started_otherwise_write_nothing(packed):
    models = [model_of(), model_of()]

    def numbers(rank: Parallel) -> str:
        with pytest.raises(UserError) as error:
            attach(packed, origin=origin_of(models[rank.rank]), parallel=rank, batch_size=1 + rank.rank)
        return str(error.value)

    assert all("--batch_size; start them alike" in message for message in in_threads(2, numbers))
    assert not (packed.folder / "reference").exists()


def test_no_rank_reads_before_the_file_is_written(packed, monkeypatch):
    folder, models = packed.folder, [model_of(), model_of()]
    usual = reference._write

    def slow(*arguments: Any) -> None:
        time.sleep(0.2)
        usual(*arguments)

    monkeypatch.setattr(reference, "_write", slow)

    def numbers(rank: Parallel) -> np.ndarray:
        packed = PackedSet.open(folder)
        attach(packed, origin=origin_of(models[rank.rank]), parallel=rank)
        return packed.batch(np.arange(5))["reference_logps"]

    first, second = in_threads(2, numbers)
    assert first.any() and np.array_equal(first, second)
