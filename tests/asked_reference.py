"""A small reference, pairs that it is asked about, and where its numbers lie."""

from pathlib import Path
from typing import Any

import torch

from dataset.packing import PackedSet
from model.checkpoint import Checkpoint
from model.decoder import CausalLM
from model.device import Precision
from tests.tiny_model import tiny_model
from trainer.parallel import Parallel
from trainer.reference import attach_reference
from trainer.stages import Origin

MAX_SEQ_LEN = 24
ROWS = [[(3, 4, 5)], [(2, 3, 2), (3, 2, 4), (2, 2, 2)], [(5, 10, 9), (2, 4, 3)], [(5, 20, 20)], [(4, 20, 21)]]
CPU = torch.device("cpu")
FLOAT32 = Precision(CPU, torch.float32)


def model_of(seed: int = 0, dtype: torch.dtype = torch.float32) -> CausalLM:
    return tiny_model(seed, dtype, max_seq_len=2 * (MAX_SEQ_LEN + 1))


def origin_of(model: CausalLM, digest: str = "5eed", **changes: Any) -> Origin:
    parent = Checkpoint("full_sft", model.config, {}, {}, digest=digest)
    return Origin(model, {}, "out/full_sft_32.pth", parent, **changes)


def attach(
    *sets: Any, origin: Origin | None = None, precision: Precision = FLOAT32, parallel: Any = None, batch_size: int = 2
) -> None:
    attach_reference(sets, origin or origin_of(model_of()), precision, parallel or Parallel(), batch_size)


def files_of(packed: PackedSet) -> list[Path]:
    return sorted((packed.folder / "reference").iterdir())
