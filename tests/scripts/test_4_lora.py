"""`4-lora_sft.py`: an adapter is small, belongs to its base, goes on to the same bits, alone and on many ranks."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import load_checkpoint
from model.loading import load_model
from tests.tiny_chain import LORA, assert_same_weights, contents
from trainer.metrics import read_metrics

SHORT: list[object] = [*LORA, "--max_steps", 8, "--warmup_iters", 2, "--log_interval", 1, "--num_threads", 1]
SHORT += ["--eval_interval", 4, "--sample_interval", -1, "--learning_rate", 1e-2, "--lora_rank", 2]
BASE = ["--init_from", "out/full_sft_32.pth"]


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """A script that runs in this process sets the number of its threads; its curves would cost more than its steps."""
    before = torch.get_num_threads()
    monkeypatch.setattr("trainer.journal.draw_curves", lambda *_: None)
    yield
    torch.set_num_threads(before)


def losses(folder: Path, kind: str = "train") -> list[float]:
    found = [row for row in read_metrics(folder / "lora_chat_32" / "metrics.jsonl") if row["kind"] == kind]
    if kind == "train":
        assert [row["step"] for row in found] == list(range(1, 9)), "each update once"
    return [row["loss"] for row in found]


def num_elements(path: Path) -> int:
    return sum(each.numel() for each in load_checkpoint(path).weights.values())


def test_an_adapter_is_trained_and_is_small(run_here, workspace):
    before = (workspace / "out" / "full_sft_32.pth").read_bytes()
    finished = run_here("4-lora_sft.py", *SHORT, folder=workspace)
    assert finished.code == 0, finished.errors
    base, path = (workspace / "out" / name for name in ("full_sft_32.pth", "lora_chat_32.pth"))
    assert base.read_bytes() == before
    adapter = load_checkpoint(path)
    assert (adapter.stage, adapter.step) == ("lora", 8)
    assert all(".lora_" in name for name in adapter.weights)
    assert num_elements(path) < num_elements(base) / 10 and path.stat().st_size < base.stat().st_size
    assert adapter.adapter is not None and adapter.adapter["base_digest"] == load_checkpoint(base).digest
    assert adapter.lineage["parent"]["digest"] == load_checkpoint(base).digest
    step = workspace / "out" / "lora_chat_32" / "resume" / "step-8" / "tensors.pt"
    assert step.stat().st_size < base.stat().st_size / 2, "frozen weights are not saved"
    found = losses(workspace / "out", "validation")
    assert found[-1] < found[0] and losses(workspace / "out")[-1] < losses(workspace / "out")[0]
    prompt = ["--prompt", "the capital", "--max_new_tokens", 5]
    answer = run_here("2-eval.py", "out/lora_chat_32.pth", *prompt, folder=workspace)
    assert answer.code == 0, answer.errors


def test_its_name_and_layers_are_chosen(run_here, workspace):
    flags = [*SHORT, "--max_steps", 2, "--lora_name", "law", "--lora_targets", "q_proj,v_proj", "o_proj"]
    finished = run_here("4-lora_sft.py", *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    weights = load_checkpoint(workspace / "out" / "lora_law_32.pth").weights
    assert {name.split(".")[-2] for name in weights} == {"q_proj", "v_proj", "o_proj"}
    assert not (workspace / "out" / "lora_chat_32.pth").exists()


def test_a_dry_run_writes_nothing(run_here, workspace):
    before = contents(workspace)
    finished = run_here("4-lora_sft.py", *SHORT, "--dry_run", folder=workspace)
    assert finished.code == 0 and "dry run" in finished.output, finished.errors
    assert contents(workspace) == before


# ---- going on, and several processes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more", [["--lora_dropout", 0.2], ["--lora_dropout", 0.2, "--use_dora"]], ids=["dropout", "DoRA"]
)
def test_stopped_and_gone_on_is_the_same_to_the_bit(stop_at, run_here, workspace, more):
    flags = [*SHORT, *BASE, *more]
    whole = run_here("4-lora_sft.py", *flags, "--out_dir", "whole", folder=workspace)
    assert whole.code == 0, whole.errors
    stop_at(4)
    stopped = run_here("4-lora_sft.py", *flags, folder=workspace)
    assert stopped.code == 128 + signal.SIGTERM, stopped
    assert load_checkpoint(workspace / "out" / "lora_chat_32.pth").step == 5
    finished = run_here("4-lora_sft.py", *flags, folder=workspace)
    assert finished.code == 0 and "going on from step 5 of 8" in finished.errors
    assert_same_weights(workspace / "out" / "lora_chat_32.pth", workspace / "whole" / "lora_chat_32.pth")
    assert losses(workspace / "out") == losses(workspace / "whole")
    assert losses(workspace / "out", "validation") == losses(workspace / "whole", "validation")


def assert_as_one_process(found: list[Any], run_here: Any, workspace: Path, flags: list[object]) -> None:
    """The same losses and, nearly, the same adapter as a run of one process with the same global batch."""
    assert [each.code for each in found] == [0] * len(found), found
    alone = run_here("4-lora_sft.py", *flags, "--out_dir", "alone", folder=workspace)
    assert alone.code == 0, alone.errors
    for kind in ("train", "validation"):
        assert losses(workspace / "many", kind) == pytest.approx(losses(workspace / "alone", kind), rel=1e-5)
    ours, theirs = (load_checkpoint(workspace / each / "lora_chat_32.pth").weights for each in ("many", "alone"))
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert (ours[name] - weight).norm() <= 1e-3 * weight.norm(), name


@pytest.mark.slow
def test_two_processes_and_one_learn_the_same(run_ranks, run_here, workspace):
    flags = [*SHORT, *BASE]
    found = run_ranks("4-lora_sft.py", *flags, "--batch_size", 2, "--out_dir", "many", folder=workspace)
    assert_as_one_process(found, run_here, workspace, flags)


@pytest.mark.slow
@pytest.mark.parametrize("zero", ["zero2", "zero3"])
def test_deepspeed_learns_the_same(run_ranks, run_here, workspace, zero):
    """Where the frozen weights are spread too, the adapter still comes together in one file."""
    pytest.importorskip("deepspeed")
    flags = [*SHORT, *BASE]
    many = [*flags, "--batch_size", 2, "--out_dir", "many", "--deepspeed", zero]
    stopped = run_ranks("4-lora_sft.py", *many, folder=workspace, accident="SIGTERM rank=1 step=3")
    assert [each.code for each in stopped] == [128 + signal.SIGTERM] * 2, stopped
    found = run_ranks("4-lora_sft.py", *many, folder=workspace)
    assert "going on from step 4 of 8" in found[0].errors
    assert_as_one_process(found, run_here, workspace, flags)


# ---- the base -------------------------------------------------------------------------------------------------


def test_a_base_that_was_moved_is_found_or_asked_for(run_here, refused, workspace):
    out = workspace / "out"
    assert run_here("4-lora_sft.py", *SHORT, "--max_steps", 2, folder=workspace).code == 0
    prompt = ["out/lora_chat_32.pth", "--prompt", "a", "--max_new_tokens", 2]
    (out / "full_sft_32.pth").rename(out / "renamed.pth")
    assert run_here("2-eval.py", *prompt, folder=workspace).code == 0, "it lies beside the adapter"
    (out / "renamed.pth").rename(workspace / "elsewhere.pth")
    line = refused("2-eval.py", *prompt)
    assert "out/lora_chat_32.pth: its base out/full_sft_32.pth (" in line
    assert "is neither there nor beside it; put it beside it" in line


def test_the_name_is_a_name_and_a_mixture_gives_one(run_here, refused, workspace):
    line = refused("4-lora_sft.py", *SHORT, "--lora_name", "a/b")
    assert line == "error: --lora_name: found 'a/b', expected a name without slashes\n"
    mixed = [*SHORT, "--packed_dir", "packed", "--data_path", "chat:0.5,chat_val:0.5", "--max_steps", 1]
    assert run_here("4-lora_sft.py", *mixed, folder=workspace).code == 0
    assert (workspace / "out" / "lora_chat-0.5-chat_val-0.5_32.pth").exists()


def test_an_adapter_upon_an_adapter(run_here, workspace):
    """The second one's base is the first, merged; both are needed to use it."""
    out = workspace / "out"
    assert run_here("4-lora_sft.py", *SHORT, "--max_steps", 2, folder=workspace).code == 0
    flags = [*SHORT, "--max_steps", 2, "--init_from", "out/lora_chat_32.pth", "--lora_name", "second"]
    finished = run_here("4-lora_sft.py", *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    first, second = (load_checkpoint(out / f"lora_{name}_32.pth") for name in ("chat", "second"))
    assert second.adapter is not None and second.adapter["base_digest"] == first.digest
    base, merged, twice = (
        load_model(out / name)[0] for name in ("full_sft_32.pth", "lora_chat_32.pth", "lora_second_32.pth")
    )
    weights = [model.model.layers[0].self_attn.q_proj.weight for model in (base, merged, twice)]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


# ---- what a user may get wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--lora_targets", "nonsense"], "--lora_targets: found 'nonsense', this model has q_proj, k_proj, v_proj"),
        (["--lora_targets", "q_proj,lm_head"], "its head is tied to the embedding"),
        (["--lora_targets", "experts"], "--lora_targets: found 'experts', this model has q_proj"),
        (["--lora_rank", 0], "--lora_rank: found 0, expected at least 1"),
        (["--lora_alpha", 0], "--lora_alpha: found 0.0, expected a number above 0"),
        (["--lora_dropout", 1], "--lora_dropout: found 1.0, expected a share from 0 to below 1"),
        (["--anneal_from", "out/full_sft_32/resume/step-4"], "--anneal_from: an adapter needs a base that has a name"),
        (["--data_path", "packed/pairs"], "packed/pairs: a dpo set, but this stage needs a sft one"),
        (["--data_path", "packed/text"], "packed/text: a pretrain set, but this stage needs a sft one"),
        (["--data_path", "packed/foreign"], "packed/foreign: was made with another tokenizer than out/full_sft_32.pth"),
        (["--run_name", "full_sft_32"], "this run would replace its own parent"),
        (["--dim", 64], "--dim: this stage takes the architecture from its parent"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_mistakes_end_in_one_line(refused, flags, words):
    assert words in refused("4-lora_sft.py", *LORA, *flags)


@pytest.mark.parametrize(
    "flags",
    [["--lora_rank", 4], ["--lora_alpha", 8], ["--lora_dropout", 0.1], ["--lora_targets", "q_proj"], ["--use_rslora"]],
    ids=lambda value: value[0],
)
def test_another_adapter_is_another_run(run_here, refused, workspace, flags):
    assert run_here("4-lora_sft.py", *SHORT, "--max_steps", 2, folder=workspace).code == 0
    line = refused("4-lora_sft.py", *SHORT, "--max_steps", 2, *flags)
    assert "out/lora_chat_32: holds another run (adapter was " in line


def test_a_spoilt_adapter_is_named(run_here, refused, workspace):
    out = workspace / "out"
    assert run_here("4-lora_sft.py", *SHORT, "--max_steps", 2, folder=workspace).code == 0
    shutil.copy(out / "lora_chat_32.pth", out / "lora_cut_32.pth")
    content = bytearray((out / "lora_cut_32.pth").read_bytes())
    (out / "lora_cut_32.pth").write_bytes(content[: len(content) // 2])
    line = refused("2-eval.py", "out/lora_cut_32.pth", "--prompt", "a")
    assert "out/lora_cut_32.pth: not a readable checkpoint" in line


def test_an_adapter_of_a_pretrained_model_chats_beside_it_as_alone(run_here, workspace):
    """What continues text has no system prompt; an adapter that learned from conversations has one."""
    flags = ["--max_steps", 2, "--init_from", "out/pretrain_32.pth"]
    finished = run_here("4-lora_sft.py", *SHORT, *flags, folder=workspace)
    assert finished.code == 0, finished.errors
    asked = ["--temperature", 0, "--max_new_tokens", 5, "--prompt", "the capital"]
    alone = run_here("2-eval.py", "out/lora_chat_32.pth", *asked, "--system", "s", folder=workspace)
    beside = ["out/pretrain_32.pth", "--adapters", "out/lora_chat_32.pth"]
    together = run_here("2-eval.py", *beside, *asked, "--system", "s", folder=workspace)
    assert (together.code, together.output) == (0, alone.output), together.errors
    refused = run_here("2-eval.py", "out/pretrain_32.pth", *asked, "--system", "s", folder=workspace)
    assert refused.code == 2 and "--system: out/pretrain_32.pth continues text" in refused.errors
