"""metrics.jsonl: it goes on where the run goes on, and a crash in any line costs that line at most."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from trainer.metrics import MetricsLog, flat_numbers, read_metrics


def steps_of(path: Path, kind: str = "train") -> list[int]:
    return [row["step"] for row in read_metrics(path) if row["kind"] == kind]


def filled(path: Path, steps: int = 6) -> Path:
    log = MetricsLog(path, 0)
    log.write("validation", 0, {"loss": 5.0})
    for step in range(1, steps + 1):
        log.write("train", step, {"loss": 1 / step})
    log.write("alarm", 4, {"message": "loud"})
    return path


def test_a_restart_cuts_back_to_its_step(tmp_path: Path) -> None:
    path = filled(tmp_path / "metrics.jsonl")
    log = MetricsLog(path, 3)
    assert steps_of(path) == [1, 2, 3] and steps_of(path, "validation") == [0] and not steps_of(path, "alarm")
    log.write("train", 4, {"loss": 0.1})
    assert steps_of(path) == [1, 2, 3, 4]
    log.go_back(1)
    log.write("rollback", 1, {"from_step": 4})
    assert steps_of(path) == [1] and steps_of(path, "rollback") == [1]


def test_a_run_that_begins_anew_keeps_only_the_word_of_its_rollbacks(tmp_path: Path) -> None:
    path = filled(tmp_path / "metrics.jsonl")
    log = MetricsLog(path, 5)
    log.go_back(0)
    assert steps_of(path, "validation") == [0]  # in the same process nobody measures it again
    log.write("rollback", 0, {"from_step": 5})
    MetricsLog(path, 0)
    assert [row["kind"] for row in read_metrics(path)] == ["rollback"]


def test_a_rollback_that_a_kill_undid_leaves_no_word(tmp_path: Path) -> None:
    path = filled(tmp_path / "metrics.jsonl")
    log = MetricsLog(path, 3)
    for number in (1, 2):
        log.write("rollback", 3, {"number": number})
    MetricsLog(path, 3, rollbacks=1)
    assert [row["number"] for row in read_metrics(path) if row["kind"] == "rollback"] == [1]


def test_what_a_stop_cut_short_is_written_again(tmp_path: Path) -> None:
    path = filled(tmp_path / "metrics.jsonl")
    for kind in ("validation", "samples"):
        MetricsLog(path, 6).write(kind, 6, {})
    MetricsLog(path, 6)
    assert steps_of(path, "validation") == [0, 6] and steps_of(path, "samples") == [6]
    MetricsLog(path, 6, look_is_due=True)
    assert steps_of(path, "validation") == [0] and not steps_of(path, "samples")
    assert steps_of(path) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_any_cut_of_the_last_line_costs_that_line_alone(tmp_path: Path, cut: int) -> None:
    path = filled(tmp_path / "metrics.jsonl", 3)
    whole = path.read_bytes()
    last = json.dumps({"kind": "samples", "step": 4, "samples": "诗词" * 20}, ensure_ascii=False).encode()
    path.write_bytes(whole + last[:-cut])  # some of these cuts leave half a character
    assert steps_of(path) == [1, 2, 3] and not steps_of(path, "samples")
    MetricsLog(path, 3).write("train", 4, {"loss": 1.0})
    assert steps_of(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("damage", [b"{half", b"\x00\x00\x00", b"[1]", b'{"step": 2}', b'{"kind": 1, "step": 2}'])
def test_a_damaged_line_is_a_warning(tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = filled(tmp_path / "metrics.jsonl", 3)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], damage, *lines[2:]]))
    assert steps_of(path) == [1, 2, 3]
    assert capsys.readouterr().err == f"warning: {path}:3: not a row of a run's log, left out\n"


def test_every_value_is_json_and_pandas_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    values: dict[str, Any] = {
        "loss": math.nan,
        "grad_norm": torch.tensor(math.inf),
        "shares": np.array([0.25, math.nan]),
        "by": {"a": np.float32(2), "b": -math.inf},
        "text": "two\nlines\u2028and a third",
    }
    log.write("train", 1, values)
    log.write("train", 2, {"loss": 1.5})
    row = read_metrics(path)[0]
    assert row["loss"] is None and row["grad_norm"] is None and row["shares"] == [0.25, None]
    assert row["by"] == {"a": 2.0, "b": None} and row["text"] == values["text"]
    assert pd.read_json(path, lines=True)["loss"].tolist()[1] == 1.5
    assert flat_numbers(values) == {"by/a": 2.0}


def test_other_ranks_touch_nothing(tmp_path: Path) -> None:
    path = filled(tmp_path / "metrics.jsonl")
    before = path.read_bytes()
    log = MetricsLog(path, 0, enabled=False)
    log.write("train", 9, {"loss": 1.0})
    log.go_back(0)
    assert path.read_bytes() == before
