"""A build that is stopped, in whatever way and place, goes on; and nobody takes another build's work."""

import errno
import itertools
import json
import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dataset.building.pipeline
from dataset.building.encoding import BlockEncoder
from dataset.building.pipeline import build_packed_set
from dataset.building.progress import BytesBar
from dataset.building.report import ReadCounts
from dataset.building.settings import BuildSettings
from dataset.building.shard_making import _Blocks
from dataset.building.shards import ShardFolder
from dataset.building.working_folder import finish_replacing, locked, working_folders
from dataset.cleaning import CleaningRules
from dataset.dedup import NearDuplicateSettings
from dataset.packing import PackedSetWriter
from model.tokenizer import ChatTokenizer
from tests.packed_sets import hashes

ROWS = [{"text": f"Document {number} says {'word ' * (number * 7 % 90)}and ends."} for number in range(400)]
CHATS = [
    {"messages": [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": "a" * (number % 30 + 1)}]}
    for number in range(400)
]


class Killed(BaseException):
    """Stands for `kill -9`: nothing that runs on the way out may write anything."""


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks, and a shard of every few."""
    monkeypatch.setattr("dataset.building.shard_making.block_bytes", lambda inputs: 2000)
    monkeypatch.setattr("dataset.building.shard_making.SHARD_BYTES", 20_000)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first line of each block that is encoded."""
    lines: list[int] = []
    encode = BlockEncoder.__call__

    def counted(encoder: BlockEncoder, block: Any) -> Any:
        lines.append(block.first_line)
        return encode(encoder, block)

    monkeypatch.setattr(BlockEncoder, "__call__", counted)
    return lines


def stop_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, error: BaseException) -> None:
    """Let the `call`-th call of a method raise an error, once."""
    original, calls = getattr(owner, name), iter(range(1, 1_000_000))

    def stopped(*arguments: Any, **keywords: Any) -> Any:
        if next(calls) == call:
            raise error
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, stopped)


@pytest.fixture
def whole(build, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """The hashes of the set, and of its validation set, made without an interruption."""

    def run(rows: list[dict[str, Any]], **changes: Any) -> dict[str, str]:
        build(rows, packed_dir=tmp_path / "whole", **changes)
        return hashes(tmp_path / "whole")

    return run


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("kind", ["pretrain", "sft"])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(143), Killed(), OSError(errno.ENOSPC, "No space left")]
)
def test_stopped_while_encoding(
    build, whole, encoded, monkeypatch, tmp_path, kind: str, error: BaseException, near: bool
) -> None:
    rows = ROWS + ROWS[:40] if kind == "pretrain" else CHATS + CHATS[:40]
    changes: dict[str, Any] = {"kind": kind, "val_share": 0.1}
    if near:
        changes["near"] = NearDuplicateSettings()
    expected = whole(rows, **changes)
    total = len(encoded)
    encoded.clear()
    with monkeypatch.context() as patch:
        stop_at(patch, BlockEncoder, "__call__", total * 2 // 3, error)
        with pytest.raises(type(error)):
            build(rows, **changes)
    first = list(encoded)
    encoded.clear()
    [left] = [path.name for path in (tmp_path / "packed").iterdir()]
    assert left.startswith(".mine.building-"), "no half set, no lock"
    build(rows, **changes)
    assert hashes(tmp_path / "packed") == expected
    assert 0 < len(encoded) <= total - len(first) + 9, "finished shards are not encoded again"
    assert len(encoded) < total


@pytest.mark.parametrize("owner", [_Blocks, ReadCounts, ShardFolder, BytesBar])
@pytest.mark.parametrize("after", [False, True])
def test_a_signal_between_two_steps_takes_nothing_twice(
    build, whole, monkeypatch, tmp_path, owner: type, after: bool
) -> None:
    """A signal's handler runs wherever it likes: before or after anything that is done with an encoded block."""
    name = {_Blocks: "take", ReadCounts: "merge", ShardFolder: "write", BytesBar: "update"}[owner]
    expected = whole(ROWS, rules=CleaningRules(keep_duplicates=True))
    original: Any = getattr(owner, name)
    calls = itertools.count(1)

    def interrupted(*arguments: Any) -> Any:
        is_now = next(calls) == 2
        if is_now and not after:
            raise KeyboardInterrupt
        original(*arguments)
        if is_now:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(ROWS, rules=CleaningRules(keep_duplicates=True))
    build(ROWS, rules=CleaningRules(keep_duplicates=True))
    assert hashes(tmp_path / "packed") == expected


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Killed(), OSError(errno.ENOSPC, "No space left")])
def test_stopped_while_packing(build, whole, encoded, monkeypatch, tmp_path, error: BaseException) -> None:
    expected = whole(ROWS, val_share=0.1)
    encoded.clear()
    with monkeypatch.context() as patch:
        stop_at(patch, PackedSetWriter, "add_row", 20, error)
        with pytest.raises(type(error)):
            build(ROWS, val_share=0.1)
    assert encoded
    encoded.clear()
    build(ROWS, val_share=0.1)
    assert encoded == []
    assert hashes(tmp_path / "packed") == expected


def test_stopped_while_the_sets_are_put_in_place(build, whole, encoded, monkeypatch, tmp_path) -> None:
    expected = whole(ROWS, val_share=0.1)
    with monkeypatch.context() as patch:
        stop_at(patch, dataset.building.pipeline, "publish_folder", 2, Killed())
        with pytest.raises(Killed):
            build(ROWS, val_share=0.1)
    assert (tmp_path / "packed" / "mine_val").exists() and not (tmp_path / "packed" / "mine").exists()
    encoded.clear()
    build(ROWS, val_share=0.1)
    assert encoded == []
    assert hashes(tmp_path / "packed") == expected


def test_stopped_before_tidying_up(build, encoded, monkeypatch, tmp_path, capsys) -> None:
    remove = shutil.rmtree

    def stopped(path: Path, **keywords: Any) -> None:
        if ".building-" in path.name:
            raise Killed
        remove(path, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stopped)
        with pytest.raises(Killed):
            build(ROWS)
    assert working_folders(tmp_path / "packed", "mine")
    encoded.clear()
    build(ROWS)
    assert encoded == [] and "already built" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "packed").iterdir()] == ["mine"]


def test_a_full_disk_while_a_shard_is_written(build, whole, encoded, monkeypatch, tmp_path) -> None:
    expected = whole(ROWS)
    total = len(encoded)
    encoded.clear()
    with monkeypatch.context() as patch:
        stop_at(patch, np, "savez", 3, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(OSError, match="No space"):
            build(ROWS)
    [left] = working_folders(tmp_path / "packed", "mine")
    assert sorted(path.name for path in (left / "shards").iterdir()) == ["shard-000000.npz", "shard-000001.npz"]
    encoded.clear()
    build(ROWS)
    assert 0 < len(encoded) < total
    assert hashes(tmp_path / "packed") == expected


@pytest.mark.parametrize("damage", ["cut", "altered", "empty"])
def test_a_damaged_shard_is_made_anew(build, whole, encoded, monkeypatch, tmp_path, damage: str) -> None:
    expected = whole(ROWS)
    total = len(encoded)
    with monkeypatch.context() as patch:
        stop_at(patch, PackedSetWriter, "add_row", 20, Killed())
        with pytest.raises(Killed):
            build(ROWS)
    [left] = working_folders(tmp_path / "packed", "mine")
    shard = left / "shards" / "shard-000001.npz"
    data = bytearray(shard.read_bytes())
    data[2000] ^= 1
    shard.write_bytes({"cut": bytes(data[:-100]), "altered": bytes(data), "empty": b""}[damage])
    encoded.clear()
    build(ROWS)
    assert 0 < len(encoded) < total, "the shard before it is used, those behind are not"
    assert hashes(tmp_path / "packed") == expected


def test_several_inputs_go_on_in_the_right_one(build, whole, encoded, monkeypatch, tmp_path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(5):
        part = ROWS[number * 80 : (number + 1) * 80]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    changes = {"data_path": (str(folder),)}
    expected = whole(None, **changes)
    for call in range(3, 30, 4):
        shutil.rmtree(tmp_path / "packed", ignore_errors=True)
        with monkeypatch.context() as patch:
            stop_at(patch, BlockEncoder, "__call__", call, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                build(None, **changes)
        build(None, **changes)
        assert hashes(tmp_path / "packed") == expected


def test_unfinished_work_of_another_build_is_told_and_never_used(build, encoded, monkeypatch, tmp_path, capsys) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, BlockEncoder, "__call__", 12, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build(ROWS)
    [left] = working_folders(tmp_path / "packed", "mine")
    encoded.clear()
    capsys.readouterr()
    packed = build(ROWS, max_seq_len=32)
    assert packed.max_seq_len == 32 and encoded[0] == 1
    assert f"note: {left}" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "packed").iterdir()] == ["mine"]


def test_changed_input_is_another_build(build, encoded, monkeypatch, tmp_path) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, BlockEncoder, "__call__", 12, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build(ROWS)
    encoded.clear()
    packed = build([{"text": "changed"}, *ROWS[1:]])
    assert encoded[0] == 1 and packed.meta["num_documents"] == len(ROWS)


def _build_in_process(settings: BuildSettings, barrier: Any, answers: Any) -> None:
    barrier.wait()
    answers.put(build_packed_set(settings)["fingerprint"])


@pytest.mark.slow
def test_several_processes_build_one_set_once(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number} " * 30}) + "\n" for number in range(5000)))
    settings = BuildSettings("pretrain", "mine", (str(path),), tokenizer, tmp_path / "packed", 64, 0.1, num_workers=0)
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_build_in_process, args=(settings, barrier, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    fingerprints = {answers.get(timeout=120) for _ in processes}
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(fingerprints) == 1
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == ["mine", "mine_val"]
    alone = build_packed_set(replace(settings, packed_dir=tmp_path / "alone"))
    assert {alone["fingerprint"]} == fingerprints


def _hold(packed_dir: Path, entered: Any, leave: Any) -> None:
    with locked(packed_dir, ["mine"]):
        entered.set()
        leave.wait()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    entered, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, entered, leave))
    process.start()
    assert entered.wait(60)
    assert (tmp_path / ".mine.lock").exists()
    process.kill()
    process.join()
    with locked(tmp_path, ["mine", "mine_val"]):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.lock", ".mine_val.lock"]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_replacement_is_put_right(tmp_path: Path) -> None:
    old, new = tmp_path / ".mine.old.abc" / "mine", tmp_path / "mine"
    old.mkdir(parents=True)
    (old / "meta.json").write_text("old")
    finish_replacing(new)
    assert (new / "meta.json").read_text() == "old", "killed between the two renames: the old set comes back"
    old.mkdir(parents=True)
    finish_replacing(new)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"], "killed after them: it goes"
