"""`5-dpo_train.py`: what it learns and hands on, how it goes on, and what it refuses."""

import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import load_checkpoint
from tests.tiny_chain import DPO, assert_same_weights, contents
from trainer.metrics import read_metrics

SHORT: list[object] = [*DPO, "--max_steps", 8, "--warmup_iters", 2, "--log_interval", 1, "--num_threads", 1]
SHORT += ["--eval_interval", 4, "--sample_interval", -1, "--learning_rate", 3e-3]
LONG = ["--max_steps", 20]
ADAPTER = ["--lora_rank", 4, "--lora_dropout", 0.1]


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """A script that runs in this process sets the number of its threads; its curves would cost more than its steps."""
    before = torch.get_num_threads()
    monkeypatch.setattr("trainer.journal.draw_curves", lambda *_: None)
    yield
    torch.set_num_threads(before)


def rows(folder: Path, run: str = "rl_32", kind: str = "train") -> list[dict[str, Any]]:
    return [row for row in read_metrics(folder / run / "metrics.jsonl") if row["kind"] == kind]


def losses(folder: Path, run: str = "rl_32") -> list[float]:
    found = rows(folder, run)
    assert [row["step"] for row in found] == list(range(1, len(found) + 1)), "each update once"
    return [row["loss"] for row in found]


def reference_files(workspace: Path) -> list[str]:
    return sorted(path.name for path in (workspace / "packed").glob("*/reference/*"))


def test_a_tuned_model_learns_what_is_preferred(run_here, workspace):
    finished = run_here("5-dpo_train.py", *SHORT, *LONG, folder=workspace)
    assert finished.code == 0, finished.errors
    assert "length: 20 steps" in finished.output
    assert "pairs: log-probabilities of " in finished.errors and "pairs_val: log-probabilities of " in finished.errors
    parent, child = (load_checkpoint(workspace / "out" / name) for name in ("full_sft_32.pth", "rl_32.pth"))
    assert (child.stage, child.step, child.adapter) == ("rl", 20, None)
    assert (child.config, child.tokenizer_files) == (parent.config, parent.tokenizer_files)
    assert child.lineage["parent"]["digest"] == parent.digest
    validations = rows(workspace / "out", kind="validation")
    first, last = validations[0], validations[-1]
    # Before the first update the model is its own reference: each pair is a coin's throw.
    assert first["loss"] == pytest.approx(math.log(2)) and first["accuracy"] == 0.5
    assert first["kl"] == pytest.approx(0, abs=1e-6) and first["reward_margin"] == pytest.approx(0, abs=1e-5)
    assert last["loss"] < 0.9 * first["loss"] and last["accuracy"] > 0.9 and last["kl"] > 0.001
    assert losses(workspace / "out")[-1] < 0.9 * losses(workspace / "out")[0]
    answer = run_here("2-eval.py", "--prompt", "the capital", "--max_new_tokens", 5, folder=workspace)
    assert answer.code == 0, answer.errors


def test_without_a_validation_set_the_drift_is_still_watched(run_here, workspace):
    shutil.rmtree(workspace / "packed" / "pairs_val")
    finished = run_here("5-dpo_train.py", *SHORT, folder=workspace)
    assert finished.code == 0, finished.errors
    assert rows(workspace / "out", kind="validation") == []
    measured = rows(workspace / "out", kind="measured")
    assert [row["step"] for row in measured] == [0, 4, 8]
    assert measured[0]["kl"] == pytest.approx(0, abs=1e-6) and measured[-1]["kl"] > 1e-5
    assert {"chosen_drop", "answer_tokens"} <= measured[-1].keys()
    assert "measured on the training set" in (workspace / "out" / "rl_32" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("loss", ["ipo", "hinge", "simpo", "orpo"])
def test_other_losses_fall(run_here, workspace, loss):
    alone = [] if loss == "orpo" else ["--sft_weight", 0]
    finished = run_here("5-dpo_train.py", *SHORT, *LONG, "--loss", loss, *alone, folder=workspace)
    assert finished.code == 0, finished.errors
    first, *_, last = rows(workspace / "out", kind="validation")
    assert last["loss"] < first["loss"] and last["reward_margin"] > first["reward_margin"]
    assert ("sft_loss" in first) == (loss == "orpo"), "what is weighed is seen on held-out pairs too"
    assert ("sft_loss" in rows(workspace / "out")[0]) == (loss == "orpo"), "ORPO's own term"
    assert bool(reference_files(workspace)) == (loss not in ("simpo", "orpo"))


# ---- the reference --------------------------------------------------------------------------------------------


def test_live_and_cached_learn_the_same(run_here, workspace):
    for name, more in (("cached", ["--num_workers", 1]), ("live", ["--reference", "live"])):
        finished = run_here("5-dpo_train.py", *SHORT, *more, "--run_name", name, folder=workspace)
        assert finished.code == 0, finished.errors
        assert len(reference_files(workspace)) == 4, "two sets, an array and a note each"
    cached, live = (losses(workspace / "out", name) for name in ("cached", "live"))
    assert len(cached) == 8 and cached == pytest.approx(live, rel=1e-5)
    validations = [[row["loss"] for row in rows(workspace / "out", name, "validation")] for name in ("cached", "live")]
    assert validations[0] == pytest.approx(validations[1], rel=1e-5)


def test_the_next_run_asks_no_reference(run_here, workspace):
    assert run_here("5-dpo_train.py", *SHORT, folder=workspace).code == 0
    before = {name: content for name, content in contents(workspace).items() if name.startswith("packed")}
    again = run_here("5-dpo_train.py", *SHORT, "--loss", "ipo", "--run_name", "again", folder=workspace)
    assert again.code == 0 and "log-probabilities" not in again.errors
    assert {name: content for name, content in contents(workspace).items() if name.startswith("packed")} == before


def test_where_the_reference_is_kept_is_no_other_run(run_here, workspace):
    assert run_here("5-dpo_train.py", *SHORT, folder=workspace).code == 0
    live = run_here("5-dpo_train.py", *SHORT, "--reference", "live", folder=workspace)
    assert live.code == 0 and "already done" in live.output


def test_a_dry_run_writes_nothing(run_here, workspace):
    before = contents(workspace)
    finished = run_here("5-dpo_train.py", *SHORT, "--dry_run", folder=workspace)
    assert finished.code == 0 and "dry run" in finished.output, finished.errors
    assert contents(workspace) == before


def test_a_mixture_of_pairs(run_here, workspace):
    (workspace / "more.json").write_text('[{"prompt": "a sea", "chosen": "is", "rejected": "it"}]', encoding="utf-8")
    packing = ["--data_path", "more.json", "--tokenizer", "tokenizer", "--packed_dir", "packed", "--max_seq_len", 64]
    assert run_here("data_process.py", "dpo", *packing, folder=workspace).code == 0
    flags = [*SHORT, "--data_path", "packed/pairs:0.7,packed/more:0.3"]
    finished = run_here("5-dpo_train.py", *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    assert len(losses(workspace / "out")) == 8
    live = run_here("5-dpo_train.py", *flags, "--reference", "live", "--run_name", "live", folder=workspace)
    assert live.code == 0, live.errors
    assert losses(workspace / "out") == pytest.approx(losses(workspace / "out", "live"), rel=1e-5)


# ---- going on, and several processes --------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ADAPTER], ids=["all weights", "adapter"])
def test_stopped_and_gone_on_is_the_same_to_the_bit(stop_at, run_here, workspace, more):
    flags = [*SHORT, *more, "--init_from", "out/full_sft_32.pth"]
    whole = run_here("5-dpo_train.py", *flags, "--out_dir", "whole", folder=workspace)
    assert whole.code == 0, whole.errors
    stop_at(4)
    stopped = run_here("5-dpo_train.py", *flags, folder=workspace)
    assert stopped.code == 128 + signal.SIGTERM, stopped
    assert "stopped at step 5 of 8, saved" in stopped.output
    finished = run_here("5-dpo_train.py", *flags, folder=workspace)
    assert finished.code == 0 and "going on from step 5 of 8" in finished.errors
    assert_same_weights(workspace / "out" / "rl_32.pth", workspace / "whole" / "rl_32.pth")
    assert losses(workspace / "out") == losses(workspace / "whole")
    ours, theirs = (rows(workspace / folder, kind="validation") for folder in ("out", "whole"))
    assert [(row["step"], row["loss"], row["kl"]) for row in ours] == [
        (row["step"], row["loss"], row["kl"]) for row in theirs
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "of_many"),
    [
        pytest.param([], [], id="all weights"),
        pytest.param(["--lora_rank", 4], [], id="adapter"),
        pytest.param(["--optimizer", "adamw"], ["--deepspeed", "zero2", "--reference", "live"], id="zero2"),
        pytest.param(["--lora_rank", 4, "--use_dora"], ["--deepspeed", "zero3"], id="DoRA zero3"),
    ],
)
def test_two_processes_and_one_learn_the_same(run_ranks, run_here, workspace, more, of_many):
    """The two of them share the reference's work as well."""
    if of_many:
        pytest.importorskip("deepspeed")
    flags = [*SHORT, *more, "--init_from", "out/full_sft_32.pth"]
    found = run_ranks("5-dpo_train.py", *flags, *of_many, "--batch_size", 2, "--out_dir", "two", folder=workspace)
    assert [each.code for each in found] == [0, 0], found
    assert found[1].output == "" and "error" not in found[1].errors
    if "live" not in of_many:
        assert len(reference_files(workspace)) == 4
        shutil.rmtree(workspace / "packed" / "pairs" / "reference")
    alone = run_here("5-dpo_train.py", *flags, "--out_dir", "alone", folder=workspace)
    assert alone.code == 0, alone.errors
    assert losses(workspace / "two") == pytest.approx(losses(workspace / "alone"), rel=1e-5)
    for name in ("loss", "kl", "chosen_drop", "accuracy"):
        two, one = ([row[name] for row in rows(workspace / each, kind="validation")] for each in ("two", "alone"))
        assert two == pytest.approx(one, rel=1e-3 if name in ("kl", "chosen_drop") else 1e-5, abs=1e-6), name


@pytest.mark.slow
def test_the_second_process_ends_with_the_first(run_ranks, workspace):
    """Which could not write the reference's numbers."""
    (workspace / "packed" / "pairs" / "reference").write_text("a file is in its place")
    first, second = run_ranks("5-dpo_train.py", *SHORT, "--batch_size", 2, folder=workspace)
    assert (first.code, second.code) == (2, 1)
    assert first.errors.splitlines()[-1].startswith("error: packed/pairs/reference/")
    last = second.errors.splitlines()[-1]
    assert last.startswith("error: ") and "process 0 stopped (UserError: packed/pairs/reference/" in last
    assert "Traceback" not in first.errors + second.errors


# ---- adapters -------------------------------------------------------------------------------------------------


def test_an_adapter_learns_what_is_preferred(run_here, workspace):
    flags = [*SHORT, *LONG, *ADAPTER, "--learning_rate", 1e-2]
    finished = run_here("5-dpo_train.py", *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    parent, child = (load_checkpoint(workspace / "out" / name) for name in ("full_sft_32.pth", "rl_32.pth"))
    assert child.stage == "rl" and child.adapter is not None
    assert child.adapter["base_digest"] == parent.digest
    assert all(".lora_" in name for name in child.weights)
    first, *_, last = rows(workspace / "out", kind="validation")
    assert first["loss"] == pytest.approx(math.log(2)) and last["loss"] < 0.9 * first["loss"]
    answer = run_here("2-eval.py", "out/rl_32.pth", "--prompt", "paris", "--max_new_tokens", 5, folder=workspace)
    assert answer.code == 0, answer.errors


@pytest.mark.parametrize(
    ("flags", "rate"), [([], 3e-4), (ADAPTER, 1e-3), ([*ADAPTER, "--optimizer", "muon"], 1e-3)], ids=str
)
def test_rates_by_what_is_trained(run_here, workspace, flags, rate):
    without_rate = SHORT[: SHORT.index("--learning_rate")]
    assert run_here("5-dpo_train.py", *without_rate, *flags, "--max_steps", 3, folder=workspace).code == 0
    assert max(row["learning_rate"] for row in rows(workspace / "out")) == rate


def test_an_adapter_may_be_the_parent(run_here, workspace):
    """It is merged into its base first, and the whole is the reference."""
    lora = ["--data_path", "packed/chat", "--device", "cpu", "--max_steps", 3, "--lora_name", "chat"]
    assert run_here("4-lora_sft.py", *lora, "--learning_rate", 1e-2, folder=workspace).code == 0
    adapter = load_checkpoint(workspace / "out" / "lora_chat_32.pth")
    for name, more in (("whole", []), ("upon", ADAPTER)):
        flags = [*SHORT, *more, "--init_from", "out/lora_chat_32.pth", "--run_name", name]
        finished = run_here("5-dpo_train.py", *flags, folder=workspace)
        assert finished.code == 0, finished.errors
        child = load_checkpoint(workspace / "out" / f"{name}.pth")
        assert child.lineage["parent"]["digest"] == adapter.digest
        assert rows(workspace / "out", name, "validation")[0]["loss"] == pytest.approx(math.log(2))
        answer = run_here("2-eval.py", f"out/{name}.pth", "--prompt", "a", "--max_new_tokens", 2, folder=workspace)
        assert answer.code == 0, answer.errors
    parent, child = (load_checkpoint(workspace / "out" / name) for name in ("full_sft_32.pth", "whole.pth"))
    assert child.weights.keys() == parent.weights.keys()


# ---- what a user may get wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--loss", "ipo", "--label_smoothing", 0.1],
            "--label_smoothing: belongs to --loss sigmoid or simpo, found ipo",
        ),
        (["--label_smoothing", 0.5], "--label_smoothing: found 0.5, expected from 0 to below 0.5"),
        (["--simpo_gamma", 1], "--simpo_gamma: belongs to --loss simpo, found sigmoid; leave one of them out"),
        (["--loss", "simpo", "--simpo_gamma", -1], "--simpo_gamma: found -1.0, expected a number from 0"),
        (["--loss", "dpo"], "argument --loss: invalid choice: 'dpo'"),
        (["--loss", "orpo", "--reference", "live"], "--reference live: --loss orpo asks no reference"),
        (["--beta", 0], "--beta: found 0.0, expected a number above 0"),
        (["--beta", "nan"], "--beta: found nan, expected a number above 0"),
        (["--sft_weight", -1], "--sft_weight: found -1.0, expected a number from 0"),
        (["--document_mask", "false"], "--document_mask: the two sides of a pair are segments of one row"),
        (["--z_loss", 0.1], "--z_loss: answers are compared"),
        (["--anneal_from", "out/full_sft_32/resume/step-4"], "--anneal_from: the reference is the model that a run"),
        (["--data_path", "packed/chat"], "packed/chat: a sft set, but this stage needs a dpo one"),
        (["--val_path", "packed/chat_val"], "packed/chat_val: a sft set, but this stage needs a dpo one"),
        (["--data_path", "pairs.json"], "python data_process.py dpo --name pairs --data_path pairs.json"),
        (["--init_from", "out/none.pth"], "out/none.pth: no such checkpoint file"),
        (["--dim", 64], "--dim: this stage takes the architecture from its parent"),
        (["--lora_rank", -1], "--lora_rank: found -1, expected at least 1"),
        (["--lora_alpha", 32], "--lora_alpha: belongs to an adapter; pass --lora_rank too, or leave the flag out"),
        (["--use_dora"], "--use_dora: belongs to an adapter"),
        (["--reference", "none"], "argument --reference: invalid choice"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_mistakes_end_in_one_line(refused, flags, words):
    assert words in refused("5-dpo_train.py", *DPO, *flags)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--loss", "ipo"], "objective was "),
        (["--beta", 0.2], "objective was "),
        (["--label_smoothing", 0.1], "objective was "),
        (["--sft_weight", 0.5], "objective was "),
        (["--lora_rank", 4], "adapter"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_another_objective_is_another_run(run_here, refused, workspace, flags, words):
    assert run_here("5-dpo_train.py", *SHORT, "--max_steps", 2, folder=workspace).code == 0
    line = refused("5-dpo_train.py", *SHORT, "--max_steps", 2, *flags)
    assert "out/rl_32: holds another run (" in line and words in line
