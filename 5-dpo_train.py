"""Preference training: of two answers to a question the model learns to prefer the better one (DPO and its relatives).

    python 5-dpo_train.py                                     from the only out/full_sft_*.pth: polite and true answers
    python 5-dpo_train.py --data_path dataset/packed/pairs --loss ipo --beta 0.2
    python 5-dpo_train.py --data_path pairs --lora_rank 8     an adapter instead of all weights
    python 5-dpo_train.py --data_path pairs --loss simpo      without a reference (orpo is another)
    torchrun --nproc_per_node 8 5-dpo_train.py …              eight GPUs of one machine
    deepspeed --num_gpus 8 5-dpo_train.py --deepspeed zero2 … weights and optimizer state spread over the GPUs

Reads a packed set of pairs (python data_process.py dpo …) and writes out/rl_<dim>.pth. How probable the reference, the
model that it starts from, finds each answer is worked out once and kept beside the set. Ctrl-C saves; the same command
goes on.
"""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

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

DEFAULT_BETAS = {"sigmoid": 0.1, "ipo": 0.1, "hinge": 0.1, "simpo": 2.0, "orpo": 0.1}


@dataclass
class DPOSettings(TrainSettings):
    """Defaults for preferences: a tenth of fine-tuning's rates, or the model forgets what it knew."""

    default_learning_rates: ClassVar[dict[str, float]] = {"muon": 3e-4, "adamw": 1e-4, "imported": 1e-6}
    # It begins at nothing, and stands more than whole weights.
    adapter_learning_rates: ClassVar[dict[str, float] | None] = {"muon": 1e-3, "adamw": 1e-3, "imported": 1e-5}

    batch_size: int = flag(4, "rows of pairs in one forward pass; auto: the most that fit, the update's stay the same")
    warmup_iters: int = flag(20, "updates over which the learning rate rises to its highest")
    weight_decay: float = flag(0.0, "pull of matrices towards zero, decoupled from the gradient")


@dataclass
class PreferenceSettings:
    """What is minimised; the formulas are in trainer/objectives.py."""

    _argument_group_name = "preference"

    loss: Literal["sigmoid", "ipo", "hinge", "simpo", "orpo"] = flag("sigmoid", "sigmoid is DPO's own")
    beta: float | None = flag(None, "how much a nat of difference counts; default 0.1, with simpo 2")
    label_smoothing: float = flag(0.0, "share of pairs that may be the wrong way round (cDPO; sigmoid and simpo)")
    simpo_gamma: float | None = flag(None, "margin that simpo asks for; default 1")
    sft_weight: float = flag(1.0, "weight of the chosen answer's own loss, which is added; 0: DPO as first published")
    reference: Literal["cached", "live"] = flag("cached", "live: a second model in memory, asked in every step")

    def __post_init__(self) -> None:
        """One-line errors for values that cannot be, before anything is loaded."""
        for name, least in (("beta", 1e-9), ("simpo_gamma", 0.0), ("sft_weight", 0.0)):
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                raise UserError(f"--{name}: found {value}, expected a number {'from' if least == 0 else 'above'} 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(f"--label_smoothing: found {self.label_smoothing}, expected from 0 to below 0.5")
        if self.label_smoothing and self.loss not in ("sigmoid", "simpo"):
            raise UserError(f"--label_smoothing: belongs to --loss sigmoid or simpo, found {self.loss}")
        if self.simpo_gamma is not None and self.loss != "simpo":
            raise UserError(f"--simpo_gamma: belongs to --loss simpo, found {self.loss}; leave one of them out")
        if self.reference == "live" and self.loss in ("simpo", "orpo"):
            raise UserError(f"--reference live: --loss {self.loss} asks no reference; leave one of them out")


@dataclass
class AdapterSettings(LoRASettings):
    """As in 4-lora_sft.py, but without a rank all weights are trained."""

    lora_rank: int = flag(0, "rank of an adapter's thin matrices; 0 trains all weights")

    def __post_init__(self) -> None:
        """One-line errors for what cannot be, and for an adapter's flags where there is no adapter."""
        if self.lora_rank < 0:
            raise UserError(f"--lora_rank: found {self.lora_rank}, expected at least 1, or 0 for none")
        for each in fields(self):
            if not self.lora_rank and getattr(self, each.name) != each.default:
                raise UserError(f"--{each.name}: belongs to an adapter; pass --lora_rank too, or leave the flag out")


def main() -> int:
    """Settings → data → model → objective → run."""
    data, *others, preference, adapter = parse_settings(
        DataSettings,
        DPOSettings,
        RunSettings,
        DeviceSettings,
        WatchSettings,
        PreferenceSettings,
        AdapterSettings,
        description=__doc__,
    )
    settings = Settings(*others)
    training = settings.training
    if data.document_mask is False:
        raise UserError("--document_mask: the two sides of a pair are segments of one row; leave the flag out")
    if settings.run.anneal_from:
        raise UserError("--anneal_from: the reference is the model that a run starts from; pass a .pth to --init_from")
    if training.z_loss:
        raise UserError("--z_loss: answers are compared, no token is trained by itself; leave the flag out")
    # torch loads only now: --help and a wrong flag answer at once.
    from trainer import parallel
    from trainer.drift import DriftProbe
    from trainer.loop import train
    from trainer.objectives import REFERENCE_FREE, PreferenceOptimization
    from trainer.reference import LiveReference, attach_reference
    from trainer.stages import Stage, add_adapter, open_origin, open_sets, prepare_device

    with parallel.start(settings.device) as processes:
        precision = prepare_device(settings.device, settings.run.seed)

        # Data: pairs of answers to one question. Both are cut, masked and packed alike; only answers are compared.
        train_set, val_set = open_sets(data, "little_world_dpo", "dpo", processes)

        # Model: the parent, which is also the reference that the policy shall not leave far behind.
        origin = open_origin(settings.run, train_set, "full_sft")
        live, is_held = None, preference.reference == "live"
        if preference.loss not in REFERENCE_FREE and (is_held or settings.run.dry_run):  # which writes nothing
            live = LiveReference(origin.model, precision)
        elif preference.loss not in REFERENCE_FREE:
            attach_reference([train_set, val_set], origin, precision, processes, training.batch_size)
        watched = val_set if val_set is not None and val_set.num_rows else train_set
        probe = DriftProbe(watched, origin, precision, processes)
        if adapter.lora_rank:
            add_adapter(origin, adapter, settings.run.seed)

        # Objective: the chosen answer shall become more probable than the rejected one.
        objective = PreferenceOptimization(
            loss=preference.loss,
            beta=preference.beta or DEFAULT_BETAS[preference.loss],
            label_smoothing=preference.label_smoothing,
            gamma=(1.0 if preference.simpo_gamma is None else preference.simpo_gamma) * (preference.loss == "simpo"),
            sft_weight=preference.sft_weight,
            reference=live,
        )

        stage = Stage("rl", origin, objective, train_set, val_set, probe=probe, reference=live if is_held else None)
        return train(stage, settings, precision, processes)


if __name__ == "__main__":
    run_script(main)
