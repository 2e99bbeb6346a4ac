"""What a run says: a progress bar, metrics.jsonl, curves.png and report.md. Only the main process speaks."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from model.files import atomic_path, write_text


class MetricsLog:
    """`metrics.jsonl`: one line per logged step. On resume it is cut back to the step that is resumed."""

    def __init__(self, path: Path, resume_step: int) -> None:
        self.path = path
        kept = [row for row in read_metrics(path) if row["step"] <= resume_step] if resume_step else []
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one line; `kind` is "train" or "validation"."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl. A last line that a crash cut short is dropped: its step was never saved."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


class Progress:
    """A progress bar on a terminal; a line now and then in a file."""

    def __init__(self, name: str, total_steps: int, first_step: int) -> None:
        # In a log file a bar that redraws itself is noise: one line every half minute is enough.
        interval = 0.1 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(total=total_steps, initial=first_step, desc=name, unit="step", mininterval=interval)

    def advance(self) -> None:
        """One more step."""
        self._bar.update()

    def show(self, **values: str) -> None:
        """Numbers beside the bar."""
        self._bar.set_postfix(values, refresh=False)

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


def draw_curves(metrics_path: Path, picture_path: Path, title: str) -> None:
    """Loss and learning rate over steps, from metrics.jsonl."""
    from matplotlib.figure import Figure  # heavy, and not needed by every import of this room

    rows = read_metrics(metrics_path)
    train = [row for row in rows if row["kind"] == "train"]
    validation = [row for row in rows if row["kind"] == "validation"]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([row["step"] for row in train], [row["loss"] for row in train], lw=1, label="training loss")
    axes.plot([row["step"] for row in validation], [row["loss"] for row in validation], "o-", label="validation loss")
    axes.set(xlabel="step", ylabel="loss (nats a token)", title=title)
    rates = axes.twinx()
    rates.plot([row["step"] for row in train], [row["learning_rate"] for row in train], "k:", lw=1)
    rates.set_ylabel("learning rate (dotted)")
    axes.legend()
    axes.grid(alpha=0.3)
    with atomic_path(picture_path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def write_report(path: Path, title: str, summary: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """`report.md`: what came of the run, its curve, and everything that makes it this run."""
    lines = [f"# {title}", "", "![loss](curves.png)", "", "| result | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in summary.items()]
    lines += ["", "| setting | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in identity.items()]
    write_text(path, "\n".join(lines) + "\n")


def _cell(value: Any) -> str:
    text = f"{value:,.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


class Tracker:
    """Weights & Biases, when asked for: the same run goes on after a restart."""

    def __init__(self, enabled: bool, project: str, name: str, run_id: str | None, config: Mapping[str, Any]) -> None:
        self._run: Any = None
        if enabled:
            import wandb

            self._run = wandb.init(project=project, name=name, id=run_id, resume="allow", config=dict(config))

    @property
    def run_id(self) -> str | None:
        """The tracker's own id of this run."""
        return self._run.id if self._run is not None else None

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Send one line of metrics."""
        if self._run is not None:
            self._run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Flush what is left."""
        if self._run is not None:
            self._run.finish()
