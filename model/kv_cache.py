"""The keys and values of the tokens read so far, so that a new token costs one step and not a whole pass."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from model.config import LMConfig


class KVCache:
    """Preallocated keys and values: slot j of a sequence holds its position j.

    Because a slot is a position, sequences of different lengths share a batch without left padding: a query
    at position p sees the slots 0…p of its own sequence and nothing else. Ragged chunks are padded on the
    right; the padding is written to one spare slot at the end, which no query ever sees.

    Args:
        config: the architecture.
        batch_size: number of sequences.
        capacity: most tokens a sequence can hold.
        device, dtype: where and how keys and values are kept.
    """

    def __init__(
        self, config: LMConfig, batch_size: int, capacity: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        assert config.head_dim is not None
        shape = (config.n_layers, batch_size, config.n_kv_heads, capacity + 1, config.head_dim)
        # Zeros, not empty memory: a masked score times a stray NaN would still be NaN.
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = [0] * batch_size  # tokens held by each sequence; kept on the host, no synchronisation
        self.capacity = capacity

    def next_slots(self, chunk_lengths: Sequence[int], chunk_size: int) -> tuple[Tensor, Tensor]:
        """Positions and slots of the next chunk, each `[batch, chunk_size]`; padding gets the spare slot."""
        device = self.keys.device
        for length, new in zip(self.lengths, chunk_lengths, strict=True):
            assert 0 <= new <= chunk_size and length + new <= self.capacity, "the chunk does not fit"
        steps = torch.arange(chunk_size, device=device)
        positions = torch.tensor(self.lengths, device=device)[:, None] + steps
        is_real = steps < torch.tensor(list(chunk_lengths), device=device)[:, None]
        return positions, torch.where(is_real, positions, self.capacity)

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store a layer's `keys` and `values` [batch, n_kv_heads, chunk, head_dim] at `slots` [batch, chunk]."""
        batch = torch.arange(slots.shape[0], device=slots.device)[:, None]
        self.keys[layer][batch, :, slots] = keys.transpose(1, 2).to(self.keys.dtype)
        self.values[layer][batch, :, slots] = values.transpose(1, 2).to(self.values.dtype)

    def read(self, layer: int, num_slots: int) -> tuple[Tensor, Tensor]:
        """One layer's first `num_slots` keys and values, each [batch, n_kv_heads, num_slots, head_dim]."""
        return self.keys[layer, :, :, :num_slots], self.values[layer, :, :, :num_slots]

    def advance(self, chunk_lengths: Sequence[int]) -> None:
        """Count a chunk as read, after every layer has written it."""
        self.lengths = [length + new for length, new in zip(self.lengths, chunk_lengths, strict=True)]

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forget all but the first `lengths[i]` tokens of sequence i: a shared prefix can then be read on."""
        assert all(new <= old for new, old in zip(lengths, self.lengths, strict=True))
        self.lengths = list(lengths)

    def select(self, indices: Sequence[int]) -> Self:
        """Keep only these sequences, in this order (repeats are copies); returns self."""
        chosen = torch.tensor(list(indices), device=self.keys.device, dtype=torch.long)
        self.keys, self.values = self.keys[:, chosen], self.values[:, chosen]
        self.lengths = [self.lengths[index] for index in indices]
        return self
