"""Files that are whole or absent: what a reader finds after success, an error, and a crash in the middle."""

import errno
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model import files
from model.errors import UserError
from model.files import (
    atomic_folder,
    atomic_path,
    canonical_json,
    read_json,
    sha256_of_file,
    sha256_of_text,
    write_json,
    write_text,
)

KILLED_WHILE_OVERWRITING = """
import os, sys
from model.files import atomic_folder

changes = {"tempfile.mkdtemp", "os.mkdir", "open", "os.chmod", "os.rename", "os.remove", "os.rmdir", "ctypes.dlsym"}
seen = []

def kill_at(event, arguments):  # Python tells of what it is about to do: sys.addaudithook
    if event in changes and armed:
        seen.append(event)
        if len(seen) > int(sys.argv[2]):
            os.kill(os.getpid(), 9)

armed = False
sys.addaudithook(kill_at)
folder = atomic_folder(sys.argv[1], overwrite=True)
import ctypes, shutil
armed = True
with folder as temporary:
    (temporary / "inner").mkdir()
    (temporary / "inner" / "file.txt").write_text("new")
"""


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def _write_half_and_raise(path: Path, error: type[BaseException]) -> None:
    path.write_text("half of the n")
    raise error


class TestAtomicPath:
    def test_makes_folders_and_leaves_nothing_else(self, tmp_path):
        with atomic_path(tmp_path / "a" / "b" / "file.txt") as temporary:
            assert temporary.parent == tmp_path / "a" / "b"
            temporary.write_text("whole")
            assert not (tmp_path / "a" / "b" / "file.txt").exists()
        assert names(tmp_path / "a" / "b") == ["file.txt"]
        assert (tmp_path / "a" / "b" / "file.txt").read_text() == "whole"

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
    def test_an_error_leaves_the_old_file(self, tmp_path, error):
        path = tmp_path / "file.txt"
        path.write_text("old")
        with pytest.raises(error), atomic_path(path) as temporary:
            _write_half_and_raise(temporary, error)
        assert names(tmp_path) == ["file.txt"]
        assert path.read_text() == "old"

    @pytest.mark.parametrize("function", ["replace", "fsync"])
    def test_a_failing_system_call_leaves_the_old_file(self, tmp_path, monkeypatch, function):
        path = tmp_path / "file.txt"
        path.write_text("old")

        def fail(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(files.os, function, fail)
        with pytest.raises(OSError, match="No space"), atomic_path(path) as temporary:
            temporary.write_text("new")
        monkeypatch.undo()
        assert names(tmp_path) == ["file.txt"]
        assert path.read_text() == "old"

    def test_a_kill_leaves_the_old_file(self, tmp_path, repository):
        path = tmp_path / "file.txt"
        path.write_text("old")
        script = (
            "import os, sys; from model.files import atomic_path\n"
            "with atomic_path(sys.argv[1]) as temporary:\n"
            "    temporary.write_text('new'); os.kill(os.getpid(), 9)"
        )
        subprocess.run([sys.executable, "-c", script, path], cwd=repository)
        assert path.read_text() == "old"

    def test_bytes_reach_the_disk_before_the_name(self, tmp_path, monkeypatch):
        calls = []
        real_fsync, real_replace = os.fsync, os.replace
        monkeypatch.setattr(files.os, "fsync", lambda handle: (calls.append("fsync"), real_fsync(handle)))
        monkeypatch.setattr(files.os, "replace", lambda *both: (calls.append("replace"), real_replace(*both)))
        write_text(tmp_path / "file.txt", "new")
        assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder that holds the name

    def test_permissions_are_ordinary(self, tmp_path):
        (tmp_path / "usual").touch()
        write_text(tmp_path / "ours", "")
        assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode

    def test_a_folder_in_the_way(self, tmp_path):
        (tmp_path / "file.txt").mkdir()
        with pytest.raises(IsADirectoryError):
            write_text(tmp_path / "file.txt", "x")
        assert names(tmp_path) == ["file.txt"]


class TestNamesInErrors:
    """A temporary name tells a user nothing, and is gone when he reads it."""

    @pytest.mark.parametrize("relative", [False, True])
    def test_a_full_disk_names_the_final_path(self, tmp_path, monkeypatch, relative):
        monkeypatch.chdir(tmp_path)
        folder = Path("set") if relative else tmp_path / "set"

        def fail(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_text", fail)
        with pytest.raises(OSError, match="No space") as caught, atomic_folder(folder) as temporary:
            write_text(temporary / "file.txt", "x")
        assert caught.value.filename == str(folder / "file.txt")
        assert names(tmp_path) == []

    @pytest.mark.parametrize("function", ["mkstemp", "mkdtemp"])
    def test_no_room_for_the_temporary_one_itself(self, tmp_path, monkeypatch, function):
        def fail(dir, prefix):
            raise OSError(errno.ENOSPC, "No space left on device", f"{dir}/{prefix}abcdefgh")

        monkeypatch.setattr(files.tempfile, function, fail)
        manager = atomic_path if function == "mkstemp" else atomic_folder
        with pytest.raises(OSError, match="No space") as caught, manager(tmp_path / "x"):
            pytest.fail("the body must not run")
        assert caught.value.filename == str(tmp_path / "x")

    def test_other_files_keep_their_names(self, tmp_path):
        with pytest.raises(FileNotFoundError) as caught, atomic_folder(tmp_path / "set"):
            (tmp_path / "elsewhere").read_text()
        assert caught.value.filename == str(tmp_path / "elsewhere")


class TestAtomicFolder:
    def fill(self, path: Path, text: str, **options) -> None:
        with atomic_folder(path, **options) as temporary:
            (temporary / "inner").mkdir()
            (temporary / "inner" / "file.txt").write_text(text)

    def test_new(self, tmp_path):
        self.fill(tmp_path / "a" / "set", "new")
        assert (tmp_path / "a" / "set" / "inner" / "file.txt").read_text() == "new"
        assert names(tmp_path / "a") == ["set"]

    def test_an_existing_one_is_refused_before_any_work(self, tmp_path):
        self.fill(tmp_path / "set", "old")
        with (
            pytest.raises(UserError, match=r"set: exists already.*--overwrite"),
            atomic_folder(tmp_path / "set"),
        ):
            pytest.fail("the body must not run")
        assert (tmp_path / "set" / "inner" / "file.txt").read_text() == "old"

    def test_overwrite_replaces_all(self, tmp_path):
        self.fill(tmp_path / "set", "old")
        (tmp_path / "set" / "stale.txt").touch()
        self.fill(tmp_path / "set", "new", overwrite=True)
        assert names(tmp_path) == ["set"]
        assert names(tmp_path / "set") == ["inner"]
        assert (tmp_path / "set" / "inner" / "file.txt").read_text() == "new"

    def test_overwrite_of_nothing(self, tmp_path):
        self.fill(tmp_path / "set", "new", overwrite=True)
        assert names(tmp_path) == ["set"]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    @pytest.mark.parametrize("exists", [False, True])
    def test_an_error_leaves_things_as_they_were(self, tmp_path, error, exists):
        if exists:
            self.fill(tmp_path / "set", "old")
        with pytest.raises(error), atomic_folder(tmp_path / "set", overwrite=True) as temporary:
            _write_half_and_raise(temporary / "half", error)
        assert names(tmp_path) == (["set"] if exists else [])
        if exists:
            assert (tmp_path / "set" / "inner" / "file.txt").read_text() == "old"

    def test_the_old_folder_comes_back_when_the_rename_fails(self, tmp_path, monkeypatch):
        self.fill(tmp_path / "set", "old")
        real_replace = os.replace
        targets = []

        def second_fails(source, target):
            targets.append(target)
            if len(targets) == 2:
                raise OSError(errno.EIO, "Input/output error")
            real_replace(source, target)

        monkeypatch.setattr(files, "_exchange", lambda *both: False)  # as where the system cannot do it in one step
        monkeypatch.setattr(files.os, "replace", second_fails)
        with pytest.raises(OSError, match="Input/output"):
            self.fill(tmp_path / "set", "new", overwrite=True)
        assert names(tmp_path) == ["set"]
        assert (tmp_path / "set" / "inner" / "file.txt").read_text() == "old"

    @pytest.mark.parametrize("can_exchange", [True, False])
    def test_a_file_or_a_link_in_the_way_is_replaced_itself(self, tmp_path, monkeypatch, can_exchange):
        if not can_exchange:
            monkeypatch.setattr(files, "_exchange", lambda *both: False)
        self.fill(tmp_path / "other", "other's")
        (tmp_path / "link").symlink_to(tmp_path / "other")
        (tmp_path / "file").write_text("x")
        for name in ("link", "file"):
            self.fill(tmp_path / name, "new", overwrite=True)
            assert not (tmp_path / name).is_symlink()
            assert (tmp_path / name / "inner" / "file.txt").read_text() == "new"
        assert names(tmp_path) == ["file", "link", "other"]
        assert (tmp_path / "other" / "inner" / "file.txt").read_text() == "other's"

    @pytest.mark.skipif(sys.platform != "linux", reason="the other systems have no such call")
    def test_a_kill_at_any_moment_of_an_overwrite_leaves_the_old_or_the_new(self, tmp_path, repository):
        """Before each change of the disk, one after the other, until one run is not killed any more."""
        path = tmp_path / "set"
        found = []
        while "end" not in found:
            shutil.rmtree(tmp_path)
            self.fill(path, "old")
            result = subprocess.run(
                [sys.executable, "-c", KILLED_WHILE_OVERWRITING, path, str(len(found))], cwd=repository
            )
            found.append((path / "inner" / "file.txt").read_text())
            if result.returncode == 0:
                found.append("end")
            else:
                assert result.returncode == -9
        order = [text for text, following in itertools.pairwise(found) if text != following]
        assert order == ["old", "new"] and found.count("old") > 3 and found.count("new") > 3

    def test_a_folder_that_another_process_made_meanwhile_is_kept(self, tmp_path):
        folder = atomic_folder(tmp_path / "set")
        (folder.__enter__() / "mine").touch()
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "theirs").touch()
        with pytest.raises(UserError, match="another process"):
            folder.__exit__(None, None, None)
        assert names(tmp_path) == ["set"]
        assert names(tmp_path / "set") == ["theirs"]


class TestJson:
    def test_round_trip(self, tmp_path):
        value = {"小苗": [1, 2.5, None, True], "nested": {"a": "b\n"}}
        write_json(tmp_path / "x.json", value)
        assert read_json(tmp_path / "x.json") == value
        assert "小苗" in (tmp_path / "x.json").read_text(encoding="utf-8")

    @pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1,}', b"\xff\xfe{\x00", b"\xef\xbb\xbf{}", b"{'a': 1}"])
    def test_a_bad_file_is_named(self, tmp_path, content):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.json: not a JSON file"):
            read_json(tmp_path / "x.json")

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"x\.json: no such file"):
            read_json(tmp_path / "x.json")

    def test_a_value_that_is_no_json_leaves_the_old_file(self, tmp_path):
        write_json(tmp_path / "x.json", 1)
        with pytest.raises(TypeError):
            write_json(tmp_path / "x.json", {"a": object()})
        assert read_json(tmp_path / "x.json") == 1

    def test_canonical_text_does_not_depend_on_order(self):
        assert canonical_json({"b": 1, "a": [True, "é"]}) == canonical_json({"a": [True, "é"], "b": 1})
        assert json.loads(canonical_json({"a": "é"})) == {"a": "é"}
        assert canonical_json({"a": 1}) != canonical_json({"a": 1.0})


def test_hashes(tmp_path):
    (tmp_path / "x").write_bytes("小苗\n".encode() * 100_000)
    expected = hashlib.sha256("小苗\n".encode() * 100_000).hexdigest()
    assert sha256_of_file(tmp_path / "x") == expected
    assert sha256_of_text("小苗\n" * 100_000) == expected
