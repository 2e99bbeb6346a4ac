"""Steps that every training script takes, in the same order: device, data, parent."""

from pathlib import Path
from typing import Any

import torch

from dataset.packing import PackedSet
from model.checkpoint import Checkpoint, load_checkpoint
from model.device import Precision, choose_device, choose_precision
from model.errors import UserError
from model.tokenizer import ChatTokenizer
from trainer.run_folder import only_checkpoint
from trainer.settings import DataSettings, RunSettings


def prepare_device(run: RunSettings) -> Precision:
    """Choose device and precision, and seed what is random before the first step (a new model's weights)."""
    device = choose_device(run.device)
    torch.manual_seed(run.seed)
    return choose_precision(run.dtype, device)


def open_sets(data: DataSettings, default_name: str, kind: str) -> tuple[PackedSet, PackedSet | None]:
    """The packed set to train on, and the one to validate on where there is one."""
    path = Path(data.data_path) if data.data_path else Path(data.packed_dir) / default_name
    train_set = PackedSet.open(path, kind)
    # Absolute, because a path like "." has no name to put "_val" behind.
    val_path = Path(data.val_path) if data.val_path else path.absolute().with_name(f"{path.absolute().name}_val")
    val_set = PackedSet.open(val_path, kind) if data.val_path or val_path.exists() else None
    if val_set is not None:
        _check_validation(val_set, train_set)
    return train_set, val_set


def _check_validation(val_set: PackedSet, train_set: PackedSet) -> None:
    """What fits the training set then fits the validation set as well: it is checked against the parent once."""
    if val_set.vocabulary_hash != train_set.vocabulary_hash:
        raise UserError(f"{val_set.folder}: was made with another tokenizer than {train_set.folder}; pack it again")
    if val_set.kind != "pretrain" and val_set.template_hash != train_set.template_hash:
        raise UserError(f"{val_set.folder}: was made with another chat template than {train_set.folder}; pack it again")
    if val_set.max_seq_len > train_set.max_seq_len:
        raise UserError(
            f"{val_set.folder}: has rows of {val_set.max_seq_len} tokens, {train_set.folder} of "
            f"{train_set.max_seq_len}; pack it with --max_seq_len {train_set.max_seq_len}"
        )


def load_parent(run: RunSettings, *stages: str) -> tuple[Checkpoint, Path]:
    """The checkpoint that a stage starts from: --init_from, or the only one of its parent stage in out_dir."""
    if run.init_from:
        path = Path(run.init_from)
    else:
        try:
            path = only_checkpoint(run.out_dir, *stages)
        except UserError as error:
            raise UserError(f"--init_from: {error}") from error
    return load_checkpoint(path), path


def check_tokenizer(parent: Checkpoint, parent_path: Path, packed: PackedSet) -> None:
    """A set's token ids mean something only to a model that was trained with the same tokenizer."""
    tokenizer = parent.tokenizer()
    if packed.vocabulary_hash != tokenizer.vocabulary_hash:
        raise UserError(
            f"{packed.folder}: was made with another tokenizer than {parent_path}; "
            f"pack it again with: python data_process.py {packed.kind} --tokenizer {parent_path} …"
        )
    if packed.kind != "pretrain" and packed.template_hash != tokenizer.template_hash:
        raise UserError(
            f"{packed.folder}: was made with another chat template than {parent_path}'s; "
            f"pack it again with: python data_process.py {packed.kind} --tokenizer {parent_path} …"
        )
    if packed.max_seq_len > parent.config.max_seq_len:
        raise UserError(
            f"{packed.folder}: has rows of {packed.max_seq_len} tokens, {parent_path} reads "
            f"{parent.config.max_seq_len}; pack it with --max_seq_len {parent.config.max_seq_len} or less"
        )


def generation_defaults(tokenizer: ChatTokenizer) -> dict[str, Any]:
    """What a checkpoint says about generating with it: where to stop, and mild sampling."""
    return {"stop_token_ids": list(tokenizer.stop_token_ids), "temperature": 0.7, "top_p": 0.9}
