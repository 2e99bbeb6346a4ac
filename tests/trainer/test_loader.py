"""Who reads what: every row of a global batch once, on whatever number of ranks, in equally many micro-batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.loader import Loader

CPU = torch.device("cpu")


def loaders(packed, batch_size, accumulation_steps, world_size):
    return [
        Loader(packed, batch_size, accumulation_steps, 7, CPU, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]


@settings(deadline=None, max_examples=40)
@given(batch_size=st.integers(1, 6), accumulation_steps=st.integers(1, 4), world_size=st.integers(1, 5))
def test_ranks_share_each_global_batch_row_by_row(train_set, batch_size, accumulation_steps, world_size):
    ranks = loaders(train_set, batch_size, accumulation_steps, world_size)
    order = ranks[0].order
    for steps in zip(*(rank.steps(0, order.steps_per_epoch + 1) for rank in ranks), strict=True):
        assert len({len(step.micro_batches) for step in steps}) == 1  # nobody waits for anybody
        expected = train_set.batch(order.rows_of_step(steps[0].index))
        trained = [
            row.tolist()
            for step in steps
            for batch in step.micro_batches
            for row in batch["targets"]
            if (row != -100).any()
        ]
        assert sorted(trained) == sorted(expected["targets"].tolist())
        segments = sum(int(batch["segment_ids"].amax(dim=1).add(1).sum()) for s in steps for batch in s.micro_batches)
        for step in steps:
            assert step.units == steps[0].units
            assert step.units["tokens"] == int((expected["targets"] != -100).sum())
            assert step.units["segments"] == segments


def test_another_number_of_ranks_reads_the_same_global_batches(train_set):
    for step in range(20):
        whole = Loader(train_set, 8, 1, 7, CPU).order.rows_of_step(step)
        for batch_size, accumulation_steps, world_size in [(2, 4, 1), (2, 1, 4), (1, 2, 4)]:
            found = loaders(train_set, batch_size, accumulation_steps, world_size)[0].order.rows_of_step(step)
            assert np.array_equal(found, whole)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_steps_go_on_without_an_end_and_jump_over_windows(train_set, num_workers):
    loader = Loader(train_set, 4, 1, 7, CPU, num_workers)
    endless = loader.steps(2, None, [[3, 5]])
    found = [next(endless) for _ in range(4)]
    endless.close()
    assert [step.index for step in found] == [2, 3, 4, 5]
    for step, position in zip(found, [2, 6, 7, 8], strict=True):
        expected = train_set.batch(loader.order.rows_of_step(position))["input_ids"]
        assert np.array_equal(step.micro_batches[0]["input_ids"].numpy(), expected)
    assert loader.window(3, 4, [[3, 5]]) == [6, 7]


def test_length_in_tokens_is_the_nearest_number_of_steps(train_set):
    loader = Loader(train_set, 3, 1, 7, CPU)
    targets = train_set.targets_per_row
    of_step = [int(targets[loader.order.rows_of_step(step)].sum()) for step in range(60)]
    sums = np.cumsum(of_step)
    for tokens in [1, 100, int(sums[9]), int(sums[9]) + 1, int(sums[40]) - 2, 2 * int(targets.sum())]:
        steps = loader.total_steps(1.0, 0, tokens)
        assert abs(sums[steps - 1] - tokens) == min(abs(sums - tokens))
    assert loader.total_steps(1.0, 0, 0) == loader.order.steps_per_epoch
    assert loader.total_steps(0.5, 0, 0) == round(0.5 * loader.order.steps_per_epoch)
    assert loader.total_steps(1.0, 5, 0) == 5
