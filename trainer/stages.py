"""What every training script puts together, in the same order: device, data, parent, stage."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dataset.mixed_set import AnySet, JoinedSets, open_mixture
from dataset.mixture import Mixture, find_set, read_data_path
from dataset.packing import PackedSet
from model.checkpoint import Checkpoint, load_checkpoint
from model.decoder import CausalLM
from model.device import Precision, choose_device, choose_precision
from model.errors import UserError
from model.tokenizer import ChatTokenizer
from trainer.objectives import Objective
from trainer.run_folder import only_checkpoint
from trainer.settings import DataSettings, RunSettings


@dataclass
class Stage:
    """What one stage trains, put together by its script."""

    name: str  # "pretrain", "full_sft", …
    model: CausalLM
    objective: Objective
    train_set: AnySet
    val_set: AnySet | None
    tokenizer_files: dict[str, str]
    generation: dict[str, Any]
    parent: Checkpoint | None = None
    parent_path: Path | None = None

    @property
    def default_run_name(self) -> str:
        """`<stage>_<dim>`, with `_moe` for a mixture of experts."""
        config = self.model.config
        return f"{self.name}_{config.dim}{'_moe' if config.use_moe else ''}"


def prepare_device(run: RunSettings) -> Precision:
    """Choose device and precision, and seed what is random before the first step (a new model's weights)."""
    device = choose_device(run.device)
    torch.manual_seed(run.seed)
    return choose_precision(run.dtype, device)


def open_sets(data: DataSettings, default_name: str, kind: str) -> tuple[AnySet, AnySet | None]:
    """What to train on, a packed set or a mixture of several, and what to validate on where there is something."""
    chosen = read_data_path(data.data_path or str(Path(data.packed_dir) / default_name), data.packed_dir)
    train_set = open_mixture(chosen, kind) if isinstance(chosen, Mixture) else PackedSet.open(chosen, kind)
    if data.val_path:
        return train_set, _open_validation(find_set(data.val_path, data.packed_dir), train_set)
    folders = [each.folder for each in train_set.sets] if isinstance(train_set, JoinedSets) else [train_set.folder]
    # Absolute, because a path like "." has no name to put "_val" behind.
    val_paths = [path.absolute().with_name(f"{path.absolute().name}_val") for path in folders]
    val_sets = [_open_validation(path, train_set) for path in val_paths if path.exists()]
    if 0 < len(val_sets) < len(val_paths):
        missing = ", ".join(path.name for path in val_paths if not path.exists())
        print(f"validating without {missing}: there is no such set beside the one it is named after", file=sys.stderr)
    if len(val_sets) > 1:
        return train_set, JoinedSets(f"{train_set.folder} (validation)", val_sets)
    return train_set, val_sets[0] if val_sets else None


def _open_validation(path: Path, train_set: AnySet) -> PackedSet:
    val_set = PackedSet.open(path, train_set.kind)
    _check_validation(val_set, train_set)
    return val_set


def _check_validation(val_set: PackedSet, train_set: AnySet) -> None:
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


def check_tokenizer(parent: Checkpoint, parent_path: Path, packed: AnySet) -> None:
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
