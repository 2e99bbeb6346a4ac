"""How long a run is, what it starts from, how it computes: flags of the training scripts, each in a small run."""

import itertools
import json
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.checkpoint import load_checkpoint
from model.files import read_json
from tests.tiny_chain import FULL_SFT, PRETRAIN, SIZES, assert_same_weights, contents
from trainer.metrics import read_metrics
from trainer.state import load_step

FLAGS: list[object] = [*PRETRAIN, *SIZES, "--num_threads", 1, "--log_interval", 1, "--run_name", "new"]
STEPS = Path("out", "new", "resume")
PARENT_STEP = "out/pretrain_32/resume/step-4"


@pytest.fixture(autouse=True)
def threads():
    """A script that runs in this process sets the number of its threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def rows(workspace: Path, kind: str = "train") -> list[dict[str, Any]]:
    return [row for row in read_metrics(workspace / "out" / "new" / "metrics.jsonl") if row["kind"] == kind]


def losses(workspace: Path) -> list[float]:
    return [row["loss"] for row in rows(workspace)]


def saved_steps(workspace: Path) -> set[str]:
    return {path.name for path in (workspace / STEPS).glob("step-*")}


# ---- how long ----


def test_minutes_are_turned_into_steps_once(run_here, workspace, stop_at, monkeypatch):
    flags = [*FLAGS, "--max_minutes", 0.2, "--save_total_limit", 0]
    stop_at(22)
    stopped = run_here("1-pretrain.py", *flags, folder=workspace)
    assert stopped.code == 128 + signal.SIGTERM, stopped.errors
    total = int(re.search(r"--max_minutes 0.2: ([\d,]+) steps", stopped.errors)[1].replace(",", ""))
    assert f"stopped at step 23 of {total}, saved" in stopped.output
    # Written down as soon as it is known: a kill after that would not decide it again.
    assert load_step(workspace / STEPS / "step-20").state.total_steps == total
    monkeypatch.undo()
    monkeypatch.setattr("trainer.journal.Journal.steps_that_fit", None)  # may not be called
    finished = run_here("1-pretrain.py", *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    assert f"going on from step 23 of {total}" in finished.errors
    assert load_checkpoint(workspace / "out" / "new.pth").step == total
    assert "already done" in run_here("1-pretrain.py", *flags, folder=workspace).output


def test_a_run_that_is_stopped_before_it_is_timed(run_here, workspace, stop_at, monkeypatch):
    flags = [*FLAGS, "--max_minutes", 0.0001]
    stop_at(17)
    stopped = run_here("1-pretrain.py", *flags, folder=workspace)
    assert stopped.code == 128 + signal.SIGTERM, stopped.errors
    assert "stopped at step 18 of ?, saved" in stopped.output
    monkeypatch.undo()
    finished = run_here("1-pretrain.py", *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    # Twenty more, because another process may be on another machine; then the time has long been over.
    assert load_checkpoint(workspace / "out" / "new.pth").step == 38
    assert rows(workspace, "validation")[-1]["step"] == 38, "the end is an end like any other"


def test_tokens_are_turned_into_steps(run_here, workspace):
    finished = run_here("1-pretrain.py", *FLAGS, "--max_tokens", 1000, folder=workspace)
    assert finished.code == 0, finished.errors
    tokens = [row["tokens"] for row in rows(workspace)]
    assert abs(tokens[-1] - 1000) <= (tokens[-1] - tokens[-2]) / 2
    assert load_checkpoint(workspace / "out" / "new.pth").tokens == tokens[-1]


# ---- what it starts from ----


def test_a_stable_run_is_annealed_on_other_data(run_here, workspace):
    flags = [*FLAGS, "--schedule", "wsd", "--max_steps", 20, "--warmup_iters", 2, "--save_total_limit", 0]
    stable = run_here("1-pretrain.py", *flags, "--save_interval", 8, folder=workspace)
    assert stable.code == 0, stable.errors
    rates = [row["learning_rate"] for row in rows(workspace)]
    assert rates[0] < rates[1] == rates[15] > rates[16] > rates[19], "4 of 20 updates decay"
    step_16 = workspace / STEPS / "step-16"
    flags = ["--data_path", "packed/text_val", "--device", "cpu", "--batch_size", 2, "--log_interval", 1]
    flags += ["--anneal_from", step_16, "--max_steps", 4, "--schedule", "linear", "--save_total_limit", 0]
    flags += ["--num_threads", 1]
    annealed = run_here("1-pretrain.py", *flags, "--run_name", "annealed", folder=workspace)
    assert annealed.code == 0, annealed.errors
    begin, origin = load_step(workspace / "out" / "annealed" / "resume" / "step-0"), load_step(step_16)
    assert all(
        torch.equal(tensor, origin.tensors["weights"][name]) for name, tensor in begin.tensors["weights"].items()
    )
    for name, state in origin.tensors["optimizer"].items():
        assert state.keys() == begin.tensors["optimizer"][name].keys()
        assert all(torch.equal(value, begin.tensors["optimizer"][name][key]) for key, value in state.items()), name
    log = [row for row in read_metrics(workspace / "out" / "annealed" / "metrics.jsonl") if row["kind"] == "train"]
    assert log[0]["learning_rate"] == pytest.approx(rates[15] * 0.775), "no warm-up: down from where it was"
    parent = load_checkpoint(workspace / "out" / "annealed.pth").lineage["parent"]
    assert (parent["stage"], parent["step"]) == ("pretrain", 16)


def test_annealing_mistakes(refused, workspace):
    step = ["--anneal_from", "out/full_sft_32/resume/step-4"]
    flags = ["--device", "cpu", "--run_name", "new"]
    line = refused("3-full_sft.py", *flags, *step, "--data_path", "packed/foreign")
    assert "packed/foreign: was made with another tokenizer than --anneal_from" in line
    line = refused("3-full_sft.py", *flags, *step, "--data_path", "packed/longer")
    assert "packed/longer: has rows of 128 tokens" in line
    line = refused("3-full_sft.py", *flags, *step, "--data_path", "packed/chat", "--init_from", "out/pretrain_32.pth")
    assert "--anneal_from: brings its own weights" in line
    line = refused("3-full_sft.py", *flags, "--data_path", "packed/chat", "--anneal_from", "out/none")
    assert "out/none: no such folder; expected a saved step" in line
    other = [*step, "--data_path", "packed/chat"]
    line = refused("3-full_sft.py", *flags, *other, "--optimizer", "adamw")
    assert "--optimizer adamw: --anneal_from out/full_sft_32/resume/step-4 has the state of muon" in line
    line = refused("3-full_sft.py", *flags, *other, "--warmup_iters", 7)
    assert "--warmup_iters 7: --anneal_from goes on without" in line
    line = refused("1-pretrain.py", *FLAGS, "--anneal_from", PARENT_STEP)
    assert "--dim: the architecture comes from --anneal_from" in line


def test_an_older_step_may_be_gone_back_to(run_here, workspace, stop_at, monkeypatch):
    flags = [*FLAGS, "--max_steps", 12, "--save_interval", 3, "--save_total_limit", 0, "--eval_interval", 12]
    assert run_here("1-pretrain.py", *flags, "--out_dir", "whole", folder=workspace).code == 0
    stop_at(10)
    assert run_here("1-pretrain.py", *flags, folder=workspace).code == 128 + signal.SIGTERM
    assert saved_steps(workspace) == {"step-0", "step-3", "step-6", "step-9", "step-11"}
    monkeypatch.undo()
    stop_at(6)
    going_back = run_here("1-pretrain.py", *flags, "--resume", STEPS / "step-3", folder=workspace)
    assert going_back.code == 128 + signal.SIGTERM
    assert "going on from step 3 of 12" in going_back.errors
    assert saved_steps(workspace) == {"step-0", "step-3", "step-6", "step-7"}, "the future it left is gone"
    monkeypatch.undo()
    finished = run_here("1-pretrain.py", *flags, folder=workspace)
    assert "going on from step 7 of 12" in finished.errors
    assert [row["step"] for row in rows(workspace)] == list(range(1, 13))
    assert_same_weights(workspace / "out" / "new.pth", workspace / "whole" / "new.pth")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max_steps", 4, "--dim", 64], "architecture.dim was 32, now 64"),
        (["--max_steps", 4, "--data_path", "packed/text_val"], "data_path was"),
        (["--max_steps", 4, "--learning_rate", 1e-4], "learning_rate was"),
        (["--max_steps", 5], "length was 4 steps, now 5 steps"),
    ],
)
def test_a_step_of_another_run_is_refused(refused, flags, words):
    assert words in refused("1-pretrain.py", *FLAGS, "--resume", PARENT_STEP, *flags)


def test_a_step_of_another_stage_or_none_is_refused(refused, workspace):
    step = "out/full_sft_32/resume/step-4"
    line = refused("1-pretrain.py", *FLAGS, "--max_steps", 4, "--resume", step)
    assert f"{step}: holds another run (stage was full_sft, now pretrain)" in line
    assert "packed/text: not a saved step" in refused("1-pretrain.py", *FLAGS, "--resume", "packed/text")
    spoilt = workspace / PARENT_STEP / "tensors.pt"
    spoilt.write_bytes(spoilt.read_bytes()[:-1])
    assert "tensors.pt: was altered" in refused("1-pretrain.py", *FLAGS, "--max_steps", 4, "--resume", PARENT_STEP)


# ---- how it computes ----


@pytest.mark.parametrize("script", ["1-pretrain.py", "3-full_sft.py"])
def test_a_dry_run_writes_nothing(run_here, workspace, script):
    before = contents(workspace)
    flags = FLAGS if script == "1-pretrain.py" else [*FULL_SFT, "--run_name", "new"]
    finished = run_here(script, *flags, "--dry_run", folder=workspace)
    assert finished.code == 0, finished.errors
    assert "dry run: nothing was trained or written" in finished.output
    assert "a step takes" in finished.output
    assert contents(workspace) == before


def test_a_dry_run_says_how_long_all_steps_take(run_here, workspace, monkeypatch):
    clock = itertools.count(0.0, 2.0)  # looked at before and after each update
    monkeypatch.setattr("trainer.forecast.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    finished = run_here("1-pretrain.py", *FLAGS, "--max_steps", 100, "--dry_run", folder=workspace)
    assert finished.code == 0, finished.errors
    assert re.search(r"a step takes\W+2\.000 s", finished.output)
    assert re.search(r"expected time\W+3 min 20 s", finished.output)


def test_the_batch_may_be_left_to_the_machine(run_here, workspace, monkeypatch):
    """One row at a time or four at once: the same updates."""
    flags = [*FLAGS, "--max_steps", 5, "--batch_size", "auto"]
    whole = run_here("1-pretrain.py", *flags, "--out_dir", "whole", folder=workspace)
    assert "a step: 4 rows (4 at a time)" in whole.output
    monkeypatch.setattr("trainer.plan.automatic_micro_batch", lambda setup, rows, memory: 1)
    assert "a step: 4 rows (1 at a time" in run_here("1-pretrain.py", *flags, folder=workspace).output
    ours, theirs = (read_metrics(workspace / each / "new" / "metrics.jsonl") for each in ("out", "whole"))
    found, expected = ([row["loss"] for row in each if row["kind"] == "train"] for each in (ours, theirs))
    assert len(found) == 5 and found == pytest.approx(expected, rel=1e-5)
    launch = read_json(workspace / "out" / "new" / "run.json")["launch"]
    assert launch == {"batch_size": 1, "accumulation_steps": 4, "world_size": 1}


def test_activations_may_be_computed_again(run_here, workspace):
    flags = [*FLAGS, "--max_steps", 5, "--dropout", 0.1]
    assert run_here("1-pretrain.py", *flags, "--gradient_checkpointing", folder=workspace).code == 0
    assert run_here("1-pretrain.py", *flags, "--out_dir", "whole", folder=workspace).code == 0
    whole = [
        row["loss"] for row in read_metrics(workspace / "whole" / "new" / "metrics.jsonl") if row["kind"] == "train"
    ]
    assert len(whole) == 5 and losses(workspace) == pytest.approx(whole, rel=1e-6)


# ---- what contradicts itself ----


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max_steps", 4, "--max_tokens", 9], "--max_tokens: the run's length is said by --max_steps already"),
        (["--decay_share", 0.3], "--decay_share: belongs to --schedule wsd, found cosine"),
        (["--init_from", "a.pth", "--anneal_from", "b"], "--anneal_from: brings its own weights"),
        (["--overwrite", "--resume", "a/step-3"], "--resume a/step-3: --overwrite starts anew"),
        (["--deepspeed", "none.json"], "none.json: "),
        (["--deepspeed", "zero9"], "--deepspeed: found 'zero9', expected zero1"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_contradictions(refused, flags, words):
    assert words in refused("1-pretrain.py", *FLAGS, *flags)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "cannot meet the other processes at None:None"),
        ({"WORLD_SIZE": "9999", "LOCAL_WORLD_SIZE": "9999"}, "launched with 9999 processes on this machine, which has"),
    ],
)
def test_a_launch_that_cannot_be(refused, monkeypatch, environment, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert words in refused("1-pretrain.py", *FLAGS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dtype", "float64"], "--dtype float64: DeepSpeed keeps weights in float32"),
        (["--dtype", "float16"], "--dtype float16: "),
        (["--optimizer", "muon"], "--optimizer muon: under DeepSpeed"),
    ],
    ids=["float64", "float16", "muon"],
)
def test_what_deepspeed_cannot_do(run_script, workspace, flags, words):
    """In processes of their own: what joins others cannot leave them again."""
    before = contents(workspace)
    finished = run_script("1-pretrain.py", *FLAGS, "--deepspeed", "zero1", *flags, folder=workspace)
    assert finished.code == 2
    [line] = [line for line in finished.errors.splitlines() if not line.startswith("optimizer: ")]
    assert line.startswith(f"error: {words}")
    assert finished.output == "" and contents(workspace) == before


@pytest.mark.slow
def test_a_mistake_in_a_deepspeed_file_is_found_before_anything_is_written(run_script, workspace):
    own = {"zero_optimization": {"stage": 2, "offload_optimizer": "cpu"}}
    (workspace / "own.json").write_text(json.dumps(own))
    before = contents(workspace)
    finished = run_script("1-pretrain.py", *FLAGS, "--deepspeed", "own.json", folder=workspace)
    assert finished.code == 2
    [line] = finished.errors.splitlines()
    assert line.startswith("error: own.json: zero_optimization.offload_optimizer: found 'cpu'; expected an object")
    assert finished.output == "" and contents(workspace) == before
