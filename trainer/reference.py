"""The reference of preference training: how probable the model that a run starts from finds each answer.

It never changes, so it is asked once. Its numbers lie beside the packed set, named after all that decides them, and the
next run from the same model reads them: no second model is in memory, and no step waits for it. What is
found is kept meanwhile, so that a command that was stopped goes on where it was.
"""

import copy
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset.mixed_set import AnySet, JoinedSets
from dataset.packing import PackedSet
from dataset.row_subset import RowSubset
from model.decoder import CausalLM
from model.device import Precision
from model.errors import UserError
from model.files import atomic_path, canonical_json, read_json, sha256_of_file, sha256_of_text, write_json
from trainer.objectives import Answers, Batch, answers_of, preference_forward
from trainer.parallel import Parallel
from trainer.stages import Origin

NAME = "reference_logps"  # of the array in a batch
DEFAULT_ROWS = 4  # of a forward pass, where --batch_size is auto
PART_BATCHES = 8  # that each rank reads between two meetings
KEEP_SECONDS = 30.0  # between two writes of what is found so far


class LiveReference:
    """A frozen copy of a model that answers for each batch anew: twice the memory, a third more time."""

    def __init__(self, model: CausalLM, precision: Precision) -> None:
        self.model = copy.deepcopy(model).to(device=precision.device, dtype=precision.weights)
        self.model.eval().requires_grad_(False)
        self._precision = precision

    @property
    def num_parameters(self) -> int:
        """What it holds in memory."""
        return sum(each.numel() for each in self.model.parameters())

    def __call__(self, batch: Batch) -> Answers:
        """log π_ref of the answers of a batch."""
        return _answers(self.model, batch, self._precision)


@torch.no_grad()
def _answers(model: CausalLM, batch: Batch, precision: Precision) -> Answers:
    with precision.autocast():
        output = preference_forward(model, batch)
    assert output.token_losses is not None
    return answers_of(output.token_losses, batch)


def attach_reference(
    sets: Sequence[AnySet | None], origin: Origin, precision: Precision, parallel: Parallel, batch_size: int
) -> None:
    """Let the batches of preference sets bring `reference_logps` [batch, segments]; asks the model where no earlier run
    has. Every rank calls it, and each takes its share.

    Args:
        sets: for training and for validation.
        origin: what the run starts from; its model is moved to the device.
        batch_size: rows of one forward pass.

    Raises:
        UserError: the numbers cannot be written beside a set.
    """
    plain = list({id(part): part for each in sets if each is not None for part in _parts(each)}.values())
    width = max((int(each.segments_per_row.max(initial=0)) for each in plain), default=0)
    for packed in plain:
        path = _path(packed, origin, precision)
        _find_missing(packed, path, origin, precision, parallel, batch_size or DEFAULT_ROWS)
        packed.attach(NAME, path, width)


def _find_missing(
    packed: PackedSet, path: Path, origin: Origin, precision: Precision, parallel: Parallel, batch_size: int
) -> None:
    """Make the file of a set's numbers where it is not. What is found is kept: a command that is stopped goes on."""
    _check_agreement(packed, path, batch_size, parallel)
    if not parallel.max(torch.tensor(int(not _is_whole(path)))).item():
        return
    progress = path.with_suffix(".part")
    done, values = _read_progress(progress, packed, precision)
    done = -int(parallel.max(torch.tensor(-done)).item())  # the least, of machines with disks of their own
    name = f"{packed.folder.name}: log-probabilities of {len(packed.segments):,} answers under {origin.name}"
    parallel.say(f"{name}, once for all runs from it" + (f"; going on after {done:,} rows" if done else ""))
    model = origin.model.to(device=precision.device, dtype=precision.weights)
    step, kept_at = batch_size * parallel.world_size * PART_BATCHES, time.monotonic()
    is_writer = parallel.local_rank == 0  # of each machine, which may have a disk of its own
    try:
        while done < packed.num_rows:
            rows = range(done, min(done + step, packed.num_rows))
            found = reference_logps(packed, model, precision, parallel, batch_size, rows)
            if not np.isfinite(found).all():  # on every rank alike, or the others would wait
                raise UserError(
                    f"{origin.name}: finds answers of {packed.folder} impossible (its numbers are not finite)"
                )
            values[_segments_of(packed, rows)] = found
            done = rows.stop
            if time.monotonic() - kept_at > KEEP_SECONDS and done < packed.num_rows:
                parallel.say(f"{packed.folder.name}: {done:,} of {packed.num_rows:,} rows asked")
                if is_writer:
                    _keep_progress(progress, done, values)
                kept_at = time.monotonic()
    except BaseException:
        if is_writer and done:
            _keep_progress(progress, done, values)
        raise
    if is_writer:
        if not _is_whole(path):  # another run from the same model may have been faster
            _write(path, values, origin)
        progress.unlink(missing_ok=True)
    parallel.max(torch.zeros(()))  # the others wait until it is there


def _check_agreement(packed: PackedSet, path: Path, batch_size: int, parallel: Parallel) -> None:
    """UserError on every rank when they were started with other models, sets or flags: each would ask other rows."""
    facts = torch.tensor([int(path.stem[:8], 16), packed.num_rows, batch_size])
    if not torch.equal(parallel.max(facts), -parallel.max(-facts)):
        raise UserError(f"{packed.folder}: the processes have other sets, models or --batch_size; start them alike")


def _parts(packed: AnySet) -> Sequence[PackedSet]:
    if isinstance(packed, JoinedSets):
        return packed.sets
    return [packed.packed if isinstance(packed, RowSubset) else packed]


def reference_logps(
    packed: PackedSet,
    model: CausalLM,
    precision: Precision,
    parallel: Parallel,
    batch_size: int,
    rows: range | None = None,
) -> np.ndarray:
    """log p of each segment's answer [segments], float32 (float64 in a float64 run). Every rank gets all of them.

    Args:
        rows: which to ask about, default all; the numbers are of their segments.
    """
    rows = range(packed.num_rows) if rows is None else rows
    was_training = model.training
    model.eval()
    segments = _segments_of(packed, rows)
    # Each number comes from one rank, zeros from the others.
    found = torch.zeros(segments.stop - segments.start, dtype=precision.weights, device=precision.device)
    for start in rows[::batch_size][parallel.rank :: parallel.world_size]:
        asked = np.arange(start, min(start + batch_size, rows.stop))
        batch = {name: torch.from_numpy(array).to(precision.device) for name, array in packed.batch(asked).items()}
        answers = _answers(model, batch, precision)
        both = torch.stack([answers.chosen, answers.rejected], dim=-1).flatten(1)  # [rows, places], as segments lie
        index = packed.rows[asked]
        for row, first, count in zip(both, index["first_segment"] - segments.start, index["segments"], strict=True):
            found[int(first) : int(first) + int(count)] = row[: int(count)]
    model.train(was_training)
    return parallel.sum(found).cpu().numpy()


def _segments_of(packed: PackedSet, rows: range) -> slice:
    """Where the segments of these rows are; they lie in the order of the rows."""
    first = packed.rows["first_segment"]
    return slice(
        int(first[rows.start]) if rows.start < packed.num_rows else len(packed.segments),
        int(first[rows.stop]) if rows.stop < packed.num_rows else len(packed.segments),
    )


# ---- the files ------------------------------------------------------------------------------------------------


def _path(packed: PackedSet, origin: Origin, precision: Precision) -> Path:
    """Where the numbers are: named after everything that decides them."""
    made_of = {"model": origin.digest, "set": packed.fingerprint, "dtype": str(precision.compute)}
    return packed.folder / "reference" / f"{sha256_of_text(canonical_json(made_of))[:16]}.npy"


def _is_whole(path: Path) -> bool:
    """Whether the file is there as it was written."""
    note = path.with_suffix(".json")
    if not (path.is_file() and note.is_file()):
        return False
    try:
        facts: Any = read_json(note)
        return isinstance(facts, dict) and facts.get("sha256") == sha256_of_file(path)
    except UserError:
        return False


def _write(path: Path, values: np.ndarray, origin: Origin) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as temporary:
            with open(temporary, "wb") as file:
                np.save(file, values)
            digest = sha256_of_file(temporary)
        facts = {"sha256": digest, "model": origin.digest, "name": origin.name, "answers": len(values)}
        write_json(path.with_suffix(".json"), facts)
    except OSError as error:
        raise _unwritable(path, error) from error


def _keep_progress(path: Path, done: int, values: np.ndarray) -> None:
    """In one file, so that rows and numbers belong together."""
    try:
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, done=np.int64(done), values=values)
    except OSError as error:
        raise _unwritable(path, error) from error


def _read_progress(path: Path, packed: PackedSet, precision: Precision) -> tuple[int, np.ndarray]:
    """How many rows were asked by a command that was stopped, and all numbers, zeros where none is known yet."""
    dtype = np.float64 if precision.weights == torch.float64 else np.float32
    try:
        with np.load(path, allow_pickle=False) as kept:
            done, values = int(kept["done"]), kept["values"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # there is none, or it is damaged
        return 0, np.zeros(len(packed.segments), dtype)
    return done, values


def _unwritable(path: Path, error: OSError) -> UserError:
    reason = error.strerror or str(error)
    return UserError(f"{path}: cannot be written ({reason}); pass --reference live, which needs no file")
