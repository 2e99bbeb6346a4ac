"""All scripts without flags, in the order of docs/architecture.md, in an empty folder."""

import subprocess
from pathlib import Path

import pytest

from model.checkpoint import load_checkpoint

# Only how long it takes is changed: what is read and written where is what a user gets.
QUICK = ["--max_steps", 2, "--eval_interval", 2, "--warmup_iters", 1]


@pytest.mark.slow
def test_the_chain_without_flags(run_script, repository, tmp_path):
    def run(script: str, *flags: object, **options: object) -> str:
        finished = run_script(script, *flags, folder=tmp_path, **options)
        assert finished.code == 0, finished.errors
        assert "Traceback" not in finished.errors
        return finished.output

    def tree() -> str:
        command = ["git", "-C", str(repository), "status", "--porcelain", "--ignored=no"]
        return subprocess.run(command, capture_output=True, text=True).stdout

    before = tree()
    run("data_process.py", "little_world")
    run("train_tokenizer.py")
    run("data_process.py")
    run("1-pretrain.py", *QUICK)
    run("3-full_sft.py", *QUICK)
    answer = run("2-eval.py", "--prompt", "What is the capital of France?", "--max_new_tokens", 4, "--temperature", 0)
    assert answer.endswith("\n")
    assert tree() == before, "the scripts' own folder stays clean"

    assert {path.name for path in tmp_path.iterdir()} == {"dataset", "out"}
    names = {f"little_world_{name}{val}" for name in ("pretrain", "sft", "identity", "dpo") for val in ("", "_val")}
    assert {path.name for path in (tmp_path / "dataset" / "packed").iterdir()} == names
    out = {path.name for path in (tmp_path / "out").iterdir()}
    assert out == {"tokenizer", "pretrain_256", "pretrain_256.pth", "full_sft_256", "full_sft_256.pth"}
    pretrained, tuned = (load_checkpoint(Path(tmp_path, "out", f"{each}_256.pth")) for each in ("pretrain", "full_sft"))
    assert (pretrained.config.dim, pretrained.config.n_layers, pretrained.config.vocab_size) == (256, 4, 6400)
    assert tuned.lineage["parent"]["digest"] == pretrained.digest
