"""Supervised fine-tuning: a pretrained model learns to answer in conversations.

    python 3-full_sft.py                                      from the only out/pretrain_*.pth, the little world
    python 3-full_sft.py --init_from out/pretrain_512.pth --data_path dataset/packed/alpaca_zh
    python 3-full_sft.py --data_path alpaca_zh:0.8,identity:0.2     several sets (or mixture.yaml: dataset/mixture.py)
    python 3-full_sft.py --data_path alpaca_zh --test_size 400      hold 400 conversations out to validate on
    torchrun --nproc_per_node 8 3-full_sft.py …               eight GPUs of one machine
    deepspeed --num_gpus 8 3-full_sft.py --deepspeed zero2 …  weights and optimizer state spread over the GPUs

Reads a packed set of conversations (python data_process.py sft …) and writes out/full_sft_<dim>.pth. Every turn of
the assistant is trained on, and nothing that the user says. Ctrl-C saves; the same command goes on.
"""

from dataclasses import dataclass
from typing import ClassVar

from model.errors import run_script
from trainer.settings import (
    DataSettings,
    DeviceSettings,
    RunSettings,
    Settings,
    TrainSettings,
    WatchSettings,
    flag,
    parse_settings,
)


@dataclass
class SFTSettings(TrainSettings):
    """Defaults for fine-tuning all weights."""

    default_learning_rates: ClassVar[dict[str, float]] = {"muon": 3e-3, "adamw": 1e-3, "imported": 2e-5}

    batch_size: int = flag(4, "rows in one forward pass; auto: the most that fit, the update's rows stay the same")


def main() -> int:
    """Settings → data → model → objective → run."""
    data, *others = parse_settings(
        DataSettings, SFTSettings, RunSettings, DeviceSettings, WatchSettings, description=__doc__
    )
    settings = Settings(*others)
    # torch loads only now: --help and a wrong flag answer at once.
    from trainer import parallel
    from trainer.loop import train
    from trainer.objectives import LanguageModeling
    from trainer.stages import Stage, open_origin, open_sets, prepare_device

    with parallel.start(settings.device) as processes:
        precision = prepare_device(settings.device, settings.run.seed)

        # Data: whole conversations, several to a row; the mask marks the assistant's words and its end token.
        train_set, val_set = open_sets(data, "little_world_sft", "sft", processes)

        # Model: the parent brings architecture, tokenizer and chat template.
        origin = open_origin(settings.run, train_set, "pretrain")

        # Objective: the same as in pretraining, on the masked targets; a conversation sees only itself.
        document_mask = data.document_mask is not False
        objective = LanguageModeling(document_mask=document_mask, z_loss=settings.training.z_loss)

        stage = Stage("full_sft", origin, objective, train_set, val_set)
        return train(stage, settings, precision, processes)


if __name__ == "__main__":
    run_script(main)
