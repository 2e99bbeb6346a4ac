"""What a run says of its data and its sources."""

import json
from pathlib import Path

from trainer.report import Table, draw_curves, source_table, write_report

TABLE = Table("a title", ["set", " rows"], [["wiki", "1,234"], ["诗", "5"]])


def test_a_table_lines_up() -> None:
    assert TABLE.as_text().splitlines() == ["a title", "  set    rows", "  wiki  1,234", "  诗        5"]
    lines = ["a title", "", "| set |  rows |", "| --- | ---: |", "| wiki | 1,234 |", "| 诗 | 5 |"]
    assert TABLE.as_markdown().splitlines() == lines


def test_a_long_table_is_printed_in_part_and_kept_whole(tmp_path: Path) -> None:
    table = Table("many", ["source", " loss"], [[f"source|{number}", "1.0"] for number in range(40)])
    assert len(table.as_text().splitlines()) == 2 + 16 + 1 and "and 24 more, in report.md" in table.as_text()
    write_report(tmp_path / "report.md", "run", {"loss": 1.5}, {"seed": 1}, [table])
    report = (tmp_path / "report.md").read_text()
    assert all(f"| source\\|{number} | 1.0 |" in report for number in range(40))


def write_log(path: Path, *validations: dict[str, float] | None) -> Path:
    """A metrics.jsonl with a validation every ten steps; None for one that knows no sources."""
    lines = [{"kind": "train", "step": 5, "loss": 2.0, "learning_rate": 0.1, "loss_by_source": {"a": 9.0}}]
    for number, losses in enumerate(validations):
        by_source = {} if losses is None else {"loss_by_source": losses}
        lines.append({"kind": "validation", "step": 10 * number, "loss": 3.0, **by_source})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_sources_before_and_after(tmp_path: Path) -> None:
    table = source_table(write_log(tmp_path / "log", {"a": 3.0, "b": 2.0}, {"a": 2.5, "b": 1.5}, {"a": 2.0, "b": 1.0}))
    assert table is not None and table.rows == [["a", "3.0000", "2.0000"], ["b", "2.0000", "1.0000"]]
    assert source_table(write_log(tmp_path / "one", None, None)) is None
    assert source_table(tmp_path / "none") is None


def test_another_validation_set_within_a_run(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", None, {"a": 3.0}, {"a": 2.5, "b": 1.5})
    table = source_table(log)
    assert table is not None and table.rows == [["a", "3.0000", "2.5000"], ["b", "", "1.5000"]]
    draw_curves(log, tmp_path / "curves.png", "run")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
