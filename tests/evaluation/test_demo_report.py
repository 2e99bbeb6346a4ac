"""The demo's report: what its cells say, that no model is asked twice, and what it says when a file is wrong."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from evaluation import demo_report
from evaluation.demo_report import Judged, StageResult, collect, conclusions, draw, markdown, samples, stage_rows
from evaluation.exams import ExamResult, score_by_language
from model.checkpoint import read_digest
from model.errors import run_script
from model.files import write_json
from tests.tiny_model import save_tiny_checkpoint, tiny_model

QUESTIONS = [
    {
        "language": language,
        "relation": relation,
        "question": f"{relation} {number}?",
        "key": "Paris",
        "others": ["Rome"],
    }
    for language in ("en", "zh")
    for relation in ("capital", "river")
    for number in range(2)
]


def exam(*num_right: int) -> dict:
    """An exam's result with this many of two questions right, per language and relation in the order above."""
    rows: list[dict[str, Any]] = [{**row, "answer": "It is\nParis | [/b]"} for row in QUESTIONS]
    for place, row in enumerate(rows):
        row["is_right"] = place % 2 < num_right[place // 2]
    return {"languages": score_by_language(rows), "answers": rows, "num_too_long": 0}


@pytest.fixture
def results() -> list[StageResult]:
    metrics = [{"kind": "train", "step": 1, "loss": 5.0}, {"kind": "validation", "step": 1, "loss": 4.0}]
    summary = {"seconds": 12.4, "tokens": 1234567, "validation_loss_before": 5.678, "validation_loss_after": 2.0}
    nothing, all_but_rivers = Judged(exam(0, 0, 0, 0), exam(0, 0, 0, 0)), Judged(exam(2, 0, 2, 2), exam(1, 0, 0, 0))
    pretrain = StageResult(
        "pretrain", summary, pd.DataFrame(metrics), nothing, Judged(exam(1, 0, 0, 0), nothing.identity)
    )
    no_val = {**summary, "validation_loss_before": None, "validation_loss_after": None}
    full_sft = StageResult("full_sft", no_val, pd.DataFrame(metrics[:1]), pretrain.after, all_but_rivers)
    polite = exam(2, 0, 2, 2)
    for row in polite["answers"][:6]:
        row["answer"] = "Sure. It is\nParis. I hope this helps you."
    pairs = pd.DataFrame([{**row, "accuracy": share} for row, share in zip(metrics[1:] * 2, (0.5, 0.9), strict=True)])
    return [pretrain, full_sft, StageResult("rl", summary, pairs, full_sft.after, Judged(polite, polite))]


def test_a_row_a_stage(results):
    heading, pretrain, full_sft, rl = stage_rows(results)
    assert heading[:4] == ["stage", "time", "tokens", "validation loss"]
    assert heading[4:] == ["held-out questions, en", "held-out questions, zh", "who it is", "polite answers"]
    # The mean over relations: one of two capitals, no river.
    nothing = "0.0% → 0.0%"
    assert pretrain[1:] == ["12 s", "1,234,567", "5.68 → 2.00", "0.0% → 25.0%", nothing, nothing, nothing]
    assert full_sft[3:] == ["– → –", "25.0% → 50.0%", "0.0% → 100.0%", "0.0% → 12.5%", nothing]
    assert rl[4:] == ["50.0% → 50.0%", "100.0% → 100.0%", "12.5% → 75.0%", "0.0% → 75.0%"]


def test_the_weakest_relation_and_the_pairs_are_named(results):
    english, chinese, pairs = conclusions(results)
    assert english.startswith("en: 50.0% of 4 questions")
    assert "the weakest is river with 0.0%" in english
    assert chinese.startswith("zh: 100.0%")
    assert pairs == "rl: 50.0% → 90.0% of the held-out pairs in the right order"


def test_what_was_before_is_the_parent_and_not_the_last_run_of_its_stage(demo, monkeypatch):
    """Two more pretrained models, one of them trained from the other, which comes behind it by name."""
    asked = iter(range(1, 100))

    def marked(*_: Any, **options: Any) -> ExamResult:
        rows = [{**row, "answer": f"{next(asked)}", "is_right": False} for row in QUESTIONS]
        return ExamResult(score_by_language(rows), rows, 0)

    monkeypatch.setattr(demo_report, "run_exam", marked)
    later = save_tiny_checkpoint(demo / "pretrain_64.pth", tiny_model(7, torch.float32), "pretrain")
    write_run(demo / "pretrain_64", finished=True)
    save_tiny_checkpoint(demo / "pretrain_48.pth", tiny_model(8, torch.float32), "pretrain")
    write_run(demo / "pretrain_48", finished=True, parent=read_digest(later))
    of_32, of_48, of_64, tuned = collect(demo)
    assert tuned.before == of_32.after and of_48.before == of_64.after and of_64.after != of_32.after


def test_a_parent_that_is_not_there_leaves_the_place_empty(report, demo):
    """A base from elsewhere, or one that was trained again since."""
    save_tiny_checkpoint(demo / "pretrain_32.pth", tiny_model(7, torch.float32), "pretrain")
    code, _, errors = report(demo)
    assert code == 0, errors
    [row] = [line for line in (demo / "report.md").read_text().splitlines() if line.startswith("| Supervised")]
    assert row.count("– → ") == 4
    for name in ("pretrain_32.pth", "pretrain_32/run.json"):
        (demo / name).unlink()
    assert report(demo)[0] == 0


def test_four_samples_a_stage_the_same_for_all(results):
    first, second, _ = samples(results)
    assert len({question for question, _ in first[:3]}) == 3 and len(first) == 4
    assert [question for question, _ in first] == [question for question, _ in second]
    assert first[0][1] == "It is Paris | [/b]"


def test_markdown_has_whole_tables(results):
    text = markdown(results, "a slow machine")
    tables = [[line for line in part.splitlines() if line.startswith("|")] for part in text.split("\n\n")]
    for table in filter(None, tables):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
        assert len(widths) == 1, "a bar in an answer must not open a new cell"
    assert sum(bool(table) for table in tables) == 4
    assert "![curves and accuracy](report.png)" in text
    assert text.endswith("Measured on a slow machine.\n")


def test_the_picture_is_one(results, tmp_path):
    draw(results, tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


# ---- as a command ----


@pytest.fixture
def demo(tmp_path) -> Path:
    """A folder as the training scripts leave it, with two finished runs, one unfinished and one moved aside."""
    folder = tmp_path / "demo"
    questions = folder / "raw" / "little_world" / "questions.jsonl"
    questions.parent.mkdir(parents=True)
    questions.write_text("\n".join(map(json.dumps, QUESTIONS)), encoding="utf-8")
    about_itself = questions.with_name("identity_questions.jsonl")
    about_itself.write_text("\n".join(map(json.dumps, QUESTIONS[:3])), encoding="utf-8")
    parent = None
    for seed, stage in enumerate(("pretrain", "full_sft")):
        path = save_tiny_checkpoint(folder / f"{stage}_32.pth", tiny_model(seed, torch.float32), stage)
        write_run(folder / f"{stage}_32", finished=True, parent=parent)
        parent = read_digest(path)
    write_run(folder / "full_sft_64", finished=False)
    write_run(folder / "pretrain_32.bak-01234567", finished=True)
    return folder


def write_run(folder: Path, finished: bool, parent: str | None = None) -> None:
    folder.mkdir()
    summary = {"checkpoint": f"{folder.name}.pth", "seconds": 1.0, "tokens": 10}
    summary |= {"validation_loss_before": 3.0, "validation_loss_after": 2.0}
    record = {
        "identity": {"seed": 1, "stage": folder.name.rpartition("_")[0], "init_from": parent},
        "finished": finished,
        "summary": summary if finished else None,
    }
    write_json(folder / "run.json", record)
    (folder / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss": 2.0}\n', encoding="utf-8")


@pytest.fixture
def report(monkeypatch, capsys):
    """Run the command in this process: exit code, standard output and standard error."""
    monkeypatch.setattr(demo_report, "machine_line", lambda: "this machine")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*flags: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["demo_report", *map(str, flags)])
        with pytest.raises(SystemExit) as leaving:
            run_script(demo_report.main)
        assert isinstance(leaving.value.code, int)
        return leaving.value.code, *capsys.readouterr()

    return run


def test_no_model_is_asked_twice(report, demo, monkeypatch):
    asked = []

    def counted(*arguments, **options):
        asked.append(len(arguments[2]))
        return run_exam(*arguments, **options)

    run_exam = demo_report.run_exam
    monkeypatch.setattr(demo_report, "run_exam", counted)
    code, output, _ = report(demo)
    assert code == 0
    # Untrained, pretrained, tuned, about the world and about itself; who was never tuned, a part of each relation.
    assert asked == [4, 2, 4, 2, 8, 3]
    assert output.count("What each stage did") == 1
    assert str(demo / "report.md") in output
    assert {path.name for path in demo.glob("report.*")} == {"report.md", "report.png"}
    table = (demo / "report.md").read_text(encoding="utf-8")

    report(demo)
    assert len(asked) == 6
    assert (demo / "report.md").read_text(encoding="utf-8") == table

    # A model that was trained again is asked again, and so is everybody when the questions change.
    save_tiny_checkpoint(demo / "full_sft_32.pth", tiny_model(7, torch.float32), "full_sft")
    report(demo)
    assert len(asked) == 8
    questions = demo / "raw" / "little_world" / "questions.jsonl"
    questions.write_text(json.dumps(QUESTIONS[0]) + "\n" + json.dumps(QUESTIONS[-1]), encoding="utf-8")
    report(demo)
    assert len(asked) == 11


def test_answers_are_printed_as_they_are(report, demo, monkeypatch):
    """Rich would take these for its markup, and stumble over a closing mark that nothing opened."""
    monkeypatch.setattr(ExamResult, "to_dict", lambda self: exam(1, 1, 1, 1))
    code, output, errors = report(demo)
    assert code == 0, errors
    assert "It is Paris | [/b]" in output


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda demo: (demo / "raw/little_world/questions.jsonl").unlink(), "questions.jsonl: no such file"),
        (lambda demo: cut(demo / "raw/little_world/questions.jsonl"), "questions.jsonl:8: not JSON"),
        (lambda demo: (demo / "pretrain_32.pth").unlink(), "pretrain_32.pth: no such checkpoint"),
        (lambda demo: cut(demo / "full_sft_32.pth"), "full_sft_32.pth: not a readable checkpoint"),
        (lambda demo: cut(demo / "pretrain_32/run.json"), "run.json: not a JSON file"),
        (lambda demo: (demo / "pretrain_32/run.json").write_text("[]"), "run.json: not the record of a run"),
        (lambda demo: (demo / "pretrain_32/metrics.jsonl").unlink(), "metrics.jsonl: not readable"),
        (lambda demo: cut(demo / "pretrain_32/metrics.jsonl"), "metrics.jsonl: not readable"),
        (lambda demo: (demo / "pretrain_32/metrics.jsonl").write_text(""), "metrics.jsonl: lacks kind"),
    ],
)
def test_a_wrong_file_ends_in_one_line(report, demo, spoil, words):
    spoil(demo)
    code, _, errors = report(demo)
    assert code == 2
    [line] = [line for line in errors.splitlines() if line.startswith("error: ")]  # besides progress bars
    assert words in line
    assert "Traceback" not in errors
    assert not (demo / "report.md").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [([], "folder"), (["nowhere"], "nowhere"), (["{}", "--colour"], "--colour"), (["{}/raw", "more"], "more")],
)
def test_wrong_flags_end_in_one_line(report, demo, flags, words):
    code, output, errors = report(*(flag.format(demo) for flag in flags))
    assert (code, output) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", errors)
    assert words in errors


def test_a_folder_without_finished_runs_is_said(report, demo):
    for name in ("pretrain_32", "full_sft_32"):
        (demo / name / "run.json").unlink()
    code, _, errors = report(demo)
    assert code == 2
    assert errors.startswith(f"error: {demo}: has no finished run")
