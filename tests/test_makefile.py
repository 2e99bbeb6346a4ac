"""`make` from an empty folder: the environment it makes, what a second run does, what users are told."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Not the variables of a `make test VENV=…` that started these tests, which make hands on.
    inherited = re.compile("MAKE|MFLAGS|VENV|PYTHON|PYTEST|DEMO")
    environment = {name: value for name, value in os.environ.items() if not inherited.match(name)}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def project(repository: Path, tmp_path: Path) -> Path:
    """A folder with our Makefile, and requirements files that name no package: installing takes seconds."""
    shutil.copy(repository / "Makefile", tmp_path)
    for name in ("requirements.txt", "requirements-dev.txt", "constraints.txt"):
        (tmp_path / name).write_text("# nothing\n", encoding="utf-8")
    return tmp_path


def old_python(folder: Path) -> Path:
    path = folder / "old-python"
    path.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo "Python 3.9.6"; fi\nexit 1\n', encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.slow
def test_environment_is_installed_once(project: Path) -> None:
    first = make(project, "environment-dev")
    assert first.returncode == 0, first.stderr
    assert (project / ".venv" / "bin" / "python").exists()
    assert re.findall(r"Installing (\S+)", first.stdout) == ["requirements.txt", "requirements-dev.txt"]

    (project / "requirements.txt").touch()
    second = make(project, "environment-dev")
    assert (second.returncode, second.stdout) == (0, ""), "a second run installs nothing, whatever the dates"

    (project / "requirements-dev.txt").write_text("# changed\n", encoding="utf-8")
    third = make(project, "environment-dev")
    assert re.findall(r"Installing (\S+)", third.stdout) == ["requirements-dev.txt"]


@pytest.mark.slow
def test_failed_installation_is_tried_again(project: Path) -> None:
    (project / "requirements.txt").write_text("./no-such-folder\n", encoding="utf-8")
    assert make(project, "environment").returncode != 0
    assert make(project, "environment").returncode != 0, "a failure must not count as installed"
    (project / "requirements.txt").write_text("# nothing\n", encoding="utf-8")
    assert make(project, "environment").returncode == 0


def test_old_python_is_named_and_nothing_is_made(project: Path) -> None:
    finished = make(project, "demo", f"PYTHON={old_python(project)}")
    assert finished.returncode != 0
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert "3.11" in line and "Python 3.9.6" in line and "make PYTHON=" in line
    assert not (project / ".venv").exists()


def test_broken_environment_is_named_and_kept(project: Path) -> None:
    """As after an upgrade of the system's Python: the link in .venv leads nowhere."""
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").symlink_to("/no/such/python")
    finished = make(project, "demo")
    assert finished.returncode != 0
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert ".venv" in line and "delete that folder" in line
    assert (project / ".venv").exists(), "only its owner deletes it"


def test_demo_writes_only_into_its_folder(repository: Path) -> None:
    finished = make(repository, "--dry-run", "--assume-old=environment", "demo", "DEMO_DIR=elsewhere/demo")
    assert finished.returncode == 0, finished.stderr
    commands = finished.stdout.replace("\\\n", " ").splitlines()
    stages = [re.search(r'python" (?:-m )?(\S+)', command) for command in commands]
    assert [stage and stage.group(1) for stage in stages] == [
        "data_process.py",
        "train_tokenizer.py",
        "data_process.py",
        "1-pretrain.py",
        "3-full_sft.py",
        "4-lora_sft.py",
        "5-dpo_train.py",
        "evaluation.demo_report",
    ]
    for command in commands:
        paths = re.findall(r'(?:_dir|--tokenizer|demo_report) "([^"]+)"', command)
        assert paths, f"nothing says where this writes: {command}"
        assert all(path.startswith("elsewhere/demo") for path in paths), command


def test_clean_keeps_data_and_runs(project: Path) -> None:
    kept = [project / name / "kept" for name in ("out/run", "dataset/raw", "dataset/packed/set", ".venv")]
    gone = [project / name for name in ("model/__pycache__", "tests/model/__pycache__", ".mypy_cache", ".ruff_cache")]
    for path in [*kept, *gone]:
        path.mkdir(parents=True)
    finished = make(project, "clean")
    assert finished.returncode == 0, finished.stderr
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in gone)
    assert "dataset/raw" in finished.stdout and "out" in finished.stdout, "what is kept is said"


def test_bare_make_lists_the_commands(project: Path) -> None:
    finished = make(project)
    assert finished.returncode == 0
    for command in ("demo", "test", "lint", "format", "clean"):
        assert f"make {command} " in finished.stdout
