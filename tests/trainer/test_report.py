"""What a run says of its data and its sources."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from dataset.packing import PackedSet
from trainer.curves import draw_curves
from trainer.report import (
    Table,
    data_table,
    event_table,
    expert_table,
    source_table,
    throughput_table,
    write_report,
)

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
    draw_curves(log, tmp_path / "curves.png", "run", "nats a token")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_bits_a_byte_stand_beside_the_losses(tmp_path: Path) -> None:
    rows = [
        {"kind": "validation", "step": step, "loss": loss, "bits_per_byte": loss / 2}
        | {"loss_by_source": {"a": loss, "b": 1.0}, "bits_per_byte_by_source": {"a": loss / 2}}
        for step, loss in ((0, 3.0), (9, 2.0))
    ]
    log = write_rows(tmp_path / "log", *rows)
    table = source_table(log)
    assert table is not None
    assert table.rows == [["a", "3.0000", "2.0000", "1.5000", "1.0000"], ["b", "1.0000", "1.0000", "", ""]]
    write_report(tmp_path / "report.md", "run", {"stage": "pretrain"}, {}, [table], log)
    report = (tmp_path / "report.md").read_text()
    assert "| bits_per_byte_before | 1.5 |\n| bits_per_byte_after | 1 |" in report


def cells_of(line: str) -> list[str]:
    """A row as a reader of GitHub's Markdown splits it: at every pipe that no backslash escapes."""
    cells, escaped = [""], False
    for character in line:
        if character == "|" and not escaped:
            cells.append("")
        elif character == "\\" and not escaped:
            escaped = True
            continue
        else:
            cells[-1] += character
        escaped = False
    return [cell.strip() for cell in cells[1:-1]]


def test_nothing_in_a_cell_is_taken_for_markdown(tmp_path: Path) -> None:
    wild = "a|b\\|c `x` <think> **d**\n| e | \\"
    write_report(tmp_path / "report.md", "run", {"name": wild}, {wild: 1}, [Table("t", ["x", " y"], [[wild, "2"]])])
    lines = (tmp_path / "report.md").read_text().splitlines()
    shown = wild.replace("\n", " ")
    found = [cells_of(line) for line in lines if line.startswith("|")]
    assert ["name", shown] in found and [shown, "2"] in found and [shown, "1"] in found
    assert all(len(cells) == 2 for cells in found)


def test_samples_are_shown_as_they_are(tmp_path: Path) -> None:
    text = "```\n| x |\n# no heading\n````` and\x1b[31m red"
    rows = [
        {"kind": "samples", "step": step, "samples": [{"prompt": "诗:", "text": f"{step} {text}"}]}
        for step in (0, 50, 100)
    ]
    write_report(tmp_path / "report.md", "run", {}, {}, metrics_path=write_rows(tmp_path / "log", *rows))
    report = (tmp_path / "report.md").read_text()
    shown = text.replace("\x1b", "\ufffd")
    for step in (0, 100):
        assert f"Samples at step {step} " in report
        assert f"\n\n``````text\n诗: → {step} {shown}\n``````\n" in report
    assert "step 50" not in report


def test_what_happened_on_the_way(tmp_path: Path) -> None:
    assert event_table(write_rows(tmp_path / "log", {"kind": "train", "step": 1, "loss": 1.0})) is None
    rows = [
        {"kind": "alarm", "step": 1200, "message": "the loss rose", "loss": 9.123456},
        {"kind": "rollback", "step": 1000, "from_step": 1200, "skipped": [3, 9]},
    ]
    table = event_table(write_rows(tmp_path / "log", *rows))
    assert table is not None
    assert table.rows == [
        ["1,200", "alarm", "message the loss rose, loss 9.123"],
        ["1,000", "rollback", "from_step 1200, skipped [3, 9]"],
    ]
    many = write_rows(tmp_path / "log", *[{"kind": "alarm", "step": step} for step in range(250)])
    table = event_table(many)
    assert table is not None and len(table.rows) == 100 and table.rows[-1][0] == "249" and "last 100" in table.title


def test_throughput_and_experts(tmp_path: Path) -> None:
    rows = [
        {"kind": "train", "step": n, "tokens_per_second": 1000.0 * n, "mfu": None, "memory": n * 2**30}
        for n in (1, 2, 3)
    ]
    table = throughput_table(write_rows(tmp_path / "log", *rows), cost=1.5)
    assert table is not None
    assert table.rows == [
        ["trained tokens a second", "2,000", "3,000"],
        ["memory in use at most, GiB", "2.00", "3.00"],
        ["cost", "", "1.50"],
    ]
    assert throughput_table(tmp_path / "none") is None
    experts = expert_table([[10, 30, 40, 20], [0, 0, 0, 0]])
    assert "25.0%" in experts.title
    assert experts.rows[0] == ["0", "10.0% (expert 0)", "40.0% (expert 2)"] and experts.rows[1][1] == "0.0% (expert 0)"


def test_data_is_named_with_its_hashes() -> None:
    meta = {"num_tokens": 1234, "num_targets": 1200}
    packed = SimpleNamespace(
        folder=Path("sets/wiki"), sources=["en", "zh"], num_rows=9, fingerprint="abcdef", meta=meta
    )
    table = data_table({"training": cast(PackedSet, packed), "validation": None})
    assert table.rows == [["training", "wiki", "en, zh", "9", "1,234", "1,200", "abcdef"]]
