"""What the tests of the numbered scripts share: small flags, and looking at what a script left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from model.checkpoint import load_checkpoint

# Small enough that sixty steps take a second.
SIZES = ["--dim", "32", "--n_layers", "1", "--n_heads", "4", "--n_kv_heads", "2"]
PRETRAIN = ["--data_path", "packed/text", "--batch_size", "4", "--device", "cpu"]
FULL_SFT = ["--data_path", "packed/chat", "--batch_size", "4", "--device", "cpu"]
LORA = FULL_SFT
DPO = ["--data_path", "packed/pairs", "--batch_size", "4", "--device", "cpu"]


class Finished(NamedTuple):
    """What a script said."""

    code: int
    output: str
    errors: str


RunScript = Callable[..., Finished]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file with its bytes, and every folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def assert_same_weights(found: Path, expected: Path) -> None:
    """Bit for bit."""
    ours, theirs = load_checkpoint(found).weights, load_checkpoint(expected).weights
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
