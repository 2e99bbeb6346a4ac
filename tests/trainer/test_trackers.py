"""Weights & Biases (offline) and TensorBoard: after a restart the same run goes on."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.errors import UserError
from trainer.settings import WatchSettings
from trainer.trackers import Trackers, new_tracker_id

PROCESS = """
import os, signal, sys
from pathlib import Path
from trainer.settings import WatchSettings
from trainer.trackers import Trackers
trackers = Trackers(Path(sys.argv[1]), "run", {"seed": 1}, wandb_project="seedling", wandb_id="abc12345")
first, last = int(sys.argv[2]), int(sys.argv[3])
for step in range(first, last):
    trackers.log("train", step, {"loss": 1.0 / step, "loss_by_source": {"web": 2.0}})
trackers.log("samples", last, {"samples": [{"prompt": "p", "text": "t"}]})
if sys.argv[4] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
trackers.close()
"""


@pytest.mark.slow
def test_wandb_goes_on_with_the_same_run_after_a_kill(tmp_path: Path, repository: Path) -> None:
    for first, last, end in ((1, 5, "kill"), (3, 7, "close")):
        command = [sys.executable, "-c", PROCESS, str(tmp_path), str(first), str(last), end]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
        assert done.returncode == (-9 if end == "kill" else 0), done.stderr
        assert "out of order" not in done.stderr and "less than current step" not in done.stderr
    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == 2 and all(run.name.endswith("-abc12345") for run in runs)
    stored = [(run / "run-abc12345.wandb").read_bytes() for run in runs]
    # The second process repeats steps 3 and 4: they are stored all the same. (wandb writes what it has every quarter
    # of a minute: the killed process has lost its rows, for they were younger.)
    assert b"train/loss_by_source/web" in stored[1] and b"samples" in stored[1]
    assert all(f"{1 / step}".encode() in stored[1] for step in range(3, 7))


@pytest.mark.slow
def test_wandb_without_a_login_is_one_line_and_no_question(tmp_path: Path, repository: Path) -> None:
    import os
    import pty

    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_CONFIG_DIR": str(tmp_path)}
    terminal, other_end = pty.openpty()  # where wandb would ask
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROCESS, str(tmp_path), "1", "2", "close"],
            cwd=repository,
            env=environment,
            stdin=other_end,
            stdout=other_end,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    finally:
        os.close(terminal)
        os.close(other_end)
    assert done.returncode == 1
    assert "UserError: --use_wandb: not logged in; run `wandb login`, or set WANDB_MODE=offline" in done.stderr


def test_ids_differ() -> None:
    assert len({new_tracker_id() for _ in range(50)}) == 50


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
def test_a_missing_package_is_one_line_before_anything_is_made(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(UserError, match=rf"--use_{package}: the package is missing; pip install {package}"):
        WatchSettings(use_wandb=True, use_tensorboard=True)
    WatchSettings()


def test_a_tracker_that_fails_does_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __str__(self) -> str:
            return "Broken"

        def log(self, kind: str, step: int, values: Any) -> None:
            raise OSError("no space left\nmore")

        def close(self) -> None:
            raise AssertionError("left out already")

    both = Trackers(tmp_path, "run", {})
    both._trackers = [Broken()]
    for step in range(3):
        both.log("train", step, {"loss": 1.0})
    both.close()
    assert capsys.readouterr().err == "warning: Broken failed and is left out from now on (no space left)\n"


def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is an option: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def log(tracker: Trackers, first: int, last: int, loss: float) -> None:
        for step in range(first, last + 1):
            tracker.log("train", step, {"loss": loss, "loss_by_source": {"web": loss}, "note": "no number"})

    def shown() -> list[tuple[int, float]]:
        read = EventAccumulator(str(tmp_path / "tensorboard"), purge_orphaned_data=True).Reload()
        assert "train/loss_by_source/web" in read.Tags()["scalars"]
        return [(event.step, event.value) for event in read.Scalars("train/loss")]

    before = Trackers(tmp_path, "run", {}, tensorboard=True)
    before.log("samples", 0, {"samples": [{"prompt": "p", "text": "`t`\n# x"}]})
    log(before, 1, 6, 9.0)
    before.close()
    after = Trackers(tmp_path, "run", {}, tensorboard=True, resume_step=3)
    log(after, 4, 8, 8.0)
    after.log("rollback", 5, {})
    log(after, 6, 7, 7.0)
    after.close()
    expected = [*[(step, 9.0) for step in (1, 2, 3)], (4, 8.0), (5, 8.0), (6, 7.0), (7, 7.0)]
    assert shown() == expected
    anew = Trackers(tmp_path, "run", {}, tensorboard=True, resume_step=0)
    log(anew, 1, 2, 1.0)
    anew.close()
    assert shown() == [(1, 1.0), (2, 1.0)]
