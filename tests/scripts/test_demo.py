"""`make demo`, made small: every stage and the report; a second call trains nothing and shows the table again."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine"),
]

# A model of a few thousand weights answers the whole exam in seconds (wrongly).
SMALL = "--dim 32 --n_layers 1 --n_heads 2 --n_kv_heads 1"


def make_demo(repository: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    # Not the variables of a `make test VENV=…` that started these tests, which make hands on.
    inherited = re.compile("MAKE|MFLAGS|VENV|PYTHON|PYTEST|DEMO")
    environment = {name: value for name, value in os.environ.items() if not inherited.match(name)}
    flags = [f"VENV={sys.prefix}", f"DEMO_DIR={folder}", "DEMO_SFT_FLAGS=--max_steps 4"]
    flags += ["DEMO_LORA_FLAGS=--max_steps 4", "DEMO_DPO_FLAGS=--max_steps 4"]
    flags.append(f"DEMO_PRETRAIN_FLAGS=--max_steps 4 {SMALL}")
    command = ["make", "--assume-old=environment", "demo", *flags]
    return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=600)


def listing(folder: Path, *left_out: str) -> dict[str, int]:
    """Every file below `folder` with the time of its last change."""
    files = (path for path in folder.rglob("*") if path.is_file() and not set(left_out) & set(path.parts))
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def test_demo_shows_every_stage_and_a_second_call_trains_nothing(repository, tmp_path):
    made_by_tools = (".git", "__pycache__", "tests", ".venv", "venv", ".hypothesis", ".pytest_cache", "out")
    before = listing(repository, *made_by_tools)
    demo = tmp_path / "demo"
    first = make_demo(repository, demo)
    assert first.returncode == 0, first.stderr
    assert listing(repository, *made_by_tools) == before, "it writes into its own folder only"
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    left = {path.name for path in demo.iterdir()}
    names = ("pretrain_32", "full_sft_32", "lora_identity_32", "rl_32")
    runs = {*names, *(f"{name}.pth" for name in names)}
    assert left == {"raw", "tokenizer", "packed", "exams", "report.md", "report.png", *runs}

    report = (demo / "report.md").read_text(encoding="utf-8")
    rows = [
        line.split(" | ") for line in report.splitlines() if re.match(r"\| (Pretraining|Supervised|LoRA|DPO)", line)
    ]
    assert len(rows) == 4
    for row in rows:
        assert re.fullmatch(r"\d+ s", row[1])
        assert int(row[2].replace(",", "")) > 0
        assert re.fullmatch(r"\d+\.\d\d → \d+\.\d\d", row[3])
        assert all(re.match(r"\d+\.\d% → \d+\.\d%", share) for share in row[4:])
    assert len(rows[0]) == 8, "shares for Chinese, for English, for who it is and for manners"
    assert (demo / "report.png").read_bytes().startswith(b"\x89PNG")

    models = {name: time for name, time in listing(demo).items() if name.endswith((".pth", ".pt", ".json"))}
    second = make_demo(repository, demo)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("already done (4 steps)") == 4
    assert "held-out questions\n" not in second.stdout, "nothing is asked again"
    assert second.stdout.count("What each stage did") == 1
    again = listing(demo)
    assert {name: again[name] for name in models if "raw/" not in name} == {
        name: time for name, time in models.items() if "raw/" not in name
    }
    table = [line for line in report.splitlines() if line.startswith("|")]
    report_again = (demo / "report.md").read_text(encoding="utf-8")
    assert [line for line in report_again.splitlines() if line.startswith("|")] == table
