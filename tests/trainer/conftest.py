"""A byte tokenizer, packed sets of random documents, and a small run, for the tests of this room."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataset.filling import TextFiller
from dataset.mixed_set import AnySet
from dataset.packing import PackedSet, PackedSetWriter
from model.config import LMConfig
from model.decoder import CausalLM
from model.device import Precision
from model.tokenizer import ChatTokenizer
from tests.tiny_model import byte_tokenizer
from trainer.loop import train
from trainer.objectives import LanguageModeling
from trainer.parallel import Parallel
from trainer.settings import DeviceSettings, RunSettings, Settings, TrainSettings, WatchSettings
from trainer.stages import Origin, Stage

MAX_SEQ_LEN = 24


@pytest.fixture(scope="session")
def tokenizer() -> ChatTokenizer:
    return byte_tokenizer(MAX_SEQ_LEN)


def _write_set(
    folder: Path, tokenizer: ChatTokenizer, num_documents: int, seed: int, sources: tuple[str, ...] = ("letters",)
) -> PackedSet:
    folder.mkdir(parents=True)
    writer = PackedSetWriter(folder, "pretrain", MAX_SEQ_LEN, tokenizer.vocab_size, pad_token_id=1)
    filler = TextFiller(MAX_SEQ_LEN + 1, writer.add_row)
    random = np.random.default_rng(seed)
    for number in range(num_documents):
        # A few letters in runs: something that a small model can learn in a few steps.
        letters = np.repeat(random.integers(100, 110, size=8), random.integers(1, 6, size=8))
        filler.add(np.array([0, *letters, 0], np.uint16), number % len(sources))
    filler.finish()
    writer.finish(tokenizer, {"name": folder.name, "sources": list(sources), "num_documents": num_documents})
    return PackedSet.open(folder)


@pytest.fixture(scope="session")
def train_set(tokenizer: ChatTokenizer, tmp_path_factory: pytest.TempPathFactory) -> PackedSet:
    """37 documents: a number of rows that no batch size divides."""
    return _write_set(tmp_path_factory.mktemp("packed") / "letters", tokenizer, 37, seed=0)


@pytest.fixture(scope="session")
def val_set(tokenizer: ChatTokenizer, tmp_path_factory: pytest.TempPathFactory) -> PackedSet:
    return _write_set(tmp_path_factory.mktemp("packed_val") / "letters_val", tokenizer, 6, seed=1)


@pytest.fixture(scope="session")
def shelf(tokenizer: ChatTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sets to mix: `web` (of two sources) and `books`, each with a validation set."""
    folder = tmp_path_factory.mktemp("shelf")
    _write_set(folder / "web", tokenizer, 40, 2, ("forum", "news"))
    _write_set(folder / "web_val", tokenizer, 5, 3, ("forum", "news"))
    _write_set(folder / "books", tokenizer, 15, 4, ("novels",))
    _write_set(folder / "books_val", tokenizer, 4, 5, ("novels",))
    return folder


StartRun = Callable[..., int]


@pytest.fixture
def start_run(train_set: PackedSet, val_set: PackedSet, tmp_path: Path) -> StartRun:
    """Train a small model in `tmp_path`; keywords change its architecture, training and run settings."""

    def start(
        architecture: dict[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
        wrap_objective: Callable[[Any], Any] = lambda objective: objective,
        train_on: AnySet = train_set,
        validate_on: AnySet = val_set,
        **changes: Any,
    ) -> int:
        flags: dict[Any, dict[str, Any]] = {
            RunSettings: {"out_dir": str(tmp_path)},
            WatchSettings: {"log_interval": 1, "sample_interval": -1},
            DeviceSettings: {"device": "cpu"},
            TrainSettings: {"batch_size": 4, "warmup_iters": 3, "learning_rate": 1e-2},
        }
        if not changes.keys() & {"epochs", "max_steps", "max_tokens", "max_minutes"}:
            changes["epochs"] = 2.0
        for name, value in changes.items():
            [kind] = [kind for kind in flags if name in kind.__dataclass_fields__]
            flags[kind][name] = value
        run, watch, device, training = (kind(**values) for kind, values in flags.items())
        sizes: dict[str, Any] = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "max_seq_len": MAX_SEQ_LEN}
        config = LMConfig(**{**sizes, "vocab_size": train_set.meta["vocab_size"], **(architecture or {})})
        torch.use_deterministic_algorithms(True)  # as prepare_device does on a CPU
        torch.manual_seed(run.seed)
        objective = wrap_objective(LanguageModeling(document_mask=False))
        origin = Origin(CausalLM(config), train_on.tokenizer_files())
        stage = Stage("pretrain", origin, objective, train_on, validate_on)
        settings = Settings(training, run, device, watch)
        return train(stage, settings, Precision(torch.device("cpu"), dtype), Parallel())

    return start
