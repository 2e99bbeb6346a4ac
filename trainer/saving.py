"""Saving steps: whole or not at all, and beside the training.

A step is written beside its place, flushed, given its sums last, read back, and renamed; only then earlier ones are
removed. A kill at any moment leaves whole steps and a hidden `.step-*`, which the next start removes.
"""

import concurrent.futures
import json
import os
import shutil
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from model.checkpoint import write_tensors
from model.errors import UserError
from model.files import atomic_folder, sha256_of_text, write_json, write_text
from trainer.state import (
    FORMAT,
    LATEST,
    MANIFEST,
    PARTS,
    STATE,
    TENSORS,
    SavedStep,
    check_types,
    check_values,
    damage,
    saved_steps,
    step_number,
)


def write_step(folder: Path, step: SavedStep, keep_last: int) -> Path:
    """Write `folder/step-N/`, and remove what is no longer needed once that has been read back from the disk.

    Args:
        folder: the run's `resume` folder.
        keep_last: so many of the newest steps stay, the best one, and the last two saved in calm; 0 keeps all. Steps
            later than N are of a future that the run has turned away from (it went back, or they are damaged): they
            are removed.

    Returns:
        its path.

    Raises:
        UserError: it does not read back as written. OSError: a full disk. Earlier steps are as they were.
    """
    path = folder / f"step-{step.state.step}"
    text = _state_text(step)
    if not _holds(path, text):
        with atomic_folder(path, overwrite=True) as temporary:
            sums = {TENSORS: write_tensors(temporary / TENSORS, step.tensors), STATE: sha256_of_text(text)}
            write_text(temporary / STATE, text)
            write_json(temporary / MANIFEST, sums)
            _read_back(temporary, path)
    _point_to(path)
    # The newest step saved in calm may be of the update that damaged the weights: the one before is the way back.
    _remove_unneeded(path, keep_last, {step.state.best_step, *step.state.calm_saves})
    return path


def _state_text(step: SavedStep) -> str:
    """What goes into state.json."""
    values = {
        "format": FORMAT,
        "state": asdict(step.state),
        "identity": step.identity,
        "config": step.config.to_dict(),
        "stage": step.stage,
        "generation": step.generation,
        "surroundings": step.surroundings,
    }
    text = json.dumps(values, ensure_ascii=False, indent=2) + "\n"
    try:
        check_values(json.loads(text))
        check_types("tensors", step.tensors, PARTS)
    except UserError as error:
        raise AssertionError(f"a step that could not be read again: {error}") from error
    return text


def _holds(path: Path, text: str) -> bool:
    """Whether this very step is there already, whole."""
    file = path / STATE
    return file.is_file() and file.read_bytes() == text.encode() and damage(path) is None


def _read_back(temporary: Path, path: Path) -> None:
    """UserError when the disk gives something else than what was written."""
    for name in (TENSORS, STATE, MANIFEST):
        _forget_cached(temporary / name)
    found = damage(temporary)
    if found is not None:
        reason = found.replace(f"{temporary}", f"{path}")
        raise UserError(f"{reason}, as read back just after writing: the disk is failing; earlier steps are kept")


def _forget_cached(path: Path) -> None:
    """Let the next reading of a flushed file come from the disk, where the system can be asked to."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _point_to(path: Path) -> None:
    """Let `latest` name this step."""
    write_text(path.parent / LATEST, f"{path.name}\n")


def _remove_unneeded(written: Path, keep_last: int, needed: Collection[int | None]) -> None:
    """Remove all saved steps but the one just written, the newest before it, and the needed ones before it."""
    steps, number = saved_steps(written.parent), step_number(written)
    earlier = [path for path in steps if step_number(path) < number]
    kept = earlier if keep_last == 0 else earlier[max(0, len(earlier) - keep_last + 1) :]
    kept += [path for path in earlier if step_number(path) in needed]
    for path in reversed(steps):
        if path != written and path not in kept:
            _remove(path)


def remove_after(folder: Path, step: int) -> list[Path]:
    """Remove the saved steps later than `step`, whose future the run has turned away from; returns what they were.

    Nothing happens unless `step` itself is there and whole: the later ones are then all there is. The newest goes
    first, so that a kill leaves no step that follows on a missing one.
    """
    path = folder / f"step-{step}"
    later = [each for each in reversed(saved_steps(folder)) if step_number(each) > step]
    if not later or damage(path) is not None:
        return []
    _point_to(path)
    for each in later:
        _remove(each)
    return later


def _remove(path: Path) -> None:
    """Remove a step. It goes out of sight first: a kill meanwhile leaves no half step."""
    hidden = path.with_name(f".{path.name}.removed")
    if hidden.exists():
        shutil.rmtree(hidden)
    os.replace(path, hidden)
    shutil.rmtree(hidden)


class Writer:
    """Does one job at a time in a thread of its own.

    What a job raises (UserError, a full disk) is raised in the caller's thread, once, by the next `check`, `submit`
    or `wait`. A process that ends, by an error too, waits for the job that is under way.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._job: Future[None] | None = None

    @property
    def failed(self) -> bool:
        """Whether the last job raised something that nobody has been told yet; costs nothing to ask."""
        return self._job is not None and self._job.done() and self._job.exception() is not None

    def submit(self, job: Callable[[], object]) -> None:
        """Start `job` as soon as the one before has ended; waits for that, and raises what it raised."""
        self.wait()
        self._job = self._thread.submit(_without_result, job)

    def check(self) -> None:
        """Raise what the last job raised, if it has ended."""
        if self._job is not None and self._job.done():
            job, self._job = self._job, None
            job.result()

    def wait(self) -> None:
        """Until the last job has ended; raises what it raised."""
        if self._job is not None:
            concurrent.futures.wait([self._job])  # Ctrl-C in here leaves the job as it is
            self.check()

    def close(self) -> None:
        """Until the last job has ended. What it raised is for `wait`: here another error may be on its way."""
        self._thread.shutdown(wait=True)


def _without_result(job: Callable[[], object]) -> None:
    job()
