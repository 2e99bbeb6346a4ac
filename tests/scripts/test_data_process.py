"""`data_process.py`, run as a user would."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataset.packing import PackedSet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The little world's raw files and a tokenizer trained on them."""
    folder = tmp_path_factory.mktemp("workspace")
    for script, flags in (
        ("data_process.py", ["little_world", "--raw_dir", "raw"]),
        ("train_tokenizer.py", ["--raw_dir", "raw", "--tokenizer", "tokenizer"]),
    ):
        subprocess.run([sys.executable, str(repository / script), *flags], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def run(repository: Path, workspace: Path):
    """Run the script in the workspace; returns the finished process."""

    def run_script(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            str(repository / "data_process.py"),
            "--raw_dir",
            "raw",
            "--tokenizer",
            "tokenizer",
        ]
        return subprocess.run([*command, *flags], cwd=workspace, capture_output=True, text=True)

    return run_script


def test_help_answers_without_torch(repository: Path) -> None:
    command = [sys.executable, "-X", "importtime", str(repository / "data_process.py"), "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0
    assert "python data_process.py sft --data_path" in result.stdout
    assert not any(line.split("|")[-1].strip() == "torch" for line in result.stderr.splitlines())


def test_bare_call_packs_the_little_world_and_a_second_one_does_nothing(run, workspace: Path) -> None:
    first = run("--packed_dir", "packed")
    assert first.returncode == 0, first.stderr
    kinds = {}
    for path in (workspace / "packed").iterdir():
        packed = PackedSet.open(path, verify=True)
        kinds[path.name] = packed.kind
        assert packed.max_seq_len == 256
        assert packed.num_rows > 0
    sets = {"pretrain": "pretrain", "sft": "sft", "identity": "sft", "dpo": "dpo"}
    assert kinds == {f"little_world_{name}{val}": kind for name, kind in sets.items() for val in ("", "_val")}
    second = run("--packed_dir", "packed")
    assert second.returncode == 0
    assert second.stdout.count("already built") == 4


def test_own_files(run, workspace: Path) -> None:
    (workspace / "mine.json").write_text(json.dumps([{"instruction": "Hi", "input": "", "output": "Hello."}] * 2))
    result = run("sft", "--data_path", "mine.json", "--max_seq_len", "32", "--packed_dir", "packed")
    assert result.returncode == 0, result.stderr
    assert "| dropped (by rule) | duplicate | 1 |" in result.stdout
    assert PackedSet.open(workspace / "packed" / "mine", kind="sft").meta["num_documents"] == 1


@pytest.mark.parametrize(
    ("flags", "content", "message"),
    [
        (["sft"], None, "--data_path: missing"),
        (["--data_path", "bad.jsonl"], None, "need a command"),
        (["pretrain", "--data_path", "nothing.jsonl"], None, "nothing.jsonl: no such file or folder"),
        (["pretrain", "--data_path", "bad.jsonl"], b"", "bad.jsonl: the file is empty"),
        (
            ["pretrain", "--data_path", "bad.jsonl"],
            b'{"text": "a"}\n{"text": "b',
            "bad.jsonl:2: the file ends in the middle",
        ),
        (["pretrain", "--data_path", "bad.jsonl"], '{"text": "好"}\n'.encode("gb18030") * 3, "not UTF-8"),
        (["pretrain", "--data_path", "bad.jsonl"], b'{"body": "a"}\n', "no field 'text'"),
        (["pretrain", "--data_path", "bad.jsonl"], b'{"text": 1}\n', "wrong type"),
        (["pretrain", "--data_path", "bad.jsonl"], b"x" * (17 << 20), "too long"),
        (["sft", "--data_path", "bad.jsonl"], b'{"text": "a"}\n', "not a conversation"),
        (
            ["pretrain", "--data_path", "bad.jsonl", "--tokenizer", "nowhere"],
            b'{"text": "a"}\n',
            "nowhere: no such tokenizer",
        ),
        (
            ["pretrain", "--data_path", "bad.jsonl", "--tokenizer", "bad.jsonl"],
            b'{"text": "a"}\n',
            "bad.jsonl",
        ),
        (
            ["pretrain", "--data_path", "bad.jsonl", "--packed_dir", "bad.jsonl"],
            b'{"text": "a"}\n',
            "expected a folder",
        ),
        (
            ["pretrain", "--data_path", "bad.jsonl", "--max_seq_len", "many"],
            b'{"text": "a"}\n',
            "--max_seq_len",
        ),
        (["pretrain", "--data_paht", "bad.jsonl"], None, "--data_paht"),
        (["--raw_dir", "nowhere"], None, "data_process.py little_world"),
    ],
)
def test_mistakes_end_in_one_line(run, workspace: Path, flags: list[str], content: bytes | None, message: str) -> None:
    if content is not None:
        (workspace / "bad.jsonl").write_bytes(content)
    result = run("--packed_dir", "other", *flags)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not [path for path in (workspace / "other").glob("*") if path.is_dir()]


def test_a_headed_file_loads(run, workspace: Path) -> None:
    (workspace / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "with a byte order mark"}\n')
    assert run("pretrain", "--data_path", "bom.jsonl", "--packed_dir", "packed").returncode == 0


@pytest.mark.parametrize(
    ("sent", "code", "wait"),
    [(signal.SIGINT, 130, 0.5), (signal.SIGINT, 130, 5.0), (signal.SIGTERM, 143, 5.0)],
)
def test_a_stop_leaves_nothing_behind(
    repository: Path, workspace: Path, sent: signal.Signals, code: int, wait: float
) -> None:
    with open(workspace / "large.jsonl", "w") as file:
        for number in range(400_000):
            file.write(json.dumps({"text": f"{number} " + "many words " * 10}) + "\n")
    command = [sys.executable, str(repository / "data_process.py"), "pretrain", "--data_path", "large.jsonl"]
    command += ["--tokenizer", "tokenizer", "--packed_dir", "stopped", "--num_workers", "2"]
    process = subprocess.Popen(
        command,
        cwd=workspace,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    packed_dir = workspace / "stopped"
    deadline = time.monotonic() + 60
    while not list(packed_dir.glob(".large.*/tokens.npy")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(wait)  # while the workers start, or while they work
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does: every process of the group
    else:
        process.send_signal(sent)
    # Returns when nobody holds the other end of the pipes any more: no worker lives on.
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert list(packed_dir.iterdir()) == []
