"""What a run is and comes from, as plain values: what must agree when it goes on, and what its model remembers."""

from typing import Any

from dataset.mixed_set import AnySet, JoinedSets
from model.device import Precision
from trainer.settings import RunSettings, TrainSettings
from trainer.stages import Stage


def identity_of_run(
    stage: Stage,
    training: TrainSettings,
    settings: RunSettings,
    precision: Precision,
    total_steps: int,
    global_batch: int,
) -> dict[str, Any]:
    """Everything that makes this run this run. Device, workers, intervals and the batch's split may change freely."""
    objective = stage.objective
    return {
        "stage": stage.name,
        "data_path": stage.train_set.fingerprint,
        "tokenizer": stage.train_set.vocabulary_hash,
        "init_from": stage.parent.digest if stage.parent else None,
        **{f"architecture.{name}": value for name, value in stage.model.config.to_dict().items()},
        "objective": f"{objective!r}",
        "optimizer": training.optimizer,
        "learning_rate": training.learning_rate,
        "min_lr_ratio": training.min_lr_ratio,
        "warmup_iters": training.warmup_iters,
        "weight_decay": training.weight_decay,
        "beta1": training.beta1,
        "beta2": training.beta2,
        "grad_clip": training.grad_clip,
        "total steps": total_steps,
        "global batch (batch_size × accumulation_steps)": global_batch,
        "seed": settings.seed,
        "dtype": str(precision.compute).removeprefix("torch."),
    }


def data_lineage(train_set: AnySet) -> dict[str, Any]:
    """Which set, or sets, a model was trained on."""
    lineage: dict[str, Any] = {"name": train_set.folder.name, "fingerprint": train_set.fingerprint}
    if isinstance(train_set, JoinedSets):
        lineage["sets"] = [{"name": each.folder.name, "fingerprint": each.fingerprint} for each in train_set.sets]
    return lineage
