"""What a run's saved steps are after success, an error, a full disk, and a kill at any moment."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from model.checkpoint import write_tensors
from model.errors import UserError
from tests.full_disk import mounted
from tests.saved_steps import names, save, spoil
from trainer import saving
from trainer import state as state_module
from trainer.saving import Writer, remove_after
from trainer.state import load_newest


class TestWhatIsKept:
    @pytest.mark.parametrize(
        ("keep_last", "best", "kept"),
        [
            (0, None, [10, 20, 30, 40, 50]),
            (1, None, [50]),
            (2, None, [40, 50]),
            (2, 10, [10, 40, 50]),
            (2, 40, [40, 50]),
            (9, 10, [10, 20, 30, 40, 50]),
        ],
    )
    def test_the_last_and_the_best(self, tmp_path, keep_last, best, kept):
        save(tmp_path, 10, 20, 30, 40)
        save(tmp_path, 50, keep_last=keep_last, best_step=best)
        assert names(tmp_path) == ["latest", *(f"step-{number}" for number in kept)]

    def test_what_a_rollback_may_need_stays(self, tmp_path):
        """Steps saved in the middle of trouble, on a stop signal, are newer and of no use for that."""
        save(tmp_path, 10, 20, 30)
        save(tmp_path, 40, keep_last=1, calm_saves=[20, 30])
        assert names(tmp_path) == ["latest", "step-20", "step-30", "step-40"]

    def test_an_abandoned_future_goes_when_the_new_step_is_whole(self, tmp_path):
        save(tmp_path, 10, 20, 30, 40)
        save(tmp_path, 25, keep_last=2, best_step=40)
        assert names(tmp_path) == ["latest", "step-20", "step-25"]

    def test_nothing_is_removed_when_the_new_one_does_not_read_back(self, tmp_path, monkeypatch):
        save(tmp_path, 10, 20)

        def rot(path, value):
            digest = write_tensors(path, value)
            spoil(path)
            return digest

        monkeypatch.setattr(saving, "write_tensors", rot)
        with pytest.raises(UserError) as caught:
            save(tmp_path, 30, keep_last=1, best_step=None)
        assert re.match(rf"{tmp_path}/step-30/tensors.pt: was altered.*the disk is failing", str(caught.value))
        assert names(tmp_path) == ["latest", "step-10", "step-20"]
        assert load_newest(tmp_path).state.step == 20

    def test_remove_after(self, tmp_path, capsys):
        save(tmp_path, 10, 20, 30, 40)
        assert [path.name for path in remove_after(tmp_path, 20)] == ["step-40", "step-30"]
        assert names(tmp_path) == ["latest", "step-10", "step-20"]
        assert load_newest(tmp_path).state.step == 20
        assert remove_after(tmp_path, 20) == []
        assert capsys.readouterr().err == ""

    def test_remove_after_keeps_all_while_the_step_itself_is_not_there(self, tmp_path):
        save(tmp_path, 10, 20, 30)
        assert remove_after(tmp_path, 15) == []
        spoil(tmp_path / "step-20" / "tensors.pt")
        assert remove_after(tmp_path, 20) == []
        assert names(tmp_path) == ["latest", "step-10", "step-20", "step-30"]


KILLED_WHILE_SAVING = """
import os, shutil, sys
from pathlib import Path
from benchmarks.reliability.damage import make_step
from trainer.saving import write_step

changes = {"tempfile.mkstemp", "tempfile.mkdtemp", "os.rename", "os.remove", "os.rmdir", "os.chmod"}
folder = Path(sys.argv[1])
step = make_step(int(sys.argv[2]))
step.state.rollbacks = 1

def kill_at(limit):  # a child for each: before each change of the disk, one after the other
    seen = 0
    def hook(event, arguments):  # Python tells of what it is about to do: sys.addaudithook
        nonlocal seen
        if event in changes and str(folder) in str(arguments):
            seen += 1
            if seen > limit:
                os.kill(os.getpid(), 9)
    sys.addaudithook(hook)

limit, ended = 0, False
while not ended:
    copy = folder.with_name(f"{folder.name}-{limit}")
    shutil.copytree(folder, copy)
    child = os.fork()
    if child == 0:
        folder = copy
        kill_at(limit)
        write_step(folder, step, keep_last=2)
        os._exit(0)
    ended = os.waitpid(child, 0)[1] == 0
    limit += 1
print(limit)
"""


class TestInterruptions:
    @pytest.mark.skipif(sys.platform != "linux", reason="another system has a moment between two renames")
    @pytest.mark.parametrize("number", [30, 20, 15])
    def test_a_kill_at_any_moment_leaves_whole_steps_only(self, tmp_path, repository, number, capsys):
        """Steps 10 and 20 are there; written is the next one, the newest anew, or one before the newest."""
        save(tmp_path / "resume", 10, 20)
        command = [sys.executable, "-c", KILLED_WHILE_SAVING, tmp_path / "resume", str(number)]
        result = subprocess.run(command, cwd=repository, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        count = int(result.stdout)
        assert count > 12
        found = []
        for limit in range(count):
            folder = tmp_path / f"resume-{limit}"
            saved = load_newest(folder)  # would warn of a damaged one
            found.append((saved.state.step, saved.state.rollbacks))
            assert all(state_module.damage(path) is None for path in folder.glob("step-*"))
            hidden = [path for path in folder.iterdir() if path.name.startswith(".")]
            assert all(re.match(r"\.(step-|latest\.)", path.name) for path in hidden)
        assert "damaged" not in capsys.readouterr().err
        assert found == sorted(found, key=lambda each: (each[1], each)), "from the old to the new, never back"
        assert found[0] == (20, 0) and found[-1] == (number, 1)
        assert (
            names(tmp_path / f"resume-{count - 1}")
            == {
                30: ["latest", "step-20", "step-30"],
                20: ["latest", "step-10", "step-20"],
                15: ["latest", "step-10", "step-15"],
            }[number]
        )

    def test_a_full_disk(self, tmp_path):
        with mounted(tmp_path / "disk", "size=700k"):
            folder = tmp_path / "disk" / "run" / "resume"
            save(folder, 10)
            (tmp_path / "disk" / "ballast").write_bytes(b"x" * (os.statvfs(folder).f_bavail * 4096 - 100_000))
            with pytest.raises(OSError, match="No space") as caught:
                save(folder, 20, keep_last=1)
            assert caught.value.errno == errno.ENOSPC
            assert caught.value.filename == str(folder / "step-20" / "tensors.pt")
            assert names(folder) == ["latest", "step-10"]
            assert load_newest(folder).state.step == 10

    @pytest.mark.parametrize("name", ["state.json", "manifest.json"])
    def test_no_room_for_the_small_files(self, tmp_path, monkeypatch, name):
        save(tmp_path, 10)
        real_write = Path.write_text

        def fail(path, *arguments, **keywords):
            if f".{name}." in path.name:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real_write(path, *arguments, **keywords)

        monkeypatch.setattr(Path, "write_text", fail)
        with pytest.raises(OSError, match="No space") as caught:
            save(tmp_path, 20, keep_last=1)
        assert caught.value.filename == str(tmp_path / "step-20" / name)
        assert names(tmp_path) == ["latest", "step-10"]


class TestWriter:
    def test_one_at_a_time_in_order_beside_the_caller(self):
        writer, done, gate = Writer(), [], threading.Event()

        def first():
            gate.wait(10)
            done.append((1, threading.get_ident()))

        writer.submit(first)
        assert done == [] and not writer.failed
        gate.set()
        writer.submit(lambda: done.append((2, threading.get_ident())))
        assert done[0][0] == 1, "the second waits for the first"
        writer.wait()
        assert [number for number, _ in done] == [1, 2]
        assert all(thread != threading.get_ident() for _, thread in done)
        writer.wait()
        writer.check()

    @pytest.mark.parametrize("how", ["check", "wait", "submit"])
    @pytest.mark.parametrize("error", [UserError("x: broken"), OSError(errno.ENOSPC, "No space", "x")])
    def test_an_error_is_raised_once_in_the_caller(self, how, error):
        writer = Writer()

        def fail():
            raise error

        writer.submit(fail)
        deadline = time.monotonic() + 10
        while not writer.failed and time.monotonic() < deadline:
            time.sleep(0.001)
        arguments = [pytest.fail] if how == "submit" else []
        with pytest.raises(type(error)) as caught:
            getattr(writer, how)(*arguments)
        assert caught.value is error
        assert not writer.failed
        writer.check()
        done = []
        writer.submit(lambda: done.append(1))
        writer.wait()
        assert done == [1]

    def test_ctrl_c_while_waiting_leaves_the_job(self):
        writer, gate, done = Writer(), threading.Event(), []

        def job():
            gate.wait(10)
            done.append(1)

        writer.submit(job)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            writer.wait()
        assert done == []
        threading.Timer(0.2, gate.set).start()
        writer.wait()  # a job that had been forgotten would not be waited for
        assert done == [1]

    def test_a_failing_process_ends_what_it_writes(self, tmp_path, repository):
        script = (
            "import sys, time\nfrom pathlib import Path\nfrom benchmarks.reliability.damage import make_step\n"
            "from trainer.saving import Writer, write_step\n"
            "def job():\n    time.sleep(0.3); write_step(Path(sys.argv[1]), make_step(40), 2)\n"
            "Writer().submit(job)\nraise SystemExit(3)"
        )
        result = subprocess.run([sys.executable, "-c", script, tmp_path / "resume"], cwd=repository)
        assert result.returncode == 3
        assert load_newest(tmp_path / "resume").state.step == 40
