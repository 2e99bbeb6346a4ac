"""What a run decides before it trains: its batches on another number of processes, and what it refuses."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from model.config import LMConfig
from model.decoder import CausalLM
from model.device import Memory, Precision
from model.errors import UserError
from tests.trainer.conftest import MAX_SEQ_LEN
from trainer.lineage import identity_of_run
from trainer.memory import memory_of_run
from trainer.objectives import LanguageModeling
from trainer.parallel import Parallel
from trainer.plan import Plan, make_plan, setup_of
from trainer.preflight import USABLE_SHARE
from trainer.run_folder import Launch
from trainer.settings import DeviceSettings, RunSettings, Settings, TrainSettings, WatchSettings
from trainer.stages import Origin, Stage
from trainer.update import seed_step

FP32 = Precision(torch.device("cpu"), torch.float32)


class Pretended(Parallel):
    """One of several processes that all find the same."""

    def max(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


@pytest.fixture
def stage(train_set, val_set) -> Stage:
    config = LMConfig(
        dim=32, n_layers=1, n_heads=4, n_kv_heads=2, max_seq_len=MAX_SEQ_LEN, vocab_size=train_set.meta["vocab_size"]
    )
    origin = Origin(CausalLM(config), train_set.tokenizer_files())
    return Stage("pretrain", origin, LanguageModeling(document_mask=False), train_set, val_set)


def plan(
    stage: Stage, world_size: int = 1, first: Launch | None = None, zero: dict | None = None, **flags: Any
) -> Plan:
    training = TrainSettings(**{"batch_size": 4, "max_steps": 10, **flags})
    settings = Settings(training, RunSettings(), DeviceSettings(device="cpu"), WatchSettings())
    parallel = Pretended(0, world_size, 0, world_size, zero)
    return make_plan(stage, settings, FP32, parallel, first)


def refused(*arguments: Any, **flags: Any) -> str:
    with pytest.raises(UserError) as error:
        plan(*arguments, **flags)
    return str(error.value)


# ---- the global batch on another number of processes ----


@pytest.mark.parametrize(
    ("world_size", "batch_size", "accumulation_steps"),
    [(1, 4, 8), (2, 4, 4), (4, 4, 2), (8, 4, 1)],
)
def test_another_number_of_processes_keeps_the_global_batch(stage, world_size, batch_size, accumulation_steps):
    first = Launch(4, 2, 4)
    found = plan(stage, world_size, first, accumulation_steps=2)
    assert (found.training.batch_size, found.training.accumulation_steps) == (batch_size, accumulation_steps)
    assert found.loader.global_batch == first.global_batch == 32
    assert found.launch == first, "the record keeps the first launch, however often the number changes"
    assert found.identity == plan(stage, 4, accumulation_steps=2).identity


def test_the_first_launch_is_remembered(stage):
    assert plan(stage, 2, accumulation_steps=3).launch == Launch(4, 3, 2)


def test_another_split_of_the_same_batch_is_the_same_run(stage):
    first = Launch(4, 2, 2)
    found = plan(stage, 1, first, batch_size=8, accumulation_steps=2)
    assert (found.training.batch_size, found.training.accumulation_steps) == (8, 2)
    assert found.identity == plan(stage, 2, accumulation_steps=2).identity


def test_a_batch_that_cannot_be_shared_out_is_refused(stage):
    line = refused(stage, 3, Launch(4, 1, 2))
    assert "3 processes with --batch_size 4: 12 rows do not divide the run's global batch of 8 rows" in line
    assert "4 processes" in refused(stage, 4, Launch(4, 1, 2))


def test_another_batch_is_another_run(stage):
    found = plan(stage, 1, Launch(4, 1, 2), batch_size=3)
    assert found.loader.global_batch == 3, "to be refused by name, against the folder's record"
    assert found.identity != plan(stage, 2).identity


def test_the_identity_does_not_depend_on_how_it_is_computed(stage):
    here = Settings(TrainSettings(batch_size=4, max_steps=10), RunSettings(), DeviceSettings(), WatchSettings())
    there = replace(here, device=DeviceSettings(num_threads=7, gradient_checkpointing=True), watch=WatchSettings(3))
    schedule = plan(stage).schedule
    assert identity_of_run(stage, here, schedule, FP32, "x", 4) == identity_of_run(stage, there, schedule, FP32, "x", 4)


# ---- --batch_size auto ----


@pytest.fixture
def memory(monkeypatch):
    """Pretend that so many bytes are free for each process."""

    def pretend(size: int) -> None:
        monkeypatch.setattr("trainer.plan.memory_for_each", lambda device, processes: Memory(size, size))

    return pretend


def needed(stage: Stage, rows: int, accumulation_steps: int) -> int:
    training = TrainSettings(batch_size=rows, optimizer="muon", learning_rate=1e-3)
    settings = Settings(training, RunSettings(), DeviceSettings(device="cpu"), WatchSettings())
    return memory_of_run(setup_of(stage, settings, training, FP32, Parallel()), rows, accumulation_steps).peak


@pytest.mark.parametrize(("fits", "accumulation_steps"), [(16, 3), (8, 6), (3, 16), (1, 48)])
def test_auto_takes_what_fits_and_keeps_the_rows_of_an_update(stage, memory, fits, accumulation_steps):
    memory(math.ceil(needed(stage, fits, accumulation_steps) / USABLE_SHARE))
    found = plan(stage, batch_size=0, accumulation_steps=3)
    assert found.loader.global_batch == 48, "the default batch of 16, three times"
    assert (found.training.batch_size, found.training.accumulation_steps) == (fits, accumulation_steps)


def test_auto_on_a_large_machine_is_one_micro_batch(stage, memory):
    memory(2**40)
    found = plan(stage, 2, batch_size=0, accumulation_steps=3)
    assert (found.training.batch_size, found.training.accumulation_steps) == (48, 1)
    assert found.loader.global_batch == 96


def test_auto_goes_on_with_the_run_s_own_global_batch(stage, memory):
    memory(2**40)
    found = plan(stage, 2, Launch(5, 2, 3), batch_size=0)
    assert (found.training.batch_size, found.loader.global_batch) == (15, 30)
    assert "4 processes" in refused(stage, 4, Launch(5, 2, 3), batch_size=0)


def test_auto_where_not_even_one_row_fits(stage, memory):
    memory(1000)
    assert "it needs" in refused(stage, batch_size=0)


# ---- settings that contradict each other ----


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"max_steps": 4, "max_tokens": 9}, "--max_tokens: the run's length is said by --max_steps already"),
        ({"epochs": 1.0, "max_minutes": 9}, "--max_minutes: the run's length is said by --epochs already"),
        ({"decay_share": 0.1}, "--decay_share: belongs to --schedule wsd, found cosine"),
        ({"decay_shape": "linear", "schedule": "linear"}, "--decay_shape: belongs to --schedule wsd, found linear"),
    ],
)
def test_contradicting_flags(flags, words):
    with pytest.raises(UserError, match=words):
        TrainSettings(**flags)


def test_two_origins():
    with pytest.raises(UserError, match="--anneal_from: brings its own weights"):
        RunSettings(init_from="a.pth", anneal_from="out/a/resume/step-1")


def test_seeds_are_those_that_torch_and_numpy_take():
    for seed in (0, 2**64 - 1):
        RunSettings(seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            seed_step(seed, 3, 1)
    with pytest.raises(UserError, match="--seed: found 18446744073709551616, expected 18446744073709551615 or less"):
        RunSettings(seed=2**64)
    with pytest.raises(UserError, match="--seed: found -1, expected 0 or more"):
        RunSettings(seed=-1)


def test_muon_under_deepspeed(stage, capsys):
    assert "--optimizer muon: under DeepSpeed" in refused(
        stage, zero={"zero_optimization": {"stage": 1}}, optimizer="muon"
    )
    found = plan(stage, zero={"zero_optimization": {"stage": 1}})
    assert found.training.optimizer == "adamw"
    assert capsys.readouterr().err.startswith("optimizer: AdamW, because")
    assert plan(stage).training.optimizer == "muon"


def test_the_length_by_minutes_is_open_at_first(stage):
    found = plan(stage, max_steps=0, max_minutes=3)
    assert found.total_steps is None
    assert found.identity["length"] == "3 minutes"
