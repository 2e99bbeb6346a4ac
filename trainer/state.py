"""Everything that must survive a restart, in one object, saved whole or not at all.

    resume/latest                 the name of the step written last
    resume/step-N/tensors.pt      weights, optimizer state and scaler
    resume/step-N/state.json      where the run stands, and what run it is
    resume/step-N/manifest.json   sha256 sums of the two, written last

What is loaded is the newest folder whose sums agree; `trainer/saving.py` writes them. The layout knows nothing of the
number of processes: weights and optimizer state are whole tensors by parameter name. There is no random state in it:
the randomness of a step is seeded from (seed, step, rank), so it cannot be restored wrongly.
"""

import re
import sys
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from model.checkpoint import read_tensors
from model.config import LMConfig
from model.errors import UserError
from model.files import read_json, sha256_of_file

FORMAT = 4
TENSORS, STATE, MANIFEST, LATEST = "tensors.pt", "state.json", "manifest.json", "latest"
PARTS = {"weights": dict, "optimizer": dict, "scaler": dict}  # of tensors.pt
_KEYS = {
    "format": int,
    "state": dict,
    "identity": dict,
    "config": dict,
    "stage": str,
    "generation": dict,
    "surroundings": dict,
}
_SURROUNDINGS = {"threads": int, "world_size": int, "torch": str, "learning_rate": float}


@dataclass
class TrainState:
    """Where a run stands, as plain values. Position in the data follows from `step` and `skipped_windows` alone."""

    step: int = 0  # updates made
    tokens: int = 0  # target tokens trained on
    seconds: float = 0.0  # time spent training, over all restarts
    total_steps: int | None = None  # None while --max_minutes is still timing
    validation_losses: dict[str, float] = field(default_factory=dict)  # "before", "last", "best"
    best_step: int | None = None  # where the validation loss was lowest
    look_is_due: bool = False  # a signal came before this step's validation and samples were made
    calm_saves: list[int] = field(default_factory=list)  # the last two steps saved while nothing was wrong
    skipped_windows: list[list[int]] = field(default_factory=list)  # [first, last] positions jumped over in the data
    skipped_updates: int = 0  # whose gradient was not finite
    rollbacks: int = 0
    rollbacks_in_a_row: int = 0
    furthest_step: int = 0  # reached before any rollback
    stability: dict[str, Any] = field(default_factory=dict)  # the monitor's memory

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`. UserError for a missing or unknown key, or a value of another type."""
        check_types("state", values, _STATE_TYPES)
        windows = values["skipped_windows"]
        if not all(isinstance(each, list) and [type(end) for end in each] == [int, int] for each in windows):
            raise UserError(f"state: skipped_windows: found {windows}, expected pairs of positions")
        return cls(**values)


_STATE_TYPES: dict[str, Any] = {
    **{each.name: each.type for each in fields(TrainState)},
    "validation_losses": dict,
    "calm_saves": list,
    "skipped_windows": list,
    "stability": dict,
}


@dataclass
class SavedStep:
    """What `resume/step-N/` holds. Its plain values are copies: a run goes on changing its own meanwhile."""

    state: TrainState
    identity: dict[str, Any]  # everything that makes the run this run, as plain values
    config: LMConfig
    stage: str  # "pretrain", "full_sft", …
    generation: dict[str, Any]  # the stop ids and sampling settings of its `.pth`
    surroundings: dict[str, Any]  # "threads", "world_size", "torch" and "learning_rate", the last one used
    tensors: dict[str, Any]  # "weights", "optimizer" and "scaler", as `Engine.tensors` gives them
    path: Path | None = None  # where it was loaded from

    def __post_init__(self) -> None:
        """Take copies of what is not tensors."""
        self.state, self.identity = deepcopy(self.state), deepcopy(self.identity)
        self.generation, self.surroundings = deepcopy(self.generation), dict(self.surroundings)

    @property
    def digest(self) -> str:
        """What tells this step from any other: the sum over its sums."""
        assert self.path is not None, "a step that was loaded"
        return sha256_of_file(self.path / MANIFEST)


def load_newest(folder: Path, not_after: int | None = None) -> SavedStep | None:
    """The newest whole step in a `resume` folder, or None when there is no step at all.

    Says so on standard error when that is not the newest there is, or not the one that `latest` names.

    Args:
        not_after: take no step with a higher number.

    Raises:
        UserError: none is whole, or the newest whole one was written by another version.
    """
    candidates = [path for path in reversed(saved_steps(folder)) if not_after is None or step_number(path) <= not_after]
    damaged: list[str] = []
    for path in candidates:
        reason = damage(path)
        if reason is None:
            if not_after is None:
                _compare_with_latest(path, damaged)
            return _read(path)
        damaged.append(path.name)
        _warn(f"{path} is damaged ({reason}); trying the step before it")
    if candidates:
        advice = "restore one from a copy, or pass --overwrite to start anew"
        raise UserError(f"{folder}: none of its saved steps is whole ({', '.join(damaged)}); {advice}")
    return None


def load_step(path: str | Path) -> SavedStep:
    """One saved step by its folder; a `resume` folder or a run's folder stands for the newest in it.

    Raises:
        UserError: there is no such folder, no saved step in it, or it is damaged; names the damaged file.
    """
    path = Path(path)
    if not path.is_dir():
        found = "is a file" if path.exists() else "no such folder"
        raise UserError(f"{path}: {found}; expected a saved step, such as out/<run>/resume/step-100")
    if _looks_like_step(path):
        reason = damage(path)
        if reason is not None:
            raise UserError(f"{reason}; name another saved step")
        return _read(path)
    saved = load_newest(path / "resume") or load_newest(path)
    if saved is None:
        raise UserError(
            f"{path}: not a saved step, and none in it; expected a folder such as out/<run>/resume/step-100"
        )
    return saved


def damage(path: Path) -> str | None:
    """What is wrong with a saved step, as "file: reason", or None when each file is as it was written."""
    file = path / MANIFEST
    try:
        manifest = read_json(file)
        if not isinstance(manifest, dict) or STATE not in manifest:
            return f"{file}: was altered or cut short"
        for name, expected in manifest.items():
            file = path / name
            if sha256_of_file(file) != expected:
                return f"{file}: was altered or cut short (not the sha256 of {MANIFEST})"
    except UserError as error:
        return str(error)
    except PermissionError:
        raise  # the user can mend that
    except (OSError, ValueError) as error:
        return f"{file}: cannot be read ({error.strerror if isinstance(error, OSError) else error})"
    return None


def _read(path: Path) -> SavedStep:
    """A step whose files are as they were written."""
    file = path / STATE
    values = read_json(file)
    try:
        state, config = check_values(values)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    if _is_step_name(path.name) and step_number(path) != state.step:
        raise UserError(f"{file}: is of step {state.step}, but its folder is {path.name}; give it back its name")
    tensors = read_tensors(path / TENSORS)
    try:
        check_types("tensors", tensors, PARTS)
        check_types("weights", tensors["weights"], dict.fromkeys(tensors["weights"], Tensor))
    except UserError as error:
        raise UserError(f"{path / TENSORS}: {error}") from error
    return SavedStep(
        state=state,
        identity=values["identity"],
        config=config,
        stage=values["stage"],
        generation=values["generation"],
        surroundings=values["surroundings"],
        tensors=tensors,
        path=path,
    )


def check_values(values: Any) -> tuple[TrainState, LMConfig]:
    """The parts of state.json that are objects. UserError when anything is not as this format has it."""
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        advice = "go on with the version of Seedling that wrote it"
        raise UserError(f"has format {found}, this version reads {FORMAT}; {advice}")
    check_types("saved step", values, _KEYS)
    check_types("surroundings", values["surroundings"], _SURROUNDINGS)
    return TrainState.from_json(values["state"]), LMConfig.from_dict(values["config"])


def check_types(what: str, values: Any, types: Mapping[str, Any]) -> None:
    """UserError unless `values` has these keys with values of these types, and no others. An int serves as a float."""
    if not isinstance(values, dict):
        raise UserError(f"{what}: found a {type(values).__name__}, expected a dictionary")
    if values.keys() != types.keys():
        differing = ", ".join(map(repr, [*(types.keys() - values.keys()), *(values.keys() - types.keys())]))
        raise UserError(f"{what}: lacks or has too many of {differing} (another version's file?)")
    for name, kind in types.items():
        value = values[name]
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not fits or isinstance(value, bool) != (kind is bool):
            raise UserError(f"{what}: {name}: found {value!r:.60}, expected {getattr(kind, '__name__', kind)}")


def _compare_with_latest(path: Path, damaged: Collection[str]) -> None:
    """Warn when `latest` names another step than `path`, unless that one's damage has been told."""
    pointer = path.parent / LATEST
    if pointer.is_file():
        named = pointer.read_bytes().decode("utf-8", errors="replace").strip()
        if named != path.name and named not in damaged:
            _warn(f"{pointer} names {named!r:.60}; going on from {path.name}, the newest whole step")


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


def _looks_like_step(path: Path) -> bool:
    return _is_step_name(path.name) or any((path / name).exists() for name in (TENSORS, STATE, MANIFEST))


def _is_step_name(name: str) -> bool:
    return re.fullmatch("step-(0|[1-9][0-9]*)", name) is not None


def step_number(path: Path) -> int:
    """N of `step-N`."""
    return int(path.name.removeprefix("step-"))


def saved_steps(folder: Path) -> list[Path]:
    """The saved steps of a `resume` folder, whole or not, oldest first."""
    found = [path for path in folder.glob("step-*") if _is_step_name(path.name) and path.is_dir()]
    return sorted(found, key=step_number)
