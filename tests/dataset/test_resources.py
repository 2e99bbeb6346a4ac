"""How memory is shared out, and how an input is cut for all workers."""

import os
from pathlib import Path

import pytest

from dataset.building.resources import plan_memory
from dataset.building.shard_making import block_bytes
from dataset.dedup import NearDuplicateSettings
from dataset.reading.cutting import BLOCK_BYTES
from dataset.sources import Input, find_inputs
from model.errors import UserError


def inputs_of(tmp_path: Path, *sizes: int) -> list[Input]:
    for number, size in enumerate(sizes):
        with open(tmp_path / f"{number}.txt", "wb") as file:
            file.write(b"x\n")
            file.truncate(size)
    return find_inputs([tmp_path])


def test_number_of_workers(tmp_path: Path) -> None:
    small, large = inputs_of(tmp_path, 10, 20 << 20)
    assert plan_memory(-1, 4, [small], None).num_workers == 0
    assert plan_memory(-1, 16, [small, large], None).num_workers == os.cpu_count()
    assert plan_memory(3, 4, [small], None).num_workers == 3
    unknown = Input("https://example.org/a.jsonl", "a", None, small.origin)
    assert plan_memory(-1, 16, [unknown], None).num_workers >= 1


def test_memory_bounds_workers_and_the_index(tmp_path: Path) -> None:
    inputs = inputs_of(tmp_path, 20 << 20)
    near = NearDuplicateSettings()
    plans = [plan_memory(-1, gigabytes, inputs, near) for gigabytes in (0.6, 1, 2, 4, 64)]
    assert plans[0].num_workers < max(plans[-1].num_workers, 2)
    assert plans[-1].finder_bytes > 16 << 30, "what is left is for the index"
    assert plan_memory(0, 4, inputs, near).finder_bytes > plan_memory(0, 4, inputs, None).finder_bytes
    for plan, gigabytes in zip(plans, (0.6, 1, 2, 4, 64), strict=True):
        assert plan.finder_bytes < gigabytes * (1 << 30)


@pytest.mark.parametrize(("workers", "gigabytes"), [(64, 2), (0, 0.1), (-1, 0.1), (-1, 0)])
def test_too_little_memory(tmp_path: Path, workers: int, gigabytes: float) -> None:
    with pytest.raises(UserError, match=r"--memory_gb .*: too little.*at least"):
        plan_memory(workers, gigabytes, inputs_of(tmp_path, 10), None)


def test_a_small_input_is_cut_into_small_blocks(tmp_path: Path) -> None:
    small, middle, large = inputs_of(tmp_path, 10, 20 << 20, 1 << 30)
    assert block_bytes([small]) == 1 << 16
    assert 100 <= (20 << 20) / block_bytes([middle]) <= 200
    assert block_bytes([large]) == block_bytes([large, small]) == BLOCK_BYTES
    assert block_bytes([Input("https://example.org/a.jsonl", "a", None, small.origin)]) == BLOCK_BYTES
