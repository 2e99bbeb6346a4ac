"""`3-full_sft.py`: what it takes from its parent, what it hands on, and what it refuses."""

import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dataset.packing import PackedSet
from model.checkpoint import load_checkpoint, save_checkpoint
from tests.tiny_chain import FULL_SFT, SIZES, assert_same_weights, contents


def test_a_pretrained_model_becomes_one_that_chats(run_script, run_here, workspace):
    finished = run_script("3-full_sft.py", *FULL_SFT, "--max_steps", 8, "--run_name", "mine", folder=workspace)
    assert finished.code == 0, finished.errors
    assert "length: 8 steps" in finished.output
    parent, child = (load_checkpoint(workspace / "out" / name) for name in ("pretrain_32.pth", "mine.pth"))
    assert (child.stage, child.step) == ("full_sft", 8)
    assert (child.config, child.tokenizer_files) == (parent.config, parent.tokenizer_files)
    assert child.lineage["parent"]["digest"] == parent.digest
    assert child.generation["stop_token_ids"] == [0, 3]
    assert child.metrics["validation_loss_last"] < child.metrics["validation_loss_before"]
    answer = run_here("2-eval.py", "out/mine.pth", "--prompt", "the capital", "--max_new_tokens", 5, folder=workspace)
    assert answer.code == 0, answer.errors


def test_another_run_may_go_on_from_a_tuned_model(run_here, workspace):
    before = (workspace / "out" / "full_sft_32.pth").read_bytes()
    flags = ["--init_from", "out/full_sft_32.pth", "--run_name", "more", "--max_steps", 2]
    finished = run_here("3-full_sft.py", *FULL_SFT, *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    lineage = load_checkpoint(workspace / "out" / "more.pth").lineage
    assert [lineage["parent"]["stage"], lineage["parent"]["parent"]["stage"]] == ["full_sft", "pretrain"]
    assert (workspace / "out" / "full_sft_32.pth").read_bytes() == before


def test_where_answers_end_and_how_to_sample_are_inherited(run_here, workspace):
    """A foreign model may end its answers with a token that only its generation_config.json names."""
    parent = load_checkpoint(workspace / "out" / "full_sft_32.pth")
    own = parent.generation["stop_token_ids"]
    advised = {"stop_token_ids": [300, *own], "temperature": 0.3, "top_k": 20}
    save_checkpoint(workspace / "parent.pth", replace(parent, generation=advised))
    flags = ["--init_from", "parent.pth", "--run_name", "more", "--max_steps", 2]
    finished = run_here("3-full_sft.py", *FULL_SFT, *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    expected = {"stop_token_ids": [*own, 300], "temperature": 0.3, "top_k": 20}
    assert load_checkpoint(workspace / "out" / "more.pth").generation == expected

    flags = ["--anneal_from", "out/more/resume/step-2", "--warmup_iters", 0, "--run_name", "annealed", "--max_steps", 2]
    finished = run_here("3-full_sft.py", *FULL_SFT, *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    assert load_checkpoint(workspace / "out" / "annealed.pth").generation == expected


def test_own_role_tokens_from_pretraining_to_chat(run_here, workspace):
    """The conversations are packed first; their tokenizer, with its tokens and template, packs the text."""
    template = (
        "{% for message in messages %}{{ '<|' ~ message.role ~ '|>' ~ message.content }}"
        "{% if message.role == 'assistant' %}{{ '<|stop|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    (workspace / "own.jinja").write_text(template)

    def done(script: str, *flags: object) -> None:
        finished = run_here(script, *flags, folder=workspace)
        assert finished.code == 0, finished.errors

    packing = ["--packed_dir", "packed", "--max_seq_len", 64]
    own = ["--add_tokens", "<|system|>", "<|user|>", "<|assistant|>", "<|stop|>", "--chat_template", "own.jinja"]
    chats = ["--data_path", "chat.json", "--name", "own_chat", "--tokenizer", "tokenizer", *own]
    done("data_process.py", "sft", *packing, *chats)
    texts = ["--data_path", "text.jsonl", "--name", "own_text", "--tokenizer", "packed/own_chat/tokenizer"]
    done("data_process.py", "pretrain", *packing, *texts)
    flags = ["--batch_size", 4, "--device", "cpu", "--max_steps", 2, "--out_dir", "own"]
    done("1-pretrain.py", "--data_path", "packed/own_text", *SIZES, *flags)
    done("3-full_sft.py", "--data_path", "packed/own_chat", "--test_size", 0.2, *flags)
    tuned = load_checkpoint(workspace / "own" / "full_sft_32.pth")
    tokenizer = tuned.tokenizer()
    assert tokenizer.chat_template == template
    assert tuned.generation["stop_token_ids"] == [0, tokenizer.control_tokens["<|stop|>"]]
    assert tuned.weights["model.embed_tokens.weight"].shape[0] == tokenizer.vocab_size
    answer = run_here("2-eval.py", "own/full_sft_32.pth", "--prompt", "the", "--max_new_tokens", 5, folder=workspace)
    assert answer.code == 0, answer.errors


# ---- rows held out of the training set ----


@pytest.mark.slow
def test_rows_are_held_out_to_validate_on(run_here, stop_during, workspace):
    """Stopped and gone on with, data workers reading: the same weights as in one go."""
    assert (workspace / "packed" / "chat_val").exists()
    flags = [*FULL_SFT, "--test_size", 10, "--max_steps", 30, "--run_name", "held", "--save_interval", 5]
    whole = run_here(
        "3-full_sft.py", *flags, "--out_dir", "whole", "--init_from", "out/pretrain_32.pth", folder=workspace
    )
    assert whole.code == 0, whole.errors
    said = re.search(
        r"--test_size 10: (\d+) of (\d+) conversations are held out .*\((\d+) of (\d+) rows\)", whole.errors
    )
    documents, of_documents, rows, of_rows = map(int, said.groups())
    packed = PackedSet.open(workspace / "packed" / "chat")
    assert (of_documents, of_rows) == (packed.meta["num_documents"], packed.num_rows)
    assert 10 <= documents < of_documents and 0 < rows < of_rows
    assert "--test_size 10: chat_val, which lies beside the set, is not used" in whole.errors
    report = (workspace / "whole" / "held" / "report.md").read_text()
    assert f"| training | chat | chat | {of_rows - rows} |" in report
    assert f"| validation | chat (held out) | chat | {rows} |" in report
    flags += ["--num_workers", 2]
    where = {"folder": workspace, "path": "out/held/resume/step-5", "sent": signal.SIGTERM}
    stopped = stop_during("3-full_sft.py", *flags, **where)
    assert stopped.code == 128 + signal.SIGTERM, stopped.errors
    assert "Traceback" not in stopped.errors
    other = run_here("3-full_sft.py", *flags, "--test_size", 20, folder=workspace)
    assert other.code == 2
    assert "out/held: holds another run (test_size was " in other.errors.splitlines()[-1]
    finished = run_here("3-full_sft.py", *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    assert re.search(r"going on from step \d+ of 30", finished.errors)
    assert_same_weights(workspace / "out" / "held.pth", workspace / "whole" / "held.pth")
    checkpoint = load_checkpoint(workspace / "out" / "held.pth")
    assert checkpoint.metrics["validation_loss_last"] < checkpoint.metrics["validation_loss_before"]


# ---- the parent ----


def test_no_parent_is_said(refused, workspace):
    assert "empty: has no pretrain_*.pth; train one first" in refused("3-full_sft.py", *FULL_SFT, "--out_dir", "empty")
    (workspace / "out" / "pretrain_32.pth").rename(workspace / "elsewhere.pth")
    assert "out: has no pretrain_*.pth" in refused("3-full_sft.py", *FULL_SFT)


def test_several_parents_are_listed(refused, workspace):
    shutil.copy(workspace / "out" / "pretrain_32.pth", workspace / "out" / "pretrain_64.pth")
    line = refused("3-full_sft.py", *FULL_SFT)
    assert "pretrain_32.pth, pretrain_64.pth" in line
    assert "--init_from" in line


def rewritten(path: Path, **changes: object) -> None:
    content = torch.load(path, weights_only=True)
    torch.save({**content, **changes}, path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def keep_only_weights(path: Path) -> None:
    torch.save(torch.load(path, weights_only=True)["weights"], path)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILT_PARENTS = {
    "missing": (Path.unlink, "no such checkpoint file"),
    "a folder": (replace_by_folder, "has no config.json"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable checkpoint"),
    "cut": (cut, "not a readable checkpoint"),
    "a flipped bit": (alter, "parent.pth: "),
    "altered weights": (lambda path: rewritten(path, step=9), "the file was altered"),
    "future format": (lambda path: rewritten(path, format=2), "has format 2, this version reads 1"),
    "bare state dict": (keep_only_weights, "a bare state dict?"),
    "a list": (lambda path: torch.save([1], path), "holds a list"),
    "text": (lambda path: path.write_text("Once upon a time"), "not a readable checkpoint"),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILT_PARENTS.values(), ids=SPOILT_PARENTS.keys())
def test_a_parent_that_cannot_be_used_is_named(refused, workspace, spoil, words):
    parent = workspace / "parent.pth"
    shutil.copy(workspace / "out" / "pretrain_32.pth", parent)
    spoil(parent)
    line = refused("3-full_sft.py", *FULL_SFT, "--init_from", "parent.pth")
    assert line.startswith("error: parent.pth: ") and words in line


# ---- what a user may get wrong ----


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dim", 64], "--dim: this stage takes the architecture from its parent"),
        (["--n-layers=2"], "--n_layers: this stage takes the architecture from its parent"),
        (["--preset", "small"], "--preset: this stage takes the architecture from its parent"),
        (["--max_seq_len", 32], "--max_seq_len: this stage takes the architecture from its parent"),
        (["--run_name", "pretrain_32"], "this run would replace its own parent"),
        (["--overwrite", "--run_name", "pretrain_32"], "this run would replace its own parent"),
        (["--data_path", "chat.json"], "python data_process.py sft --name chat --data_path chat.json"),
        (["--data_path", "packed/none"], "python data_process.py sft"),
        (["--data_path", "packed/text"], "packed/text: a pretrain set, but this stage needs a sft one"),
        (["--data_path", "packed/foreign"], "packed/foreign: was made with another tokenizer than out/pretrain_32.pth"),
        (  # a pretrained model would take it: it has used none yet
            ["--data_path", "packed/template", "--init_from", "out/full_sft_32.pth", "--run_name", "again"],
            "packed/template: was made with another chat template than out/full_sft_32.pth's",
        ),
        (["--data_path", "packed/longer"], "packed/longer: has rows of 128 tokens, out/pretrain_32.pth reads 64"),
        (["--val_path", "packed/foreign"], "packed/foreign: was made with another tokenizer"),
        (["--val_path", "packed/template"], "packed/template: was made with another chat template"),
        (["--val_path", "packed/longer"], "packed/longer: has rows of 128 tokens"),
        (["--test_size", 0], "--test_size: found 0.0, expected a whole number, or a share between 0 and 1"),
        (["--test_size", 1.5], "--test_size: found 1.5"),
        (["--test_size", "few"], "argument --test_size"),
        (["--test_size", 999], "--test_size 999: whole rows are held out, and packed/chat has "),
        (
            ["--test_size", 0.2, "--val_path", "packed/chat_val"],
            "--test_size: the validation set is named by --val_path",
        ),
        (
            ["--test_size", 5, "--data_path", "packed/chat:1,packed/template:1"],
            "is a mixture; make validation sets with",
        ),
        (["--document_mask", "maybe"], "argument --document_mask"),
        (["--batch_size", "-1"], "--batch_size: found -1"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_mistakes_end_in_one_line(refused, flags, words):
    assert words in refused("3-full_sft.py", *FULL_SFT, *flags)


def test_another_parent_is_another_run(refused, run_here, workspace):
    other = ["--run_name", "other", "--max_steps", 2, "--seed", 7]
    flags = ["--data_path", "packed/text", "--batch_size", 4, "--device", "cpu", "--dim", 32, "--n_layers", 1]
    assert run_here("1-pretrain.py", *flags, "--n_heads", 4, "--n_kv_heads", 2, *other, folder=workspace).code == 0
    line = refused("3-full_sft.py", *FULL_SFT, "--max_steps", 4, "--init_from", "out/other.pth")
    assert "out/full_sft_32: holds another run (init_from was" in line


def test_overwrite_moves_the_earlier_run_aside(run_here, workspace):
    before = (workspace / "out" / "full_sft_32.pth").read_bytes()
    flags = [*FULL_SFT, "--max_steps", 2]
    finished = run_here("3-full_sft.py", *flags, "--overwrite", folder=workspace)
    assert finished.code == 0, finished.errors
    [aside] = (workspace / "out").glob("full_sft_32.pth.bak-*")
    assert aside.read_bytes() == before
    again = contents(workspace / "out" / "full_sft_32")
    assert "already done" in run_here("3-full_sft.py", *flags, folder=workspace).output
    assert contents(workspace / "out" / "full_sft_32") == again
