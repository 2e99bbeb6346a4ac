"""What each stage of a demo did, as a table, a picture and sample answers.

    python -m evaluation.demo_report out/demo

Reads the finished runs in the folder, asks every model (and the untrained one they began as) the held-out
questions about the world and about itself, looks at its manners, prints the table, and writes report.md and report.png.
Models that were never fine-tuned are asked a fourth of them: they answer at length, and nearly always wrong.
Results are kept by the model's digest, so a second call asks nothing again.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from dataset.little_world.manners import is_polite
from evaluation.exams import Question, read_questions, run_exam
from model.checkpoint import load_checkpoint, read_digest
from model.config import LMConfig
from model.decoder import CausalLM
from model.device import matrix_product_rate, num_cores
from model.errors import UserError, run_script
from model.files import atomic_path, read_json, sha256_of_file, write_json, write_text
from model.loading import load_model
from model.tokenizer import ChatTokenizer

# Run folders by stage, in the order of the stages, and what each stage is for.
STAGES = {
    "pretrain": "Pretraining: learn to continue text",
    "full_sft": "Supervised fine-tuning: learn to answer",
    "lora": "LoRA: take on a name and a manner",
    "rl": "DPO: prefer the better answer",
}
NUM_SAMPLES = 3  # questions about the world, besides one about itself
ANSWER_TOKENS = 40  # the longest polite answer has 32
EXAM_BATCH_SIZE = 256  # a small model answers many as fast as few
UNTUNED_STRIDE = 4  # a model that cannot answer is asked one question of so many of each relation


@dataclass(frozen=True)
class Judged:
    """What a model was found to know, and how it speaks."""

    questions: dict[str, Any]  # `ExamResult` on the world, as plain values
    identity: dict[str, Any]  # on itself

    def accuracy(self, language: str) -> float:
        """Mean over the relations of the world."""
        return float(self.questions["languages"][language]["macro_average"])

    @property
    def knows_itself(self) -> float:
        """Share of all questions about itself."""
        scores = self.identity["languages"].values()
        return sum(each["num_right"] for each in scores) / sum(each["num_questions"] for each in scores)

    @property
    def manners(self) -> float:
        """Share of the answers about the world in the preferred manner."""
        answers = self.questions["answers"]
        return sum(is_polite(each["answer"]) for each in answers) / len(answers)


@dataclass(frozen=True)
class StageResult:
    """One row of the table."""

    name: str
    summary: dict[str, Any]  # run.json's: steps, tokens, seconds, validation losses
    metrics: pd.DataFrame  # metrics.jsonl
    before: Judged | None  # its parent; None when that is not in the folder
    after: Judged


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see python -m evaluation.demo_report --help")


def main() -> int:
    """Read the runs, hold the exams, print and write the report."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="the demo's folder, for example out/demo")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    folder: Path = parser.parse_args().folder
    results = collect(folder)
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


def collect(folder: Path) -> list[StageResult]:
    """The finished runs of the folder, in the order of the stages, with the exams before and after each."""
    world = folder / "raw" / "little_world"
    exams = _Exams(folder / "exams", world / "questions.jsonl", world / "identity_questions.jsonl")
    runs = list(_finished_runs(folder))
    if not runs:
        raise UserError(f"{folder}: has no finished run; train one first (make demo)")
    path_of = {read_digest(checkpoint_path): checkpoint_path for _, _, checkpoint_path in runs}
    results = []
    for record_path, record, checkpoint_path in runs:
        parent, before = record["identity"].get("init_from"), None
        if parent is None:
            before = exams.of_untrained(checkpoint_path, record["identity"]["seed"])
        elif parent in path_of:
            before = exams.of(path_of[parent])
        metrics = _read_metrics(record_path.with_name("metrics.jsonl"))
        stage = record["identity"]["stage"]
        results.append(StageResult(stage, record["summary"], metrics, before, exams.of(checkpoint_path)))
    return results


def _finished_runs(folder: Path) -> Iterator[tuple[Path, dict[str, Any], Path]]:
    """run.json, what it holds, and the checkpoint, in the order of the stages."""
    for stage in STAGES:
        for record_path in sorted(folder.glob(f"{stage}_*/run.json")):
            record = read_json(record_path)
            if not isinstance(record, dict) or not record.keys() >= {"finished", "identity", "summary"}:
                raise UserError(f"{record_path}: not the record of a run; train it again with --overwrite")
            if record["finished"] and ".bak-" not in record_path.parent.name:
                yield record_path, record, folder / record["summary"]["checkpoint"]


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


class _Exams:
    """Exam results of checkpoints, kept in a folder by digest.

    Args:
        folder: where they are kept.
        questions_path, identity_path: the questions about the world, and those about the model itself.
    """

    def __init__(self, folder: Path, questions_path: Path, identity_path: Path) -> None:
        self._folder = folder
        self._exams = [(read_questions(path), sha256_of_file(path)[:8]) for path in (questions_path, identity_path)]

    def of(self, checkpoint_path: Path) -> Judged:
        """The result of a trained model."""
        checkpoint = load_checkpoint(checkpoint_path)

        def build() -> CausalLM:
            return load_model(checkpoint_path)[0]

        stride = UNTUNED_STRIDE if checkpoint.stage == "pretrain" else 1
        return self._judged(checkpoint.digest[:16], checkpoint_path.name, build, checkpoint.tokenizer(), stride)

    def of_untrained(self, checkpoint_path: Path, seed: int) -> Judged:
        """The result of the model that the first stage began with: the same architecture, freshly initialised."""
        checkpoint = load_checkpoint(checkpoint_path)
        build = partial(untrained_model, checkpoint.config, seed)
        key = f"untrained_{checkpoint.digest[:16]}"
        return self._judged(key, "the untrained model", build, checkpoint.tokenizer(), UNTUNED_STRIDE)

    def _judged(
        self, key: str, name: str, build: Callable[[], CausalLM], tokenizer: ChatTokenizer, stride: int
    ) -> Judged:
        found = []
        for all_questions, questions_hash in self._exams:
            questions = _some(all_questions, stride)
            path = self._folder / f"{key}_{questions_hash}.json"
            if not path.exists():
                print(f"asking {name} {len(questions)} held-out questions")
                model = build().eval()
                result = run_exam(
                    model,
                    tokenizer,
                    questions,
                    max_new_tokens=ANSWER_TOKENS,
                    batch_size=EXAM_BATCH_SIZE,
                    show_progress=True,
                )
                write_json(path, result.to_dict())
            found.append(read_json(path))
        return Judged(*found)


def _some(questions: list[Question], stride: int) -> list[Question]:
    """Of each relation in each language the first question, and then one of `stride`."""
    seen: Counter[tuple[str, str]] = Counter()
    chosen = []
    for question in questions:
        relation = question.language, question.relation
        if seen[relation] % stride == 0:
            chosen.append(question)
        seen[relation] += 1
    return chosen


# ---- showing ----


def stage_rows(results: list[StageResult]) -> list[list[str]]:
    """The cells of the table: stage, time, tokens, then before → after: loss, accuracy in each language, manners."""
    languages = list(results[0].after.questions["languages"])
    heading = ["stage", "time", "tokens", "validation loss", *(f"held-out questions, {each}" for each in languages)]
    rows = [[*heading, "who it is", "polite answers"]]
    for result in results:
        summary = result.summary
        losses = [summary["validation_loss_before"], summary["validation_loss_after"]]
        cells = [STAGES[result.name], f"{summary['seconds']:.0f} s", f"{summary['tokens']:,}", _arrow(losses, "{:.2f}")]
        both = [_shares(each, languages) for each in (result.before, result.after)]
        cells += [_arrow(list(shares), "{:.1%}") for shares in zip(*both, strict=True)]
        rows.append(cells)
    return rows


def _shares(judged: Judged | None, languages: list[str]) -> list[float | None]:
    """The columns of the table that exams fill."""
    if judged is None:
        return [None] * (len(languages) + 2)
    return [*map(judged.accuracy, languages), judged.knows_itself, judged.manners]


def samples(results: list[StageResult]) -> list[list[tuple[str, str]]]:
    """For each stage its answers to a few questions that all of them were asked."""
    fewest = min((result.after for result in results), key=lambda judged: len(judged.questions["answers"]))
    asked = fewest.questions["answers"]
    chosen = [asked[len(asked) * (2 * number + 1) // (2 * NUM_SAMPLES)] for number in range(NUM_SAMPLES)]
    wanted = [each["question"] for each in [*chosen, *fewest.identity["answers"][:1]]]
    found = []
    for result in results:
        given = [*result.after.questions["answers"], *result.after.identity["answers"]]
        answers = {each["question"]: each["answer"] for each in given}
        found.append([(question, " ".join(answers[question].split())) for question in wanted])
    return found


def conclusions(results: list[StageResult]) -> list[str]:
    """What the exams say, in plain sentences."""
    lines = []
    for language, score in results[-1].after.questions["languages"].items():
        lowest = min(score["relations"], key=lambda relation: score["relations"][relation]["accuracy"])
        lines.append(
            f"{language}: {score['macro_average']:.1%} of {score['num_questions']} questions in unseen wordings "
            f"(mean over {len(score['relations'])} relations; the weakest is {lowest} with "
            f"{score['relations'][lowest]['accuracy']:.1%})"
        )
    for result in results:
        pairs = _pairs_in_order(result)
        if pairs is not None:
            lines.append(f"{result.name}: {pairs[0]:.1%} → {pairs[1]:.1%} of the held-out pairs in the right order")
    return lines


def _pairs_in_order(result: StageResult) -> tuple[float, float] | None:
    """Held-out preference accuracy before and after; None where the stage has no pairs."""
    if "accuracy" not in result.metrics.columns:
        return None
    shares = result.metrics.loc[result.metrics["kind"] == "validation", "accuracy"].dropna()
    return (float(shares.iloc[0]), float(shares.iloc[-1])) if len(shares) else None


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
    for result, said in zip(results, samples(results), strict=True):
        for question, answer in said:
            table.add_row(result.name, question, answer)
    return table


def markdown(results: list[StageResult], machine: str) -> str:
    """The report as Markdown."""
    heading, *rows = stage_rows(results)
    lines = ["# What each stage did", "", _row(heading), _row(["---"] * len(heading)), *map(_row, rows), ""]
    lines += [*(f"- {line}" for line in conclusions(results)), "", "![curves and accuracy](report.png)", ""]
    for result, said in zip(results, samples(results), strict=True):
        lines += [f"## {STAGES[result.name]}", "", _row(["question", "answer"]), _row(["---", "---"])]
        lines += [*(_row(list(pair)) for pair in said), ""]
    return "\n".join([*lines, f"Measured on {machine}.", ""])


def draw(results: list[StageResult], path: Path) -> None:
    """The loss of each stage, and the accuracy after it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(results) + 7, 4), layout="constrained")
    *loss_axes, accuracy_axes = figure.subplots(1, len(results) + 1, width_ratios=[*[1] * len(results), 2])
    for axes, result in zip(loss_axes, results, strict=True):
        for kind, style in (("train", "-"), ("validation", "o-")):
            rows = result.metrics[result.metrics["kind"] == kind]
            axes.plot(rows["step"], rows["loss"], style, lw=1, label=kind)
        axes.set(
            title=STAGES[result.name].split(":")[0],
            xlabel="step",
            ylabel=f"loss ({result.summary.get('loss_unit', 'mean')})",
        )
        axes.legend()
        axes.grid(alpha=0.3)
    first = results[0].before  # of the untrained model, unless the folder begins with a later stage
    names = [*(["untrained"] if first else []), *(result.name for result in results)]
    exams = [*([first] if first else []), *(result.after for result in results)]
    bars_of = {
        f"questions, {language}": [each.accuracy(language) for each in exams]
        for language in exams[-1].questions["languages"]
    }
    bars_of |= {"who it is": [each.knows_itself for each in exams], "polite": [each.manners for each in exams]}
    width = 0.8 / len(bars_of)
    for number, (label, shares) in enumerate(bars_of.items()):
        places = [place + (number - (len(bars_of) - 1) / 2) * width for place in range(len(names))]
        bars = accuracy_axes.bar(places, [100 * share for share in shares], width, label=label)
        accuracy_axes.bar_label(bars, fmt="%.0f", fontsize=7)
    accuracy_axes.set_xticks(range(len(names)), names)
    accuracy_axes.set(title="Held-out questions and manners", ylabel="%", ylim=(0, 110))
    accuracy_axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=len(bars_of), frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _arrow(values: list[float | None], form: str) -> str:
    return " → ".join("–" if value is None else form.format(value) for value in values)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


if __name__ == "__main__":
    run_script(main)
