"""Training scripts on mixtures: by weight on the command line, by phases from a file, stopped and gone on with."""

import json
import random
import re
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from dataset.packing import PackedSet
from model.checkpoint import load_checkpoint
from tests.tiny_chain import SIZES, assert_same_weights, contents
from trainer.metrics import read_metrics

FLAGS = [*SIZES, "--packed_dir", "packed", "--batch_size", 4, "--device", "cpu", "--log_interval", 1]
PHASES = {
    "phases": [
        {
            "name": "broad",
            "tokens": 3000,
            "sets": [{"path": "text", "weight": 0.7}, {"path": "packed/numbers", "weight": 0.3}],
        },
        {
            "name": "polish",
            "steps": 9,
            "sets": [{"path": "numbers", "weight": 1}, {"path": "text", "cap": 5}],
        },
    ]
}


@pytest.fixture(scope="module")
def stocked(grown: Path, run_here, tmp_path_factory) -> Path:
    """The grown folder with a second pretraining set, `numbers`, and a second chat set, `sums`; and phases.yaml."""
    folder = shutil.copytree(grown, tmp_path_factory.mktemp("stocked") / "workspace")
    choices = random.Random(1)
    texts = [" ".join(str(choices.randrange(100)) for _ in range(20)) for _ in range(30)]
    (folder / "digits.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    sums = [{"instruction": f"{a} + {b}", "output": str(a + b)} for a in range(6) for b in range(5)]
    (folder / "sums.json").write_text(json.dumps(sums))
    for kind, source, name in (("pretrain", "digits.jsonl", "numbers"), ("sft", "sums.json", "sums")):
        flags = ["--data_path", source, "--name", name, "--packed_dir", "packed", "--tokenizer", "tokenizer"]
        made = run_here("data_process.py", kind, *flags, "--max_seq_len", 64, "--val_share", 0.1, folder=folder)
        assert made.code == 0, made.errors
    (folder / "phases.yaml").write_text(yaml.safe_dump(PHASES))
    return folder


@pytest.fixture
def workspace(stocked: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stocked, tmp_path / "workspace")


def test_weights_on_the_command_line(run_script, workspace):
    flags = [*FLAGS, "--data_path", "text:0.7,numbers:0.3", "--run_name", "mixed"]
    finished = run_script("1-pretrain.py", *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    # The table: what was asked, and what came of it.
    rows = {line.split()[0]: line for line in finished.output.splitlines() if "weight 0." in line}
    sets = {name: PackedSet.open(workspace / "packed" / name) for name in ("text", "numbers")}
    total = sum(packed.meta["num_targets"] for packed in sets.values())
    checkpoint = load_checkpoint(workspace / "out" / "mixed.pth")
    longest = max(packed.targets_per_row.max() for packed in sets.values())
    assert abs(checkpoint.tokens - total) <= longest
    for name, share in (("text", 70), ("numbers", 30)):
        found = re.search(r"([0-9,]+) +([0-9,]+) +([0-9.]+)% +([0-9.]+)$", rows[name])
        num_rows, tokens, percent, passes = (float(text.replace(",", "")) for text in found.groups())
        assert abs(tokens - share / 100 * total) <= longest
        assert percent == pytest.approx(100 * tokens / checkpoint.tokens, abs=0.01)
        assert passes == pytest.approx(num_rows / sets[name].num_rows, abs=0.01)
    # Validation: both sets' own, unweighted, overall and by source.
    log = read_metrics(workspace / "out" / "mixed" / "metrics.jsonl")
    validations = [row for row in log if row["kind"] == "validation"]
    val_sets = {name: PackedSet.open(workspace / "packed" / f"{name}_val") for name in sets}
    counts = {packed.sources[0]: packed.meta["num_targets"] for packed in val_sets.values()}
    assert set(counts) == {"text", "digits"}
    for row in validations:
        assert row["loss_by_source"].keys() == counts.keys()
        mean = sum(row["loss_by_source"][source] * count for source, count in counts.items()) / sum(counts.values())
        assert row["loss"] == pytest.approx(mean, rel=1e-6)
    report = (workspace / "out" / "mixed" / "report.md").read_text()
    for source in counts:
        before, after = (f"{row['loss_by_source'][source]:.4f}" for row in (validations[0], validations[-1]))
        bits = [f"{row['bits_per_byte_by_source'][source]:.4f}" for row in (validations[0], validations[-1])]
        numbers = " +".join([source, before, after, *bits])
        assert re.search(rf"^  {numbers}$", finished.output, re.MULTILINE)
        assert f"| {' | '.join([source, before, after, *bits])} |" in report
    assert all("loss_by_source" in row for row in log if row["kind"] in ("train", "validation"))
    again = run_script("1-pretrain.py", *flags, folder=workspace)
    assert "out/mixed.pth: already done" in again.output


def test_a_set_whose_name_looks_like_a_mixture(run_here, workspace, grown):
    """A folder that exists as given is that folder; trained on, it gives what the same set under another name gives."""
    odd = "text:0.5,chat:0.5"
    for suffix in ("", "_val"):
        shutil.copytree(workspace / "packed" / f"text{suffix}", workspace / f"{odd}{suffix}")
    flags = [*SIZES, "--batch_size", 4, "--device", "cpu", "--max_steps", 4, "--out_dir", "out2"]
    finished = run_here("1-pretrain.py", *flags, "--data_path", odd, folder=workspace)
    assert finished.code == 0, finished.errors
    assert_same_weights(workspace / "out2" / "pretrain_32.pth", grown / "out" / "pretrain_32.pth")


def test_a_name_in_packed_dir(run_here, workspace, grown):
    flags = [*FLAGS, "--data_path", "text", "--max_steps", 4, "--out_dir", "out2"]
    finished = run_here("1-pretrain.py", *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    assert_same_weights(workspace / "out2" / "pretrain_32.pth", grown / "out" / "pretrain_32.pth")


def test_conversations_are_mixed_too(run_here, workspace):
    flags = ["--packed_dir", "packed", "--batch_size", 4, "--device", "cpu", "--run_name", "mixed"]
    finished = run_here("3-full_sft.py", *flags, "--data_path", "chat:1,sums:2", folder=workspace)
    assert finished.code == 0, finished.errors
    assert "chat:1,sums:2: " in finished.output and "validation loss by source" in finished.output
    lineage = load_checkpoint(workspace / "out" / "mixed.pth").lineage
    assert [each["name"] for each in lineage["data"]["sets"]] == ["chat", "sums"]


# ---- phases ----


@pytest.fixture(scope="module")
def uninterrupted(run_script, stocked, tmp_path_factory) -> Path:
    """The phases in one go."""
    out_dir = tmp_path_factory.mktemp("uninterrupted")
    finished = run_script("1-pretrain.py", *PHASED, "--out_dir", out_dir, folder=stocked)
    assert finished.code == 0, finished.errors
    assert re.search(r"phases\.yaml: [0-9]+ steps, [0-9,]+ trained tokens\n", finished.output)
    return out_dir


PHASED = [*FLAGS, "--data_path", "phases.yaml", "--save_interval", 1, "--eval_interval", 1000]


def phases_of_log(out_dir: Path) -> list[str]:
    rows = read_metrics(out_dir / "pretrain_32" / "metrics.jsonl")
    return [row["phase"] for row in rows if row["kind"] == "train"]


def test_phases_follow_each_other(uninterrupted):
    phases = phases_of_log(uninterrupted)
    assert phases == ["broad"] * (len(phases) - 9) + ["polish"] * 9
    tokens = [
        row["tokens"]
        for row in read_metrics(uninterrupted / "pretrain_32" / "metrics.jsonl")
        if row.get("phase") == "broad"
    ]
    assert abs(tokens[-1] - 3000) <= 64


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "behind"),
    [(signal.SIGTERM, -4), (signal.SIGTERM, 0), (signal.SIGKILL, 3)],
    ids=["SIGTERM in the first phase", "SIGTERM at the border", "SIGKILL in the second phase"],
)
def test_a_run_stopped_within_phases_goes_on_to_the_same_weights(
    stop_during, run_script, workspace, uninterrupted, sent, behind
):
    phases = phases_of_log(uninterrupted)
    step = phases.index("polish") + behind
    flags = [*PHASED, "--out_dir", "out2"]
    where = {"folder": workspace, "path": f"out2/pretrain_32/resume/step-{step}", "sent": sent}
    stopped = stop_during("1-pretrain.py", *flags, **where)
    assert stopped.code == (128 + sent if sent == signal.SIGTERM else -sent), stopped.errors
    finished = run_script("1-pretrain.py", *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    went_on = int(re.search(r"going on from step (\d+) of", finished.errors)[1])
    assert step <= went_on < len(phases)
    assert phases_of_log(workspace / "out2") == phases
    assert_same_weights(workspace / "out2" / "pretrain_32.pth", uninterrupted / "pretrain_32.pth")


# ---- what a user may get wrong ----


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data_path", "text:0.7,none:0.3"], "--data_path text:0.7,none:0.3: no packed set 'none'"),
        (["--data_path", "text,numbers"], "each set of a mixture needs a weight, as in text:1,numbers:1"),
        (["--data_path", "text:0.7,numbers:-1"], "the weight of numbers: found '-1'"),
        (["--data_path", "text:1,chat:1"], "packed/chat: a sft set, but this stage needs a pretrain one"),
        (["--data_path", "text:1,digits.jsonl:1"], "digits.jsonl: a raw file, not a packed set"),
        (["--data_path", "none.yaml"], "--data_path none.yaml: no such mixture file"),
        (["--data_path", "phases.yaml", "--epochs", 2], "--epochs: found 2, but the phases of phases.yaml decide"),
        (["--data_path", "phases.yaml", "--max_steps", 1000], "--max_steps: found 1,000, but phases.yaml has"),
        (["--data_path", "text:1,numbers:1", "--val_path", "none"], "none: no such packed set"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_mistakes_end_in_one_line(refused, flags, words):
    assert words in refused("1-pretrain.py", *FLAGS, *flags)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (
            "chat:1,foreign:1",
            "packed/foreign: was made with another tokenizer than packed/chat, with which it is mixed",
        ),
        ("chat:1,template:1", "packed/template: was made with another chat template than packed/chat"),
        ("chat:1,longer:1", "packed/longer: has rows of 128 tokens, packed/chat, with which it is mixed, of 64"),
    ],
)
def test_sets_that_do_not_fit_together(refused, sets, words):
    flags = ["--packed_dir", "packed", "--device", "cpu", "--data_path", sets]
    assert words in refused("3-full_sft.py", *flags, "--run_name", "mixed")


def test_another_mixture_is_another_run(run_here, refused, workspace):
    flags = [*FLAGS, "--run_name", "mixed", "--max_steps", 2, "--data_path"]
    assert run_here("1-pretrain.py", *flags, "text:1,numbers:1", folder=workspace).code == 0
    before = contents(workspace)
    line = refused("1-pretrain.py", *flags, "text:1,numbers:2")
    assert "out/mixed: holds another run (data_path was" in line
    assert contents(workspace) == before
