"""What an adapter and a cached reference save: seconds of an update and memory, in turns in one run.

    python -m benchmarks.post_training
    python -m benchmarks.post_training --rounds 5 --preset small --rows 4

Four updates of the same model: fine-tuning of all weights and of a LoRA adapter (rank 8, the script's default targets)
on the same conversations; DPO of all weights with the reference's log-probabilities stored in the batch, and with a
live reference. They take turns, so that other work on the machine disturbs all alike; each round gives one ratio of
medians.
"""

import copy
import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.reliability.ranks_speed import load
from model.config import LMConfig
from model.decoder import CausalLM
from model.device import Precision, choose_device, choose_precision
from model.errors import UserError, run_script
from model.lora import LoRAConfig, attach_lora, default_targets
from trainer.engine import Engine
from trainer.loader import Step
from trainer.objectives import LanguageModeling, Objective, PreferenceOptimization
from trainer.parallel import Parallel
from trainer.reference import LiveReference
from trainer.settings import TrainSettings, flag, parse_settings
from trainer.update import make_update

ANSWER_SHARE = 0.4  # of each side, or conversation: the rest is the question
LORA_BOUND, MEMORY_BOUND, REFERENCE_BOUND = 0.80, 0.05, 1.25


@dataclass(frozen=True)
class PostTrainingSettings:
    """How much of it."""

    rounds: int = flag(5, "rounds of all four")
    updates: int = flag(4, "timed updates of each in a round")
    preset: str = flag("small", "the model")
    rows: int = flag(4, "rows of an update")
    max_seq_len: int = flag(512, "tokens in a row (of pairs: in each side)")
    device: str = flag("auto", "cuda, mps or cpu")


@dataclass
class Trained:
    """A model under training, and how it is updated."""

    engine: Engine
    objective: Objective
    step: Step
    reference_parameters: int = 0

    def update(self) -> float:
        """One update; its seconds."""
        start = time.perf_counter()
        make_update(self.engine, self.objective, self.step, 1e-4, 0)
        return time.perf_counter() - start

    @property
    def parameters(self) -> int:
        """Parameters in memory, the reference's included."""
        return sum(each.numel() for each in self.engine.model.parameters()) + self.reference_parameters

    @property
    def optimizer_bytes(self) -> int:
        """Of the optimizer's state."""
        tensors = self.engine.tensors()
        assert tensors is not None
        states = tensors["optimizer"].values()
        return sum(value.numel() * value.element_size() for state in states for value in state.values())


def main() -> int:
    """Settings → four trainings → rounds → ratios."""
    (settings,) = parse_settings(PostTrainingSettings, description=__doc__)
    if min(settings.rounds, settings.updates, settings.rows) < 1 or settings.max_seq_len < 16:
        raise UserError("--rounds, --updates, --rows: expected 1 or more; --max_seq_len: 16 or more")
    device = choose_device(settings.device)
    precision = choose_precision("auto", device)
    torch.use_deterministic_algorithms(device.type == "cpu")
    config = LMConfig.preset(settings.preset, max_seq_len=settings.max_seq_len)
    is_good = compare_adapter(settings, config, precision)
    gc.collect()
    return 0 if compare_reference(settings, config, precision) and is_good else 1


def compare_adapter(settings: PostTrainingSettings, config: LMConfig, precision: Precision) -> bool:
    """LoRA against all weights."""
    batch = random_batch(config.vocab_size, settings.rows, [settings.max_seq_len // 4] * 4, precision)
    objective = LanguageModeling(document_mask=True)
    full = trained(config, precision, objective, batch, optimizer="muon")
    lora = trained(config, precision, objective, batch, optimizer="adamw", has_adapter=True)
    adamw = trained(config, precision, objective, batch, optimizer="adamw")
    ratio = rounds(settings, "LoRA / all weights (Muon)", full.update, lora.update, " s")
    against_adamw = rounds(settings, "LoRA / all weights (AdamW)", adamw.update, lora.update, " s")
    shares = [lora.optimizer_bytes / each.optimizer_bytes for each in (full, adamw)]
    is_good = ratio <= LORA_BOUND and max(shares) <= MEMORY_BOUND
    print(
        f"{settings.preset}: an update of a LoRA adapter takes {ratio:.3f} of one of all weights with Muon, "
        f"the default (asked for at most {LORA_BOUND}), {against_adamw:.3f} of one with AdamW; its state is "
        f"{shares[0]:.2%} and {shares[1]:.2%} (at most {MEMORY_BOUND:.0%}){'' if is_good else '  outside'}",
        flush=True,
    )
    return is_good


def compare_reference(settings: PostTrainingSettings, config: LMConfig, precision: Precision) -> bool:
    """A stored reference against a live one."""
    side = settings.max_seq_len // 2
    batch = random_batch(config.vocab_size, settings.rows, [side] * 4, precision)
    model = CausalLM(config)
    live_reference = LiveReference(model, precision)
    answers = live_reference(batch)
    both = torch.stack([answers.chosen, answers.rejected], dim=-1).flatten(1)
    stored = {**batch, "reference_logps": both[:, :4].contiguous()}
    cached = trained(config, precision, PreferenceOptimization(), stored, "muon", model=model)
    objective = PreferenceOptimization(reference=live_reference)
    live = trained(config, precision, objective, batch, "muon", model=copy.deepcopy(model))
    live.reference_parameters = live_reference.num_parameters
    ratio = rounds(settings, "live / cached reference", cached.update, live.update, " s")
    is_good = ratio >= REFERENCE_BOUND
    print(
        f"{settings.preset}: an update with a live reference takes {ratio:.3f} times one with a cached one (asked for "
        f"at least {REFERENCE_BOUND}); parameters in memory: {live.parameters:,} against {cached.parameters:,}"
        f"{'' if is_good else '  outside'}",
        flush=True,
    )
    return is_good


def rounds(
    settings: PostTrainingSettings, name: str, first: Callable[[], float], second: Callable[[], float], unit: str
) -> float:
    """Seconds of the second over those of the first: the median over rounds, each of medians taken in turns."""
    for update in (first, second):
        update(), update()  # the optimizer's state is made in the first
    ratios = []
    for number in range(settings.rounds):
        times = [(first(), second()) for _ in range(settings.updates)]
        ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
        ratios.append(theirs / ours)
        print(
            f"{name}, round {number + 1}: {theirs:.3f}{unit} / {ours:.3f}{unit} = {ratios[-1]:.3f}{load()}", flush=True
        )
    return statistics.median(ratios)


def trained(
    config: LMConfig,
    precision: Precision,
    objective: Objective,
    batch: dict[str, Tensor],
    optimizer: str,
    has_adapter: bool = False,
    model: CausalLM | None = None,
) -> Trained:
    """A model on the device that learns from one batch again and again."""
    model = model or CausalLM(config)
    if has_adapter:
        attach_lora(model, LoRAConfig(default_targets(model)))
    model.to(device=precision.device, dtype=precision.weights)
    training = replace(TrainSettings(), optimizer=optimizer, learning_rate=1e-4)  # type: ignore[arg-type]
    tokens = int((batch["targets"] >= 0).sum())
    segments = int((batch["position_ids"] == 0).sum())
    units = {"tokens": tokens, "segments": segments, "pairs": segments // 2}
    step = Step(0, [batch], units, batch["targets"].numel())
    return Trained(Engine(model, training, precision, Parallel()), objective, step)


def random_batch(vocab_size: int, rows: int, lengths: list[int], precision: Precision) -> dict[str, Tensor]:
    """Rows of segments of these lengths, each a question and an answer of random tokens."""
    generator = torch.Generator().manual_seed(0)
    seq = sum(lengths)
    tokens = torch.randint(vocab_size, (rows, seq + 1), generator=generator)
    segment_ids = torch.cat([torch.full((length,), number) for number, length in enumerate(lengths)])
    positions = torch.cat([torch.arange(length) for length in lengths])
    length_of = torch.tensor(lengths)[segment_ids]
    is_answer = (positions >= (1 - ANSWER_SHARE) * length_of) & (positions < length_of - 1)
    batch = {
        "input_ids": tokens[:, :-1],
        "targets": torch.where(is_answer, tokens[:, 1:], -100),
        "segment_ids": segment_ids.expand(rows, seq),
        "position_ids": positions.expand(rows, seq),
        "source_ids": torch.zeros(rows, seq, dtype=torch.long),
    }
    return {name: tensor.contiguous().to(precision.device) for name, tensor in batch.items()}


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    run_script(main)
