"""`metrics.jsonl`: the log of a run, one JSON object a line, that goes on where a restart or a rollback takes the run.

Every row has `kind` and `step`. Kinds: "train", "validation" and "measured" (numbers), "samples" (texts), "alarm",
"rollback" and "skipped" (what happened on the way).
"""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from model.files import write_text

KINDS = ("train", "validation", "measured", "samples", "rollback", "skipped", "alarm")


class MetricsLog:
    """Appends rows to `metrics.jsonl`.

    A run that begins at step 0 begins with an empty log: what a crash before the first saved step left is made
    again. Only the word of rollbacks to step 0 stays.

    Args:
        path: the file; its folder exists.
        resume_step: the step gone on from; rows of later steps are dropped, for they will be written again.
        enabled: False on all ranks but one: nothing is read or written.
        rollbacks: so many are part of the run; the word of one that a kill undid is dropped.
        look_is_due: that step's validation and samples will be written again.
    """

    def __init__(
        self, path: Path, resume_step: int, enabled: bool = True, rollbacks: int = 0, look_is_due: bool = False
    ) -> None:
        self.path, self._enabled = path, enabled

        def stays(row: Mapping[str, Any]) -> bool:
            if _is_rollback(row):
                return row["step"] <= resume_step and row.get("number", 0) <= rollbacks
            is_again = (
                look_is_due and row["step"] == resume_step and row["kind"] in ("validation", "measured", "samples")
            )
            return 0 < resume_step >= row["step"] and not is_again

        if enabled:
            self._rewrite([row for row in read_metrics(path) if stays(row)])

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one row; a number that is not finite becomes null."""
        assert kind in KINDS, kind
        if self._enabled:
            line = _as_line({"kind": kind, "step": step, **values})
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(line)

    def go_back(self, step: int) -> None:
        """The run has gone back to `step`: rows of later steps are dropped."""
        if self._enabled:
            self._rewrite([row for row in read_metrics(self.path) if row["step"] <= step])

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        write_text(self.path, "".join(map(_as_line, rows)))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, oldest first; none when there is no such file.

    A last line that a crash cut short is dropped: its step was never saved. Another line that does not read is left
    out with a warning: losing a run is worse than losing a row of its log.
    """
    rows: list[dict[str, Any]] = []
    damaged: list[int] = []
    # As bytes: a crash may have cut the last line within a character.
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _row_of(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):  # what follows the last line break is a line that was cut
            damaged.append(number)
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        print(f"warning: {path}:{damaged[0]}{more}: not a row of a run's log, left out", file=sys.stderr)
    return rows


def _row_of(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # not UTF-8, or not JSON
        return None
    is_row = isinstance(row, dict) and isinstance(row.get("kind"), str) and isinstance(row.get("step"), int)
    return row if is_row else None


def _is_rollback(row: Mapping[str, Any]) -> bool:
    return row["kind"] == "rollback"


def _as_line(row: Mapping[str, Any]) -> str:
    return json.dumps(plain_value(row), ensure_ascii=False, allow_nan=False) + "\n"


def plain_value(value: Any) -> Any:
    """`value` as JSON can hold it: numbers of NumPy and torch as Python's, and None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(name): plain_value(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(each) for each in value]
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return plain_value(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def flat_numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of a row by name, those of dictionaries within it as "name/inner name"."""
    flat: dict[str, float] = {}
    for name, value in plain_value(values).items():
        if isinstance(value, dict):
            flat |= flat_numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[prefix + name] = value
    return flat
