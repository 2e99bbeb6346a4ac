"""Real launches: torchrun, DeepSpeed's launcher, plain python. They cost seconds, so each shows several things.

What happens to ranks that no launcher looks after stands in `test_ranks.py`.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import load_checkpoint
from tests.accidents import lines_of_ours
from tests.tiny_chain import SIZES, Finished, assert_same_weights, contents

PRETRAIN: list[object] = ["--data_path", "packed/text", "--device", "cpu", *SIZES, "--warmup_iters", 3]
SFT: list[object] = ["--data_path", "packed/chat", "--device", "cpu", "--warmup_iters", 3]
TWELVE: list[object] = ["--max_steps", 12, "--save_interval", 3, "--log_interval", 1, "--eval_interval", 6]
TWELVE += ["--num_threads", 1]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
ADAMW = ["--optimizer", "adamw"]

Launch = Callable[..., subprocess.Popen[str]]
Finish = Callable[..., Finished]


@pytest.fixture
def launch(repository: Path, workspace: Path) -> Iterator[Launch]:
    """Start a launcher with a script and its flags, in a process group of its own."""
    started: list[subprocess.Popen[str]] = []
    folder = Path(sys.executable).parent

    def start(launcher: list[str], script: str, *flags: object) -> subprocess.Popen[str]:
        command = [*launcher, str(repository / script), *map(str, flags)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["PATH"] = f"{folder}{os.pathsep}{environment['PATH']}"
        # Of its own: what an earlier launch left behind may still speak.
        said = workspace / f"said_{len(started)}"
        with open(f"{said}.out", "w") as output, open(f"{said}.err", "w") as errors:
            process = subprocess.Popen(
                command,
                cwd=workspace,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        process.said = said  # type: ignore[attr-defined]
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def finish() -> Finish:
    def wait(process: Any) -> Finished:
        code = process.wait(timeout=240)
        return Finished(code, *(Path(f"{process.said}.{name}").read_text() for name in ("out", "err")))

    return wait


def torchrun(number: int, *flags: str) -> list[str]:
    return [sys.executable, *TORCHRUN, str(number), *flags]


def deepspeed() -> list[str]:
    script = Path(sys.executable).with_name("deepspeed")
    if not script.exists():
        pytest.skip("DeepSpeed is not installed")
    return [sys.executable, str(script), "--num_accelerators", "2", "--master_port", str(20_000 + os.getpid() % 20_000)]


def log(out_dir: Path, name: str) -> list[dict[str, Any]]:
    lines = (out_dir / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def losses(out_dir: Path, name: str) -> list[float]:
    rows = [row for row in log(out_dir, name) if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 13)), "each update once"
    return [row["loss"] for row in rows]


def assert_close_weights(found: Path, expected: Path, bound: float) -> None:
    ours, theirs = load_checkpoint(found).weights, load_checkpoint(expected).weights
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert (ours[name] - theirs[name]).norm() <= bound * theirs[name].norm(), name


def assert_spoken_once(finished: Finished) -> None:
    said = lines_of_ours(finished.output) + lines_of_ours(finished.errors)
    assert sorted(said) == sorted(set(said))
    assert "Traceback" not in finished.errors
    assert len([line for line in finished.output.splitlines() if line.startswith("model: ")]) == 1
    assert len(re.findall(r"^out/\w+\.pth: 12 steps", finished.output, re.MULTILINE)) == 1


def wait_for_step(process: subprocess.Popen[str], path: Path) -> None:
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.01)


def trained_alone(run_here: Callable[..., Finished], workspace: Path, script: str, *flags: object) -> Path:
    """One process with the same global batch; returns its out_dir."""
    finished = run_here(script, *flags, "--batch_size", 4, "--out_dir", "alone", folder=workspace)
    assert finished.code == 0, finished.errors
    return workspace / "alone"


# ---- training ----


@pytest.mark.slow
def test_torchrun_pretrains_as_one_process_does(launch, finish, run_here, workspace):
    flags = [*PRETRAIN, *TWELVE, "--run_name", "two"]
    finished = finish(launch(torchrun(2), "1-pretrain.py", *flags, "--batch_size", 2))
    assert finished.code == 0, finished.errors
    assert_spoken_once(finished)
    assert "4 rows (2 at a time on 2 processes)" in finished.output
    left = {path.name for path in (workspace / "out" / "two").iterdir()}
    assert left == {"lock", "run.json", "metrics.jsonl", "curves.png", "report.md", "resume"}
    alone = trained_alone(run_here, workspace, "1-pretrain.py", *flags)
    assert losses(workspace / "out", "two") == pytest.approx(losses(alone, "two"), rel=1e-5)
    assert_close_weights(workspace / "out" / "two.pth", alone / "two.pth", 1e-3)
    validations = [
        [row["loss"] for row in log(each, "two") if row["kind"] == "validation"] for each in (workspace / "out", alone)
    ]
    assert validations[0] == pytest.approx(validations[1], rel=1e-5)


@pytest.mark.slow
def test_torchrun_fine_tunes_and_goes_on_after_a_kill_of_all(launch, finish, run_here, repository, workspace):
    flags = [*SFT, *TWELVE, "--run_name", "two", "--init_from", "out/pretrain_32.pth"]
    wrapped = ["sleep step=7", str(repository / "3-full_sft.py"), *flags, "--batch_size", 2]
    process = launch(torchrun(2), "tests/accidents.py", *wrapped)
    wait_for_step(process, workspace / "out" / "two" / "resume" / "step-6")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    finished = finish(launch(torchrun(2), "3-full_sft.py", *flags, "--batch_size", 2))
    assert finished.code == 0, finished.errors
    assert_spoken_once(finished)
    assert "going on from step 6 of 12" in finished.errors
    alone = trained_alone(run_here, workspace, "3-full_sft.py", *flags)
    assert losses(workspace / "out", "two") == pytest.approx(losses(alone, "two"), rel=1e-5)


@pytest.mark.slow
def test_torchrun_starts_a_dead_rank_again(launch, finish, repository, workspace):
    """To the same bits as without the accident."""
    flags = [*PRETRAIN, *TWELVE, "--dropout", 0.1, "--batch_size", 2, "--run_name", "two"]
    wrapped = ["SIGKILL rank=1 step=7", str(repository / "1-pretrain.py"), *flags]
    finished = finish(launch(torchrun(2, "--max_restarts", "2"), "tests/accidents.py", *wrapped))
    assert finished.code == 0, finished.errors
    # Step 6 was being written while step 7 began: where the disk is slow, the newest whole one is step 3.
    assert re.search("going on from step [36] of 12", finished.errors), finished.errors
    assert losses(workspace / "out", "two")
    assert finish(launch(torchrun(2), "1-pretrain.py", *flags, "--out_dir", "whole")).code == 0
    assert_same_weights(workspace / "out" / "two.pth", workspace / "whole" / "two.pth")


@pytest.mark.slow
def test_deepspeed_fine_tunes_as_one_process_does(launch, finish, run_here, workspace):
    """The launcher itself; stopped under a bundled configuration, gone on with under one of the user's own."""
    own = workspace / "own.json"
    own.write_text(json.dumps({"zero_optimization": {"stage": 1}, "bf16": {"enabled": "auto"}, "optimizer": "auto"}))
    flags = [*SFT, *TWELVE, *ADAMW, "--run_name", "two", "--init_from", "out/pretrain_32.pth"]
    start = [*flags, "--batch_size", 2, "--deepspeed"]
    process = launch(deepspeed(), "3-full_sft.py", *start, "zero2")
    wait_for_step(process, workspace / "out" / "two" / "resume" / "step-3")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    finished = finish(launch(deepspeed(), "3-full_sft.py", *start, "own.json"))
    assert finished.code == 0, finished.errors
    assert_spoken_once(finished)
    assert "going on from step" in finished.errors
    alone = trained_alone(run_here, workspace, "3-full_sft.py", *flags)
    assert losses(workspace / "out", "two") == pytest.approx(losses(alone, "two"), rel=1e-5)
    assert_close_weights(workspace / "out" / "two.pth", alone / "two.pth", 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("zero", ["zero1", "zero3"])
def test_one_process_under_zero(launch, finish, run_here, workspace, zero):
    flags = [*PRETRAIN, *TWELVE, *ADAMW, "--run_name", "two"]
    finished = finish(launch([sys.executable], "1-pretrain.py", *flags, "--batch_size", 4, "--deepspeed", zero))
    assert finished.code == 0, finished.errors
    assert_spoken_once(finished)
    alone = trained_alone(run_here, workspace, "1-pretrain.py", *flags)
    assert losses(workspace / "out", "two") == pytest.approx(losses(alone, "two"), rel=1e-5)


@pytest.mark.slow
def test_a_mistake_under_a_launcher_is_one_line_of_ours(launch, finish, workspace):
    before = contents(workspace / "out")
    finished = finish(launch(torchrun(2), "1-pretrain.py", *PRETRAIN, "--batch_size", 2, "--max_steps", 5))
    assert finished.code != 0
    [line] = lines_of_ours(finished.output) + lines_of_ours(finished.errors)
    assert line.startswith("error: out/pretrain_32: holds another run (")
    assert re.search(r"exitcode *: 2 ", finished.errors)
    assert contents(workspace / "out") == before


# ---- one process ----


@pytest.mark.slow
def test_a_compiled_run(launch, finish, run_here, workspace):
    """What is saved does not show it."""
    if not any(os.access(Path(folder) / name, os.X_OK) for folder in os.get_exec_path() for name in ("g++", "clang++")):
        pytest.skip("no compiler here")
    flags = [*PRETRAIN, *TWELVE, "--run_name", "two"]
    finished = finish(launch([sys.executable], "1-pretrain.py", *flags, "--batch_size", 4, "--compile", "on"))
    assert finished.code == 0, finished.errors
    alone = trained_alone(run_here, workspace, "1-pretrain.py", *flags)
    assert losses(workspace / "out", "two") == pytest.approx(losses(alone, "two"), rel=1e-4)
    ours, theirs = (load_checkpoint(each / "two.pth").weights for each in (workspace / "out", alone))
    assert ours.keys() == theirs.keys()
    assert all(torch.isfinite(tensor).all() for tensor in ours.values())
