"""Training on a mixture: the run goes on exactly, in the middle of a phase too, and tells its sources apart."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.mixed_set import JoinedSets, MixedSet, open_mixture
from dataset.mixture import Mixture, read_data_path
from dataset.packing import PackedSet
from model.checkpoint import load_checkpoint
from model.errors import UserError
from trainer.loader import Loader
from trainer.metrics import read_metrics
from trainer.settings import DataSettings
from trainer.stages import open_sets

PHASES = """
phases:
  - {name: broad, tokens: 900, sets: [{path: web, weight: 3}, {path: books, weight: 1}]}
  - {name: polish, steps: 9, sets: [{path: books, weight: 1}, {path: web, cap: 6}]}
"""


def open_mixed(shelf: Path, tmp_path: Path, value: str) -> MixedSet:
    if "\n" in value:
        (tmp_path / "mix.yaml").write_text(value)
        value = str(tmp_path / "mix.yaml")
    mixture = read_data_path(value, shelf)
    assert isinstance(mixture, Mixture)
    return open_mixture(mixture, "pretrain")


@pytest.fixture
def joined_val(shelf: Path) -> JoinedSets:
    return JoinedSets("val", [PackedSet.open(shelf / "web_val"), PackedSet.open(shelf / "books_val")])


def log_of(folder: Path) -> list[dict[str, object]]:
    """Without what depends on the clock."""
    return [
        {key: value for key, value in row.items() if not key.startswith(("seconds", "tokens_per", "mfu", "memory"))}
        for row in read_metrics(folder / "metrics.jsonl")
    ]


class Stopping:
    """An objective that sends this process SIGTERM in its n-th training call."""

    def __init__(self, objective, calls):
        self.objective, self.calls = objective, calls
        self.document_mask = objective.document_mask
        self.loss_unit = objective.loss_unit

    def __call__(self, model, batch):
        self.calls -= model.training
        if model.training and self.calls == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.objective(model, batch)

    def __repr__(self):
        return repr(self.objective)


def test_a_window_behind_the_phases_is_where_its_updates_read(shelf, tmp_path):
    loader = Loader(open_mixed(shelf, tmp_path, PHASES), 2, 1, 7, torch.device("cpu"))
    end = loader.order.end_step
    assert end is not None
    # Three of the nine batches of "polish" are gone: the last updates read the fourth to sixth again.
    assert loader.window(end - 2, end - 1, [[end - 9, end - 7]]) == [end + 4, end + 5]


@pytest.mark.parametrize("value", ["web:0.7,books:0.3", PHASES], ids=["weights", "phases"])
def test_a_stopped_run_goes_on_to_the_same_weights(start_run, shelf, tmp_path, joined_val, value):
    changes = {"architecture": {"dropout": 0.1}, "accumulation_steps": 2, "batch_size": 2}
    changes |= {"epochs": 1.0, "validate_on": joined_val}
    train_on = open_mixed(shelf, tmp_path, value)
    start_run(**changes, train_on=train_on, run_name="whole")
    whole = log_of(tmp_path / "whole")
    if value == PHASES:
        phases = [row["phase"] for row in whole if row["kind"] == "train"]
        first_of_polish = phases.index("polish")
        assert set(phases[:first_of_polish]) == {"broad"} and phases[first_of_polish:] == ["polish"] * 9
        stops = [first_of_polish - 2, first_of_polish, first_of_polish + 4]  # within, at the border, within
    else:
        stops = [3, 11]
    order = Loader(train_on, 2, 2, 1337, torch.device("cpu")).order
    for stop in stops:
        name = f"stopped_{stop}"
        run = {**changes, "train_on": open_mixed(shelf, tmp_path, value), "run_name": name}
        # The last step of a phase may have fewer micro-batches than others.
        calls = sum(-(-len(order.rows_of_step(step)) // 2) for step in range(stop))
        code = start_run(**run, wrap_objective=lambda objective, calls=calls: Stopping(objective, calls))
        assert code == 128 + signal.SIGTERM
        assert log_of(tmp_path / name)[-1]["step"] == stop
        assert start_run(**run) == 0
        assert log_of(tmp_path / name) == whole
        expected = load_checkpoint(tmp_path / "whole.pth").weights
        found = load_checkpoint(tmp_path / f"{name}.pth").weights
        assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


def test_the_loss_of_each_source_against_its_own_rows(start_run, shelf, tmp_path, joined_val):
    """In float64, where the sum over sources must be the loss to the last digits that matter."""
    train_on = open_mixed(shelf, tmp_path, "web:1,books:1")
    start_run(train_on=train_on, validate_on=joined_val, dtype=torch.float64, max_steps=6, accumulation_steps=2)
    rows = read_metrics(tmp_path / "pretrain_32" / "metrics.jsonl")
    order = Loader(train_on, 4, 2, 1337, torch.device("cpu")).order
    for row in rows:
        if row["kind"] == "train":
            batch = train_on.batch(order.rows_of_step(row["step"] - 1))
        else:
            batch = joined_val.batch(np.arange(joined_val.num_rows))
        sources = batch["source_ids"][batch["targets"] != -100]
        counts = {name: int((sources == number).sum()) for number, name in enumerate(train_on.sources)}
        assert set(row["loss_by_source"]) == {name for name, count in counts.items() if count}
        total = sum(loss * counts[name] for name, loss in row["loss_by_source"].items())
        assert total / len(sources) == pytest.approx(row["loss"], rel=1e-12)

    # The last validation, source by source, with all other targets taken away.
    model = load_checkpoint(tmp_path / "pretrain_32.pth").build_model().double().eval()
    batch = {name: torch.from_numpy(array) for name, array in joined_val.batch(np.arange(joined_val.num_rows)).items()}
    for number, name in enumerate(joined_val.sources):
        targets = batch["targets"].masked_fill(batch["source_ids"] != number, -100)
        logits = model(batch["input_ids"]).logits
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
        assert rows[-1]["loss_by_source"][name] == pytest.approx(expected, rel=1e-6)
    report = (tmp_path / "pretrain_32" / "report.md").read_text()
    for name, loss in rows[-1]["loss_by_source"].items():
        assert f"| {name} | {rows[0]['loss_by_source'][name]:.4f} | {loss:.4f} |" in report


def test_telling_sources_apart_changes_no_bit(start_run, shelf, tmp_path, monkeypatch):
    web = PackedSet.open(shelf / "web")
    start_run(train_on=web, max_steps=5, run_name="apart")
    assert "loss_by_source" in log_of(tmp_path / "apart")[1]
    monkeypatch.setattr("trainer.look.LOGGED_SOURCES", 1)
    start_run(train_on=web, max_steps=5, run_name="together")
    assert not any("loss_by_source" in row for row in log_of(tmp_path / "together"))
    apart, together = (load_checkpoint(tmp_path / f"{name}.pth").weights for name in ("apart", "together"))
    assert all(torch.equal(tensor, together[name]) for name, tensor in apart.items())


def test_one_source_is_not_told_apart(start_run, tmp_path, capsys):
    start_run(max_steps=2)
    assert "loss_by_source" not in (tmp_path / "pretrain_32" / "metrics.jsonl").read_text()
    assert "by source" not in (tmp_path / "pretrain_32" / "report.md").read_text() + capsys.readouterr().out


def test_the_run_prints_and_keeps_what_it_reads(start_run, shelf, tmp_path, joined_val, capsys):
    train_on = open_mixed(shelf, tmp_path, PHASES)
    start_run(train_on=train_on, validate_on=joined_val, epochs=1.0)
    output = capsys.readouterr().out
    report = (tmp_path / "pretrain_32" / "report.md").read_text()
    checkpoint = load_checkpoint(tmp_path / "pretrain_32.pth")
    # The table's sum is what the loop counted.
    assert f" steps, {checkpoint.tokens:,} trained tokens" in output
    plan = Loader(train_on, 4, 1, 1337, torch.device("cpu")).order.plan(checkpoint.step)
    assert sum(each.tokens for each in plan) == checkpoint.tokens
    for each in plan:
        assert f"| {each.set_name} | {each.asked} | {each.rows:,} | {each.tokens:,} |" in report
    [broad] = [line for line in output.splitlines() if line.split()[:1] == ["broad"]]
    assert "900 tokens" in broad
    assert "validation loss by source" in output and "validation loss by source" in report
    data = checkpoint.lineage["data"]
    assert data["name"] == "mix.yaml" and data["fingerprint"] == train_on.fingerprint
    assert data["sets"] == [{"name": each.folder.name, "fingerprint": each.fingerprint} for each in train_on.sets]


def test_another_mixture_is_another_run(start_run, shelf, tmp_path):
    start_run(train_on=open_mixed(shelf, tmp_path, "web:1,books:1"), max_steps=3)
    with pytest.raises(UserError, match=r"holds another run \(data_path was"):
        start_run(train_on=open_mixed(shelf, tmp_path, "web:1,books:2"), max_steps=3)
    assert start_run(train_on=open_mixed(shelf, tmp_path, f"{shelf}/web:1.0,books:1"), max_steps=3) == 0


def test_data_workers_change_nothing(start_run, shelf, tmp_path):
    train_on = open_mixed(shelf, tmp_path, PHASES)
    start_run(train_on=train_on, epochs=1.0, run_name="none")
    start_run(train_on=train_on, epochs=1.0, run_name="two", num_workers=2)
    assert log_of(tmp_path / "none") == log_of(tmp_path / "two")


# ---- validation sets ----


def test_validation_sets_are_those_beside_the_sets(shelf, tmp_path, capsys):
    train_set, val_set = open_sets(DataSettings("web:1,books:2", packed_dir=str(shelf)), "none", "pretrain")
    assert isinstance(train_set, MixedSet) and isinstance(val_set, JoinedSets)
    assert [each.folder.name for each in val_set.sets] == ["web_val", "books_val"]
    assert capsys.readouterr().err == ""
    _, val_set = open_sets(DataSettings("web", packed_dir=str(shelf)), "none", "pretrain")
    assert isinstance(val_set, PackedSet) and val_set.folder.name == "web_val"
    given = DataSettings("web:1,books:2", val_path="books_val", packed_dir=str(shelf))
    _, val_set = open_sets(given, "none", "pretrain")
    assert isinstance(val_set, PackedSet) and val_set.folder.name == "books_val"


def test_a_missing_validation_set_is_said(shelf, tmp_path, capsys):
    data = DataSettings("web:1,web_val:1", packed_dir=str(shelf))
    _, val_set = open_sets(data, "none", "pretrain")
    assert val_set is not None and val_set.folder.name == "web_val"
    assert "validating without web_val_val" in capsys.readouterr().err
    _, val_set = open_sets(DataSettings("web_val:1,books_val:1", packed_dir=str(shelf)), "none", "pretrain")
    assert val_set is None


def test_the_log_is_json_that_others_read(start_run, shelf, tmp_path, joined_val):
    start_run(train_on=open_mixed(shelf, tmp_path, "web:1,books:1"), validate_on=joined_val, max_steps=2)
    for line in (tmp_path / "pretrain_32" / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert all(isinstance(loss, float) for loss in row["loss_by_source"].values())
