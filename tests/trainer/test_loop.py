"""The loop's promises: the loss does not depend on the batch's split, and a stopped run goes on exactly."""

import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.checkpoint import load_checkpoint
from model.errors import RunFailed, UserError
from trainer import journal, loop
from trainer.journal import Journal
from trainer.metrics import read_metrics
from trainer.state import SavedStep, load_newest


def _weights(tmp_path, name="pretrain_32"):
    return load_checkpoint(tmp_path / f"{name}.pth").weights


def _log(tmp_path, name="pretrain_32"):
    """The log without what depends on the clock."""
    rows = read_metrics(tmp_path / name / "metrics.jsonl")
    by_the_clock = ("seconds", "tokens_per", "mfu", "memory")
    return [{key: row[key] for key in row if not key.startswith(by_the_clock)} for row in rows]


class StopAt:
    """An objective that sends this process a signal, or raises, in the given step."""

    def __init__(self, objective, calls, action):
        self.objective, self.calls, self.action, self.seen = objective, calls, action, 0
        self.document_mask = objective.document_mask
        self.loss_unit = objective.loss_unit

    def __call__(self, model, batch):
        if model.training:
            self.seen += 1
            if self.seen == self.calls:
                self.action()
        return self.objective(model, batch)

    def __repr__(self):
        return repr(self.objective)


MOE = {"use_moe": True, "n_routed_experts": 3, "n_shared_experts": 1, "num_experts_per_tok": 2}


@pytest.mark.parametrize("architecture", [{}, MOE], ids=["dense", "moe"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_loss_and_weights_do_not_depend_on_accumulation(start_run, tmp_path, architecture, dtype, tolerance):
    for batch_size, accumulation_steps in [(12, 1), (4, 3), (5, 2), (1, 12)]:
        start_run(
            architecture,
            dtype,
            batch_size=batch_size,
            accumulation_steps=accumulation_steps,
            run_name=f"split_{accumulation_steps}",
            max_steps=12,
        )
    whole, *parts = (_log(tmp_path, f"split_{number}") for number in (1, 3, 12))
    for part in parts:
        assert len(whole) == len(part) > 12
        for expected, found in zip(whole, part, strict=True):
            assert found["loss"] == pytest.approx(expected["loss"], rel=tolerance)
    reference = _weights(tmp_path, "split_1")
    for name, tensor in _weights(tmp_path, "split_12").items():
        assert (tensor - reference[name]).norm() <= 10 * tolerance * reference[name].norm(), name
    # 5 × 2 is a global batch of 10, not 12: the same steps see other rows.
    assert _log(tmp_path, "split_2")[1]["loss"] != pytest.approx(whole[1]["loss"], rel=1e-6)


def test_loss_is_the_mean_over_all_targets_of_the_global_batch(start_run, tmp_path, train_set):
    seen = []

    class Recorder(StopAt):
        def __call__(self, model, batch):
            terms = self.objective(model, batch)
            if model.training:
                seen.append((terms["loss"].total.item(), int((batch["targets"] != -100).sum())))
            return terms

    start_run(
        wrap_objective=lambda objective: Recorder(objective, 0, None),
        batch_size=3,
        accumulation_steps=2,
        epochs=1.0,
    )
    log = [row for row in _log(tmp_path) if row["kind"] == "train"]
    # 2 micro-batches an update; the last update has what is left, and it trains too.
    assert sum(count for _, count in seen) == train_set.targets_per_row.sum() == log[-1]["tokens"]
    sizes = [(total, count) for total, count in seen]
    for number, row in enumerate(log):
        part = sizes[2 * number : 2 * number + 2]
        assert row["loss"] == pytest.approx(sum(t for t, _ in part) / sum(c for _, c in part), rel=1e-6)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_goes_on_to_the_same_weights(start_run, tmp_path, stop, capsys):
    changes = {"architecture": {"dropout": 0.1}, "accumulation_steps": 2, "batch_size": 2}
    start_run(**changes, run_name="whole")

    def stopping(objective):
        return StopAt(objective, 9, lambda: os.kill(os.getpid(), stop))

    assert start_run(**changes, run_name="stopped", wrap_objective=stopping) == 128 + stop
    assert "the same command goes on" in capsys.readouterr().out
    assert len(_log(tmp_path, "stopped")) < len(_log(tmp_path, "whole"))
    assert start_run(**changes, run_name="stopped") == 0
    assert _log(tmp_path, "stopped") == _log(tmp_path, "whole")
    whole = _weights(tmp_path, "whole")
    for name, tensor in _weights(tmp_path, "stopped").items():
        assert torch.equal(tensor, whole[name]), name


def test_crashed_run_goes_on_from_the_last_saved_step(start_run, tmp_path):
    def crash():
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        start_run(save_interval=3, eval_interval=99, run_name="crashed", wrap_objective=lambda o: StopAt(o, 8, crash))
    saved = sorted(path.name for path in (tmp_path / "crashed" / "resume").iterdir())
    assert saved == ["latest", "step-0", "step-3", "step-6"]  # the last two, and the one with the best validation
    start_run(save_interval=3, eval_interval=99, run_name="crashed")
    start_run(save_interval=3, eval_interval=99, run_name="whole")
    assert _log(tmp_path, "crashed") == _log(tmp_path, "whole")
    whole = _weights(tmp_path, "whole")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in _weights(tmp_path, "crashed").items())


def test_damaged_newest_step_falls_back_to_the_one_before(start_run, tmp_path, capsys):
    def crash():
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        start_run(save_interval=3, eval_interval=99, wrap_objective=lambda o: StopAt(o, 8, crash))
    newest = tmp_path / "pretrain_32" / "resume" / "step-6" / "tensors.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    start_run(save_interval=3, eval_interval=99)
    errors = capsys.readouterr().err
    assert "step-6 is damaged" in errors and "going on from step 3" in errors
    start_run(save_interval=3, eval_interval=99, run_name="whole")
    whole = _weights(tmp_path, "whole")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in _weights(tmp_path).items())


def test_finished_run_is_not_trained_again(start_run, tmp_path, capsys):
    start_run()
    before = (tmp_path / "pretrain_32.pth").read_bytes()
    assert start_run() == 0
    assert "already done" in capsys.readouterr().out
    assert (tmp_path / "pretrain_32.pth").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 2e-2}, "learning_rate was 0.01, now 0.02"),
        ({"seed": 2}, "seed was 1337, now 2"),
        ({"epochs": 3.0}, r"length was \d+ steps, now \d+ steps"),
        ({"batch_size": 5}, "length|global batch"),
        ({"architecture": {"dim": 32, "n_layers": 1}}, "architecture.n_layers was 2, now 1"),
        ({"architecture": {"dropout": 0.5}}, "architecture.dropout"),
        ({"dtype": torch.float64}, "dtype was float32, now float64"),
    ],
)
def test_changed_run_is_refused_by_name_and_nothing_is_touched(start_run, tmp_path, change, named):
    start_run()
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=named):
        start_run(**change)
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_what_may_change_freely_does(start_run, tmp_path):
    def crash():
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        start_run(save_interval=2, batch_size=4, wrap_objective=lambda o: StopAt(o, 6, crash))
    start_run(batch_size=2, accumulation_steps=2, log_interval=5, eval_interval=7, save_interval=0)
    assert load_checkpoint(tmp_path / "pretrain_32.pth").step == _log(tmp_path)[-1]["step"]


def test_overwrite_moves_the_earlier_run_aside(start_run, tmp_path):
    start_run()
    earlier = (tmp_path / "pretrain_32.pth").read_bytes()
    start_run(overwrite=True, seed=2)
    [checkpoint] = tmp_path.glob("pretrain_32.pth.bak-*")
    [folder] = tmp_path.glob("pretrain_32.bak-*")
    assert checkpoint.read_bytes() == earlier and (folder / "run.json").is_file()
    assert (tmp_path / "pretrain_32.pth").read_bytes() != earlier
    start_run(overwrite=True, seed=2)
    assert len(list(tmp_path.glob("pretrain_32.pth.bak-*"))) == 2


def test_checkpoint_without_its_run_folder_is_not_replaced(start_run, tmp_path):
    (tmp_path / "pretrain_32.pth").write_bytes(b"somebody's model")
    with pytest.raises(UserError, match="its run folder"):
        start_run()
    assert (tmp_path / "pretrain_32.pth").read_bytes() == b"somebody's model"


def test_resume_none_does_not_discard_saved_steps(start_run, tmp_path):
    def crash():
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        start_run(save_interval=2, wrap_objective=lambda o: StopAt(o, 5, crash))
    with pytest.raises(UserError, match="--resume none"):
        start_run(resume="none")


def test_run_leaves_curve_report_and_record(start_run, tmp_path):
    start_run()
    folder = tmp_path / "pretrain_32"
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "validation_loss_after" in (folder / "report.md").read_text()
    summary = json.loads((folder / "run.json").read_text())["summary"]
    assert summary["validation_loss_after"] < summary["validation_loss_before"]
    checkpoint = load_checkpoint(tmp_path / "pretrain_32.pth")
    assert checkpoint.tokens == summary["tokens"] and checkpoint.step == summary["steps"]
    assert checkpoint.lineage["data"]["name"] == "letters" and checkpoint.lineage["parent"] is None


def test_a_run_that_keeps_diverging_stops_in_one_line_and_no_bad_number_reaches_the_weights(start_run, tmp_path):
    with pytest.raises(RunFailed, match=r"spiked again, after 2 rollbacks .* lower --learning_rate \(now 1e\+30\)"):
        start_run(learning_rate=1e30, grad_clip=0.0, max_rollbacks=2)
    saved = load_newest(tmp_path / "pretrain_32" / "resume")
    assert saved.state.rollbacks == 2 and len(saved.state.skipped_windows) == 2
    assert all(tensor.isfinite().all() for tensor in saved.tensors["weights"].values())
    with pytest.raises(RunFailed):  # and the same command does not try for ever
        start_run(learning_rate=1e30, grad_clip=0.0, max_rollbacks=2)


@pytest.mark.parametrize("place", [0, 3, 9, 13])
def test_a_signal_ends_a_validation_which_is_then_made_again(start_run, tmp_path, place):
    """In the first one, before step 0, too."""

    class Signals(StopAt):
        def __call__(self, model, batch):
            if not model.training:
                self.seen += 1
                if self.seen == self.calls + 1:
                    self.action()
            return self.objective(model, batch)

    changes = {"max_steps": 12, "eval_interval": 3, "sample_interval": 3, "batch_size": 2, "learning_rate": 3e-2}
    start_run(**changes, run_name="whole")

    def stopping(objective):
        return Signals(objective, place, lambda: signal.raise_signal(signal.SIGTERM))

    assert start_run(**changes, run_name="cut", wrap_objective=stopping) == 128 + signal.SIGTERM
    rows = _log(tmp_path, "cut") if place else []
    # Validation batches: so many, in each of which the signal can come, and none after it.
    assert len([row for row in rows if row["kind"] == "validation"]) < 5
    assert start_run(**changes, run_name="cut") == 0
    assert _log(tmp_path, "cut") == _log(tmp_path, "whole")
    ours, theirs = (load_newest(tmp_path / name / "resume") for name in ("cut", "whole"))
    assert ours.state.validation_losses == theirs.state.validation_losses
    assert ours.state.best_step == theirs.state.best_step
    whole = _weights(tmp_path, "whole")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in _weights(tmp_path, "cut").items())


def test_a_signal_during_a_validation_is_not_kept_waiting(start_run, tmp_path):
    """The rest of the validation is left out."""
    calls = []

    class Counting(StopAt):
        def __call__(self, model, batch):
            if not model.training:
                calls.append(1)
                if len(calls) == 1:
                    signal.raise_signal(signal.SIGINT)
            return self.objective(model, batch)

    code = start_run(batch_size=1, wrap_objective=lambda objective: Counting(objective, 0, None))
    assert code == 130 and len(calls) == 1


def test_a_run_of_minutes_keeps_its_length_after_a_rollback(start_run, tmp_path, monkeypatch):
    asked = []

    def steps_that_fit(journal, state):
        asked.append(state.step)
        return 30 + len(asked)

    true_update = loop.make_update
    made = iter(range(10_000))

    def failing(*args):
        update = true_update(*args)
        return update._replace(grad_norm=float("nan")) if 20 <= next(made) < 25 else update

    monkeypatch.setattr(Journal, "steps_that_fit", steps_that_fit)
    monkeypatch.setattr(loop, "make_update", failing)
    assert start_run(max_minutes=1) == 0
    saved = load_newest(tmp_path / "pretrain_32" / "resume")
    assert (saved.state.rollbacks, saved.state.step, len(asked)) == (1, 31, 1)


@pytest.mark.parametrize(("seconds", "drawn"), [(60.0, 1), (-1.0, 4)])
def test_curves_are_drawn_beside_the_saves_but_not_with_each(start_run, monkeypatch, seconds, drawn):
    drawings = []
    monkeypatch.setattr(journal, "SECONDS_BETWEEN_CURVES", seconds)
    monkeypatch.setattr(journal, "draw_curves", lambda *args: drawings.append(args))
    start_run(max_steps=6, save_interval=2, eval_interval=6)
    assert len(drawings) == drawn


def saved_steps_in_memory():
    return [each for each in gc.get_objects() if type(each) is SavedStep]


def test_what_was_loaded_does_not_stay_in_memory(start_run, tmp_path):
    start_run(max_steps=4, wrap_objective=lambda o: StopAt(o, 3, lambda: signal.raise_signal(signal.SIGINT)))
    loaded = []
    others = saved_steps_in_memory()  # of tests before this one

    def look():
        steps = [each for each in saved_steps_in_memory() if not any(each is other for other in others)]
        loaded.append([each.tensors for each in steps if each.path is not None])

    path = load_newest(tmp_path / "pretrain_32" / "resume").path
    start_run(max_steps=4, resume=str(path), wrap_objective=lambda o: StopAt(o, 1, look))
    assert loaded == [[{}]]


def test_a_run_whose_updates_are_all_left_out_is_stopped(start_run):
    with pytest.raises(RunFailed, match="no update had a finite loss and gradient any more"):
        start_run(learning_rate=1e30, grad_clip=0.0, max_rollbacks=0, max_steps=80)


def test_a_second_process_is_kept_out(start_run, tmp_path):
    folder, started = tmp_path / "pretrain_32", []
    code = (
        "import sys; from pathlib import Path; from trainer import run_folder; run_folder.LOCK_SECONDS = 0.6\n"
        "run_folder.RunFolder(Path(sys.argv[1]), 'pretrain_32').claim({}, None, sys.argv[2] == 'overwrite', None)"
    )

    def start_another():
        for how in ("go on", "overwrite"):
            command = [sys.executable, "-c", code, str(tmp_path), how]
            started.append(subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2]))

    start_run(max_steps=4, wrap_objective=lambda o: StopAt(o, 3, start_another))
    for each in started:
        assert f"{folder}: another process is training this run; waiting 1 s for its end" in each.stderr
        assert f"UserError: {folder}: another process is training this run; wait for its end, or choose" in each.stderr
    assert not list(tmp_path.glob("*.bak*"))
    start_another()
    assert "another process" not in started[-2].stderr + started[-1].stderr


def test_a_run_that_grows_worse_than_untrained_is_stopped(start_run, tmp_path, monkeypatch):
    """Slowly, so that no step is a spike."""
    grown = iter(range(10_000))
    true_update = loop.make_update

    def worse(*args):
        update = true_update(*args)
        return update._replace(losses={**update.losses, "loss": update.losses["loss"] + 0.1 * next(grown)})

    monkeypatch.setattr(loop, "make_update", worse)
    with pytest.raises(RunFailed, match=r"worse than an untrained one, after \d rollbacks .* lower --learning_rate"):
        start_run(max_steps=80)
    assert load_newest(tmp_path / "pretrain_32" / "resume") is not None
    assert start_run(max_steps=80, max_rollbacks=0, run_name="left_alone") == 0


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": -1},
        {"accumulation_steps": 0},
        {"epochs": 0.0},
        {"learning_rate": -1.0},
        {"log_interval": 0},
        {"beta2": 1.0},
        {"min_lr_ratio": 2.0},
        {"run_name": "a/b"},
        {"run_name": ""},
    ],
    ids=str,
)
def test_impossible_settings_are_named(start_run, tmp_path, change):
    with pytest.raises(UserError, match=f"--{next(iter(change))}"):
        start_run(**change)
    assert not list(tmp_path.iterdir())


def test_data_workers_change_nothing(start_run, tmp_path):
    start_run(run_name="none", max_steps=4)
    start_run(run_name="two", max_steps=4, num_workers=2)
    assert _log(tmp_path, "none") == _log(tmp_path, "two")


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(start_run, tmp_path):
    seen = []

    class Spy(StopAt):
        def __call__(self, model, batch):
            layer = model.model.layers[0].self_attn.q_proj
            hook = layer.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
            terms = self.objective(model, batch)
            hook.remove()
            return terms

    start_run(dtype=torch.bfloat16, max_steps=2, wrap_objective=lambda objective: Spy(objective, 0, None))
    assert set(seen) == {torch.bfloat16}
    assert {tensor.dtype for tensor in _weights(tmp_path).values()} == {torch.float32}
