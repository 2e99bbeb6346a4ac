"""Training into folders that take no file, or not all of one: one line at the end, and nothing lost."""

import os
import re
import resource
from pathlib import Path

import pytest

from tests.full_disk import mounted
from tests.tiny_chain import FULL_SFT, PRETRAIN, SIZES, assert_same_weights, contents

FLAGS = [*PRETRAIN, *SIZES, "--max_steps", 4]


def last_line(errors: str) -> str:
    """The only line but those of the progress bar."""
    assert "Traceback" not in errors
    [line] = [line for line in errors.splitlines() if line.startswith("error:")]
    assert f"\n{errors}".endswith(f"\n{line}\n"), "it stands on a line of its own, and is the last"
    return line


def test_a_folder_that_may_not_be_written(refused, workspace):
    sealed = workspace / "sealed"
    if os.geteuid() == 0:  # whom no permission stops
        with mounted(sealed, "ro"):
            assert "sealed" in refused("1-pretrain.py", *FLAGS, "--out_dir", "sealed")
    else:
        sealed.mkdir(mode=0o555)
        assert "permission denied" in refused("1-pretrain.py", *FLAGS, "--out_dir", "sealed")


def test_a_disk_that_gets_full(run_here, workspace, grown, monkeypatch):
    """A run is on it, a second one does not fit: the first is as it was; with more space the second ends."""
    disk = workspace / "disk"
    with mounted(disk, "size=4000k"):
        first = run_here("1-pretrain.py", *FLAGS, "--out_dir", "disk", folder=workspace)
        assert first.code == 0, first.errors
        (disk / "ballast").write_bytes(b"x" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize - 100_000))
        before = contents(disk)
        flags = [*FLAGS, "--out_dir", "disk", "--run_name", "second"]
        seen_before = run_here("1-pretrain.py", *flags, folder=workspace)
        assert seen_before.code == 2
        assert re.search(r"disk: one save needs .* free some space", last_line(seen_before.errors))
        assert contents(disk) == before
        monkeypatch.setattr("trainer.forecast.check_disk", lambda forecast: None)  # as if it got full afterwards
        second = run_here("1-pretrain.py", *flags, folder=workspace)
        assert second.code == 2
        assert "disk is full" in last_line(second.errors)
        after = contents(disk)
        assert {name: after.get(name) for name in before} == before
        assert [name for name in after if Path(name).name.startswith(".")] == [], "half-written files stay behind"
        (disk / "ballast").unlink()
        third = run_here("1-pretrain.py", *flags, folder=workspace)
        assert third.code == 0, third.errors
        assert_same_weights(disk / "second.pth", grown / "out" / "pretrain_32.pth")


@pytest.mark.slow
@pytest.mark.parametrize("script", ["1-pretrain.py", "3-full_sft.py"])
def test_a_limit_on_the_size_of_files(run_script, workspace, script):
    """What `ulimit -f` or a quota does, in the middle of writing the tensors."""
    flags = [*FLAGS, "--run_name", "new"] if script == "1-pretrain.py" else [*FULL_SFT, "--run_name", "new"]
    before = contents(workspace)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    finished = run_script(script, *flags, folder=workspace, preexec_fn=limit)
    assert finished.code == 2, finished.errors
    assert "larger than allowed" in last_line(finished.errors)
    after = contents(workspace)
    assert {name: after.get(name) for name in before} == before
    assert not (workspace / "out" / "new.pth").exists()
    assert run_script(script, *flags, folder=workspace).code == 0
