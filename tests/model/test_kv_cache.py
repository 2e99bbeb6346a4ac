"""The cache as a container: what is written where, and what forgetting and choosing leave."""

import pytest
import torch

from model.config import LMConfig
from model.kv_cache import KVCache

CONFIG = LMConfig(dim=16, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=10)


def make_cache(batch_size: int = 2, capacity: int = 6) -> KVCache:
    return KVCache(CONFIG, batch_size, capacity, "cpu", torch.float32)


def write(cache: KVCache, chunk_lengths: list[int], chunk_size: int, start: float) -> torch.Tensor:
    """Write a chunk whose keys are start, start + 1, … along the chunk, and values their negatives."""
    _, slots = cache.next_slots(chunk_lengths, chunk_size)
    steps = torch.arange(start, start + chunk_size)
    keys = steps[None, None, :, None].expand(len(chunk_lengths), 2, chunk_size, 4)
    for layer in range(CONFIG.n_layers):
        cache.write(layer, slots, keys + 100 * layer, -keys)
    cache.advance(chunk_lengths)
    return keys


def held(cache: KVCache, row: int, layer: int = 0) -> list[float]:
    keys, values = cache.read(layer, cache.capacity)
    length = cache.lengths[row]
    if layer == 0:
        assert torch.equal(keys[row, :, :length], -values[row, :, :length])
    assert (keys[row] == keys[row, :1, :, :1]).all()  # the same in every head and feature here
    return keys[row, 0, :length, 0].tolist()


def test_ragged_chunks_follow_each_other():
    cache = make_cache()
    write(cache, [3, 1], 3, start=10)
    write(cache, [1, 4], 5, start=20)
    assert cache.lengths == [4, 5]
    assert held(cache, 0) == [10, 11, 12, 20]
    assert held(cache, 1) == [10, 20, 21, 22, 23]
    assert held(cache, 0, layer=1) == [110, 111, 112, 120]


def test_positions_and_the_spare_slot():
    cache = make_cache()
    write(cache, [2, 0], 2, start=0)
    positions, slots = cache.next_slots([1, 3], 3)
    assert positions.tolist() == [[2, 3, 4], [0, 1, 2]]
    assert slots.tolist() == [[2, cache.capacity, cache.capacity], [0, 1, 2]]


def test_padding_overwrites_nothing():
    cache = make_cache(capacity=3)
    write(cache, [3, 2], 3, start=1)
    write(cache, [0, 1], 5, start=50)
    assert held(cache, 0) == [1, 2, 3]
    assert held(cache, 1) == [1, 2, 50]


def test_select_copies_and_reorders():
    cache = make_cache()
    write(cache, [3, 1], 3, start=10)
    assert cache.select([1, 0, 0]) is cache
    assert cache.lengths == [1, 3, 3]
    write(cache, [1, 1, 0], 1, start=70)
    assert [held(cache, row) for row in range(3)] == [[10, 70], [10, 11, 12, 70], [10, 11, 12]]


def test_truncate_forgets_the_end():
    cache = make_cache()
    write(cache, [4, 2], 4, start=10)
    cache.truncate([1, 2])
    write(cache, [1, 1], 1, start=60)
    assert held(cache, 0) == [10, 60]
    assert held(cache, 1) == [10, 11, 60]


@pytest.mark.parametrize("chunk_lengths", [[5, 1], [4, 3], [-1, 1], [1, 1, 1]])
def test_a_chunk_that_cannot_be_is_refused(chunk_lengths):
    cache = make_cache(capacity=5)
    write(cache, [2, 3], 3, start=0)
    with pytest.raises((AssertionError, ValueError)):
        cache.next_slots(chunk_lengths, 4)


def test_truncate_cannot_lengthen():
    with pytest.raises(AssertionError):
        make_cache().truncate([1, 0])
