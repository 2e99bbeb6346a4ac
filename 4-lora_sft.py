"""LoRA fine-tuning: a frozen model takes on a task, a name or a manner by a small adapter.

    python 4-lora_sft.py                                      from the only out/full_sft_*.pth: who the assistant is
    python 4-lora_sft.py --data_path dataset/packed/law --lora_name law --lora_rank 16 --lora_targets q_proj,v_proj
    python 4-lora_sft.py --init_from ../Qwen3-0.6B --data_path law         from a Hugging Face folder
    torchrun --nproc_per_node 8 4-lora_sft.py …               eight GPUs of one machine
    deepspeed --num_gpus 8 4-lora_sft.py --deepspeed zero3 …  the frozen weights spread over the GPUs too

Reads a packed set of conversations (python data_process.py sft …) and writes out/lora_<name>_<dim>.pth: the adapter
alone, with the name and hash of its base. Chat with it: python 2-eval.py out/lora_<name>_<dim>.pth. Ctrl-C saves; the
same command goes on.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from model.errors import UserError, run_script
from trainer.settings import (
    DataSettings,
    DeviceSettings,
    LoRASettings,
    RunSettings,
    Settings,
    TrainSettings,
    WatchSettings,
    flag,
    parse_settings,
)

LONGEST_NAME = 60  # characters of an adapter's name that is taken from its data


@dataclass
class LoRASFTSettings(TrainSettings):
    """Defaults for an adapter: it begins at nothing, so it stands higher rates and needs no pull towards zero."""

    default_learning_rates: ClassVar[dict[str, float]] = {"muon": 3e-3, "adamw": 5e-3, "imported": 2e-4}

    batch_size: int = flag(4, "rows in one forward pass; auto: the most that fit, the update's rows stay the same")
    min_lr_ratio: float = flag(0.0, "last learning rate as a share of the highest")
    warmup_iters: int = flag(20, "updates over which the learning rate rises to its highest")
    weight_decay: float = flag(0.0, "pull of matrices towards zero, decoupled from the gradient")


@dataclass
class AdapterSettings(LoRASettings):
    """The adapter, and what it is called."""

    lora_name: str | None = flag(None, "name of the adapter; default that of the packed set")

    def __post_init__(self) -> None:
        """A one-line error for a name that would be a path."""
        name = self.lora_name
        if name is not None and (not name.strip() or "/" in name or "\\" in name):
            raise UserError(f"--lora_name: found {name!r}, expected a name without slashes")


def main() -> int:
    """Settings → data → model → objective → run."""
    data, *others, adapter = parse_settings(
        DataSettings, LoRASFTSettings, RunSettings, DeviceSettings, WatchSettings, AdapterSettings, description=__doc__
    )
    settings = Settings(*others)
    # torch loads only now: --help and a wrong flag answer at once.
    from trainer import parallel
    from trainer.loop import train
    from trainer.objectives import LanguageModeling
    from trainer.stages import Stage, add_adapter, open_origin, open_sets, prepare_device

    with parallel.start(settings.device) as processes:
        precision = prepare_device(settings.device, settings.run.seed)

        # Data: whole conversations, as for full fine-tuning.
        train_set, val_set = open_sets(data, "little_world_identity", "sft", processes)
        # A mixture's name, law:0.5,chat:0.5, is none for a file.
        set_name = re.sub(r"[^\w.-]+", "-", train_set.folder.name.removeprefix("little_world_"))
        name = adapter.lora_name or set_name[:LONGEST_NAME]

        # Model: the parent, frozen, with thin matrices beside its linear layers. They alone are trained and stored;
        # with them the rows of tokens that the parent did not know.
        origin = open_origin(settings.run, train_set, "full_sft")
        add_adapter(origin, adapter, settings.run.seed)

        # Objective: as for full fine-tuning.
        document_mask = data.document_mask is not False
        objective = LanguageModeling(document_mask=document_mask, z_loss=settings.training.z_loss)

        stage = Stage("lora", origin, objective, train_set, val_set, variant=name)
        return train(stage, settings, precision, processes)


if __name__ == "__main__":
    run_script(main)
