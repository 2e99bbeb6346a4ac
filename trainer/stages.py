"""What every training script puts together, in the same order: device, data, parent, stage."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from dataset.mixed_set import AnySet, JoinedSets, open_mixture
from dataset.mixture import Mixture, find_set, read_data_path
from dataset.packing import PackedSet
from dataset.row_subset import RowSubset, hold_out_rows
from model.checkpoint import Checkpoint
from model.config import LMConfig
from model.decoder import CausalLM
from model.device import Precision, choose_device, choose_precision
from model.errors import UserError
from model.loading import load_whole, new_token_ids, widened
from model.lora import LoRAConfig, adapter_parameters, attach_lora, default_targets
from model.tokenizer import ChatTokenizer
from trainer.objectives import Objective
from trainer.parallel import Parallel
from trainer.run_folder import only_checkpoint
from trainer.settings import DataSettings, DeviceSettings, LoRASettings, RunSettings
from trainer.state import SavedStep, load_step
from trainer.token_bytes import token_byte_lengths


@dataclass(frozen=True)
class Origin:
    """Where a stage's weights come from: a new model, a parent's `.pth`, or a saved step of another run."""

    model: CausalLM
    tokenizer_files: dict[str, str]
    name: str = "new"  # for people
    parent: Checkpoint | None = None
    parent_path: Path | None = None
    new_token_ids: tuple[int, ...] = ()  # that the set's tokenizer has and the parent's had not
    saved_step: SavedStep | None = None  # its weights and optimizer state are put in place by the loop

    @property
    def digest(self) -> str | None:
        """What makes this origin this one, for the run's identity."""
        if self.saved_step is not None:
            return self.saved_step.digest
        return self.parent.digest if self.parent else None

    @property
    def is_imported(self) -> bool:
        """Whether it came from elsewhere, or from a model that did."""
        lineage = self.lineage()
        while lineage and "imported" not in lineage:
            lineage = lineage.get("parent")
        return bool(lineage)

    def tokenizer(self) -> ChatTokenizer:
        """What its model reads and writes with."""
        return ChatTokenizer.from_files(self.tokenizer_files)

    def lineage(self) -> dict[str, Any] | None:
        """What the new model remembers of it."""
        if self.saved_step is not None:
            step = self.saved_step
            return {"digest": step.digest, "stage": step.stage, "step": step.state.step, "settings": step.identity}
        if self.parent is None:
            return None
        return {"digest": self.parent.digest, "stage": self.parent.stage, **self.parent.lineage}


class Sized(Protocol):
    """Something that holds parameters."""

    @property
    def num_parameters(self) -> int:
        """How many."""


# Given the engine, what is measured by name, and alarms; every rank calls it, the main process's answer counts.
Probe = Callable[[Any], tuple[dict[str, float], list[str]]]


@dataclass
class Stage:
    """What one stage trains, put together by its script."""

    name: str  # "pretrain", "full_sft", …
    origin: Origin
    objective: Objective
    train_set: AnySet
    val_set: AnySet | None
    variant: str = ""  # tells runs of this stage apart by name: an adapter's
    reference: Sized | None = None  # a frozen model that the objective holds beside
    probe: Probe | None = None  # what is measured at each validation, besides the objective's terms

    @property
    def reference_parameters(self) -> int:
        """How many parameters are held besides the model's own."""
        return 0 if self.reference is None else self.reference.num_parameters

    @cached_property
    def adapter_parameters(self) -> int | None:
        """How many parameters the adapter has; None where the whole model is trained."""
        model = self.origin.model
        return None if model.adapter is None else sum(each.numel() for _, each in adapter_parameters(model))

    @cached_property
    def tokenizer(self) -> ChatTokenizer:
        """What the model reads and writes with."""
        return self.origin.tokenizer()

    @cached_property
    def generation(self) -> dict[str, Any]:
        """What the new model says about generating: where to stop, and mild sampling, or what its origin says."""
        origin = self.origin.saved_step or self.origin.parent
        inherited = origin.generation if origin else {}
        stops = dict.fromkeys([*self.tokenizer.stop_token_ids, *inherited.get("stop_token_ids", [])])
        sampling = {name: value for name, value in inherited.items() if name != "stop_token_ids"}
        return {"stop_token_ids": list(stops), **(sampling or {"temperature": 0.7, "top_p": 0.9})}

    @cached_property
    def token_bytes(self) -> np.ndarray | None:
        """[vocab_size] bytes of text that each token stands for, where the tokenizer lets us know."""
        return token_byte_lengths(self.tokenizer)

    @property
    def default_run_name(self) -> str:
        """`<stage>_<dim>`, an adapter's `<stage>_<name>_<dim>`, with `_moe` for a mixture of experts."""
        config = self.origin.model.config
        parts = [self.name, self.variant, str(config.dim), "moe" if config.use_moe else ""]
        return "_".join(filter(None, parts))


def prepare_device(settings: DeviceSettings, seed: int) -> Precision:
    """Choose device and precision, and seed what is random before the first step (a new model's weights)."""
    device = choose_device(settings.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    precision = choose_precision(settings.dtype, device)
    # On a CPU exactness costs next to nothing, and a stopped run then goes on to the same bits.
    deterministic = settings.deterministic if settings.deterministic is not None else device.type == "cpu"
    if deterministic and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
    torch.use_deterministic_algorithms(deterministic)
    # Nothing here reads memory before it is written, so filling it would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(seed)
    return precision


def open_sets(
    data: DataSettings, default_name: str, kind: str, parallel: Parallel | None = None
) -> tuple[AnySet, AnySet | None]:
    """What to train on, a packed set or a mixture of several, and what to validate on where there is something."""
    parallel = parallel or Parallel()
    chosen = read_data_path(data.data_path or str(Path(data.packed_dir) / default_name), data.packed_dir)
    if data.test_size is not None:
        return _open_parts(chosen, kind, data.test_size, parallel)
    train_set = open_mixture(chosen, kind) if isinstance(chosen, Mixture) else PackedSet.open(chosen, kind)
    if data.val_path:
        return train_set, _open_validation(find_set(data.val_path, data.packed_dir), train_set)
    folders = [each.folder for each in train_set.sets] if isinstance(train_set, JoinedSets) else [train_set.folder]
    val_paths = [_val_path(folder) for folder in folders]
    val_sets = [_open_validation(path, train_set) for path in val_paths if path.exists()]
    if 0 < len(val_sets) < len(val_paths):
        missing = ", ".join(path.name for path in val_paths if not path.exists())
        parallel.say(f"validating without {missing}: there is no such set beside the one it is named after")
    if len(val_sets) > 1:
        return train_set, JoinedSets(f"{train_set.folder} (validation)", val_sets)
    return train_set, val_sets[0] if val_sets else None


def _val_path(folder: Path) -> Path:
    """Where the validation set of a set is looked for: beside it."""
    folder = folder.absolute()  # a path like "." has no name to put "_val" behind
    return folder.with_name(f"{folder.name}_val")


def _open_parts(chosen: Path | Mixture, kind: str, test_size: float, parallel: Parallel) -> tuple[RowSubset, RowSubset]:
    """One set, of which --test_size holds rows out to validate on."""
    make_one = f"make validation sets with: python data_process.py {kind} … --val_share 0.01"
    if kind == "pretrain":
        raise UserError(f"--test_size: a document of pretraining text may lie in several rows; {make_one}")
    if isinstance(chosen, Mixture):
        raise UserError(f"--test_size: holds rows of one set out, {chosen.name} is a mixture; {make_one}")
    packed = PackedSet.open(chosen, kind)
    train_set, val_set = hold_out_rows(packed, test_size)
    things = "pairs" if kind == "dpo" else "conversations"
    documents = train_set.num_documents + val_set.num_documents
    parallel.say(
        f"--test_size {test_size}: {val_set.num_documents:,} of {documents:,} {things} are held out to validate on "
        f"({val_set.num_rows:,} of {packed.num_rows:,} rows)"
    )
    if _val_path(chosen).exists():
        parallel.say(f"--test_size {test_size}: {_val_path(chosen).name}, which lies beside the set, is not used")
    return train_set, val_set


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


def open_origin(run: RunSettings, train_set: AnySet, *stages: str) -> Origin:
    """The model that a stage starts from: --anneal_from, --init_from, or the only .pth of its parent stage in out_dir.

    Raises:
        UserError: no such file, a damaged one, or one whose tokenizer did not make the set.
    """
    if run.anneal_from:
        step = load_step(Path(run.anneal_from))
        if step.identity["tokenizer"] != train_set.vocabulary_hash:
            raise UserError(f"{train_set.folder}: was made with another tokenizer than --anneal_from {step.path}")
        _check_length(train_set, step.config, f"{step.path}")
        return Origin(CausalLM(step.config), train_set.tokenizer_files(), f"{step.path}", saved_step=step)
    if run.init_from:
        path = Path(run.init_from)
    else:
        try:
            path = only_checkpoint(run.out_dir, *stages)
        except UserError as error:
            raise UserError(f"--init_from: {error}") from error
    parent = load_whole(path)
    tokenizer = ChatTokenizer.from_files(train_set.tokenizer_files())
    check_tokenizer(parent, path, train_set, tokenizer)
    whole = widened(parent, tokenizer)
    model, new = whole.build_model(), new_token_ids(parent, tokenizer)
    parent.weights = {}  # the model has them
    # The set's tokenizer may know more tokens, or bring the chat template to a model that has used none yet.
    is_same = not new and (train_set.kind == "pretrain" or train_set.template_hash == parent.tokenizer().template_hash)
    return Origin(model, parent.tokenizer_files if is_same else tokenizer.files, f"{path}", parent, path, new)


def add_adapter(origin: Origin, settings: LoRASettings, seed: int) -> None:
    """Freeze the origin's model and put a new adapter on it, which trains the rows of new tokens too."""
    if origin.saved_step is not None:
        raise UserError(
            "--anneal_from: an adapter needs a base that has a name and a hash; pass its .pth to --init_from"
        )
    words = settings.lora_targets or []
    config = LoRAConfig(
        targets=tuple(name for word in words for name in word.split(",") if name) or default_targets(origin.model),
        rank=settings.lora_rank,
        alpha=settings.lora_alpha,
        dropout=settings.lora_dropout,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        token_ids=origin.new_token_ids,
    )
    attach_lora(origin.model, config, seed)


def check_tokenizer(parent: Checkpoint, parent_path: Path, packed: AnySet, tokenizer: ChatTokenizer) -> None:
    """A set's token ids mean something only to a model that was trained with the same tokenizer, or with the beginning
    of it; and a model that has learned to chat goes on in the chat template it knows."""
    known = parent.tokenizer()
    again = f"pack it again with: python data_process.py {packed.kind} --tokenizer {parent_path} …"
    if not tokenizer.extends(known):
        raise UserError(f"{packed.folder}: was made with another tokenizer than {parent_path}; {again}")
    is_new_to_chats = parent.stage in ("pretrain", "imported") or tokenizer.vocab_size > known.vocab_size
    if packed.kind != "pretrain" and packed.template_hash != known.template_hash and not is_new_to_chats:
        raise UserError(f"{packed.folder}: was made with another chat template than {parent_path}'s; {again}")
    _check_length(packed, parent.config, f"{parent_path}")


def _check_length(packed: AnySet, config: LMConfig, name: str) -> None:
    if packed.max_seq_len > config.max_seq_len:
        raise UserError(
            f"{packed.folder}: has rows of {packed.max_seq_len} tokens, {name} reads "
            f"{config.max_seq_len}; pack it with --max_seq_len {config.max_seq_len} or less"
        )
