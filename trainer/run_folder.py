"""A run's place on the disk: which run a folder belongs to, and when a command may go on with it."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import UserError
from model.files import canonical_json, read_json, sha256_of_text, write_json

_RECORD_KEYS = {"identity", "finished", "summary"}  # of run.json
# A child stage starts from the newest of these when --init_from is left out.
STAGE_PREFIXES = {"pretrain": "pretrain_", "full_sft": "full_sft_", "lora": "lora_", "rl": "rl_"}


@dataclass(frozen=True)
class RunFolder:
    """`out/<name>/` with logs and resume states, and `out/<name>.pth` beside it."""

    out_dir: Path
    name: str

    @property
    def path(self) -> Path:
        return self.out_dir / self.name

    @property
    def checkpoint_path(self) -> Path:
        return self.out_dir / f"{self.name}.pth"

    @property
    def resume_path(self) -> Path:
        return self.path / "resume"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def _record_path(self) -> Path:
        return self.path / "run.json"

    def record(self) -> dict[str, Any] | None:
        """What run.json says of the run in this folder, or None when there is none."""
        if not self._record_path.exists():
            return None
        record = read_json(self._record_path)
        if not isinstance(record, dict) or record.keys() != _RECORD_KEYS or not isinstance(record["identity"], dict):
            raise UserError(f"{self._record_path}: not the record of a run; restore it, or choose another --run_name")
        return record

    def write_record(self, identity: Mapping[str, Any], summary: Mapping[str, Any] | None = None) -> None:
        """Store what the run is, and, once it has finished, what came of it."""
        record = {"identity": identity, "finished": summary is not None, "summary": summary}
        assert record.keys() == _RECORD_KEYS
        write_json(self._record_path, record)

    def claim(self, identity: Mapping[str, Any], overwrite: bool, parent: Path | None) -> bool:
        """Make this folder the place of the run that `identity` describes.

        Args:
            identity: everything that makes two runs different, as plain values by flag name.
            overwrite: move an earlier run of this name aside first.
            parent: the .pth the run starts from; it is never replaced.

        Returns:
            True when that very run has finished already.

        Raises:
            UserError: when the name belongs to another run.
        """
        if parent is not None and parent.resolve() == self.checkpoint_path.resolve():
            raise UserError(f"--init_from {parent}: this run would replace its own parent; choose another --run_name")
        if overwrite:
            self.move_aside()
        record = self.record()
        if record is None:
            if self.checkpoint_path.exists():
                raise UserError(
                    f"{self.checkpoint_path}: exists, but its run folder {self.path} does not; "
                    "choose another --run_name, or pass --overwrite to move it aside"
                )
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_record(identity)
            return False
        _refuse_other_run(self.path, record["identity"], identity)
        return bool(record["finished"]) and self.checkpoint_path.exists()

    def remove_half_written(self) -> None:
        """Remove what a killed process was writing; whole files have been renamed out of the way of this."""
        unnamed = ((self.out_dir, f".{self.name}.pth.????????"), (self.path, ".*"), (self.resume_path, ".step-*"))
        for folder, pattern in unnamed:
            for path in folder.glob(pattern):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def move_aside(self) -> None:
        """Rename the earlier run's folder and .pth to `.bak-<hash>`: nothing is deleted."""
        record = self.record()
        if record is None and not self.checkpoint_path.exists():
            return
        suffix = f".bak-{sha256_of_text(canonical_json(record))[:8]}"
        number = 0
        while any(_with_suffix(path, suffix, number).exists() for path in (self.path, self.checkpoint_path)):
            number += 1
        for path in (self.path, self.checkpoint_path):
            if path.exists():
                os.replace(path, _with_suffix(path, suffix, number))


def _with_suffix(path: Path, suffix: str, number: int) -> Path:
    return path.with_name(f"{path.name}{suffix}" + (f"-{number}" if number else ""))


def _refuse_other_run(path: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """UserError that names the first thing in which two runs differ."""
    for name in [*now, *earlier]:
        if earlier.get(name) != now.get(name):
            found, expected = _short(now.get(name)), _short(earlier.get(name))
            raise UserError(
                f"{path}: holds another run ({name} was {expected}, now {found}); "
                "choose another --run_name, or pass --overwrite to move it aside"
            )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def only_checkpoint(out_dir: str | Path, *stages: str) -> Path:
    """The only .pth of the first of these stages that has any; UserError lists them when there are several."""
    out_dir = Path(out_dir)
    for stage in stages:
        found = sorted(out_dir.glob(f"{STAGE_PREFIXES[stage]}*.pth"))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found)
            raise UserError(f"{out_dir}: has several {stage} checkpoints ({names}); name one of them")
    wanted = " or ".join(f"{STAGE_PREFIXES[stage]}*.pth" for stage in stages)
    raise UserError(f"{out_dir}: has no {wanted}; train one first, or name a .pth")
