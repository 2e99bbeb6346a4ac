"""What is read of saved steps: all of it to the bit, or a line that names the damaged file."""

import json
import os
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from benchmarks.reliability.damage import make_step, same
from model.errors import UserError
from tests.saved_steps import names, save, sign, spoil
from trainer.saving import write_step
from trainer.state import TrainState, load_newest, load_step, saved_steps, step_number


class TestRoundTrip:
    def test_all_of_it_to_the_bit(self, tmp_path):
        before = make_step(40)
        assert write_step(tmp_path / "resume", before, 2) == tmp_path / "resume" / "step-40"
        after = load_newest(tmp_path / "resume")
        assert after.path == tmp_path / "resume" / "step-40"
        for name in ("state", "identity", "config", "stage", "generation", "surroundings", "tensors"):
            assert same(getattr(after, name), getattr(before, name)), name

    def test_the_layout(self, tmp_path):
        path = write_step(tmp_path, make_step(40), 2)
        assert names(tmp_path) == ["latest", "step-40"]
        assert (tmp_path / "latest").read_text() == "step-40\n"
        assert names(path) == ["manifest.json", "state.json", "tensors.pt"]
        values = json.loads((path / "state.json").read_text())
        assert values["format"] == 4
        assert values["state"].keys() == {
            *("step", "tokens", "seconds", "total_steps", "validation_losses", "best_step", "skipped_windows"),
            *("look_is_due", "calm_saves"),
            *("skipped_updates", "rollbacks", "rollbacks_in_a_row", "furthest_step", "stability"),
        }
        assert set(torch.load(path / "tensors.pt", weights_only=True)) == {"weights", "optimizer", "scaler"}
        command = ["sha256sum", "tensors.pt", "state.json"]  # by another program than ours
        printed = subprocess.run(command, cwd=path, capture_output=True, text=True, check=True).stdout
        sums = {name: digest for digest, name in (line.split() for line in printed.splitlines())}
        assert json.loads((path / "manifest.json").read_text()) == sums

    def test_a_state_that_goes_on_changing_is_saved_as_it_was(self, tmp_path):
        state = TrainState(step=3)
        step = make_step(3)
        saved = replace(step, state=state)
        state.step, state.validation_losses["last"] = 4, 1.0
        assert write_step(tmp_path, saved, 0).name == "step-3"
        assert load_newest(tmp_path).state == TrainState(step=3)

    def test_nothing_saved(self, tmp_path):
        assert load_newest(tmp_path / "resume") is None
        assert saved_steps(tmp_path / "resume") == []
        (tmp_path / ".step-9.abcdefgh").mkdir()
        (tmp_path / "step-x").mkdir()
        (tmp_path / "step-7").touch()
        assert load_newest(tmp_path) is None

    def test_numbers_are_no_text(self, tmp_path):
        save(tmp_path, 9, 10)
        assert [step_number(path) for path in saved_steps(tmp_path)] == [9, 10]
        assert load_newest(tmp_path).state.step == 10

    def test_saving_the_same_again_writes_nothing(self, tmp_path):
        save(tmp_path, 40)
        before = (tmp_path / "step-40" / "tensors.pt").stat().st_ino
        save(tmp_path, 40)
        assert (tmp_path / "step-40" / "tensors.pt").stat().st_ino == before
        save(tmp_path, 40, rollbacks=1)
        assert load_newest(tmp_path).state.rollbacks == 1
        spoil(tmp_path / "step-40" / "tensors.pt")
        save(tmp_path, 40, rollbacks=1)
        assert load_newest(tmp_path).state.rollbacks == 1
        assert names(tmp_path) == ["latest", "step-40"]

    def test_what_could_not_be_read_again_is_not_written(self, tmp_path):
        with pytest.raises(AssertionError, match="seconds"):
            save(tmp_path, 40, seconds="12")
        assert names(tmp_path) == []


class TestTheNewestWholeOne:
    @pytest.mark.parametrize("file", ["tensors.pt", "state.json", "manifest.json"])
    @pytest.mark.parametrize("how", [spoil, Path.unlink, lambda path: os.truncate(path, 5)])
    def test_a_damaged_one_is_told_and_passed_over(self, tmp_path, capsys, file, how):
        save(tmp_path, 10, 20)
        how(tmp_path / "step-20" / file)
        assert load_newest(tmp_path).state.step == 10
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"warning: {tmp_path}/step-20 is damaged ({tmp_path}/step-20/{file}: ") or (
            file == "manifest.json" and "step-20 is damaged" in line
        )
        with pytest.raises(UserError, match=r"^[^ ]*/step-20/"):
            load_step(tmp_path / "step-20")

    def test_none_is_whole(self, tmp_path):
        save(tmp_path, 10, 20)
        for number in (10, 20):
            spoil(tmp_path / f"step-{number}" / "tensors.pt")
        with pytest.raises(UserError, match=r"none of its saved steps is whole \(step-20, step-10\)"):
            load_newest(tmp_path)

    def test_not_after(self, tmp_path, capsys):
        save(tmp_path, 10, 20, 30)
        assert [load_newest(tmp_path, number).state.step for number in (30, 29, 20, 10)] == [30, 20, 20, 10]
        assert load_newest(tmp_path, 9) is None
        assert capsys.readouterr().err == ""

    def test_a_pointer_to_another_is_told(self, tmp_path, capsys):
        save(tmp_path, 10, 20)
        (tmp_path / "latest").write_text("step-10\n")
        assert load_newest(tmp_path).state.step == 20
        assert capsys.readouterr().err == (
            f"warning: {tmp_path}/latest names 'step-10'; going on from step-20, the newest whole step\n"
        )


class TestStrictReading:
    def change(self, path: Path, change) -> None:
        values = json.loads((path / "state.json").read_text())
        change(values)
        (path / "state.json").write_text(json.dumps(values))
        sign(path)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda v: v.update(format=1), "has format 1, this version reads 4"),
            (lambda v: v.pop("identity"), "'identity'"),
            (lambda v: v.update(more=1), "'more'"),
            (lambda v: v.update(stage=3), "stage: found 3, expected str"),
            (lambda v: v["state"].pop("tokens"), "state: .*'tokens'"),
            (lambda v: v["state"].update(more=1), "state: .*'more'"),
            (lambda v: v["state"].update(step="40"), "state: step: found '40', expected int"),
            (lambda v: v["state"].update(step=True), "state: step: found True"),
            (lambda v: v["state"].update(seconds=None), "state: seconds: found None, expected float"),
            (lambda v: v["state"].update(total_steps=1.5), "state: total_steps: found 1.5"),
            (lambda v: v["state"].update(skipped_windows=[[1]]), "skipped_windows"),
            (lambda v: v["state"].update(step=41), "is of step 41, but its folder is step-40"),
            (lambda v: v["surroundings"].pop("threads"), "surroundings: .*'threads'"),
            (lambda v: v["config"].pop("dim"), "configuration: lacks dim"),
            (lambda v: v["config"].update(n_kv_heads=3), "n_kv_heads"),
        ],
    )
    def test_state(self, tmp_path, change, words):
        save(tmp_path, 40)
        self.change(tmp_path / "step-40", change)
        for load in (lambda: load_newest(tmp_path), lambda: load_step(tmp_path / "step-40")):
            with pytest.raises(UserError, match=words) as caught:
                load()
            assert str(caught.value).startswith(f"{tmp_path}/step-40/state.json: ")

    def test_what_may_differ_in_kind(self, tmp_path):
        """JSON of another writer has 0 for 0.0, and a number may stand where None did."""
        save(tmp_path, 40)
        self.change(tmp_path / "step-40", lambda values: values["state"].update(seconds=0, total_steps=None))
        assert load_newest(tmp_path).state.total_steps is None

    @pytest.mark.parametrize(
        ("tensors", "words"),
        [
            ([], "tensors: found a list"),
            ({"weights": {}}, "'optimizer'"),
            ({"weights": {}, "optimizer": {}, "scaler": {}, "more": 1}, "'more'"),
            ({"weights": {"a": 3}, "optimizer": {}, "scaler": {}}, "weights: a: found 3, expected Tensor"),
        ],
    )
    def test_tensors(self, tmp_path, tensors, words):
        save(tmp_path, 40)
        torch.save(tensors, tmp_path / "step-40" / "tensors.pt")
        sign(tmp_path / "step-40")
        with pytest.raises(UserError, match=rf"step-40/tensors\.pt: .*{words}"):
            load_newest(tmp_path)

    def test_every_field_comes_back(self):
        state = TrainState(
            1, 2, 3.5, None, {"last": 4.5}, 5, True, [12, 13], [[6, 7]], 8, 9, 10, 11, {"a": [None, 1.5]}
        )
        assert TrainState.from_json(json.loads(json.dumps(asdict(state)))) == state


class TestOneByItsPath:
    def test_a_step_a_resume_folder_or_a_run(self, tmp_path):
        save(tmp_path / "run" / "resume", 10, 20)
        for path, number in (("run/resume/step-10", 10), ("run/resume", 20), ("run", 20)):
            assert load_step(tmp_path / path).state.step == number
        shutil.copytree(tmp_path / "run" / "resume" / "step-10", tmp_path / "copy")
        assert load_step(tmp_path / "copy").state.step == 10

    def test_what_is_none(self, tmp_path):
        (tmp_path / "file.pth").touch()
        (tmp_path / "empty").mkdir()
        (tmp_path / "step-5").mkdir()
        for name, words in (
            ("none", "none: no such folder; expected a saved step"),
            ("file.pth", r"file\.pth: is a file; expected a saved step"),
            ("empty", "empty: not a saved step, and none in it"),
            ("step-5", r"step-5/manifest\.json: no such file; name another saved step"),
        ):
            with pytest.raises(UserError, match=words):
                load_step(tmp_path / name)
