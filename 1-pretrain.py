"""Pretraining: a new model learns to continue text.

    python 1-pretrain.py                                      the little world, on whatever device is here
    python 1-pretrain.py --preset small --data_path dataset/packed/wiki --batch_size 32
    python 1-pretrain.py --data_path wiki:0.7,poems:0.3       two sets of dataset/packed, by shares of the tokens
    python 1-pretrain.py --data_path mixture.yaml             samples, token budgets, phases: see dataset/mixture.py
    python 1-pretrain.py --init_from out/pretrain_512.pth --run_name more --data_path dataset/packed/news

Reads a packed set (python data_process.py pretrain …) and writes out/pretrain_<dim>.pth. Stop it with Ctrl-C or
kill it: the same command goes on from the last saved step. Settings may also stand in a YAML or JSON file, and
flags behind it win: python 1-pretrain.py settings.yaml --batch_size 4
"""

from dataclasses import dataclass

from model.errors import run_script
from trainer.settings import DataSettings, ModelSettings, RunSettings, TrainSettings, flag, parse_settings


@dataclass
class PretrainSettings(TrainSettings):
    """Defaults for a small model on a small text."""

    epochs: float = flag(1.0, "passes over the data; a part of one is allowed")
    batch_size: int = flag(4, "rows in one forward pass")
    learning_rate: float = flag(7e-3, "highest learning rate")


def main() -> int:
    """Settings → data → model → objective → run."""
    architecture, data, training, run = parse_settings(
        ModelSettings, DataSettings, PretrainSettings, RunSettings, description=__doc__
    )
    # torch loads only now: --help and a wrong flag answer at once.
    from model.decoder import CausalLM
    from model.tokenizer import ChatTokenizer
    from trainer import parallel
    from trainer.loop import train
    from trainer.objectives import LanguageModeling
    from trainer.stages import Stage, check_tokenizer, generation_defaults, load_parent, open_sets, prepare_device

    processes = parallel.start()
    precision = prepare_device(run)

    # Data: documents laid end to end in rows of equal length, so that no position is spent on padding.
    train_set, val_set = open_sets(data, default_name="little_world_pretrain", kind="pretrain")
    tokenizer_files = train_set.tokenizer_files()

    # Model: a new one that fits the tokenizer and the rows, or a parent to go on from.
    parent, parent_path = None, None
    if run.init_from:
        architecture.refuse_beside_parent(run.init_from)
        parent, parent_path = load_parent(run)
        check_tokenizer(parent, parent_path, train_set)
        model, tokenizer_files = parent.build_model(), parent.tokenizer_files
    else:
        model = CausalLM(architecture.config(train_set.meta["vocab_size"], train_set.max_seq_len))
    print(f"{model.config.num_parameters():,} parameters, {train_set.num_rows:,} rows of {train_set.max_seq_len}")

    # Objective: predict every next token. A document may look back at the one before it; that does no harm here
    # and costs no mask.
    objective = LanguageModeling(document_mask=bool(data.document_mask), z_loss=training.z_loss)

    generation = generation_defaults(ChatTokenizer.from_files(tokenizer_files))
    stage = Stage("pretrain", model, objective, train_set, val_set, tokenizer_files, generation, parent, parent_path)
    return train(stage, training, run, precision, processes)


if __name__ == "__main__":
    run_script(main)
