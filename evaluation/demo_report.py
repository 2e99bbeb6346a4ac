"""What each stage of a demo did, as a table, a picture and sample answers.

    python -m evaluation.demo_report out/demo

Reads the finished runs in the folder, asks every model (and the untrained one they began as) the held-out
questions, prints the table, and writes report.md and report.png. Results are kept by the model's digest, so a
second call asks nothing again.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from evaluation.exams import Question, read_questions, run_exam
from model.checkpoint import load_checkpoint
from model.config import LMConfig
from model.decoder import CausalLM
from model.device import matrix_product_rate, num_cores
from model.errors import UserError, run_script
from model.files import atomic_path, read_json, sha256_of_file, write_json, write_text
from model.tokenizer import ChatTokenizer

# Run folders by stage, in the order of the stages, and what each stage is for.
STAGES = {
    "pretrain": "Pretraining: learn to continue text",
    "full_sft": "Supervised fine-tuning: learn to answer",
    "lora": "LoRA: take on a name and a manner",
    "rl": "DPO: prefer the better answer",
}
NUM_SAMPLES = 3


@dataclass(frozen=True)
class StageResult:
    """One row of the table."""

    name: str
    summary: dict[str, Any]  # run.json's: steps, tokens, seconds, validation losses
    metrics: pd.DataFrame  # metrics.jsonl
    before: dict[str, Any]  # the exam's result for the stage's parent
    after: dict[str, Any]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see python -m evaluation.demo_report --help")


def main() -> int:
    """Read the runs, hold the exams, print and write the report."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="the demo's folder, for example out/demo")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    folder: Path = parser.parse_args().folder
    questions_path = folder / "raw" / "little_world" / "questions.jsonl"
    results = collect(folder, questions_path)
    # No markup: a model's answer may hold anything, "[/b]" and ":smile:" included.
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(stage_table(results))
    console.print(sample_table(results))
    draw(results, folder / "report.png")
    write_text(folder / "report.md", markdown(results, machine_line()))
    for line in [*conclusions(results), f"Written: {folder / 'report.md'} and {folder / 'report.png'}"]:
        console.print(line, soft_wrap=True)
    return 0


# ---- collecting ----


def collect(folder: Path, questions_path: Path) -> list[StageResult]:
    """The finished runs of the folder, in the order of the stages, with the exams before and after each."""
    questions = read_questions(questions_path)
    results: list[StageResult] = []
    for stage in STAGES:
        for record_path in sorted(folder.glob(f"{stage}_*/run.json")):
            record = read_json(record_path)
            if not isinstance(record, dict) or not record.keys() >= {"finished", "identity", "summary"}:
                raise UserError(f"{record_path}: not the record of a run; train it again with --overwrite")
            if not record["finished"] or ".bak-" in record_path.parent.name:
                continue
            checkpoint_path = folder / record["summary"]["checkpoint"]
            exams = _Exams(folder / "exams", questions, sha256_of_file(questions_path))
            before = (
                exams.of_untrained(checkpoint_path, record["identity"]["seed"]) if not results else results[-1].after
            )
            metrics = _read_metrics(record_path.with_name("metrics.jsonl"))
            results.append(StageResult(stage, record["summary"], metrics, before, exams.of(checkpoint_path)))
    if not results:
        raise UserError(f"{folder}: has no finished run; train one first (make demo)")
    return results


def _read_metrics(path: Path) -> pd.DataFrame:
    try:
        metrics = pd.read_json(path, lines=True)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{path}: not readable as a run's log ({error}); train it again with --overwrite") from error
    if not {"kind", "step", "loss"} <= set(metrics.columns):
        raise UserError(f"{path}: lacks kind, step or loss; train it again with --overwrite")
    return metrics


def untrained_model(config: LMConfig, seed: int) -> CausalLM:
    """The model that a run with this architecture and seed began with."""
    torch.manual_seed(seed)
    return CausalLM(config)


@dataclass(frozen=True)
class _Exams:
    """Exam results of checkpoints, kept in a folder by digest."""

    folder: Path
    questions: list[Question]
    questions_hash: str

    def of(self, checkpoint_path: Path) -> dict[str, Any]:
        """The result of a trained model."""
        checkpoint = load_checkpoint(checkpoint_path)
        kept = self.folder / f"{checkpoint.digest[:16]}_{self.questions_hash[:8]}.json"
        return self._kept(kept, checkpoint_path.name, checkpoint.build_model, checkpoint.tokenizer())

    def of_untrained(self, checkpoint_path: Path, seed: int) -> dict[str, Any]:
        """The result of the model that the first stage began with: the same architecture, freshly initialised."""
        checkpoint = load_checkpoint(checkpoint_path)
        kept = self.folder / f"untrained_{checkpoint.digest[:16]}_{self.questions_hash[:8]}.json"
        build = partial(untrained_model, checkpoint.config, seed)
        return self._kept(kept, "the untrained model", build, checkpoint.tokenizer())

    def _kept(self, path: Path, name: str, build: Callable[[], CausalLM], tokenizer: ChatTokenizer) -> dict[str, Any]:
        if not path.exists():
            print(f"asking {name} {len(self.questions)} held-out questions")
            model = build().eval()
            write_json(path, run_exam(model, tokenizer, self.questions, show_progress=True).to_dict())
        return read_json(path)


# ---- showing ----


def stage_rows(results: list[StageResult]) -> list[list[str]]:
    """The cells of the table: stage, time, tokens, loss, and accuracy in each language, before → after."""
    languages = list(results[0].after["languages"])
    rows = [["stage", "time", "tokens", "validation loss", *(f"held-out questions, {each}" for each in languages)]]
    for result in results:
        summary = result.summary
        losses = [summary["validation_loss_before"], summary["validation_loss_after"]]
        cells = [STAGES[result.name], f"{summary['seconds']:.0f} s", f"{summary['tokens']:,}", _arrow(losses, "{:.2f}")]
        for language in languages:
            shares = [each["languages"][language]["macro_average"] for each in (result.before, result.after)]
            cells.append(_arrow(shares, "{:.1%}"))
        rows.append(cells)
    return rows


def samples(result: StageResult) -> list[tuple[str, str]]:
    """A few questions with the stage's answers: the same questions at every stage."""
    answers = result.after["answers"]
    chosen = [answers[len(answers) * (2 * number + 1) // (2 * NUM_SAMPLES)] for number in range(NUM_SAMPLES)]
    return [(each["question"], " ".join(each["answer"].split())) for each in chosen]


def conclusions(results: list[StageResult]) -> list[str]:
    """What the exam says of the last stage, in plain sentences."""
    lines = []
    for language, score in results[-1].after["languages"].items():
        lowest = min(score["relations"], key=lambda relation: score["relations"][relation]["accuracy"])
        lines.append(
            f"{language}: {score['macro_average']:.1%} of {score['num_questions']} questions in unseen wordings "
            f"(mean over {len(score['relations'])} relations; the weakest is {lowest} with "
            f"{score['relations'][lowest]['accuracy']:.1%})"
        )
    return lines


def machine_line() -> str:
    """Cores, and the rate of a large matrix product: what the times above were measured on."""
    rate = matrix_product_rate(torch.device("cpu"), torch.float32)
    return f"{num_cores()} cores, {rate / 1e9:,.0f} GFLOP/s in a large fp32 matrix product, torch {torch.__version__}"


def stage_table(results: list[StageResult]) -> Table:
    """The table for the terminal."""
    heading, *rows = stage_rows(results)
    table = Table(*heading, title="What each stage did", show_lines=True)
    for row in rows:
        table.add_row(*row)
    return table


def sample_table(results: list[StageResult]) -> Table:
    """Sample answers for the terminal."""
    table = Table("stage", "question", "answer", title="What the model says", show_lines=True)
    for result in results:
        for question, answer in samples(result):
            table.add_row(result.name, question, answer)
    return table


def markdown(results: list[StageResult], machine: str) -> str:
    """The report as Markdown."""
    heading, *rows = stage_rows(results)
    lines = ["# What each stage did", "", _row(heading), _row(["---"] * len(heading)), *map(_row, rows), ""]
    lines += [*(f"- {line}" for line in conclusions(results)), "", "![curves and accuracy](report.png)", ""]
    for result in results:
        lines += [f"## {STAGES[result.name]}", "", _row(["question", "answer"]), _row(["---", "---"])]
        lines += [*(_row(list(pair)) for pair in samples(result)), ""]
    return "\n".join([*lines, f"Measured on {machine}.", ""])


def draw(results: list[StageResult], path: Path) -> None:
    """The loss of each stage, and the accuracy after it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(results) + 4, 4), layout="constrained")
    *loss_axes, accuracy_axes = figure.subplots(1, len(results) + 1)
    for axes, result in zip(loss_axes, results, strict=True):
        for kind, style in (("train", "-"), ("validation", "o-")):
            rows = result.metrics[result.metrics["kind"] == kind]
            axes.plot(rows["step"], rows["loss"], style, lw=1, label=kind)
        axes.set(title=STAGES[result.name].split(":")[0], xlabel="step", ylabel="loss (nats a token)")
        axes.legend()
        axes.grid(alpha=0.3)
    names = ["untrained", *(result.name for result in results)]
    exams = [results[0].before, *(result.after for result in results)]
    languages = list(exams[-1]["languages"])
    for number, language in enumerate(languages):
        shares = [100 * exam["languages"][language]["macro_average"] for exam in exams]
        places = [place + (number - (len(languages) - 1) / 2) * 0.35 for place in range(len(names))]
        bars = accuracy_axes.bar(places, shares, 0.35, label=language)
        accuracy_axes.bar_label(bars, fmt="%.0f")
    accuracy_axes.set_xticks(range(len(names)), names)
    accuracy_axes.set(title="Held-out questions right", ylabel="%", ylim=(0, 110))
    accuracy_axes.legend(loc="upper left")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _arrow(values: list[float | None], form: str) -> str:
    return " → ".join("–" if value is None else form.format(value) for value in values)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


if __name__ == "__main__":
    run_script(main)
