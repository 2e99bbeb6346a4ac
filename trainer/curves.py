"""`curves.png`: loss and learning rate over the steps, the gradients below them, and what happened on the way."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.files import atomic_path
from trainer.metrics import read_metrics

DRAWN_SOURCES = 8
DRAWN_POINTS = 2000
_MARKS = {"alarm": "tab:orange", "rollback": "tab:red"}

Row = dict[str, Any]


def draw_curves(metrics_path: Path, picture_path: Path, title: str, loss_unit: str) -> None:
    """Draw what metrics.jsonl holds by now. A picture that fails is a warning: the run goes on."""
    from matplotlib.figure import Figure  # heavy, and not needed by every import of this room

    rows = read_metrics(metrics_path)
    of_kind: dict[str, list[Row]] = {kind: [] for kind in ("train", "validation", *_MARKS)}
    for row in rows:
        of_kind.setdefault(row["kind"], []).append(row)
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.3))
    try:
        _draw_losses(above, of_kind["train"], of_kind["validation"])
        _draw_gradients(below, of_kind["train"])
        for axes in (above, below):
            for kind, color in _MARKS.items():
                for number, row in enumerate(of_kind[kind][-DRAWN_POINTS:]):
                    axes.axvline(
                        row["step"], color=color, ls="--", lw=0.8, label=kind if number == 0 and axes is above else None
                    )
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize="small", loc="upper right")
            axes.grid(alpha=0.3)
        above.set(ylabel=f"loss ({loss_unit})")
        # Not in matplotlib's own formula language: a run's name may have a $.
        above.set_title(title, parse_math=False)
        with warnings.catch_warnings(), atomic_path(picture_path) as temporary:
            warnings.filterwarnings("ignore", message="Glyph")  # a source's name that the font lacks shows as a box
            figure.savefig(temporary, format="png", dpi=120)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        print(f"warning: {picture_path}: not drawn ({error})", file=sys.stderr)


def _draw_losses(axes: Any, train: Sequence[Row], validation: Sequence[Row]) -> None:
    axes.plot(*thinned(*_series(train, "loss")), lw=1, label="training loss")
    axes.plot(*_series(validation, "loss"), "o-", label="validation loss")
    by_source = [row for row in validation if row.get("loss_by_source")]
    names = by_source[-1]["loss_by_source"] if by_source else {}
    # Thin lines for the sources, while there are few enough to tell their colours apart.
    if len(names) <= DRAWN_SOURCES:
        for name in names:
            # The validation set may have been changed within a run, and with it the sources.
            known = [(row["step"], row["loss_by_source"].get(name)) for row in by_source]
            points = np.array([point for point in known if point[1] is not None], np.float64).T
            axes.plot(*points, lw=0.7, label=name.replace("$", r"\$"))
    rates = axes.twinx()
    rates.plot(*thinned(*_series(train, "learning_rate")), "k:", lw=1)
    rates.set_ylabel("learning rate (dotted)")


def _draw_gradients(axes: Any, train: Sequence[Row]) -> None:
    for name, label in (("grad_norm", "gradient norm"), ("update_ratio", "update ratio")):
        steps, values = _series(train, name)
        is_drawn = values > 0  # false for NaN; a logarithm needs it
        if is_drawn.any():
            axes.plot(*thinned(steps[is_drawn], values[is_drawn]), lw=0.8, label=label)
            axes.set_yscale("log")
    axes.set(xlabel="step")


def _series(rows: Sequence[Row], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values; what a row lacks, or holds as null, is a gap in the line."""
    steps = np.array([row["step"] for row in rows], np.float64)
    return steps, np.array([row.get(name) for row in rows], np.float64)  # None becomes NaN


def thinned(steps: np.ndarray, values: np.ndarray, most: int = DRAWN_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most about `most` points: the lowest and the highest of each stretch, so that no spike gets lost."""
    if len(values) <= most:
        return steps, values
    chosen = []
    for stretch in np.array_split(np.arange(len(values)), most // 2):
        part = values[stretch]
        if np.isnan(part).all():
            chosen.append(stretch[:1])
        else:
            chosen.append(np.unique(stretch[[np.nanargmin(part), np.nanargmax(part)]]))
    kept = np.concatenate(chosen)
    return steps[kept], values[kept]
