"""Everything that must survive a restart, in one object, saved whole or not at all.

`resume/step-N/` is written beside its place, flushed, given a manifest of sha256 sums last, then renamed. What is
loaded is the newest folder whose sums agree. The layout knows nothing of the number of processes: weights and
optimizer state are whole tensors by parameter name. There is no random state in it: the randomness of a step is
seeded from (seed, step, rank), so it cannot be restored wrongly.
"""

import shutil
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.checkpoint import load_weights, weights_of, write_tensors
from model.errors import UserError
from model.files import atomic_folder, read_json, sha256_of_file, write_json
from trainer.optimizer import Optimizers, restore_state, state_by_name

FORMAT = 1
FILES = ("tensors.pt", "state.json")  # of a saved step, besides its manifest
KEEP_LAST = 2  # saved steps kept; one could be the one a crash has just spoiled


@dataclass
class TrainState:
    """Where a run stands. Position in the data follows from `step` alone."""

    step: int = 0  # updates made
    tokens: int = 0  # target tokens trained on
    seconds: float = 0.0  # time spent training, over all restarts
    validation_losses: dict[str, float] = field(default_factory=dict)  # "before", "last", "best"
    tracker_id: str | None = None  # so that an experiment tracker continues the same run


@dataclass
class Saved:
    """The tensors of a saved step, not yet put in place."""

    state: TrainState
    tensors: dict[str, Any]
    path: Path


def save_state(folder: Path, state: TrainState, model: nn.Module, optimizers: Optimizers, scaler: Any) -> Path:
    """Write `folder/step-N/`, verify it, then drop all but the newest `KEEP_LAST`. Returns its path."""
    path = folder / f"step-{state.step}"
    if path.exists() and _is_whole(path):
        return path
    tensors = {
        "weights": weights_of(model),  # type: ignore[arg-type]
        "optimizer": state_by_name(model, optimizers),
        "scaler": scaler.state_dict(),
    }
    with atomic_folder(path, overwrite=True) as temporary:
        write_tensors(temporary / "tensors.pt", tensors)
        write_json(temporary / "state.json", {"format": FORMAT, **asdict(state)})
        sums = {name: sha256_of_file(temporary / name) for name in FILES}
        write_json(temporary / "manifest.json", sums)
    if not _is_whole(path):
        raise UserError(f"{path}: does not read back as written; the disk is failing, the older step is kept")
    for old in _steps(folder)[:-KEEP_LAST]:
        shutil.rmtree(old)
    return path


def load_newest(folder: Path) -> Saved | None:
    """The newest saved step that verifies, or None. Says so when that is not the newest there is."""
    for path in reversed(_steps(folder)):
        if _is_whole(path):
            values = read_json(path / "state.json")
            if values.pop("format") != FORMAT:
                raise UserError(f"{path}: was written by another version of Seedling; go on with that one")
            known = {each.name for each in fields(TrainState)}
            if values.keys() != known:
                raise UserError(f"{path}/state.json: has keys {sorted(values)}, expected {sorted(known)}")
            tensors = torch.load(path / "tensors.pt", map_location="cpu", weights_only=True)
            return Saved(TrainState(**values), tensors, path)
        print(f"warning: {path} is damaged or half written; trying the step before it", file=sys.stderr)
    return None


def restore(saved: Saved, model: nn.Module, optimizers: Optimizers, scaler: Any) -> TrainState:
    """Put a saved step's tensors in place and return its state."""
    try:
        load_weights(model, saved.tensors["weights"])  # type: ignore[arg-type]
    except UserError as error:
        raise UserError(f"{saved.path}: {error}") from error
    restore_state(model, optimizers, saved.tensors["optimizer"])
    scaler.load_state_dict(saved.tensors["scaler"])
    return saved.state


def _steps(folder: Path) -> list[Path]:
    """The saved steps, oldest first."""
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _is_whole(path: Path) -> bool:
    try:
        manifest = read_json(path / "manifest.json")
        return manifest == {name: sha256_of_file(path / name) for name in FILES}
    except (UserError, OSError):
        return False
