"""Supervised fine-tuning: a pretrained model learns to answer in conversations.

    python 3-full_sft.py                                      from the only out/pretrain_*.pth, the little world
    python 3-full_sft.py --init_from out/pretrain_512.pth --data_path dataset/packed/alpaca_zh
    python 3-full_sft.py --data_path alpaca_zh:0.8,identity:0.2     several sets (or mixture.yaml: dataset/mixture.py)

Reads a packed set of conversations (python data_process.py sft …) and writes out/full_sft_<dim>.pth. Every turn of
the assistant is trained on, and nothing that the user says. Ctrl-C saves; the same command goes on.
"""

from dataclasses import dataclass

from model.errors import run_script
from trainer.settings import DataSettings, RunSettings, TrainSettings, flag, parse_settings


@dataclass
class SFTSettings(TrainSettings):
    """Defaults for fine-tuning all weights."""

    epochs: float = flag(1.0, "passes over the data; a part of one is allowed")
    batch_size: int = flag(4, "rows in one forward pass")
    learning_rate: float = flag(3e-3, "highest learning rate")


def main() -> int:
    """Settings → data → model → objective → run."""
    data, training, run = parse_settings(DataSettings, SFTSettings, RunSettings, description=__doc__)
    # torch loads only now: --help and a wrong flag answer at once.
    from trainer import parallel
    from trainer.loop import train
    from trainer.objectives import LanguageModeling
    from trainer.stages import Stage, check_tokenizer, generation_defaults, load_parent, open_sets, prepare_device

    processes = parallel.start()
    precision = prepare_device(run)

    # Data: whole conversations, several to a row; the mask marks the assistant's words and its end token.
    train_set, val_set = open_sets(data, default_name="little_world_sft", kind="sft")

    # Model: the parent brings architecture, tokenizer and chat template.
    parent, parent_path = load_parent(run, "pretrain")
    check_tokenizer(parent, parent_path, train_set)
    model = parent.build_model()
    print(f"{model.config.num_parameters():,} parameters from {parent_path}, {train_set.num_rows:,} rows")

    # Objective: the same as in pretraining, on the masked targets; a conversation sees only itself.
    document_mask = data.document_mask is not False
    objective = LanguageModeling(document_mask=document_mask, z_loss=training.z_loss)

    generation = generation_defaults(parent.tokenizer())
    stage = Stage(
        "full_sft", model, objective, train_set, val_set, parent.tokenizer_files, generation, parent, parent_path
    )
    return train(stage, training, run, precision, processes)


if __name__ == "__main__":
    run_script(main)
