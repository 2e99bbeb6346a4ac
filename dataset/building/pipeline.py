"""From raw inputs to a packed set: encode in parallel, find duplicates, pack, report.

    inputs ─▶ blocks ─▶ workers (dataset/building/encoding.py) ─▶ shards on the disk (shard_making.py, shards.py)
           ─▶ duplicates (dedup.py) ─▶ rows (assembling.py) ─▶ the set, in one step (working_folder.py)

Equal input, flags and tokenizer give equal bytes, whatever the number of workers and interruptions, and are
recognised: a set that is there already is not made again, and one made otherwise is not replaced unless asked for.
A run that was stopped, even by `kill -9`, goes on after its last shard when the same command is given again.
"""

import shutil
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from dataset.building.assembling import REJECTS_FILE, Assembler, SetPlan
from dataset.building.progress import documents_bar
from dataset.building.report import describe_left_out
from dataset.building.resources import plan_memory
from dataset.building.settings import BuildSettings, already_built, describe_build
from dataset.building.shard_making import ShardMaker
from dataset.building.working_folder import finish_replacing, folder_bytes, locked, working_folder, working_folders
from dataset.packing import PackedSet
from dataset.sources import Input, find_inputs
from model.chat import template_warnings
from model.errors import UserError
from model.files import atomic_path, publish_folder


def build_packed_set(settings: BuildSettings) -> dict[str, Any]:
    """Build a packed set, and `<name>_val` beside it when `val_share` is above 0; returns its meta.json.

    Several processes may be asked for the same set at once: one builds, the others wait and take what it made.

    Raises:
        UserError: missing, damaged or cut input, too many bad rows, nothing left, or another set of that name.
    """
    settings.check()
    inputs = find_inputs(settings.data_path)
    build = describe_build(settings, inputs)
    packed_dir, name = settings.packed_dir, settings.name
    if already_built(settings, build) and not working_folders(packed_dir, name):
        return _show(settings, built=False)
    with locked(packed_dir, settings.set_names):
        for set_name in settings.set_names:
            finish_replacing(packed_dir / set_name)
        own = working_folder(packed_dir, name, build["hash"])
        if already_built(settings, build):
            shutil.rmtree(own, ignore_errors=True)  # the run that built it was killed before it tidied up
            return _show(settings, built=False)
        others = [folder for folder in working_folders(packed_dir, name) if folder != own]
        _tell_leftovers(others)
        _build(settings, inputs, build, own)
        for folder in others:
            shutil.rmtree(folder)
    return _show(settings, built=True)


def _build(settings: BuildSettings, inputs: list[Input], build: dict[str, Any], folder: Path) -> None:
    """Make the sets in a working folder, and put them in their places."""
    for warning in template_warnings(settings.tokenizer) if settings.kind != "pretrain" else []:
        print(f"warning: {warning}")
    memory = plan_memory(settings.num_workers, settings.memory_gb, inputs, settings.near)
    started = time.monotonic()
    try:
        maker = ShardMaker(settings, inputs, folder, memory)
        maker.run()
        _assemble(settings, maker, build, folder)
    except BaseException as error:
        if not list(folder.glob("shards/*")):
            shutil.rmtree(folder, ignore_errors=True)  # there is nothing in it that would spare work
        elif isinstance(error, (KeyboardInterrupt, SystemExit)):
            print(
                f"\n{settings.name}: stopped; the same command goes on after the last finished shard", file=sys.stderr
            )
        raise
    shutil.rmtree(folder)
    settings.rejects_of_failure.unlink(missing_ok=True)  # of an earlier try
    rows, seconds = maker.read.num_rows_in, time.monotonic() - started
    if not settings.brief:
        print(f"{rows:,} rows in {seconds:,.1f} s ({rows / seconds:,.0f} rows/s)")


def _assemble(settings: BuildSettings, maker: ShardMaker, build: dict[str, Any], folder: Path) -> None:
    made = [folder / name for name in settings.set_names]
    for each in made:
        shutil.rmtree(each, ignore_errors=True)  # of a run that was killed here
    decisions = None
    if maker.finder is not None:
        with documents_bar(settings.name, "finding duplicates", maker.finder.num_documents) as bar:
            decisions = maker.finder.finish(bar.update)
    plan = SetPlan(
        settings.kind,
        settings.max_seq_len,
        settings.tokenizer,
        tuple(made),
        tuple(settings.set_names),
        settings.val_share,
    )
    assembler = Assembler(plan, maker.read, maker.sources)
    num_documents = None if decisions is None else len(decisions)
    with closing(assembler), documents_bar(settings.name, "packing", num_documents) as bar:
        assembler.run(maker.shards.read(), decisions, bar.update)
        if any(output.writer.num_rows == 0 for output in assembler.outputs):
            message = _nothing_left(settings, maker, assembler)
            shutil.rmtree(folder)  # with these flags it would end here again
            raise UserError(message)
        cleaning = {"rules": settings.rules.as_dict(), "near_duplicates": _searched(maker), "held_out": maker.held_out}
        assembler.finish({"build": build}, cleaning)
    # The main set appears last, so where it is, its validation set is as well.
    for each in reversed(made):
        target = settings.packed_dir / each.name
        publish_folder(each, target, overwrite=target.exists())


def _nothing_left(settings: BuildSettings, maker: ShardMaker, assembler: Assembler) -> str:
    empty = [output.writer.num_rows == 0 for output in assembler.outputs]
    if not all(empty):
        missing, advice = ("no document", "larger") if empty[-1] else ("every document", "smaller")
        return f"--val_share {settings.val_share}: {missing} fell into the validation set; use a {advice} share"
    left_out = [describe_left_out(group) for group in (maker.read.rejected, maker.read.dropped) if group.total]
    where = ", ".join(each.name for each in maker.inputs[:3])
    return f"{where}: nothing left to pack of {maker.read.num_rows_in} rows ({'; '.join(left_out) or 'no row'})"


def _searched(maker: ShardMaker) -> dict[str, Any] | None:
    """What the report says about the search for near-duplicates."""
    finder = maker.finder
    if finder is None or finder.near is None:
        return None
    return {
        **finder.near.as_dict(),
        "recall": finder.near.recall,
        "index_bytes": finder.index_bytes,
        "bytes_per_row": finder.bytes_per_row,
        "cut_short": finder.num_cut_short,
    }


def _tell_leftovers(folders: list[Path]) -> None:
    """Unfinished builds of this name with other flags are never used, and not taken away before this one is there."""
    for folder in folders:
        if list(folder.glob("shards/*")):
            print(
                f"note: {folder} ({folder_bytes(folder) / 1e6:,.0f} MB) is left from an interrupted build with other "
                f"flags or input, and will be removed when this one is finished",
                flush=True,
            )


def _show(settings: BuildSettings, built: bool) -> dict[str, Any]:
    """Say what there is now, and put the rejects where they are wanted; returns the set's meta.json."""
    folders = [settings.packed_dir / name for name in settings.set_names]
    metas = [PackedSet.open(folder).meta for folder in folders]
    if not built:
        print(f"{folders[0]}: already built from this input with these flags")
    elif not settings.brief:
        print((folders[0] / "report.md").read_text(encoding="utf-8"))
    for folder, meta in zip(folders, metas, strict=True):
        if built and (settings.brief or folder != folders[0]):
            documents, tokens, rows = meta["num_documents"], meta["num_tokens"], meta["num_rows"]
            print(f"{folder}: {documents:,} documents, {tokens:,} tokens in {rows:,} rows")
    if settings.rejects is not None:
        with atomic_path(settings.rejects) as temporary:
            if (folders[0] / REJECTS_FILE).exists():
                shutil.copyfile(folders[0] / REJECTS_FILE, temporary)
    return metas[0]
