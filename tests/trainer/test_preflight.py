"""What is said of a run before it starts: its arithmetic, the micro-batch that fits, and what is refused."""

from dataclasses import replace

import pytest
import torch

from model.config import LMConfig
from model.decoder import CausalLM
from model.device import Memory, Precision
from model.errors import UserError
from trainer import preflight
from trainer.memory import Setup, memory_of_run
from trainer.objectives import LanguageModeling, PreferenceOptimization
from trainer.preflight import Estimate, estimate, largest_micro_batch, try_micro_batch
from trainer.settings import TrainSettings, WatchSettings

GIB = 2**30
CPU = Precision(torch.device("cpu"), torch.float32)


def setup_of(config: LMConfig | None = None, **values) -> Setup:
    return Setup(config or LMConfig.preset("small"), TrainSettings(optimizer="adamw"), CPU, 512, **values)


def estimate_of(tmp_path, setup: Setup | None = None, watch: WatchSettings | None = None, **values) -> Estimate:
    given = {
        "micro_batch": 4,
        "accumulation_steps": 2,
        "targets_per_row": 500.0,
        "total_steps": 1000,
        "device_memory": Memory(24 * GIB, 20 * GIB),
        "free_disk": 80 * GIB,
    }
    return estimate(setup or setup_of(), watch or WatchSettings(), tmp_path / "not" / "there", **{**given, **values})


def test_the_numbers_of_a_run(tmp_path):
    found = estimate_of(tmp_path, setup_of(world_size=3))
    assert (found.parameters, found.active_parameters) == (26_878_464, 26_878_464)
    assert found.global_batch == 24
    assert found.tokens_per_step == 12_000
    assert found.total_tokens == 12_000_000
    # 6·N + 12·L·T·d
    assert found.flops_per_token == 6 * 26_878_464 + 12 * 8 * 512 * 512
    assert estimate_of(tmp_path, total_steps=None).total_tokens is None


def test_the_first_lines(tmp_path):
    lines = preflight.first_lines(replace(estimate_of(tmp_path), seconds=8000.0))
    assert len(lines) <= 6
    assert lines[0] == "model: 26.9 M parameters, 186 MFLOP a token"
    assert lines[1] == "a step: 8 rows (4 at a time × 2), about 4,000 tokens"
    assert lines[2] == "length: 1,000 steps, 4.00 M tokens"
    assert "of 24.0 GiB" in lines[3]
    assert "of 80.0 GiB free" in lines[4]
    assert lines[5] == "time: about 2 h 13 min"
    assert "time allows" in preflight.first_lines(estimate_of(tmp_path, total_steps=None))[2]


def test_the_table_of_a_dry_run(tmp_path):
    table = preflight.as_table(replace(estimate_of(tmp_path, setup_of(LMConfig.preset("moe"))), seconds=7200.0), 1.5)
    values = dict(table)
    assert len(values) == len(table)
    assert values["parameters"] == "113,402,368"
    assert values["parameters met by a token"] == "78,799,360"
    assert values["expected cost"] == "3.00"
    assert values["memory: weights"] == preflight.bytes_text(4 * 113_402_368)
    unmeasured = dict(preflight.as_table(estimate_of(tmp_path, total_steps=None)))
    assert unmeasured["expected time"] == "not measured"
    assert unmeasured["steps"] == "not known yet"


def test_disk(tmp_path):
    """AdamW: a saved step is three times the weights, the .pth once."""
    weights = 4 * 26_878_464
    found = estimate_of(tmp_path, watch=WatchSettings(save_total_limit=2))
    assert found.disk_per_save == 4 * weights
    assert found.disk == (2 + 1 + 1) * 3 * weights + 2 * weights + preflight.LOG_BYTES
    everything = WatchSettings(save_total_limit=0, save_interval=100)
    assert estimate_of(tmp_path, watch=everything).disk == (10 + 1) * 3 * weights + 2 * weights + preflight.LOG_BYTES


def test_free_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    assert estimate_of(tmp_path, free_disk=None).free_disk == pytest.approx(
        preflight.shutil.disk_usage(tmp_path).free, rel=0.05
    )


def test_a_disk_without_room_for_one_save(tmp_path):
    found = estimate_of(tmp_path)
    preflight.check_disk(replace(found, free_disk=found.disk_per_save))
    with pytest.raises(UserError, match=r"one save needs .* MiB of disk, .* MiB are free"):
        preflight.check_disk(replace(found, free_disk=found.disk_per_save - 1))
    assert preflight.disk_warning(found) is None
    assert "save_total_limit" in (preflight.disk_warning(replace(found, free_disk=found.disk - 1)) or "")


def test_memory_that_is_scarce(tmp_path):
    found = estimate_of(tmp_path)
    need = found.memory.peak

    def with_memory(total: float, available: float) -> Estimate:
        return replace(found, device_memory=Memory(int(total), int(available)))

    plenty, close, scarce = (
        with_memory(3 * need, 2 * need),
        with_memory(3 * need, need),
        with_memory(need / 2, need / 3),
    )
    assert preflight.memory_warning(plenty) is None
    assert "close to or above what is free" in (preflight.memory_warning(close) or "")
    assert "more than there is" in (preflight.memory_warning(scarce) or "")
    preflight.check_memory(close)
    preflight.check_memory(with_memory(need / 1.1, need / 1.2))  # close calls may begin
    with pytest.raises(UserError, match=r"the run needs about .* this machine has"):
        preflight.check_memory(scarce)
    preflight.check_memory(replace(scarce, device="cuda:0"))  # a GPU says so itself, and nothing else dies


def test_processes_share_a_cpu(monkeypatch):
    monkeypatch.setattr(preflight, "memory_of", lambda device: Memory(100, 60))
    assert preflight.memory_for_each(torch.device("cpu"), 4) == (25, 15)
    assert preflight.memory_for_each(torch.device("cuda"), 4) == (100, 60)


# ---- the micro-batch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "limit", "expected"), [(16, 5, 4), (16, 100, 16), (12, 5, 4), (7, 5, 1), (1, 1, 1), (30, 14, 10)]
)
def test_the_largest_divisor_that_fits(rows, limit, expected):
    found = largest_micro_batch(lambda each: each <= limit, rows)
    assert found == expected
    assert rows % found == 0


def test_the_estimate_chooses_the_micro_batch():
    setup, rows = setup_of(), 16
    for expected in (1, 4, 16):
        need = memory_of_run(setup, expected, rows // expected).peak
        memory = Memory(2 * need, int(need / preflight.USABLE_SHARE) + 2)
        assert preflight.automatic_micro_batch(setup, rows, memory) == expected


def test_when_not_even_one_row_fits():
    with pytest.raises(UserError, match=r"not even one row fits \(it needs .* GiB, usable are 90.0 MiB\).*zero3"):
        preflight.automatic_micro_batch(setup_of(), 8, Memory(GIB, 100 * 2**20))


@pytest.mark.parametrize(
    ("first", "rows", "limit", "tried"),
    [(16, 16, 16, [16]), (16, 16, 3, [16, 8, 4, 2]), (12, 24, 5, [12, 6, 3]), (15, 15, 4, [15, 5, 1])],
)
def test_trying_downwards(first, rows, limit, tried):
    attempts, released = [], []

    def attempt(each: int) -> None:
        attempts.append(each)
        if each > limit:
            raise torch.OutOfMemoryError("no")

    assert try_micro_batch(attempt, first, rows, lambda: released.append(1)) == tried[-1]
    assert attempts == tried
    assert len(released) == len(tried)  # the next attempt never finds what the last one left


def test_trying_ends_with_one_row_and_hides_no_other_error():
    def never(rows: int) -> None:
        raise torch.OutOfMemoryError("no")

    def faulty(rows: int) -> None:
        raise RuntimeError("a fault of ours")

    with pytest.raises(UserError, match="ran out of memory"):
        try_micro_batch(never, 4, 4, lambda: None)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        try_micro_batch(faulty, 4, 4, lambda: None)


@pytest.mark.parametrize(
    "objective", [LanguageModeling(document_mask=True), PreferenceOptimization(), PreferenceOptimization("orpo")]
)
def test_an_attempt_leaves_the_model_as_it_was(objective):
    config = LMConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=64, max_seq_len=16, use_moe=True)
    model = CausalLM(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    preflight.attempt_micro_batch(setup_of(config), model, objective, 3)
    assert calls
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# ---- time and words -------------------------------------------------------------------------------------------


def test_time():
    assert preflight.steps_for_minutes(10, 0.5) == pytest.approx(0.9 * 1200, abs=1)
    assert preflight.steps_for_minutes(0.001, 60) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min"), (75, "1 min 15 s"), (7980, "2 h 13 min"), (7200, "2 h"), (90_000, "1 d 1 h")],
)
def test_durations(seconds, text):
    assert preflight.duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (int(1.9 * GIB), "1.9 GiB")]
)
def test_sizes(size, text):
    assert preflight.bytes_text(size) == text


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12"), (26_878_464, "26.9 M"), (161_270_784, "161 M"), (1.2e9, "1.20 G"), (4000, "4.00 k")]
)
def test_counts(count, text):
    assert preflight.count_text(count) == text
