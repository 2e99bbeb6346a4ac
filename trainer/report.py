"""What is left of a run when it has finished: report.md, and the tables in it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

from dataset.mixed_order import MixedOrder
from dataset.mixed_set import AnySet, JoinedSets
from dataset.packing import PackedSet
from dataset.row_subset import RowSubset
from model.files import write_text
from trainer.metrics import read_metrics

PRINTED_ROWS = 16
_LOSSES = ("kind", "step", "loss", "bits_per_byte", "loss_by_source", "bits_per_byte_by_source")  # of a validation
LISTED_EVENTS = 100  # of a run that has more, the last ones


@dataclass(frozen=True)
class Table:
    """A table, for the terminal and for report.md."""

    title: str
    header: Sequence[str]  # a column named with a space before it holds numbers
    rows: Sequence[Sequence[str]]

    def as_text(self, most: int = PRINTED_ROWS) -> str:
        """Columns of equal width, numbers to the right; of a long table its beginning, `most` rows."""
        lines = [[cell.strip() for cell in line] for line in [self.header, *self.rows[:most]]]
        widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
        is_number = [name[:1] == " " for name in self.header]
        text = []
        for line in lines:
            padded = [(cell, " " * (width - _width(cell))) for cell, width in zip(line, widths, strict=True)]
            text.append(
                "  ".join(pad + cell if n else cell + pad for (cell, pad), n in zip(padded, is_number, strict=True))
            )
        if len(self.rows) > most:
            text.append(f"and {len(self.rows) - most} more, in report.md")
        return "\n".join([self.title, *(f"  {line.rstrip()}" for line in text)])

    def as_markdown(self) -> str:
        """With its title above it."""
        rule = ["---:" if name[:1] == " " else "---" for name in self.header]
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
    """Validation loss by source, before and after, and bits a byte; None where all is of one source."""
    rows = [row for row in read_metrics(metrics_path) if row["kind"] == "validation" and row.get("loss_by_source")]
    if not rows:
        return None
    columns = [row["loss_by_source"] for row in (rows[0], rows[-1])]
    header = ["source", " before", " after"]
    of_bytes = [row.get("bits_per_byte_by_source", {}) for row in (rows[0], rows[-1])]
    if of_bytes[1]:
        columns += of_bytes
        header += [" bits a byte before", " after"]
    # A run may go on with another validation set: its sources have no "before".
    lines = [[name, *(_decimals(column.get(name)) for column in columns)] for name in columns[1]]
    return Table("validation loss by source", header, lines)


def measure_table(metrics_path: Path) -> Table | None:
    """What is measured besides the loss, before and after; None where that is nothing."""
    metrics = read_metrics(metrics_path)
    validations = [row for row in metrics if row["kind"] == "validation"]
    rows = validations or [row for row in metrics if row["kind"] == "measured"]
    where = "validation" if validations else "training"
    names = [name for name in (rows[-1] if rows else {}) if name not in _LOSSES]
    if not names:
        return None
    lines = [[name.replace("_", " "), *(_decimals(row.get(name)) for row in (rows[0], rows[-1]))] for name in names]
    return Table(f"measured on the {where} set", ["", " before", " after"], lines)


def _decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def data_table(sets: Mapping[str, AnySet | None]) -> Table:
    """What the run has read: its sets by use ("training", "validation"), with the hashes of their contents."""
    header = ["use", "set", "sources", " rows", " tokens", " trained tokens", "fingerprint"]
    rows = []
    for use, packed in sets.items():
        if packed is None:
            continue
        parts: Sequence[PackedSet | RowSubset] = packed.sets if isinstance(packed, JoinedSets) else [packed]
        for part in parts:
            meta, sources = part.meta, ", ".join(part.sources[:PRINTED_ROWS])
            more = len(part.sources) - PRINTED_ROWS
            sources += f" and {more} more" if more > 0 else ""
            counts = [f"{part.num_rows:,}", *(f"{meta.get(name, 0):,}" for name in ("num_tokens", "num_targets"))]
            rows.append([use, part.folder.name, sources, *counts, part.fingerprint])
    return Table("data", header, rows)


def expert_table(shares: Sequence[Sequence[float]]) -> Table:
    """How evenly a mixture of experts is used.

    Args:
        shares: [layers][routed experts] tokens, or any measure of them, sent to each expert.
    """
    rows = []
    for number, layer in enumerate(shares):
        total = sum(layer) or 1.0
        by_share = sorted((share / total, expert) for expert, share in enumerate(layer))
        low, high = by_share[0], by_share[-1]
        rows.append([str(number), f"{low[0]:.1%} (expert {low[1]})", f"{high[0]:.1%} (expert {high[1]})"])
    even = f"{1 / len(shares[0]):.1%}" if shares and shares[0] else "–"
    return Table(f"share of tokens by expert (even: {even})", ["layer", " smallest", " largest"], rows)


def event_table(metrics_path: Path) -> Table | None:
    """Alarms, rollbacks and skipped windows of the data; None where nothing happened."""
    rows = [row for row in read_metrics(metrics_path) if row["kind"] in ("alarm", "rollback", "skipped")]
    if not rows:
        return None
    lines = []
    for row in rows[-LISTED_EVENTS:]:
        rest = {name: value for name, value in row.items() if name not in ("kind", "step")}
        lines.append([f"{row['step']:,}", row["kind"], ", ".join(f"{name} {_shown(rest[name])}" for name in rest)])
    title = "what happened on the way" + (f" (the last {LISTED_EVENTS})" if len(rows) > LISTED_EVENTS else "")
    return Table(title, [" step", "what", "more"], lines)


def throughput_table(metrics_path: Path, cost: float | None = None) -> Table | None:
    """How fast the run was: the middle value of its logged steps and the best one; None where nothing was logged.

    Args:
        cost: what the whole run has cost, when its price is known.
    """
    train = [row for row in read_metrics(metrics_path) if row["kind"] == "train"]
    lines = []
    for name, label, form in (
        ("tokens_per_second", "trained tokens a second", "{:,.0f}"),
        ("mfu", "MFU (share of the device's peak)", "{:.1%}"),
        ("memory", "memory in use at most, GiB", "{:.2f}"),
    ):
        values = sorted(row[name] for row in train if row.get(name) is not None)
        if values:
            unit = 2**30 if name == "memory" else 1
            shown = [form.format(value / unit) for value in (values[len(values) // 2], values[-1])]
            lines.append([label, *shown])
    if cost:
        lines.append(["cost", "", f"{cost:,.2f}"])
    return Table("throughput", ["", " middle", " highest"], lines) if lines else None


def write_report(
    path: Path,
    title: str,
    summary: Mapping[str, Any],
    identity: Mapping[str, Any],
    tables: Sequence[Table | None] = (),
    metrics_path: Path | None = None,
) -> None:
    """`report.md`: what came of the run, its curve, its tables, samples, and everything that makes it this run.

    Args:
        path: where it is written; `curves.png` lies beside it.
        summary: results by name.
        identity: settings by name.
        tables: shown in this order; a None is passed over.
        metrics_path: where bits a byte and samples are read from.
    """
    rows = read_metrics(metrics_path) if metrics_path else []
    results = {**summary, **_bits_per_byte(rows)}
    lines = [f"# {_cell(title)}", "", "![loss](curves.png)", "", "| result | |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in results.items()]
    for table in tables:
        if table is not None:
            lines += ["", table.as_markdown()]
    lines += _sample_lines([row for row in rows if row["kind"] == "samples" and row.get("samples")])
    lines += ["", "| setting | |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in identity.items()]
    write_text(path, "\n".join(lines) + "\n")


def _bits_per_byte(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found = [row["bits_per_byte"] for row in rows if row["kind"] == "validation" and row.get("bits_per_byte")]
    return {"bits_per_byte_before": found[0], "bits_per_byte_after": found[-1]} if found else {}


def _sample_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first samples and the last ones."""
    lines = []
    for row in [rows[0], rows[-1]] if len(rows) > 1 else rows:
        lines += ["", f"Samples at step {row['step']:,} (the prompt, an arrow, what the model wrote)"]
        for sample in row["samples"]:
            lines += ["", *_fenced(f"{sample['prompt']} → {sample['text']}")]
    return lines


def _fenced(text: str) -> list[str]:
    """A block of Markdown that shows any text as it is: its fence is longer than any run of backticks within."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    shown = "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text)
    return [f"{fence}text", *shown.split("\n"), fence]


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    """A value within a table's row: on one line, and nothing in it is taken for Markdown."""
    return re.sub(r"([\\`|<*\[\]])", r"\\\1", " ".join(_shown(value).splitlines()))
