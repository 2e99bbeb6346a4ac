"""What a run is and comes from, as plain values: what must agree when it goes on, and what its model remembers."""

from typing import Any

import torch

from dataset.mixed_set import AnySet, JoinedSets
from dataset.row_subset import RowSubset
from model.checkpoint import Checkpoint
from model.device import Precision
from trainer.schedule import Schedule
from trainer.settings import Settings
from trainer.stages import Stage
from trainer.state import SavedStep


def identity_of_run(
    stage: Stage, settings: Settings, schedule: Schedule, precision: Precision, length: str, global_batch: int
) -> dict[str, Any]:
    """Everything that makes this run this run. Device, workers, intervals and the batch's split may change freely."""
    training, adapter = settings.training, stage.origin.model.adapter
    identity = {
        "stage": stage.name,
        **_data_identity(stage.train_set),
        "tokenizer": stage.train_set.vocabulary_hash,
        "init_from": stage.origin.digest,
        **{f"architecture.{name}": value for name, value in stage.origin.model.config.to_dict().items()},
        **({} if adapter is None else {"adapter": adapter.to_dict()}),
        "objective": f"{stage.objective!r}",
        "optimizer": training.optimizer,
        "learning_rate": schedule.peak,
        "schedule": schedule.kind,
        "min_lr_ratio": schedule.min_ratio,
        "warmup_iters": schedule.warmup_steps,
        "weight_decay": training.weight_decay,
        "beta1": training.beta1,
        "beta2": training.beta2,
        "grad_clip": training.grad_clip,
        "length": length,
        "global batch": global_batch,
        "seed": settings.run.seed,
        "dtype": str(precision.compute).removeprefix("torch."),
    }
    if schedule.kind == "wsd":
        identity |= {"decay_share": schedule.decay_share, "decay_shape": schedule.decay_shape}
    return identity


def _data_identity(train_set: AnySet) -> dict[str, str]:
    """The set, and which rows of it are left out, by the names of the flags that a user would have to change back."""
    if not isinstance(train_set, RowSubset):
        return {"data_path": train_set.fingerprint}
    rows = f"{train_set.packed.num_rows - train_set.num_rows} of {train_set.packed.num_rows} rows held out"
    return {
        "data_path": train_set.packed.fingerprint,
        "test_size": f"{rows}, fingerprint {train_set.fingerprint[:16]}",
    }


def lineage_of_run(stage: Stage, identity: dict[str, Any], run_name: str) -> dict[str, Any]:
    """What a checkpoint remembers of where it comes from."""
    return {
        "run": run_name,
        "settings": identity,
        "data": data_lineage(stage.train_set),
        "parent": stage.origin.lineage(),
        "torch": str(torch.__version__),
    }


def checkpoint_of(stage: Stage, saved: SavedStep, lineage: dict[str, Any]) -> Checkpoint:
    """The `.pth` that a saved step stands for."""
    return Checkpoint(
        stage=stage.name,
        config=stage.origin.model.config,
        weights=saved.tensors["weights"],
        tokenizer_files=stage.origin.tokenizer_files,
        generation=saved.generation,
        step=saved.state.step,
        tokens=saved.state.tokens,
        metrics={f"validation_loss_{name}": value for name, value in saved.state.validation_losses.items()},
        lineage=lineage,
        adapter=_adapter_of(stage),
    )


def _adapter_of(stage: Stage) -> dict[str, Any] | None:
    """What an adapter's file says of it and its base."""
    origin = stage.origin
    if origin.model.adapter is None:
        return None
    return {"lora": origin.model.adapter.to_dict(), "base_digest": origin.digest, "base_path": f"{origin.parent_path}"}


def data_lineage(train_set: AnySet) -> dict[str, Any]:
    """Which set, or sets, a model was trained on."""
    lineage: dict[str, Any] = {"name": train_set.folder.name, "fingerprint": train_set.fingerprint}
    if isinstance(train_set, JoinedSets):
        lineage["sets"] = [{"name": each.folder.name, "fingerprint": each.fingerprint} for each in train_set.sets]
    if isinstance(train_set, RowSubset):
        lineage["part_of"] = {"fingerprint": train_set.packed.fingerprint, "num_rows": train_set.packed.num_rows}
    return lineage
