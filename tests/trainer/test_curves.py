"""The picture of a run: quick, with every spike, and never a reason to fail."""

import json
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from trainer.curves import DRAWN_POINTS, draw_curves, thinned


def test_thinning_keeps_the_ends_of_the_range_and_the_order() -> None:
    random = np.random.default_rng(0)
    steps, values = np.arange(100_000.0), random.normal(size=100_000)
    values[12_345], values[54_321] = 100.0, -100.0
    kept, thin = thinned(steps, values)
    assert len(kept) <= DRAWN_POINTS and (np.diff(kept) > 0).all()
    assert (values[kept.astype(int)] == thin).all() and thin.max() == 100.0 and thin.min() == -100.0
    few = thinned(steps[:50], values[:50])
    assert (few[0] == steps[:50]).all() and (few[1] == values[:50]).all()
    gaps = thinned(steps, np.full(100_000, np.nan))
    assert np.isnan(gaps[1]).all() and len(gaps[0]) <= DRAWN_POINTS


def write_rows(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def train_row(step: int) -> dict:
    return {
        "kind": "train",
        "step": step,
        "loss": 2.0 + 1 / (step + 1),
        "learning_rate": 1e-3,
        "grad_norm": 0.5,
        "update_ratio": 1e-3 if step % 3 else None,
    }


def test_a_long_run_is_drawn_quickly(tmp_path: Path) -> None:
    log = write_rows(tmp_path / "log", *map(train_row, range(100_000)))
    draw_curves(log, tmp_path / "warm.png", "run", "nats a token")
    start = time.process_time()
    draw_curves(log, tmp_path / "curves.png", "run", "nats a token")
    assert time.process_time() - start < 15  # a second or two on an idle core


def test_alarms_and_rollbacks_are_marked(tmp_path: Path) -> None:
    rows = [train_row(step) for step in range(50)]
    rows += [{"kind": "validation", "step": 25, "loss": 2.5, "loss_by_source": {"诗 $x": 2.0, "b": 3.0}}]
    pictures = []
    for number, events in enumerate([[], [{"kind": "alarm", "step": 30}], [{"kind": "rollback", "step": 10}]]):
        draw_curves(write_rows(tmp_path / "log", *rows, *events), tmp_path / f"{number}.png", "a $name", "nats a token")
        pictures.append(matplotlib.image.imread(tmp_path / f"{number}.png")[..., :3])
    reds = [int(((p[..., 0] > 0.7) & (p[..., 1] < 0.4) & (p[..., 2] < 0.4)).sum()) for p in pictures]
    assert reds[2] > reds[0] + 100
    assert not np.array_equal(pictures[0], pictures[1])


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"kind": "train", "step": 1}],
        [{"kind": "train", "step": 1, "loss": None, "learning_rate": 0.1}],
        [{"kind": "other", "step": 1}],
    ],
)
def test_little_to_draw_is_drawn(tmp_path: Path, rows: list[dict]) -> None:
    draw_curves(write_rows(tmp_path / "log", *rows), tmp_path / "curves.png", "run", "nats a token")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_fails_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_rows(tmp_path / "log", {"kind": "train", "step": 1, "loss": "many"})
    draw_curves(log, tmp_path / "curves.png", "run", "nats a token")
    (tmp_path / "folder").mkdir()
    draw_curves(write_rows(log, train_row(1)), tmp_path / "folder", "run", "nats a token")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith(f"warning: {tmp_path}") for line in lines)
