"""A run's place on the disk: which run a folder belongs to, and when a command may go on with it."""

import errno
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from model.errors import UserError
from model.files import canonical_json, read_json, sha256_of_text, write_json
from trainer.state import SavedStep, load_step
from trainer.trackers import new_tracker_id

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"  # in the run's folder; it stays there
LOCK_SECONDS, LOCK_POLL = 60.0, 0.5
_RECORD_KEYS = {"identity", "launch", "tracker_id", "finished", "summary"}  # of run.json
# A child stage starts from the newest of these when --init_from is left out.
STAGE_PREFIXES = {"pretrain": "pretrain_", "full_sft": "full_sft_", "lora": "lora_", "rl": "rl_"}


@dataclass(frozen=True)
class Launch:
    """How a run was started first. Another number of processes keeps the global batch and splits it anew."""

    batch_size: int
    accumulation_steps: int
    world_size: int

    @property
    def global_batch(self) -> int:
        """Rows in one update."""
        return self.batch_size * self.accumulation_steps * self.world_size


@dataclass(frozen=True)
class Claim:
    """What a run finds in its folder."""

    is_finished: bool  # that very run has been trained to its end already
    tracker_id: str


@dataclass
class RunFolder:
    """`out/<name>/` with logs and resume states, and `out/<name>.pth` beside it. One process at a time trains there."""

    out_dir: Path
    name: str
    _lock: IO[str] | None = field(default=None, repr=False)

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

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Store what came of the run."""
        record = self.record()
        assert record is not None, "a run is claimed before it trains"
        write_json(self._record_path, {**record, "finished": True, "summary": summary})

    def first_launch(self) -> Launch | None:
        """How the run in this folder was started first."""
        record = self.record()
        return Launch(**record["launch"]) if record else None

    def claim(self, identity: Mapping[str, Any], launch: Launch, overwrite: bool, parent: Path | None) -> Claim:
        """Make this folder the place of the run that `identity` describes.

        Args:
            identity: everything that makes two runs different, as plain values by flag name.
            launch: how the run is started, to be remembered when this is the first time.
            overwrite: move an earlier run of this name aside first.
            parent: the .pth the run starts from; it is never replaced.

        Raises:
            UserError: when the name belongs to another run.
        """
        if parent is not None and parent.resolve() == self.checkpoint_path.resolve():
            raise UserError(f"--init_from {parent}: this run would replace its own parent; choose another --run_name")
        self._take_lock()
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
            self._take_lock()
            # Made here and not by the tracker: a crash before the first save then continues the same one.
            tracker_id = new_tracker_id()
            new = {"identity": identity, "launch": asdict(launch), "tracker_id": tracker_id}
            write_json(self._record_path, {**new, "finished": False, "summary": None})
            return Claim(is_finished=False, tracker_id=tracker_id)
        refuse_other_run(self.path, record["identity"], identity)
        is_finished = bool(record["finished"]) and self.checkpoint_path.exists()
        return Claim(is_finished, record["tracker_id"])

    def _take_lock(self) -> None:
        """Keep other processes out of this folder, if it is there yet, until `close` or this process's end.

        Where a launcher was killed, the processes that it had started take some seconds to notice.
        """
        if fcntl is None or not self.path.is_dir():
            return
        self.close()
        try:
            self._lock = open(self.path / LOCK, "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        except OSError:
            return  # if it cannot be written, others say so better
        begin = time.monotonic()
        while not _is_locked_now(self._lock):
            waited = time.monotonic() - begin
            if waited >= LOCK_SECONDS:
                self.close()
                raise UserError(
                    f"{self.path}: another process is training this run; wait for its end, or choose another --run_name"
                )
            if waited < LOCK_POLL:
                line = f"{self.path}: another process is training this run; waiting {LOCK_SECONDS:.0f} s for its end"
                print(line, file=sys.stderr, flush=True)
            time.sleep(LOCK_POLL)

    def close(self) -> None:
        """Let other processes in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def remove_half_written(self) -> None:
        """Remove what a killed process was writing; whole files have been renamed out of the way of this."""
        unnamed = ((self.out_dir, f".{self.name}.pth.????????"), (self.path, ".*"), (self.resume_path, ".*"))
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


def _is_locked_now(file: IO[str]) -> bool:
    """Take the lock if nobody has it. It is this process's alone: data workers that outlive it do not keep it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)  # otherwise the file system has no locks
    return True


def _with_suffix(path: Path, suffix: str, number: int) -> Path:
    return path.with_name(f"{path.name}{suffix}" + (f"-{number}" if number else ""))


def refuse_other_run(path: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """UserError that names the first thing in which two runs differ."""
    for name in [*now, *earlier]:
        if earlier.get(name) != now.get(name):
            found, expected = _short(now.get(name)), _short(earlier.get(name))
            raise UserError(
                f"{path}: holds another run ({name} was {expected}, now {found}); "
                "choose another --run_name, or pass --overwrite to move it aside"
            )


def named_step(resume: str, identity: Mapping[str, Any]) -> SavedStep | None:
    """The saved step whose path --resume gives; UserError when it is of another run than `identity` describes."""
    if resume in ("auto", "none"):
        return None
    saved = load_step(resume)
    refuse_other_run(Path(resume), saved.identity, identity)
    return saved


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
