import resource
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.duplicates.key_index import KeyIndex, group_starts, zeros_on_disk

LARGEST = 2**64 - 1
RECORD_MEMORY = 64  # bytes of memory that an index takes for one record that it may hold
keys_of_any_kind = st.one_of(st.integers(0, 3), st.integers(0, LARGEST), st.sampled_from([LARGEST, 2**63, 2**63 - 1]))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("index") / "index.bin"


def index_of(path, batches, capacity):
    index, value = KeyIndex(path, capacity * RECORD_MEMORY), 0
    for keys in batches:
        index.append(np.array(keys, np.uint64), np.arange(value, value + len(keys), dtype=np.uint32))
        value += len(keys)
    return index


@given(
    batches=st.lists(st.lists(keys_of_any_kind, max_size=30), max_size=8),
    capacity=st.integers(1, 40),
    odd=st.booleans(),
)
def test_records_come_back_sorted_and_stable_with_any_memory(path, batches, capacity, odd):
    keys = [key for batch in batches for key in batch]
    expected = sorted((key, value) for value, key in enumerate(keys) if value % 2 or not odd)
    index = index_of(path, batches, capacity)
    found, last_key, last_full = [], None, True
    for batch_keys, values in index.batches((lambda values: values % 2 == 1) if odd else None):
        assert 0 < len(batch_keys) == len(values) <= capacity
        if batch_keys[0] == last_key:  # a key goes on only where it alone fills whole batches
            assert last_full and len(set(batch_keys.tolist())) == 1
        last_key, last_full = batch_keys[-1], len(batch_keys) == capacity and batch_keys[0] == batch_keys[-1]
        found += zip(batch_keys.tolist(), values.tolist(), strict=True)
    assert found == expected
    assert index.num_records == len(keys) and index.num_bytes == 12 * len(keys)
    assert bool(index.num_runs) == (len(keys) > capacity)
    index.remove()
    assert not path.exists()


def test_what_an_earlier_process_left_is_replaced(path):
    path.write_bytes(b"left over" * 1000)
    index = index_of(path, [[3, 1], [2, 1]], capacity=2)
    assert [(k, v) for keys, values in index.batches() for k, v in zip(keys, values, strict=True)] == [
        (1, 1),
        (1, 3),
        (2, 2),
        (3, 0),
    ]


def test_memory_is_bounded_by_the_batch_not_by_the_input(path):
    index = KeyIndex(path, 64 * RECORD_MEMORY)
    random = np.random.default_rng(0)
    for _ in range(100):
        index.append(random.integers(0, 2**64, 50, np.uint64), np.zeros(50, np.uint32))
        assert index._keys.nbytes + index._values.nbytes == 64 * 12
    sizes = [len(keys) for keys, _ in index.batches()]
    assert sum(sizes) == 5000 and max(sizes) <= 64 and np.mean(sizes) > 16


@given(st.lists(st.integers(0, 5)))
def test_group_starts(numbers):
    keys = np.array(sorted(numbers), np.uint64)
    starts = group_starts(keys)
    groups = [keys[start:end].tolist() for start, end in pairwise(starts)]
    assert groups == [[number] * numbers.count(number) for number in sorted(set(numbers))]


def test_a_full_disk_is_an_error_when_an_array_is_made(tmp_path):
    """Not a killed process when it is first written to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, hard))
    try:
        array = zeros_on_disk(tmp_path / "fits", np.uint32, 1 << 18)
        with pytest.raises(OSError, match="too large"):
            zeros_on_disk(tmp_path / "full", np.uint32, 1 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    array[5] = 7
    assert array.sum() == 7 and np.fromfile(tmp_path / "fits", np.uint32)[5] == 7
    assert len(zeros_on_disk(tmp_path / "empty", np.uint8, 0)) == 0
