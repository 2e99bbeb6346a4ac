"""Training starts from somebody else's folder: with its tokenizer, tokens added to it, and rates that suit it."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from model.checkpoint import load_checkpoint
from model.loading import load_model

SHORT = ["--max_steps", 2, "--warmup_iters", 0, "--log_interval", 1, "--sample_interval", -1, "--num_threads", 1]
SHORT += ["--packed_dir", "packed", "--batch_size", 2]
MARKER = "<|map|>"


@pytest.fixture(scope="module")
def theirs(grown, run_here, tmp_path_factory) -> Path:
    """A folder with llama/, as transformers writes it, and sets packed with its tokenizer, one token added."""
    folder = tmp_path_factory.mktemp("theirs")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=340,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "llama")
    PreTrainedTokenizerFast.from_pretrained(grown / "tokenizer").save_pretrained(folder / "llama")
    for kind, source in (("sft", "chat.json"), ("dpo", "pairs.json")):
        flags = ["--data_path", grown / source, "--name", kind, "--packed_dir", "packed", "--max_seq_len", 64]
        packed = run_here(
            "data_process.py", kind, *flags, "--tokenizer", "llama", "--add_tokens", MARKER, folder=folder
        )
        assert packed.code == 0, packed.errors
    return folder


@pytest.fixture
def folder(theirs, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("trainer.journal.draw_curves", lambda *_: None)
    return Path(shutil.copytree(theirs, tmp_path / "theirs"))


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("script", "name", "flags", "rate", "stage"),
    [
        ("3-full_sft.py", "sft", [], 2e-5, "full_sft_32"),
        ("4-lora_sft.py", "sft", ["--lora_name", "law"], 2e-4, "lora_law_32"),
        ("5-dpo_train.py", "dpo", [], 1e-6, "rl_32"),
        ("5-dpo_train.py", "dpo", ["--lora_rank", 2], 1e-5, "rl_32"),
        ("3-full_sft.py", "sft", ["--learning_rate", 1e-3, "--optimizer", "muon"], 1e-3, "full_sft_32"),
    ],
)
def test_a_stage_starts_from_their_folder(run_here, folder, script, name, flags, rate, stage):
    finished = run_here(script, *SHORT, "--data_path", name, "--init_from", "llama", *flags, folder=folder)
    assert finished.code == 0, finished.errors
    is_said = f"learning rate: {rate:g}, as is usual for models from elsewhere" in finished.errors
    assert is_said == ("--learning_rate" not in flags)
    settings = load_checkpoint(folder / "out" / f"{stage}.pth").lineage["settings"]
    assert settings["learning_rate"] == rate
    assert settings["optimizer"] == ("muon" if "muon" in flags else "adamw")
    answer = run_here("2-eval.py", f"out/{stage}.pth", "--prompt", "the", "--max_new_tokens", 3, folder=folder)
    assert answer.code == 0, answer.errors


def test_the_new_token_starts_at_the_mean_and_its_rows_are_in_the_adapter(run_here, folder, monkeypatch):
    monkeypatch.chdir(folder)
    flags = ["--data_path", "sft", "--init_from", "llama", "--lora_name", "law"]
    finished = run_here("4-lora_sft.py", *SHORT, *flags, folder=folder)
    assert finished.code == 0, finished.errors
    adapter = load_checkpoint(folder / "out" / "lora_law_32.pth")
    assert adapter.tokenizer().special_tokens[MARKER] == 340 and adapter.config.vocab_size == 341
    rows = adapter.weights["model.embed_tokens.lora_rows"]
    mean = load_model(folder / "llama")[0].model.embed_tokens.weight.detach()[:340].mean(dim=0)
    # Two updates with rates of 2e-4 move each value by little more than 4e-4.
    assert rows.shape == (1, 32) and (rows - mean).abs().max() < 5e-4
    assert load_model(folder / "out" / "lora_law_32.pth")[0].model.embed_tokens.weight.shape == (341, 32)


def test_what_came_of_their_folder_is_still_theirs(run_here, folder):
    """Its rates stay those of a large model in the stages that follow."""
    finished = run_here("3-full_sft.py", *SHORT, "--data_path", "sft", "--init_from", "llama", folder=folder)
    assert finished.code == 0, finished.errors
    flags = ["--data_path", "dpo", "--init_from", "out/full_sft_32.pth"]
    finished = run_here("5-dpo_train.py", *SHORT, *flags, folder=folder)
    assert finished.code == 0, finished.errors
    assert "learning rate: 1e-06, as is usual" in finished.errors
