"""What a stage opens: a set whose rows `--test_size` holds out, and what a run on such a part says of itself."""

import math
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from dataset.packing import PackedSet, PackedSetWriter, Piece
from dataset.row_subset import RowSubset
from model.checkpoint import load_checkpoint
from model.errors import UserError
from model.files import read_json
from model.tokenizer import ChatTokenizer
from tests.tiny_chain import assert_same_weights
from trainer.report import data_table
from trainer.samples import sample_prompts
from trainer.settings import DataSettings
from trainer.stages import open_sets

MAX_SEQ_LEN = 24


@pytest.fixture(scope="module")
def conversations(tokenizer: ChatTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `chat` (24 rows of two conversations, of two sources) and, of pairs, `preferences` (8 rows)."""
    folder = tmp_path_factory.mktemp("conversations")
    random = np.random.default_rng(3)
    for name, kind, num_rows in (("chat", "sft", 24), ("preferences", "dpo", 8)):
        (folder / name).mkdir()
        writer = PackedSetWriter(folder / name, kind, MAX_SEQ_LEN, tokenizer.vocab_size, pad_token_id=1)
        for _ in range(num_rows):
            pieces = []
            for place in range(2):
                tokens = random.integers(100, 110, 10).astype(np.uint16)
                pieces.append(Piece(tokens, np.arange(10) > 4, place, 0 if kind == "sft" else 2 + place))
            writer.add_row(pieces)
        num_documents = 2 * num_rows if kind == "sft" else num_rows
        writer.finish(tokenizer, {"name": name, "sources": ["forum", "news"], "num_documents": num_documents})
    return folder


def open_parts(folder: Path, test_size: float, name: str = "chat", kind: str = "sft") -> tuple[RowSubset, RowSubset]:
    train_set, val_set = open_sets(DataSettings(name, packed_dir=str(folder), test_size=test_size), "none", kind)
    assert isinstance(train_set, RowSubset) and isinstance(val_set, RowSubset)
    return train_set, val_set


def test_rows_are_held_out_and_counted(conversations, capsys):
    train_set, val_set = open_parts(conversations, 7)
    assert (train_set.num_rows, val_set.num_rows) == (20, 4)
    line = "--test_size 7: 8 of 48 conversations are held out to validate on (4 of 24 rows)\n"
    assert capsys.readouterr().err == line
    train_set, val_set = open_parts(conversations, 0.25, "preferences", "dpo")
    assert (train_set.num_rows, val_set.num_rows) == (6, 2)
    line = "--test_size 0.25: 2 of 8 pairs are held out to validate on (2 of 8 rows)\n"
    assert capsys.readouterr().err == line


def test_a_validation_set_beside_it_is_left_alone(conversations, tmp_path, capsys):
    for name in ("chat", "chat_val"):
        shutil.copytree(conversations / "chat", tmp_path / name)
    val_set = open_parts(tmp_path, 7)[1]
    assert val_set.packed.folder.name == "chat"
    assert "--test_size 7: chat_val, which lies beside the set, is not used\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data_path", "kind", "words"),
    [
        ("chat", "pretrain", r"pretraining text may lie in several rows; .*data_process\.py pretrain … --val_share"),
        ("chat:1,chat_val:2", "sft", r"chat:1,chat_val:2 is a mixture; .*data_process\.py sft … --val_share"),
        ("chat", "dpo", "a sft set, but this stage needs a dpo one"),
        ("nothing", "sft", "no such packed set"),
    ],
)
def test_what_cannot_be_parted(conversations, tmp_path, data_path, kind, words):
    for name in ("chat", "chat_val"):
        shutil.copytree(conversations / "chat", tmp_path / name)
    with pytest.raises(UserError, match=words):
        open_parts(tmp_path, 7, data_path, kind)


@pytest.mark.parametrize("test_size", [0, -1, -0.5, 1.5, 400.5, math.inf, math.nan])
def test_sizes_that_cannot_be(test_size):
    with pytest.raises(UserError, match=r"--test_size: found .*, expected a whole number, or a share between 0 and 1"):
        DataSettings("chat", test_size=test_size)


def test_two_validation_sets_contradict_each_other():
    with pytest.raises(UserError, match="--test_size: the validation set is named by --val_path"):
        DataSettings("chat", val_path="other", test_size=7)


def test_a_run_says_what_it_trained_on(conversations, start_run, tmp_path):
    train_set, val_set = open_parts(conversations, 7)
    assert start_run(train_on=train_set, validate_on=val_set, epochs=1.0) == 0
    checkpoint = load_checkpoint(tmp_path / "pretrain_32.pth")
    assert checkpoint.tokens == train_set.meta["num_targets"] == 20 * 10
    whole = PackedSet.open(conversations / "chat")
    assert checkpoint.lineage["data"] == {
        "name": "chat",
        "fingerprint": train_set.fingerprint,
        "part_of": {"fingerprint": whole.fingerprint, "num_rows": 24},
    }
    rows = data_table({"training": train_set, "validation": val_set}).rows
    assert rows[0][:6] == ["training", "chat", "forum, news", "20", "400", "200"]
    assert rows[1][:6] == ["validation", "chat (held out)", "forum, news", "4", "80", "40"]
    report = (tmp_path / "pretrain_32" / "report.md").read_text()
    assert train_set.fingerprint in report and val_set.fingerprint in report
    assert sample_prompts(val_set) != sample_prompts(train_set)


def test_another_part_is_another_run(conversations, start_run, tmp_path):
    whole = PackedSet.open(conversations / "chat")
    train_set, val_set = open_parts(conversations, 7)
    start_run(train_on=train_set, validate_on=val_set, max_steps=2)
    assert start_run(train_on=open_parts(conversations, 8)[0], max_steps=2) == 0, "the same four rows"
    for other in (open_parts(conversations, 9)[0], whole):
        with pytest.raises(UserError, match=r"holds another run \(test_size was 4 of 24 rows held out, fingerprint "):
            start_run(train_on=other, validate_on=val_set, max_steps=2)
    identity = read_json(tmp_path / "pretrain_32" / "run.json")["identity"]
    assert identity["data_path"] == whole.fingerprint


def test_a_stopped_run_goes_on_with_data_workers(conversations, start_run, tmp_path, monkeypatch):
    train_set, val_set = open_parts(conversations, 7)
    changes = {"train_on": train_set, "validate_on": val_set, "epochs": 3.0}
    assert start_run(**changes, run_name="whole") == 0
    calls = 0

    class Stopping:
        def __init__(self, objective):
            self.objective, self.document_mask = objective, objective.document_mask
            self.loss_unit = objective.loss_unit

        def __repr__(self):
            return repr(self.objective)

        def __call__(self, model, batch):
            nonlocal calls
            calls += model.training
            if model.training and calls == 8:
                os.kill(os.getpid(), signal.SIGTERM)
            return self.objective(model, batch)

    assert start_run(**changes, num_workers=2, wrap_objective=Stopping) == 128 + signal.SIGTERM
    assert start_run(**changes, num_workers=2) == 0
    assert_same_weights(tmp_path / "pretrain_32.pth", tmp_path / "whole.pth")
