"""The reference's numbers: right, found again by the next run, and made anew where they are not what they were."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dataset.mixed_set import JoinedSets
from dataset.packing import PackedSet
from model.device import Precision
from model.errors import UserError
from model.tokenizer import ChatTokenizer
from tests.asked_reference import CPU, FLOAT32, MAX_SEQ_LEN, ROWS, attach, files_of, model_of, origin_of
from tests.full_disk import mounted
from tests.packed_sets import PairLengths, pairs_of, write_pairs
from tests.tiny_model import transformers_twin
from trainer import reference
from trainer.loader import Loader
from trainer.objectives import preference_forward
from trainer.parallel import Parallel
from trainer.reference import LiveReference, reference_logps

WritePairs = Callable[..., PackedSet]


@pytest.fixture
def write(tokenizer: ChatTokenizer, tmp_path: Path) -> WritePairs:
    def pairs(name: str = "pairs", rows: list[list[PairLengths]] = ROWS, seed: int = 0) -> PackedSet:
        return write_pairs(tmp_path / name, tokenizer, rows, MAX_SEQ_LEN, seed)

    return pairs


@pytest.fixture
def forwards(monkeypatch) -> list[int]:
    """How many rows each question to a reference had."""
    asked = []

    def counted(model: Any, batch: Any) -> Any:
        asked.append(len(batch["input_ids"]))
        return preference_forward(model, batch)

    monkeypatch.setattr(reference, "preference_forward", counted)
    return asked


def tensors(packed: Any, rows: Any) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in packed.batch(np.array(rows)).items()}


# ---- what is found --------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_transformers(write):
    """Each side alone, in a model that knows neither segments nor packing."""
    packed, model = write(), model_of()
    found = reference_logps(packed, model, FLOAT32, Parallel(), batch_size=2)
    twin: Any = transformers_twin(model)
    expected = []
    for side in (side for pair in pairs_of(packed) for side in pair):
        tokens = torch.from_numpy(side.tokens.astype(np.int64))
        with torch.no_grad():
            log_probs = twin(tokens[None, :-1]).logits[0].log_softmax(dim=-1)
        at_targets = log_probs.gather(1, tokens[1:, None]).squeeze(1)
        expected.append(at_targets[torch.from_numpy(side.is_answer[1:])].sum().item())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("batch_size", [0, 1, 3, 100])
def test_cached_equals_live(write, batch_size, dtype, bound):
    """Row by row, in another order and grouping than they were worked out in. 0: --batch_size auto."""
    packed, model, precision = write(), model_of(dtype=dtype), Precision(CPU, dtype)
    live = LiveReference(model, precision)
    attach(packed, origin=origin_of(model), precision=precision, batch_size=batch_size)
    for rows in ([4, 1], [0], [3, 2, 1]):
        batch = tensors(packed, rows)
        cached = batch["reference_logps"]
        assert cached.shape == (len(rows), 6) and cached.dtype == dtype
        answers = live(batch)
        for side, values in ((0, answers.chosen), (1, answers.rejected)):
            torch.testing.assert_close(cached[:, side::2], values[:, :3], rtol=bound, atol=0)
            assert not values[:, 3:].any()
        for row, numbers in zip(rows, cached, strict=True):
            assert (numbers != 0).sum() == 2 * len(ROWS[row])


def test_the_model_that_asks_stays_as_it_was(write):
    model = model_of()
    attach(write(), origin=origin_of(model.train()))
    assert model.training and all(each.requires_grad and each.grad is None for each in model.parameters())


def test_a_live_reference_is_a_frozen_copy(write):
    packed, model = write(), model_of().train()
    live = LiveReference(model, FLOAT32)
    batch = tensors(packed, [1])
    before = live(batch).chosen
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert torch.equal(live(batch).chosen, before) and not before.requires_grad
    assert not any(each.requires_grad for each in live.model.parameters())
    assert live.num_parameters == sum(each.numel() for each in model.parameters())


def test_bf16_is_asked_as_training_asks(write):
    """Under autocast, and summed in float32."""
    packed, model = write(), model_of()
    precision = Precision(CPU, torch.bfloat16)
    found = reference_logps(packed, model, precision, Parallel(), 2)
    exact = reference_logps(packed, model, FLOAT32, Parallel(), 2)
    assert found.dtype == np.float32
    assert not np.array_equal(found, exact)
    np.testing.assert_allclose(found, exact, rtol=0.1)


# ---- the files ------------------------------------------------------------------------------------------------


def test_the_next_run_does_not_ask_again(write, forwards, capsys):
    packed, origin = write(), origin_of(model_of())
    attach(packed, origin=origin)
    assert sum(forwards) == packed.num_rows
    assert capsys.readouterr().err == (
        f"pairs: log-probabilities of {len(packed.segments)} answers under out/full_sft_32.pth, "
        "once for all runs from it\n"
    )
    array, note = (path for suffix in ("npy", "json") for path in files_of(packed) if path.suffix == f".{suffix}")
    assert array.stem == note.stem and len(files_of(packed)) == 2
    again = PackedSet.open(packed.folder)
    attach(again, origin=origin)
    assert sum(forwards) == packed.num_rows and capsys.readouterr().err == ""
    assert np.array_equal(again.batch(np.arange(5))["reference_logps"], packed.batch(np.arange(5))["reference_logps"])


def test_another_model_set_or_dtype_has_a_file_of_its_own(write, forwards):
    model = model_of()
    names = set()
    for packed, digest, dtype in (
        (write(), "5eed", torch.float32),
        (write("other", seed=1), "5eed", torch.float32),
        (write("again", seed=1), "5eed", torch.bfloat16),
        (write("third", seed=1), "0dd", torch.float32),
    ):
        attach(packed, origin=origin_of(model, digest), precision=Precision(CPU, dtype))
        names.add(files_of(packed)[0].stem)
    assert len(names) == 4
    copy = write("copy")  # a set of the same contents in another folder
    attach(copy, origin=origin_of(model))
    assert files_of(copy)[0].stem in names


def cut(array: Path, note: Path) -> None:
    array.write_bytes(array.read_bytes()[:-4])


def flip(array: Path, note: Path) -> None:
    content = bytearray(array.read_bytes())
    content[-2] ^= 1
    array.write_bytes(content)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "cut": cut,
    "a flipped bit": flip,
    "emptied": lambda array, note: array.write_bytes(b""),
    "gone": lambda array, note: array.unlink(),
    "no note": lambda array, note: note.unlink(),
    "a cut note": lambda array, note: note.write_text('{"sha256": "'),
    "another note": lambda array, note: note.write_text("[]"),
    "a note without a sum": lambda array, note: note.write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_made_anew(write, forwards, damage):
    packed, origin = write(), origin_of(model_of())
    attach(packed, origin=origin)
    note, array = files_of(packed)
    before = array.read_bytes()
    damage(array, note)
    again = PackedSet.open(packed.folder)
    attach(again, origin=origin)
    assert sum(forwards) == 2 * packed.num_rows
    assert files_of(packed) == [note, array] and array.read_bytes() == before
    assert json.loads(note.read_text())["model"] == "5eed"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stopped_at", [0, 2, 3, 4])
def test_a_stopped_command_goes_on(write, forwards, monkeypatch, capsys, stopped_at, dtype):
    monkeypatch.setattr(reference, "PART_BATCHES", 2)
    precision, origin = Precision(CPU, dtype), origin_of(model_of(dtype=dtype))
    usual, whole = reference._answers, write("whole")
    attach(whole, origin=origin, precision=precision, batch_size=1)
    packed = write()
    forwards.clear()

    def stopping(*arguments: Any) -> Any:
        if len(forwards) == stopped_at:
            raise KeyboardInterrupt
        return usual(*arguments)

    monkeypatch.setattr(reference, "_answers", stopping)
    with pytest.raises(KeyboardInterrupt):
        attach(packed, origin=origin, precision=precision, batch_size=1)
    monkeypatch.setattr(reference, "_answers", usual)
    packed = PackedSet.open(packed.folder)
    capsys.readouterr()
    attach(packed, origin=origin, precision=precision, batch_size=1)
    assert len(forwards) == packed.num_rows + stopped_at % 2, "only the part that was stopped in is asked again"
    found = stopped_at - stopped_at % 2
    assert (f"; going on after {found} rows\n" in capsys.readouterr().err) == (found > 0)
    assert [path.read_bytes() for path in files_of(packed)] == [path.read_bytes() for path in files_of(whole)]


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_killed_command_goes_on_after_what_was_kept(write, forwards, monkeypatch, capsys, is_damaged):
    """Nobody has time to tidy up: what counts was written on the way, and the finished file is not there."""
    monkeypatch.setattr(reference, "PART_BATCHES", 1)
    monkeypatch.setattr(reference, "KEEP_SECONDS", 0.0)
    packed, origin = write(), origin_of(model_of())

    class Killed(BaseException):
        pass

    usual = reference._keep_progress

    def keep(path: Path, done: int, values: np.ndarray) -> None:
        if done == 4:
            raise Killed
        usual(path, done, values)

    monkeypatch.setattr(reference, "_keep_progress", keep)
    with pytest.raises(Killed):
        attach(packed, origin=origin, batch_size=1)
    monkeypatch.setattr(reference, "_keep_progress", usual)
    [kept] = files_of(packed)
    if is_damaged:
        kept.write_bytes(kept.read_bytes()[:-30])
    forwards.clear()
    attach(PackedSet.open(packed.folder), origin=origin, batch_size=2)
    assert sum(forwards) == packed.num_rows - (0 if is_damaged else 3)
    assert not kept.exists() and len(files_of(packed)) == 2
    direct = reference_logps(packed, model_of(), FLOAT32, Parallel(), 1)
    np.testing.assert_allclose(np.load(files_of(packed)[1]), direct, rtol=1e-5)


def test_a_finished_file_is_not_replaced(write, monkeypatch):
    """Another run from the same model was faster: its readers have the file open."""
    packed, origin = write(), origin_of(model_of())
    attach(packed, origin=origin)
    before = [(path, path.stat().st_ino) for path in files_of(packed)]
    answers = iter([False, True])
    monkeypatch.setattr(reference, "_is_whole", lambda _: next(answers))
    attach(PackedSet.open(packed.folder), origin=origin)
    assert [(path, path.stat().st_ino) for path in files_of(packed)] == before


def test_a_folder_that_cannot_be_written(write):
    packed = write()
    (packed.folder / "reference").write_text("a file is in its place")
    with pytest.raises(UserError) as error:
        attach(packed)
    [line] = str(error.value).splitlines()
    assert line.startswith(f"{packed.folder}/reference/")
    assert "cannot be written (File exists); pass --reference live, which needs no file" in line


@torch.no_grad()
def test_a_broken_parent_is_named(write):
    model, packed = model_of(), write()
    next(model.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match=r"out/full_sft_32\.pth: .*not finite"):
        attach(packed, origin=origin_of(model))
    assert not (packed.folder / "reference").exists()


def test_a_full_disk(write, forwards):
    packed = write()
    folder = packed.folder / "reference"
    with mounted(folder, "size=4k"):
        (folder / "ballast").write_bytes(b"x" * 4096)
        with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); pass --reference live"):
            attach(packed)
        assert [path.name for path in folder.iterdir()] == ["ballast"]


# ---- several sets ---------------------------------------------------------------------------------------------


def test_sets_of_different_widths_have_batches_of_one(write):
    train, val = write(), write("pairs_val", [[(3, 4, 5)], [(2, 2, 3)]], seed=1)
    attach(train, val)
    assert train.batch(np.arange(2))["reference_logps"].shape == (2, 6)
    assert val.batch(np.arange(2))["reference_logps"].shape == (2, 6)
    assert not val.batch(np.arange(2))["reference_logps"][:, 2:].any()
    attach(write("alone"), None)  # without a validation set


def test_a_set_may_be_validated_on_as_well(write, forwards):
    """Opened twice: `--val_path` names the training set."""
    packed = write()
    again = PackedSet.open(packed.folder)
    attach(packed, again)
    assert sum(forwards) == packed.num_rows
    for each in (packed, again):
        assert each.batch(np.arange(5))["reference_logps"].any()


def test_a_mixture_has_the_numbers_of_its_parts(write):
    first, second = write(), write("narrow", [[(3, 4, 5)], [(2, 2, 3)]], seed=1)
    val = write("narrow_val", [[(2, 2, 2)]], seed=2)
    joined = JoinedSets("joined", [first, second])
    model = model_of()
    attach(joined, val, origin=origin_of(model))
    rows = [6, 1, 5, 4]
    batch = tensors(joined, rows)
    answers = LiveReference(model, FLOAT32)(batch)
    torch.testing.assert_close(batch["reference_logps"][:, 0::2], answers.chosen[:, :3], rtol=1e-6, atol=0)
    torch.testing.assert_close(batch["reference_logps"][:, 1::2], answers.rejected[:, :3], rtol=1e-6, atol=0)
    assert [len(files_of(each)) for each in (first, second, val)] == [2, 2, 2]
    assert val.batch(np.array([0]))["reference_logps"].shape == (1, 6)


# ---- data workers ---------------------------------------------------------------------------------------------


def test_what_is_attached_goes_to_a_data_worker(write):
    packed = write()
    attach(packed)
    pickled = pickle.dumps(packed)
    assert len(pickled) < 1000, "the worker opens the same files"
    expected, found = packed.batch(np.arange(5)), pickle.loads(pickled).batch(np.arange(5))
    assert found.keys() == expected.keys() and "reference_logps" in found
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_data_workers_bring_it(write):
    joined = JoinedSets("joined", [write(), write("other", seed=1)])
    attach(joined)
    for mine, theirs in zip(
        Loader(joined, 3, 1, 7, CPU).steps(0, 4), Loader(joined, 3, 1, 7, CPU, num_workers=1).steps(0, 4), strict=True
    ):
        expected = mine.micro_batches[0]["reference_logps"]
        assert expected.any() and torch.equal(theirs.micro_batches[0]["reference_logps"], expected)


def test_attach(write, tmp_path):
    packed = write()
    path = tmp_path / "numbers.npy"
    np.save(path, np.arange(1, len(packed.segments) + 1, dtype=np.float64))
    packed.attach("numbers", path, 7)
    found = packed.batch(np.array([2, 0, 1]))["numbers"]
    assert found.dtype == np.float64
    assert found.tolist() == [[9, 10, 11, 12, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0], [3, 4, 5, 6, 7, 8, 0]]
    with pytest.raises(AssertionError):
        packed.attach("numbers", path, 5)  # narrower than a row
    np.save(path, np.zeros(3))
    with pytest.raises(AssertionError):
        packed.attach("numbers", path, 7)
