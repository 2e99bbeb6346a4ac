"""The benchmark's truth is true, and its command prints what it measured."""

import re
import subprocess
import sys

import pytest

from benchmarks.near_duplicates import DECOY, PLAIN, PLANTED, jaccard, kind_of, row_text, shingles
from benchmarks.process_memory import MemoryWatch
from dataset.duplicates.shingles import normalise

ROWS = 500


@pytest.fixture(scope="module")
def rows():
    return [row_text(1, row) for row in range(ROWS)]


def test_planted_rows_and_decoys_are_as_alike_to_an_earlier_row_as_they_should_be(rows):
    sets, kinds = [shingles(text) for text in rows], [kind_of(1, row) for row in range(ROWS)]
    assert kinds.count(PLANTED) > 30 and kinds.count(DECOY) > 30
    for row, kind in enumerate(kinds):
        most = max((jaccard(sets[row], own) for own in sets[:row]), default=0.0)
        if kind == PLANTED:
            assert 0.85 <= most <= 1 and rows[row] not in rows[:row]
        elif kind == DECOY:
            assert 0.5 <= most <= 0.7
        else:
            assert kind == PLAIN and most < 0.5


def test_rows_are_short_texts_in_normal_form_of_two_languages(rows):
    assert all(text == normalise(text) for text in rows)
    assert all(45 <= len(text) <= 230 for text in rows)
    assert 0.4 < sum(text[0] >= "\u4e00" for text in rows) / ROWS < 0.6


def test_the_watch_sees_the_memory_of_a_child():
    script = "import time; block = bytearray(200 << 20); block[::4096] = b'x' * len(block[::4096]); time.sleep(1)"
    with MemoryWatch() as memory:
        subprocess.run([sys.executable, "-c", script], check=True)
    assert (200 << 20) < memory.peak_bytes - memory.own_peak_bytes < (260 << 20)


@pytest.mark.slow
def test_the_command(repository):
    command = [sys.executable, "-m", "benchmarks.near_duplicates"]
    flags = ["--rows", "6000", "--num_workers", "2", "--memory_mb", "1"]
    result = subprocess.run([*command, *flags], cwd=repository, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    recall, precision = (float(re.search(rf"([0-9.]+)% +{name}", result.stdout)[1]) for name in ("recall", "precision"))
    assert recall >= 95 and precision >= 99
    assert re.search(r"[0-9]+ bytes a row", result.stdout) and "peak memory" in result.stdout
    wrong = subprocess.run([*command, "--rows", "0"], cwd=repository, capture_output=True, text=True, timeout=300)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ") and "--rows" in wrong.stderr
