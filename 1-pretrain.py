"""Pretraining: a new model learns to continue text.

    python 1-pretrain.py                                      the little world, on whatever device is here
    python 1-pretrain.py --preset small --data_path dataset/packed/wiki --batch_size 32
    python 1-pretrain.py --data_path wiki:0.7,poems:0.3       two sets of dataset/packed, by shares of the tokens
    python 1-pretrain.py --data_path mixture.yaml             samples, token budgets, phases: see dataset/mixture.py
    python 1-pretrain.py --init_from out/pretrain_512.pth --run_name more --data_path dataset/packed/news
    python 1-pretrain.py --dry_run                            what it needs and how long it takes, without training

    torchrun --nproc_per_node 8 1-pretrain.py …               eight GPUs of one machine
    torchrun --nnodes 2 --node_rank 0 --master_addr first --nproc_per_node 8 1-pretrain.py …       and 1 on the second
    deepspeed --num_gpus 8 1-pretrain.py --deepspeed zero2 …  weights and optimizer state spread over the GPUs

Reads a packed set (python data_process.py pretrain …) and writes out/pretrain_<dim>.pth. Stop it with Ctrl-C or
kill it: the same command goes on from the last saved step. Settings may also stand in a YAML or JSON file, and
flags behind it win: python 1-pretrain.py settings.yaml --batch_size 4
"""

from dataclasses import dataclass
from typing import ClassVar

from model.errors import run_script
from trainer.settings import (
    DataSettings,
    DeviceSettings,
    ModelSettings,
    RunSettings,
    Settings,
    TrainSettings,
    WatchSettings,
    flag,
    parse_settings,
)


@dataclass
class PretrainSettings(TrainSettings):
    """Defaults for a small model on a small text."""

    default_learning_rates: ClassVar[dict[str, float]] = {"muon": 7e-3, "adamw": 2e-3, "imported": 5e-5}

    batch_size: int = flag(4, "rows in one forward pass; auto: the most that fit, the update's rows stay the same")


def main() -> int:
    """Settings → data → model → objective → run."""
    architecture, data, *others = parse_settings(
        ModelSettings, DataSettings, PretrainSettings, RunSettings, DeviceSettings, WatchSettings, description=__doc__
    )
    settings = Settings(*others)
    # torch loads only now: --help and a wrong flag answer at once.
    from model.decoder import CausalLM
    from trainer import parallel
    from trainer.loop import train
    from trainer.objectives import LanguageModeling
    from trainer.stages import Origin, Stage, open_origin, open_sets, prepare_device

    with parallel.start(settings.device) as processes:
        precision = prepare_device(settings.device, settings.run.seed)

        # Data: documents laid end to end in rows of equal length, so that no position is spent on padding.
        train_set, val_set = open_sets(data, "little_world_pretrain", "pretrain", processes)

        # Model: a new one that fits the tokenizer and the rows, or one to go on from.
        if settings.run.init_from or settings.run.anneal_from:
            architecture.refuse_beside_parent(settings.run)
            origin = open_origin(settings.run, train_set)
        else:
            config = architecture.config(train_set.meta["vocab_size"], train_set.max_seq_len)
            origin = Origin(CausalLM(config), train_set.tokenizer_files())

        # Objective: predict every next token. A document may look back at the one before it; that does no harm here
        # and costs no mask.
        objective = LanguageModeling(document_mask=bool(data.document_mask), z_loss=settings.training.z_loss)

        stage = Stage("pretrain", origin, objective, train_set, val_set)
        return train(stage, settings, precision, processes)


if __name__ == "__main__":
    run_script(main)
