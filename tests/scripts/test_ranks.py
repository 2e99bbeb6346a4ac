"""Several processes without a launcher: what one of them suffers, and what becomes of the others and of the run."""

import json
import math
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import load_checkpoint
from tests.accidents import Ranks, load_libraries
from tests.full_disk import mounted
from tests.tiny_chain import PRETRAIN, SIZES, assert_same_weights, contents
from trainer.state import load_newest

FLAGS: list[object] = ["--data_path", "packed/text", "--device", "cpu", *SIZES, "--dropout", 0.1, "--batch_size", 2]
FLAGS += ["--max_steps", 12, "--save_interval", 3, "--log_interval", 1, "--eval_interval", 6, "--num_threads", 1]
FLAGS += ["--warmup_iters", 3, "--out_dir", "new"]
RESUME = Path("new", "pretrain_32", "resume")
BY_THE_CLOCK = ("seconds", "tokens_per", "mfu", "memory")

StartRanks = Callable[..., Ranks]


@pytest.fixture(scope="module")
def start_ranks(repository: Path) -> Iterator[StartRanks]:
    load_libraries(repository)
    started: list[Ranks] = []

    def start(folder: Path, *flags: object, number: int = 2, accident: str = "nothing", script="1-pretrain.py"):
        started.append(Ranks(folder, repository / script, [*FLAGS, *flags], number, accident))
        return started[-1]

    yield start
    for ranks in started:
        ranks.kill()


@pytest.fixture(scope="module")
def undisturbed(start_ranks: StartRanks, grown: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The out_dir of twelve updates on two ranks in one go."""
    out_dir = tmp_path_factory.mktemp("undisturbed")
    first, second = start_ranks(grown, "--out_dir", out_dir).finished()
    assert (first.code, second.code) == (0, 0), first.errors + second.errors
    assert (second.output, second.errors) == ("", ""), "only the main process speaks"
    return out_dir


def log(out_dir: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    rows = [json.loads(line) for line in (out_dir / "pretrain_32" / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(BY_THE_CLOCK)} for row in rows]


def losses(out_dir: Path) -> list[float]:
    return [row["loss"] for row in log(out_dir) if row["kind"] == "train"]


def tensors_of(value: Any) -> list[torch.Tensor]:
    if isinstance(value, dict):
        return [tensor for name in sorted(value) for tensor in tensors_of(value[name])]
    return [value] if isinstance(value, torch.Tensor) else []


def assert_same_run(found: Path, expected: Path) -> None:
    """Weights, optimizer state and log, bit for bit."""
    assert_same_weights(found / "pretrain_32.pth", expected / "pretrain_32.pth")
    ours, theirs = (tensors_of(load_newest(each / "pretrain_32" / "resume").tensors) for each in (found, expected))
    assert len(ours) == len(theirs) > 2 and all(map(torch.equal, ours, theirs))
    assert log(found) == log(expected)


def saved(workspace: Path) -> set[str]:
    return {path.name for path in (workspace / RESUME).glob("[!.]*")}


def one_line(errors: str) -> str:
    """The one error line; nothing else but the progress that was made."""
    assert "Traceback" not in errors
    [line] = [line for line in errors.splitlines() if line.startswith("error:")]
    assert errors.endswith(f"{line}\n")
    return line


# ---- exact resume ----


def test_killed_ranks_go_on_to_the_same_bits(start_ranks, workspace, undisturbed):
    killed = start_ranks(workspace, accident="SIGKILL step=8").finished()
    # One of them may have heard of the other's end first.
    assert -signal.SIGKILL in [each.code for each in killed]
    main, _ = start_ranks(workspace).finished()
    assert main.code == 0, main.errors
    # Step 6 was being written while steps 7 and 8 were made: where the disk is slow, the newest whole one is step 3.
    assert re.search("going on from step [36] of 12", main.errors), main.errors
    assert_same_run(workspace / "new", undisturbed)


def test_sigterm_to_one_rank_stops_all_and_one_process_goes_on(start_ranks, run_here, workspace, undisturbed):
    stopped = start_ranks(workspace, accident="SIGTERM rank=1 step=7").finished()
    assert [each.code for each in stopped] == [128 + signal.SIGTERM] * 2, stopped
    assert "stopped at step 8 of 12, saved; the same command goes on from there" in stopped[0].output
    assert stopped[1].output == "" and "error" not in stopped[0].errors + stopped[1].errors
    assert load_checkpoint(workspace / "new" / "pretrain_32.pth").step == 8
    # The same command on one process: it takes twice as many micro-batches by itself.
    alone = run_here("1-pretrain.py", *FLAGS, "--dropout", 0.1, folder=workspace)
    assert alone.code == 0, alone.errors
    assert "going on from step 8 of 12" in alone.errors
    # Dropout is drawn for each rank, so from here on the two differ, but not in the batches.
    ours, theirs = log(workspace / "new"), log(undisturbed)
    assert [row["step"] for row in ours if row["kind"] == "train"] == list(range(1, 13))
    assert losses(workspace / "new")[:8] == losses(undisturbed)[:8]
    assert [row["tokens"] for row in ours if row["kind"] == "train"] == [
        row["tokens"] for row in theirs if row["kind"] == "train"
    ]


def test_two_processes_and_one_learn_the_same(start_ranks, run_here, workspace):
    """Also when they take turns in the middle of an epoch."""
    flags = [*FLAGS, "--dropout", 0.0]
    whole = run_here("1-pretrain.py", *flags, "--batch_size", 4, "--out_dir", "whole", folder=workspace)
    assert whole.code == 0, whole.errors
    first = start_ranks(workspace, "--dropout", 0.0, accident="SIGINT rank=0 step=4").finished()
    assert [each.code for each in first] == [130, 130], first
    assert run_here("1-pretrain.py", *flags, folder=workspace).code == 0
    assert losses(workspace / "new") == pytest.approx(losses(workspace / "whole"), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("zero", ["zero2", "zero3"])
def test_zero_with_gradient_checkpointing_on_three_processes(start_ranks, run_here, workspace, zero):
    """Three share most tensors unevenly. With all else that a run does by itself: saves, samples, looks inside."""
    flags = ["--dropout", 0.0, "--optimizer", "adamw", "--gradient_checkpointing"]
    found = start_ranks(workspace, *flags, "--deepspeed", zero, number=3).finished()
    assert [each.code for each in found] == [0, 0, 0], found
    alone = run_here("1-pretrain.py", *FLAGS, *flags, "--batch_size", 6, "--out_dir", "whole", folder=workspace)
    assert alone.code == 0, alone.errors
    assert losses(workspace / "new") == pytest.approx(losses(workspace / "whole"), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_ctrl_c_at_any_moment_while_each_step_is_saved(start_ranks, workspace, undisturbed, run_script, number):
    """Sent twice, as by somebody in a hurry: the second one changes nothing."""
    flags = ["--save_interval", 1]
    expected = undisturbed
    if number == 1:
        flags += ["--batch_size", 4]
        expected = workspace / "whole"
        assert run_script("1-pretrain.py", *FLAGS, *flags, "--out_dir", "whole", folder=workspace).code == 0
    numbers, code = random.Random(number), -1
    for start in range(20):
        ranks = start_ranks(workspace, *flags, number=number)
        # From then on it is the loop that handles signals.
        ranks.wait_for(lambda errors, first=not start: "going on" in errors or (first and "latest" in saved(workspace)))
        time.sleep(numbers.random() * 0.4)
        ranks.kill(signal.SIGINT)
        time.sleep(0.01)
        ranks.kill(signal.SIGINT)
        found = ranks.finished()
        assert "Traceback" not in "".join(each.errors for each in found)
        code = found[0].code
        assert [each.code for each in found] == [code] * number and code in (0, 130), found
        if code == 0:
            break
    assert code == 0, "every start makes at least one update"
    assert losses(workspace / "new") == losses(expected)
    assert_same_weights(workspace / "new" / "pretrain_32.pth", expected / "pretrain_32.pth")


# ---- a rank is lost ----


@pytest.mark.parametrize("lost", [0, 1])
def test_a_rank_that_dies_ends_the_others_with_one_line(start_ranks, workspace, lost):
    start = time.monotonic()
    found = start_ranks(workspace, accident=f"SIGKILL rank={lost} step=7").finished()
    assert time.monotonic() - start < 60
    assert found[lost].code == -signal.SIGKILL
    assert found[1 - lost].code == 1
    line = one_line(found[1 - lost].errors)
    assert "has gone; stopped without saving: the same command goes on" in line
    assert saved(workspace) <= {"latest", "step-0", "step-3", "step-6"}, "what the others hold is not worth keeping"


@pytest.mark.parametrize("lost", [0, 1])
def test_a_rank_that_hangs_is_noticed(start_ranks, workspace, lost):
    ranks = start_ranks(workspace, accident=f"SIGSTOP rank={lost} step=7 silence=2")
    found = ranks.finished(only=1 - lost)
    assert found[1 - lost].code == 1, found
    line = one_line(found[1 - lost].errors)
    assert f"process {lost} has given no sign of life for" in line
    assert "step-7" not in saved(workspace)


@pytest.mark.parametrize("failing", [0, 1])
def test_the_error_of_a_rank_is_told_to_the_others(start_ranks, workspace, failing):
    found = start_ranks(workspace, accident=f"error rank={failing} step=7").finished()
    assert [each.code for each in found] == [1, 1]
    assert "ValueError: a bug that nobody" in found[failing].errors
    line = one_line(found[1 - failing].errors)
    assert f"process {failing} stopped (ValueError: a bug that nobody foresaw); stopped without saving" in line


@pytest.mark.parametrize("failing", [0, 1])
def test_the_error_of_a_rank_is_told_before_training_too(start_ranks, workspace, failing):
    """As on a second machine that lacks the data."""
    start = time.monotonic()
    found = start_ranks(workspace, accident=f"no_data rank={failing}").finished()
    assert time.monotonic() - start < 60
    assert [found[failing].code, found[1 - failing].code] == [2, 1]
    assert one_line(found[failing].errors).endswith("packed/text: not on this machine")
    line = one_line(found[1 - failing].errors)
    assert f"process {failing} stopped (UserError: packed/text: not on this machine); stopped without saving" in line
    assert not (workspace / "new").exists()


def test_a_full_disk_stops_all_ranks(start_ranks, run_here, workspace):
    disk = workspace / "disk"
    with mounted(disk, "size=2000k"):
        first = run_here("1-pretrain.py", *PRETRAIN, *SIZES, "--max_steps", 2, "--out_dir", "disk", folder=workspace)
        assert first.code == 0, first.errors
        (disk / "ballast").write_bytes(b"x" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize - 300_000))
        before = contents(disk)
        second = ["--out_dir", "disk", "--run_name", "second"]
        refused = start_ranks(workspace, *second).finished()
        assert "disk: one save needs" in one_line(refused[0].errors)
        found = start_ranks(workspace, *second, accident="unchecked").finished()
        assert [each.code for each in found] == [2, 2], found
        assert "disk is full" in one_line(found[0].errors)
        assert "Traceback" not in found[1].errors
        after = contents(disk)
        assert {name: after.get(name) for name in before} == before
        (disk / "ballast").unlink()
        again = start_ranks(workspace, *second).finished()
        assert [each.code for each in again] == [0, 0], again
        assert math.isfinite(load_checkpoint(disk / "second.pth").metrics["validation_loss_last"])
