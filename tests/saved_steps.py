"""Saved steps to read, to spoil and to count, for the tests of saving and loading."""

import json
from pathlib import Path

from benchmarks.reliability.damage import make_step
from model.files import sha256_of_file
from trainer.saving import write_step


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save(folder: Path, *numbers: int, keep_last: int = 0, **changes) -> None:
    for number in numbers:
        step = make_step(number)
        for name, value in changes.items():
            setattr(step.state, name, value)
        write_step(folder, step, keep_last)


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def sign(path: Path) -> None:
    """Give a step that was changed by hand honest sums."""
    sums = {name: sha256_of_file(path / name) for name in ("tensors.pt", "state.json")}
    (path / "manifest.json").write_text(json.dumps(sums))
