"""`1-pretrain.py`: what it leaves, how it is told what to do, how it stops and goes on, what it refuses."""

import json
import re
import shutil
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml

from dataset.packing import PackedSet, PackedSetWriter, Piece
from evaluation.demo_report import untrained_model
from model.checkpoint import load_checkpoint
from model.files import read_json
from model.tokenizer import ChatTokenizer
from tests.tiny_chain import PRETRAIN, SIZES, assert_same_weights
from trainer.objectives import LanguageModeling
from trainer.validation import validate

FLAGS = [*PRETRAIN, *SIZES]


def test_a_run_leaves_a_checkpoint_that_is_enough(run_script, run_here, workspace):
    finished = run_script("1-pretrain.py", *FLAGS, "--max_steps", 8, "--run_name", "mine", folder=workspace)
    assert finished.code == 0, finished.errors
    assert finished.output.splitlines()[-1].startswith("out/mine.pth: 8 steps, ")
    assert "validation loss" in finished.errors
    checkpoint = load_checkpoint(workspace / "out" / "mine.pth")
    packed = PackedSet.open(workspace / "packed" / "text")
    assert (checkpoint.stage, checkpoint.step, checkpoint.config.dim) == ("pretrain", 8, 32)
    assert checkpoint.tokenizer().vocabulary_hash == packed.vocabulary_hash
    assert checkpoint.config.max_seq_len == packed.max_seq_len
    assert checkpoint.metrics["validation_loss_last"] < checkpoint.metrics["validation_loss_before"]
    assert checkpoint.lineage["data"]["fingerprint"] == packed.fingerprint
    left = {path.name for path in (workspace / "out" / "mine").iterdir()}
    assert left == {"lock", "run.json", "metrics.jsonl", "curves.png", "report.md", "resume"}
    shutil.rmtree(workspace / "packed")
    answer = run_here("2-eval.py", "out/mine.pth", "--prompt", "the capital", "--max_new_tokens", 5, folder=workspace)
    assert answer.code == 0, answer.errors


def test_the_demo_measures_the_very_model_that_training_began_with(workspace):
    checkpoint = load_checkpoint(workspace / "out" / "pretrain_32.pth")
    record = read_json(workspace / "out" / "pretrain_32" / "run.json")
    model = untrained_model(checkpoint.config, record["identity"]["seed"])
    val_set = PackedSet.open(workspace / "packed" / "text_val")
    objective, device = LanguageModeling(document_mask=False), torch.device("cpu")
    found = validate(model, model, objective, val_set, 4, device, nullcontext)
    assert found.loss == record["summary"]["validation_loss_before"]


def test_the_same_command_does_nothing_twice(run_here, workspace):
    before = (workspace / "out" / "pretrain_32.pth").stat().st_mtime_ns
    finished = run_here("1-pretrain.py", *FLAGS, "--max_steps", 4, folder=workspace)
    assert finished.code == 0
    assert "out/pretrain_32.pth: already done" in finished.output
    assert (workspace / "out" / "pretrain_32.pth").stat().st_mtime_ns == before


def test_a_lost_checkpoint_is_made_again_from_the_last_saved_step(run_here, workspace, grown):
    """As after a crash between the last saved step and the checkpoint made of it."""
    (workspace / "out" / "pretrain_32.pth").unlink()
    finished = run_here("1-pretrain.py", *FLAGS, "--max_steps", 4, folder=workspace)
    assert finished.code == 0, finished.errors
    assert_same_weights(workspace / "out" / "pretrain_32.pth", grown / "out" / "pretrain_32.pth")


def test_a_parent_brings_its_architecture_and_stays(run_here, workspace):
    before = (workspace / "out" / "pretrain_32.pth").read_bytes()
    flags = ["--init_from", "out/pretrain_32.pth", "--run_name", "more", "--max_steps", 2]
    finished = run_here("1-pretrain.py", *PRETRAIN, *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    parent, child = (load_checkpoint(workspace / "out" / name) for name in ("pretrain_32.pth", "more.pth"))
    assert child.config == parent.config
    assert child.lineage["parent"]["digest"] == parent.digest
    assert (workspace / "out" / "pretrain_32.pth").read_bytes() == before


@pytest.mark.parametrize(
    ("data_path", "out_dir", "where"),
    [
        ("packed/text/", "out2/", "."),
        ("{}/packed/text", "{}/out2", "."),
        ("../packed/./text", "../out2", "packed"),
        (".", "../../out2", "packed/text"),
        ("packed/with spaces", "out of two", "."),
        ("packed/诗 👍", "输出", "."),
    ],
)
def test_paths_of_every_form(run_here, workspace, grown, data_path, out_dir, where):
    data_path, out_dir = data_path.format(workspace), out_dir.format(workspace)
    for suffix in ("", "_val"):
        place = workspace / where / f"{data_path}{suffix}"
        if not (workspace / where / data_path).exists() or (suffix and not place.exists()):
            shutil.copytree(grown / "packed" / f"text{suffix}", place, dirs_exist_ok=True)
    flags = ["--device", "cpu", *SIZES, "--max_steps", 4, "--batch_size", 4, "--data_path", data_path]
    finished = run_here("1-pretrain.py", *flags, "--out_dir", out_dir, folder=workspace / where)
    assert finished.code == 0, finished.errors
    assert "validation loss" in finished.errors, "the validation set beside it was not found"
    assert_same_weights(workspace / where / out_dir / "pretrain_32.pth", grown / "out" / "pretrain_32.pth")


# ---- settings in a file ----


@pytest.mark.parametrize("name", ["settings.yaml", "settings.yml", "settings.json"])
def test_settings_may_stand_in_a_file_and_flags_win(run_here, workspace, grown, name):
    values = {"data_path": "packed/text", "batch_size": 4, "device": "cpu", "dim": 32, "n_layers": 1, "n_heads": 4}
    values |= {"n_kv_heads": 2, "max_steps": 3, "run_name": None, "overwrite": False, "tie_embeddings": True}
    text = json.dumps(values) if name.endswith("json") else yaml.safe_dump(values)
    if name == "settings.yml":
        text += "learning_rate: 7e-3\n"  # which YAML 1.1 takes for text
    (workspace / name).write_text(text, encoding="utf-8")
    finished = run_here("1-pretrain.py", name, "--out_dir", "out2", "--max_steps", 4, folder=workspace)
    assert finished.code == 0, finished.errors
    assert_same_weights(workspace / "out2" / "pretrain_32.pth", grown / "out" / "pretrain_32.pth")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.yaml", None, "none.yaml: no such settings file"),
        ("broken.yaml", b"dim: [32\nn_layers: 1\n", "broken.yaml: not a YAML file"),
        ("broken.json", b'{"dim": 32', "broken.json: not a JSON file"),
        ("bytes.yaml", b"\xff\xfe\x00", "bytes.yaml: not a YAML file"),
        ("empty.yaml", b"", "empty.yaml: expected settings by name"),
        ("list.json", b"[1]", "list.json: expected settings by name"),
        ("typing.yaml", b"dimm: 32\n", "typing.yaml: unknown argument --dimm"),
        ("wrong.yaml", b"dim: wide\n", "wrong.yaml: argument --dim: invalid int value: 'wide'"),
        ("choice.yaml", b"schedule: maybe\n", "choice.yaml: argument --schedule"),
        ("deep.yaml", b"training:\n  dim: 32\n", "deep.yaml: training: expected one value"),
        ("object.yaml", b"dim: !!python/object/apply:os.system [ls]\n", "object.yaml: not a YAML file"),
    ],
)
def test_bad_settings_files(refused, workspace, name, content, words):
    if content is not None:
        (workspace / name).write_bytes(content)
    assert words in refused("1-pretrain.py", name)


# ---- stopping and going on ----


@pytest.fixture(scope="module")
def uninterrupted(run_script, grown, tmp_path_factory) -> Path:
    """Sixty steps in one go."""
    out_dir = tmp_path_factory.mktemp("uninterrupted")
    finished = run_script("1-pretrain.py", *FLAGS, "--max_steps", 60, "--out_dir", out_dir, folder=grown)
    assert finished.code == 0, finished.errors
    return out_dir / "pretrain_32.pth"


SIXTY = [*FLAGS, "--max_steps", 60, "--out_dir", "out2", "--save_interval", 5, "--eval_interval", 60, "--dropout", 0.0]
STEP_5 = "out2/pretrain_32/resume/step-5"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "flags"),
    [(signal.SIGINT, []), (signal.SIGTERM, []), (signal.SIGINT, ["--num_workers", 2])],
    ids=["Ctrl-C", "SIGTERM", "Ctrl-C with data workers"],
)
def test_a_stopped_run_saves_and_goes_on_to_the_same_weights(
    stop_during, run_script, workspace, uninterrupted, sent, flags
):
    where = {"folder": workspace, "path": STEP_5, "sent": sent, "group": bool(flags)}
    stopped = stop_during("1-pretrain.py", *SIXTY, *flags, **where)
    assert stopped.code == 128 + sent, stopped.errors
    assert "Traceback" not in stopped.errors
    said = re.search(r"stopped at step (\d+) of 60, saved; the same command goes on", stopped.output)
    step = int(said[1])
    assert 5 <= step < 60
    assert load_checkpoint(workspace / "out2" / "pretrain_32.pth").step == step
    finished = run_script("1-pretrain.py", *SIXTY, *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    assert f"going on from step {step} of 60" in finished.errors
    assert_same_weights(workspace / "out2" / "pretrain_32.pth", uninterrupted)


@pytest.mark.slow
def test_a_killed_run_goes_on_from_the_last_saved_step(stop_during, run_script, workspace, uninterrupted):
    killed = stop_during("1-pretrain.py", *SIXTY, folder=workspace, path=STEP_5, sent=signal.SIGKILL)
    assert killed.code == -signal.SIGKILL
    # What a kill in the middle of writing leaves.
    (workspace / "out2" / "pretrain_32" / "resume" / ".step-99.abcdefgh").mkdir()
    half_written = [f".pretrain_32{rest}.pth.abcdefgh" for rest in ("", "_of_another_run")]
    for name in half_written:
        (workspace / "out2" / name).write_bytes(b"half")
    finished = run_script("1-pretrain.py", *SIXTY, folder=workspace)
    assert finished.code == 0, finished.errors
    step = int(re.search(r"going on from step (\d+) of 60", finished.errors)[1])
    assert step >= 5 and step % 5 == 0
    assert_same_weights(workspace / "out2" / "pretrain_32.pth", uninterrupted)
    hidden = [path.name for path in (workspace / "out2").rglob(".*")]
    assert hidden == half_written[1:], "what was half written goes, but only of this run"


@pytest.mark.slow
@pytest.mark.parametrize("cpu_seconds", [0.5, 2.0])
def test_ctrl_c_before_training_is_quiet(start_script, workspace, cpu_seconds):
    """While the libraries load, which takes most of that time."""
    process = start_script("1-pretrain.py", *SIXTY, "--epochs", 1000, "--max_steps", 0, folder=workspace)
    while psutil.Process(process.pid).cpu_times().user < cpu_seconds:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


# ---- what a user may get wrong ----


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batchsize", 4], "unknown argument --batchsize"),
        (["--learning", 1e-3], "unknown argument --learning"),  # an abbreviation may mean another flag tomorrow
        (["--batch_size", "many"], "argument --batch_size/--batch-size: invalid int|auto value: 'many'"),
        (["--batch_size", 0], "--batch_size: found 0"),
        (["--accumulation_steps", 0], "--accumulation_steps: found 0"),
        (["--learning_rate", "nan"], "--learning_rate: found nan"),
        (["--epochs", "inf"], "--epochs: found inf"),
        (["--weight_decay", "nan"], "--weight_decay: found nan"),
        (["--grad_clip", -1], "--grad_clip: found -1"),
        (["--beta1", 1], "--beta1: found 1.0"),
        (["--z_loss", -1], "--z_loss: found -1"),
        (["--warmup_iters", -1], "--warmup_iters: found -1"),
        (["--seed", -1], "--seed: found -1"),
        (["--num_workers", -1], "--num_workers: found -1"),
        (["--resume", "maybe", "--run_name", "new"], "maybe: no such folder; expected a saved step"),
        (["--device", "tpu"], "--device: found 'tpu'"),
        (["--dtype", "int8"], "--dtype: found 'int8'"),
        (["--run_name", "a/b"], "--run_name: found 'a/b'"),
        (["--run_name", ".."], "--run_name: found '..'"),
        (["--n_kv_heads", 3], "n_kv_heads: found 3"),
        (["--n_heads", 3], "n_heads: found 3"),
        (["--dim", 0], "dim: found 0"),
        (["--use_moe", "--n_routed_experts", 4, "--num_experts_per_tok", 5], "num_experts_per_tok"),
        (["--use_moe", "--num_experts_per_tok", 1, "--norm_topk_prob", "true"], "norm_topk_prob"),
        (["--use_moe", "--qk_norm", "--n_shared_experts", 1], "no stock architecture"),
        (["--preset", "huge"], "--preset: found 'huge'"),
        (["--max_seq_len", 0], "--max_seq_len: the packed set decides it"),
        (["--learning_rate", 1e-4, "--max_steps", 4], "out/pretrain_32: holds another run (learning_rate was"),
        (["--max_steps", 5], "length was 4 steps, now 5 steps"),
        (["--init_from", "out/pretrain_32.pth"], "--dim: the architecture comes from --init_from"),
        (["--data_path", "text.jsonl"], "python data_process.py pretrain --name text --data_path text.jsonl"),
        (["--data_path", "packed/none"], "packed/none: no such packed set"),
        (["--data_path", "tokenizer"], "tokenizer: not a packed set"),
        (["--data_path", "packed/chat"], "packed/chat: a sft set, but this stage needs a pretrain one"),
        (["--val_path", "packed/none"], "packed/none: no such packed set"),
        (["--val_path", "packed/chat_val"], "packed/chat_val: a sft set"),
        (
            ["--test_size", 0.1],
            "--test_size: a document of pretraining text may lie in several rows; make validation sets",
        ),
        (["--out_dir", "text.jsonl"], "text.jsonl"),
        (["--out_dir", "text.jsonl/deeper"], "text.jsonl"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_mistakes_end_in_one_line(refused, flags, words):
    assert words in refused("1-pretrain.py", *FLAGS, *flags)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"), [(["--batchsize", 4], "--batchsize"), (["--data_path", "text.jsonl"], "text.jsonl")]
)
def test_nothing_but_that_line_appears_in_a_fresh_process(refused, run_script, flags, words):
    """The tests above run in a process in which every library has said its warnings already."""
    assert words in refused("1-pretrain.py", *FLAGS, *flags, run=run_script)


def test_context_zero_is_refused_where_it_is_chosen(refused):
    flags = ["--data_path", "text.jsonl", "--tokenizer", "tokenizer", "--packed_dir", "packed", "--name", "new"]
    assert "--max_seq_len 0" in refused("data_process.py", "pretrain", *flags, "--max_seq_len", 0)


def test_debug_shows_the_traceback(run_script, workspace):
    finished = run_script("1-pretrain.py", *FLAGS, "--data_path", "none", "--debug", folder=workspace)
    assert finished.code != 0
    assert finished.errors.startswith("Traceback")
    assert "none: no such packed set" in finished.errors


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["tokens.npy", "segments.npy", "rows.npy", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("spoil", [cut, Path.unlink], ids=["cut", "missing"])
def test_a_damaged_set_is_named(refused, workspace, name, spoil):
    spoil(workspace / "packed" / "text" / name)
    assert f"packed/text/{name}: " in refused("1-pretrain.py", *FLAGS, "--run_name", "new")


META_CHANGES = {
    "not JSON": lambda text: text[:-20],
    "not a dictionary": lambda text: "[]",
    "future format": lambda text: text.replace('"format_version": 1', '"format_version": 2', 1),
    "another number of rows": lambda text: re.sub(r'"num_rows": \d+', '"num_rows": 7', text, count=1),
    "another length of rows": lambda text: text.replace('"row_length": 65', '"row_length": 64', 1),
    "no sources": lambda text: text.replace('"sources"', '"wells"', 1),
    "no files": lambda text: text.replace('"files"', '"piles"', 1),
    "another kind": lambda text: text.replace('"kind": "pretrain"', '"kind": "poems"', 1),
    "rows as text": lambda text: re.sub(r'"num_rows": (\d+)', r'"num_rows": "\1"', text, count=1),
    "another vocabulary size": lambda text: re.sub(r'"vocab_size": \d+', '"vocab_size": 400', text, count=1),
    "a longer context": lambda text: text.replace('"max_seq_len": 64', '"max_seq_len": 128', 1),
}


@pytest.mark.parametrize("change", META_CHANGES.values(), ids=META_CHANGES)
def test_an_altered_description_is_named(refused, workspace, change):
    path = workspace / "packed" / "text" / "meta.json"
    before = path.read_text(encoding="utf-8")
    path.write_text(change(before), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != before
    assert "packed/text" in refused("1-pretrain.py", *FLAGS, "--run_name", "new")


def write_empty_set(folder: Path, tokenizer: ChatTokenizer) -> None:
    folder.mkdir()
    writer = PackedSetWriter(folder, "pretrain", 64, tokenizer.vocab_size, pad_token_id=1)
    writer.finish(tokenizer, {"name": folder.name, "sources": [], "num_documents": 0})


def test_sets_without_rows(refused, run_here, workspace):
    """`data_process.py` writes none, but somebody else's program might."""
    tokenizer = ChatTokenizer.from_folder(workspace / "tokenizer")
    write_empty_set(workspace / "packed" / "empty", tokenizer)
    assert "packed/empty: has no rows" in refused("1-pretrain.py", *SIZES, "--data_path", "packed/empty")
    flags = ["--val_path", "packed/empty", "--max_steps", 2, "--run_name", "new"]
    finished = run_here("1-pretrain.py", *FLAGS, *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    assert "validation" not in finished.errors


def test_rows_without_targets_teach_nothing_and_spoil_nothing(run_here, workspace):
    """A batch whose mean is 0 / 0 would fill the model with NaN."""
    tokenizer = ChatTokenizer.from_folder(workspace / "tokenizer")
    folder = workspace / "packed" / "silent"
    folder.mkdir()
    writer = PackedSetWriter(folder, "sft", 64, tokenizer.vocab_size, pad_token_id=1)
    tokens = np.arange(64, 94, dtype=np.uint16)
    for trained in (False, True, False):
        writer.add_row([Piece(tokens, np.full(len(tokens), trained), 0, 0)])
    writer.finish(tokenizer, {"name": "silent", "sources": ["a"], "num_documents": 3})
    flags = ["--data_path", "packed/silent", "--batch_size", 1, "--epochs", 1, "--log_interval", 1, "--device", "cpu"]
    finished = run_here("3-full_sft.py", *flags, "--run_name", "silent", "--weight_decay", 0, folder=workspace)
    assert finished.code == 0, finished.errors
    log = (workspace / "out" / "silent" / "metrics.jsonl").read_text().splitlines()
    losses = sorted(row["loss"] for row in map(json.loads, log) if row["kind"] == "train")
    assert losses[:2] == [0, 0] and losses[2] > 0


@pytest.mark.parametrize("content", ["[]", "{}", '{"identity": 1, "finished": true, "summary": null}', "{"])
def test_a_spoilt_record_of_the_run_is_named(refused, workspace, content):
    (workspace / "out" / "pretrain_32" / "run.json").write_text(content)
    assert "out/pretrain_32/run.json: " in refused("1-pretrain.py", *FLAGS, "--max_steps", 4)
