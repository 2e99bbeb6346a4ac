"""What a run says: a progress bar, metrics.jsonl, curves.png and report.md. Only the main process speaks."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

from tqdm import tqdm

from dataset.mixed_order import MixedOrder
from model.files import atomic_path, write_text

DRAWN_SOURCES = 8
PRINTED_ROWS = 16


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
    _draw_sources(axes, validation)
    axes.set(xlabel="step", ylabel="loss (nats a token)", title=title)
    rates = axes.twinx()
    rates.plot([row["step"] for row in train], [row["learning_rate"] for row in train], "k:", lw=1)
    rates.set_ylabel("learning rate (dotted)")
    axes.legend()
    axes.grid(alpha=0.3)
    with atomic_path(picture_path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_sources(axes: Any, validation: list[dict[str, Any]]) -> None:
    """Thin lines for the sources, while there are few enough to tell their colours apart."""
    rows = [row for row in validation if "loss_by_source" in row]
    names = rows[-1]["loss_by_source"] if rows else {}
    if len(names) <= DRAWN_SOURCES:
        for name in names:
            # The validation set may have been changed within a run, and with it the sources.
            known = [(row["step"], row["loss_by_source"][name]) for row in rows if name in row["loss_by_source"]]
            axes.plot(*zip(*known, strict=True), lw=0.7, label=name)


@dataclass(frozen=True)
class Table:
    """A table, for the terminal and for report.md."""

    title: str
    header: Sequence[str]  # a column named with a space before it holds numbers
    rows: Sequence[Sequence[str]]

    def as_text(self) -> str:
        """Columns of equal width, numbers to the right; of a long table its beginning."""
        lines = [[cell.strip() for cell in line] for line in [self.header, *self.rows[:PRINTED_ROWS]]]
        widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
        is_number = [name[0] == " " for name in self.header]
        text = []
        for line in lines:
            padded = [(cell, " " * (width - _width(cell))) for cell, width in zip(line, widths, strict=True)]
            text.append(
                "  ".join(pad + cell if n else cell + pad for (cell, pad), n in zip(padded, is_number, strict=True))
            )
        if len(self.rows) > PRINTED_ROWS:
            text.append(f"and {len(self.rows) - PRINTED_ROWS} more, in report.md")
        return "\n".join([self.title, *(f"  {line.rstrip()}" for line in text)])

    def as_markdown(self) -> str:
        """With its title above it."""
        rule = ["---:" if name[0] == " " else "---" for name in self.header]
        lines = [self.header, rule, *self.rows]
        return "\n".join([self.title, "", *(f"| {' | '.join(map(_cell, line))} |" for line in lines)])


def _width(text: str) -> int:
    """Columns on a terminal: a Chinese character takes two."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def mixture_table(order: MixedOrder, total_steps: int) -> Table:
    """What a run of so many steps reads of each set of its mixture."""
    planned = order.plan(total_steps)
    of_phase: dict[str, int] = {}
    for each in planned:
        of_phase[each.phase] = of_phase.get(each.phase, 0) + each.tokens
    title = f"{order.mixture.name}: {total_steps:,} steps, {sum(of_phase.values()):,} trained tokens"
    header = ["set", "asked", " rows", " tokens", " share", " passes"]
    rows = [
        [
            each.set_name,
            each.asked,
            f"{each.rows:,}",
            f"{each.tokens:,}",
            f"{each.tokens / max(of_phase[each.phase], 1):.2%}",
            f"{each.passes:.2f}",
        ]
        for each in planned
    ]
    if not order.mixture.repeats:
        # The phase's name and its sum stand once, above its sets.
        header = ["phase", *header]
        phases = {phase.name: phase.length for phase in order.mixture.phases}
        above = {name: [name, "", phases[name], "", f"{tokens:,}", "", ""] for name, tokens in of_phase.items()}
        with_phases: list[list[str]] = []
        for each, row in zip(planned, rows, strict=True):
            if each.phase in above:
                with_phases.append(above.pop(each.phase))
            with_phases.append(["", *row])
        rows = with_phases
    return Table(title, header, rows)


def source_table(metrics_path: Path) -> Table | None:
    """Validation loss by source, before and after; None where all is of one source."""
    rows = [row for row in read_metrics(metrics_path) if row["kind"] == "validation" and "loss_by_source" in row]
    if not rows:
        return None
    before, after = rows[0]["loss_by_source"], rows[-1]["loss_by_source"]
    # A run may go on with another validation set: its sources have no "before".
    lines = [[name, f"{before[name]:.4f}" if name in before else "", f"{loss:.4f}"] for name, loss in after.items()]
    return Table("validation loss by source", ["source", " before", " after"], lines)


def write_report(
    path: Path, title: str, summary: Mapping[str, Any], identity: Mapping[str, Any], tables: Sequence[Table] = ()
) -> None:
    """`report.md`: what came of the run, its curve, its tables, and everything that makes it this run."""
    lines = [f"# {title}", "", "![loss](curves.png)", "", "| result | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in summary.items()]
    for table in tables:
        lines += ["", table.as_markdown()]
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
