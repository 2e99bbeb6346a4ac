"""The commands that print figures run, and what they print is what they measured."""

import json
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def run_benchmark(repository, *arguments):
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300)


def test_packing_efficiency_of_short_documents(repository, tmp_path):
    path = tmp_path / "text.jsonl"
    words = [f"w{number % 611}x{number % 13}" for number in range(9000)]
    documents = [" ".join(words[start : start + 11]) for start in range(0, len(words), 11)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    tokenizer = tmp_path / "tokenizer"
    made = subprocess.run(
        [sys.executable, "train_tokenizer.py", "--data_path", path, "--tokenizer", tokenizer, "--vocab_size", "400"],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    result = run_benchmark(
        repository, "benchmarks.packing_efficiency", path, "--tokenizer", tokenizer, "--max_seq_len", 64
    )
    assert result.returncode == 0, result.stderr
    shares = [float(share) for share in re.findall(r"([0-9.]+) ?%", result.stdout)]
    assert shares and max(shares) >= 99


def test_a_missing_file_is_one_line(repository, tmp_path):
    result = run_benchmark(repository, "benchmarks.packing_efficiency", tmp_path / "none.jsonl")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and "none.jsonl" in result.stderr and "Traceback" not in result.stderr


def test_model_step_prints_a_ratio(repository):
    flags = ["--preset", "tiny", "--batch_size", 1, "--seq_len", 16, "--repeats", 2, "--threads", 1, "--device", "cpu"]
    result = run_benchmark(repository, "benchmarks.model_step", *flags)
    assert result.returncode == 0, result.stderr
    assert re.search(r"ratio ours / transformers +[0-9.]+x", result.stdout)


def test_packed_reading_prints_opening_sharing_and_speed(repository):
    flags = ["--megabytes", 2, "--max_seq_len", 64, "--processes", 2, "--seconds", 0.2]
    result = run_benchmark(repository, "benchmarks.packed_reading", *flags)
    assert result.returncode == 0, result.stderr
    assert re.search(r"opening, to the first batch, 2 processes at once: [0-9.]+, [0-9.]+ s", result.stdout)
    assert re.search(r"one process: [0-9.]+M tokens/s", result.stdout)
    if sys.platform == "linux":
        held = float(re.search(r"held ([0-9.]+) times", result.stdout)[1])
        assert 0.9 < held < 1.2, "each page once, however many processes map it"


def test_packed_reading_of_a_set_that_is_not_there(repository):
    result = run_benchmark(repository, "benchmarks.packed_reading", "--data_path", "none")
    assert result.returncode == 2 and re.fullmatch(r"error: none: no such packed set[^\n]+\n", result.stderr)


@pytest.fixture(scope="module")
def tokenizer(repository, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    text = folder.parent / "text.jsonl"
    text.write_text(json.dumps({"text": "the river and the sea, 河流和大海。" * 50}) + "\n", encoding="utf-8")
    flags = ["--data_path", text, "--tokenizer", folder, "--vocab_size", "340"]
    command = [sys.executable, "train_tokenizer.py", *map(str, flags)]
    made = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return folder


def test_packing_loses_no_token_of_conversations(repository, tmp_path, tokenizer):
    path = tmp_path / "chat.json"
    rows = [{"instruction": f"What is {number}?", "output": "a number " * (number % 50 + 1)} for number in range(300)]
    path.write_text(json.dumps(rows), encoding="utf-8")
    flags = ["--kind", "sft", "--tokenizer", tokenizer, "--max_seq_len", 256]
    result = run_benchmark(repository, "benchmarks.packing_efficiency", path, *flags)
    assert result.returncode == 0, result.stderr
    [(tokens_in, tokens_out, lost, too_long)] = re.findall(
        r"([0-9,]+) tokens in, ([0-9,]+) tokens out: (-?\d+) lost in packing; (\d+) conversations", result.stdout
    )
    assert tokens_in == tokens_out and int(tokens_in.replace(",", "")) > 10_000
    assert (lost, int(too_long) > 0) == ("0", True)


def test_pack_speed_prints_ratios(repository, tmp_path, tokenizer):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number} rivers"}) + "\n" for number in range(5000)))
    flags = ["--rounds", 1, "--num_workers", 1, "--tokenizer", tokenizer]
    result = run_benchmark(repository, "benchmarks.pack_speed", path, *flags)
    assert result.returncode == 0, result.stderr
    assert re.search(r"ratio to the peer +[0-9.]+x \(to its map alone [0-9.]+x\)", result.stdout)


def test_pack_memory_prints_a_ratio_and_a_maximum(repository, tokenizer):
    flags = ["--megabytes", 1, 2, "--num_workers", 1, "--tokenizer", tokenizer]
    result = run_benchmark(repository, "benchmarks.pack_memory", *flags)
    assert result.returncode == 0, result.stderr
    peaks = [int(peak) for peak in re.findall(r"peak +(\d+) MiB", result.stdout)]
    assert len(peaks) == 2 and all(50 < peak < 2000 for peak in peaks)
    assert re.search(r"largest against smallest input: [0-9.]+x; at most [0-9.]+ GiB", result.stdout)
