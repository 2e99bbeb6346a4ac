"""Settings of a script: dataclasses read from flags, a YAML file or a JSON file, by one function.

`trainer/parser.py` turns each field of a dataclass into a flag of the same name, so a script's settings are
written down once, with their types, defaults and help.
"""

import importlib.util
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import yaml

from model.config import LMConfig
from model.errors import UserError
from model.files import read_json

if TYPE_CHECKING:
    from trainer.parser import SettingsParser

_ARCHITECTURE_FLAGS = {f"--{each.name}" for each in fields(LMConfig)} | {"--preset"}
LARGEST_SEED = 2**64 - 1  # that torch.manual_seed takes; numpy's SeedSequence takes any
_FILE_SUFFIXES = {".json", ".yaml", ".yml"}


def flag(default: Any, help: str, **metadata: Any) -> Any:
    """A setting with its default and its line of `--help`; a mutable default is copied for each run."""
    metadata = {"help": help.replace("%", "%%"), **metadata}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def parse_settings(
    *dataclass_types: Any,
    description: str,
    positionals: Mapping[str, Mapping[str, Any]] | None = None,
    argv: Sequence[str] | None = None,
) -> tuple[Any, ...]:
    """Read the settings of a script.

    Args:
        dataclass_types: the settings dataclasses; each field is a flag.
        description: the script's docstring, shown by `--help`.
        positionals: name → keywords of `add_argument`, for arguments without a flag.
        argv: the command line without the program's name; default `sys.argv[1:]`. A first argument that ends in
            `.json`, `.yaml` or `.yml` is a file of settings when the script takes no positionals; flags that
            follow it win.

    Returns:
        one instance per dataclass; then, when there are positionals, their namespace.

    Raises:
        UserError: for an unknown flag, a value of the wrong type, or a bad settings file.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # transformers takes a second to load. Here, and not above, run_script is at work and answers a Ctrl-C.
    from trainer.parser import SettingsParser

    parser = SettingsParser(dataclass_types, description.strip())
    for name, keywords in (positionals or {}).items():
        parser.add_argument(name, **keywords)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    # DeepSpeed's launcher tells each worker its device with this flag; torchrun uses the environment.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=-1, help="set by DeepSpeed's launcher")
    if not positionals and arguments and Path(arguments[0]).suffix in _FILE_SUFFIXES and arguments[0][0] != "-":
        path = Path(arguments[0])
        from_file = _flags_of_file(path)
        try:
            _parse(parser, from_file, dataclass_types)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        arguments = from_file + arguments[1:]
    settings = _parse(parser, arguments, dataclass_types)
    # Behind the dataclasses stands what no dataclass asked for: positionals, --debug, --local_rank.
    return settings if positionals else settings[: len(dataclass_types)]


def _parse(parser: "SettingsParser", arguments: list[str], dataclass_types: tuple[Any, ...]) -> tuple[Any, ...]:
    *settings, unknown = parser.parse_args_into_dataclasses(
        arguments, look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        name = "--" + unknown[0].partition("=")[0].lstrip("-").replace("-", "_")
        if name in ("--max_seq_len", "--vocab_size") and ModelSettings in dataclass_types:
            raise UserError(f"{name}: the packed set decides it; leave it out, and give it to the script that made it")
        if name in _ARCHITECTURE_FLAGS and RunSettings in dataclass_types:
            raise UserError(f"{name}: this stage takes the architecture from its parent; leave it out")
        raise UserError(f"unknown argument {unknown[0]}; see {parser.prog} --help")
    return tuple(settings)


def _flags_of_file(path: Path) -> list[str]:
    """A settings file as the flags that it stands for, so that one parser checks names, types and choices."""
    if not path.is_file():
        raise UserError(f"{path}: no such settings file")
    try:
        values = read_json(path) if path.suffix == ".json" else yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a YAML file ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected settings by name, found {type(values).__name__}")
    flags: list[str] = []
    for name, value in values.items():
        if isinstance(value, dict):
            raise UserError(f"{path}: {name}: expected one value, found settings within settings")
        if isinstance(value, list):
            flags += [f"--{name}", *map(str, value)]
        elif value is not None:  # null stands for a flag that is left out
            flags.append(f"--{name}={value}")
    return flags


# ---- settings shared by the training scripts ------------------------------------------------------------------


@dataclass
class ModelSettings:
    """The architecture of a new model; whatever is left out comes from the preset."""

    _argument_group_name = "architecture (of a new model; refused beside --init_from)"

    preset: str | None = flag(None, "tiny (default), small, base or moe")
    allow_unexportable: bool = flag(False, "allow an architecture that no stock transformers class carries")
    dim: int | None = flag(None, "width of the residual stream")
    n_layers: int | None = flag(None, "number of layers")
    n_heads: int | None = flag(None, "query heads")
    n_kv_heads: int | None = flag(None, "key/value heads; must divide n_heads")
    head_dim: int | None = flag(None, "width of a head; default dim / n_heads")
    hidden_dim: int | None = flag(None, "width of the feed-forward; default 8/3 of dim, rounded up")
    multiple_of: int | None = flag(None, "hidden_dim is rounded up to a multiple of this")
    norm_eps: float | None = flag(None, "epsilon of RMSNorm")
    rope_theta: float | None = flag(None, "base of the rotary angles")
    sliding_window: int | None = flag(None, "each token sees this many tokens; default all earlier ones")
    dropout: float | None = flag(None, "share of activations dropped in training")
    tie_embeddings: bool | None = flag(None, "share the embedding matrix with the output head; default true")
    qk_norm: bool | None = flag(None, "normalise query and key heads")
    qkv_bias: bool | None = flag(None, "bias on q, k and v")
    attention_bias: bool | None = flag(None, "bias on q, k, v and o")
    mlp_bias: bool | None = flag(None, "bias in the feed-forward")
    use_moe: bool | None = flag(None, "mixture of experts instead of one feed-forward")
    n_routed_experts: int | None = flag(None, "experts that the router chooses from")
    n_shared_experts: int | None = flag(None, "experts that every token passes through")
    num_experts_per_tok: int | None = flag(None, "routed experts a token")
    moe_hidden_dim: int | None = flag(None, "width of one expert")
    norm_topk_prob: bool | None = flag(None, "scale the chosen experts' weights to a sum of one")
    aux_loss_alpha: float | None = flag(None, "weight of the load-balancing loss")
    seq_aux: bool | None = flag(None, "balance within each sequence, not over the batch")

    def given(self) -> dict[str, Any]:
        """The architecture flags that were given."""
        names = [each.name for each in fields(self) if each.name not in ("preset", "allow_unexportable")]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def config(self, vocab_size: int, max_seq_len: int) -> LMConfig:
        """The architecture of a new model that reads a packed set of this vocabulary and row length."""
        changes = {**self.given(), "vocab_size": vocab_size, "max_seq_len": max_seq_len}
        config = LMConfig.preset(self.preset or "tiny", **changes)
        reason = config.unexportable_reason()
        if reason and not self.allow_unexportable:
            raise UserError(f"no stock architecture carries {reason} (or pass --allow_unexportable)")
        return config

    def refuse_beside_parent(self, run: "RunSettings") -> None:
        """A parent brings its own architecture: flags that would change it are an error, not ignored."""
        given = list(self.given()) + (["preset"] if self.preset else [])
        if given:
            name, parent = ("init_from", run.init_from) if run.init_from else ("anneal_from", run.anneal_from)
            raise UserError(f"--{given[0]}: the architecture comes from --{name} {parent}; leave the flag out")


@dataclass
class DataSettings:
    """Which packed sets are read; mixtures are described in dataset/mixture.py."""

    _argument_group_name = "data"

    data_path: str | None = flag(
        None,
        "packed set to train on, several with weights (a:0.7,b:0.3), or a mixture.yaml; default the little world's",
    )
    val_path: str | None = flag(
        None, "packed set to validate on; default <data_path>_val where it exists, of a mixture all of them"
    )
    test_size: float | None = flag(
        None, "hold out so many conversations or pairs of data_path to validate on; below 1: that share of them"
    )
    packed_dir: str = flag("dataset/packed", "where packed sets are that are given by name")
    document_mask: bool | None = flag(
        None, "attention and positions restart at each document; default off in pretraining, on afterwards"
    )

    def __post_init__(self) -> None:
        """One-line errors for values that cannot be, before anything is loaded."""
        if self.test_size is None:
            return
        if not (0 < self.test_size < 1 or (self.test_size >= 1 and self.test_size % 1 == 0)):
            raise UserError(f"--test_size: found {self.test_size}, expected a whole number, or a share between 0 and 1")
        if self.test_size >= 1:
            self.test_size = int(self.test_size)
        if self.val_path:
            raise UserError("--test_size: the validation set is named by --val_path; leave one of them out")


@dataclass
class TrainSettings:
    """How the weights are updated. Each script sets the defaults of its stage."""

    _argument_group_name = "training"
    # By optimizer: Muon's orthogonal updates stand a higher rate than AdamW's. And for models that came from elsewhere,
    # which are larger and have learned far longer: what is usual for those.
    default_learning_rates: ClassVar[dict[str, float]] = {"muon": 1e-3, "adamw": 5e-4, "imported": 2e-5}
    adapter_learning_rates: ClassVar[dict[str, float] | None] = None  # of an adapter, where they are others

    epochs: float | None = flag(None, "passes over the data, a part of one is allowed; default 1")
    max_steps: int = flag(0, "train for this many updates instead")
    max_tokens: int = flag(0, "train on this many target tokens instead, to the nearest update")
    max_minutes: float = flag(0.0, "train for about this long instead: the first updates are timed, then it is fixed")
    batch_size: int = flag(16, "rows in one forward pass; auto: the most that fit, the update's rows stay the same")
    accumulation_steps: int = flag(1, "forward passes of each process summed into one update")
    optimizer: Literal["auto", "adamw", "muon"] = flag(
        "auto",
        "muon: for the layers' matrices, with adamw for the rest; auto: muon, but adamw for adapters, for models from "
        "elsewhere and under DeepSpeed",
    )
    learning_rate: float | None = flag(None, "highest learning rate; default by stage and optimizer")
    schedule: Literal["cosine", "linear", "constant", "wsd"] = flag(
        "cosine", "how the learning rate goes after the warm-up; wsd: constant, then a decay at the end"
    )
    min_lr_ratio: float = flag(0.1, "last learning rate as a share of the highest")
    warmup_iters: int = flag(50, "updates over which the learning rate rises to its highest")
    decay_share: float | None = flag(None, "share of all updates that wsd decays in; default 0.2")
    decay_shape: Literal["linear", "cosine", "sqrt"] | None = flag(
        None, "how wsd decays; sqrt: 1 − √progress, the default"
    )
    weight_decay: float = flag(0.1, "pull of matrices towards zero, decoupled from the gradient")
    beta1: float = flag(0.9, "AdamW's memory of the gradient")
    beta2: float = flag(0.95, "AdamW's memory of the squared gradient")
    grad_clip: float = flag(1.0, "longest allowed gradient norm; 0 means no limit")
    z_loss: float = flag(0.0, "weight of the squared log-sum-exp of the logits")
    max_rollbacks: int = flag(5, "go back this often in a row when the loss spikes, then stop; 0 never goes back")

    def __post_init__(self) -> None:
        """One-line errors for values that cannot be, before anything is loaded."""
        smallest = {"batch_size": 0, "accumulation_steps": 1, "warmup_iters": 0, "max_steps": 0, "max_tokens": 0}
        smallest |= {"max_minutes": 0, "weight_decay": 0, "grad_clip": 0, "z_loss": 0, "max_rollbacks": 0}
        _check_at_least(self, smallest)
        for name in ("epochs", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"--{name}: found {value}, expected a number above 0")
        for name in ("min_lr_ratio", "decay_share"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"--{name}: found {value}, expected from 0 to 1")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name}: found {getattr(self, name)}, expected from 0 to below 1")
        lengths = [name for name in ("epochs", "max_steps", "max_tokens", "max_minutes") if getattr(self, name)]
        if len(lengths) > 1:
            raise UserError(
                f"--{lengths[1]}: the run's length is said by --{lengths[0]} already; leave one of them out"
            )
        for name in ("decay_share", "decay_shape"):
            if self.schedule != "wsd" and getattr(self, name) is not None:
                raise UserError(f"--{name}: belongs to --schedule wsd, found {self.schedule}; leave one of them out")


@dataclass
class LoRASettings:
    """An adapter instead of all weights (model/lora.py)."""

    _argument_group_name = "adapter"

    lora_rank: int = flag(8, "rank of the thin matrices")
    lora_alpha: float = flag(16.0, "what they add is scaled by alpha / rank")
    lora_dropout: float = flag(0.0, "share of what they read that is dropped in training")
    lora_targets: list[str] | None = flag(
        None, "linear layers by name (q_proj,v_proj; experts; lm_head); default those of attention and feed-forward"
    )
    use_rslora: bool = flag(False, "scale by alpha / √rank: a larger rank does not learn more slowly")
    use_dora: bool = flag(False, "learn the lengths of the weights' rows apart from their directions")


@dataclass
class RunSettings:
    """Where the run writes, what it starts from, and how often it says and saves something."""

    _argument_group_name = "run"

    out_dir: str = flag("out", "folder of the runs and their .pth files")
    run_name: str | None = flag(None, "name of this run; default <stage>_<dim>, with _moe for experts")
    init_from: str | None = flag(
        None, "parent .pth, adapter or Hugging Face folder; default the only .pth of the parent stage in out_dir"
    )
    anneal_from: str | None = flag(
        None, "saved step of another run (…/resume/step-N): start from its weights and optimizer state, without warm-up"
    )
    overwrite: bool = flag(False, "move an earlier run of this name aside (.bak-…) and start anew")
    resume: str = flag("auto", "auto: go on from the newest saved step; a saved step: from that one; none: start anew")
    dry_run: bool = flag(False, "say what the run would need and how long it would take, then stop")
    seed: int = flag(1337, "decides initial weights, order of data and dropout")
    num_workers: int = flag(0, "processes that read data ahead; 0 reads in the training process")

    def __post_init__(self) -> None:
        """One-line errors for values that cannot be, before anything is loaded."""
        _check_at_least(self, {"num_workers": 0, "seed": 0})
        if self.seed > LARGEST_SEED:
            raise UserError(f"--seed: found {self.seed}, expected {LARGEST_SEED} or less")
        name = self.run_name
        if name is not None and (Path(name).name != name or name in ("", "..")):
            raise UserError(f"--run_name: found {name!r}, expected a name without slashes")
        if self.anneal_from and self.init_from:
            raise UserError("--anneal_from: brings its own weights, so --init_from has no use; leave one of them out")
        if self.overwrite and self.resume not in ("auto", "none"):
            raise UserError(f"--resume {self.resume}: --overwrite starts anew; leave one of them out")


@dataclass
class DeviceSettings:
    """What computes, how exactly, and how many processes share the work."""

    _argument_group_name = "device"

    device: str = flag("auto", "cuda, mps or cpu; default the best one present")
    dtype: str = flag("auto", "bfloat16, float16, float32 or float64; default bfloat16 on CUDA, float32 elsewhere")
    compile: Literal["auto", "on", "off"] = flag("auto", "torch.compile; auto: on CUDA")
    gradient_checkpointing: bool = flag(False, "keep no activations inside layers: less memory, a third more work")
    deterministic: bool | None = flag(None, "only operations that give the same bits each time; default on a CPU")
    num_threads: int = flag(0, "CPU threads of each process; 0 shares the cores among the processes")
    deepspeed: str | None = flag(
        None, "zero1, zero2, zero3, zero2_offload, zero3_offload or a DeepSpeed .json; under its launcher zero1"
    )

    def __post_init__(self) -> None:
        """One-line errors for values that cannot be, before anything is loaded."""
        _check_at_least(self, {"num_threads": 0})


@dataclass
class WatchSettings:
    """What a run says of itself, and how often it saves."""

    _argument_group_name = "watching and saving"

    log_interval: int = flag(10, "updates between two lines of metrics.jsonl")
    eval_interval: int = flag(0, "updates between two validations; 0 means ten a run")
    sample_interval: int = flag(0, "updates between two sample generations; 0 means five a run, -1 never")
    save_interval: int = flag(0, "updates between two saved steps; 0 means every 5 minutes")
    save_total_limit: int = flag(
        2, "newest saved steps that are kept, besides the best one and what a rollback may need; 0 keeps all"
    )
    price_per_hour: float = flag(0.0, "what an hour of this machine costs, to show what the run has cost")
    use_wandb: bool = flag(False, "also log to Weights & Biases (works offline)")
    wandb_project: str = flag("seedling", "its project")
    wandb_run_name: str | None = flag(None, "its run name; default the run's own")
    use_tensorboard: bool = flag(False, "also log to TensorBoard, in the run's folder (pip install tensorboard)")

    def __post_init__(self) -> None:
        """One-line errors for values that cannot be, before anything is loaded."""
        smallest = {"log_interval": 1, "eval_interval": 0, "sample_interval": -1, "save_interval": 0}
        _check_at_least(self, {**smallest, "save_total_limit": 0, "price_per_hour": 0})
        for package, is_used in (("wandb", self.use_wandb), ("tensorboard", self.use_tensorboard)):
            if is_used and importlib.util.find_spec(package) is None:
                raise UserError(f"--use_{package}: the package is missing; pip install {package}")


def _check_at_least(settings: Any, smallest: Mapping[str, float]) -> None:
    for name, least in smallest.items():
        value = getattr(settings, name)
        if not least <= value < math.inf:  # written so that NaN fails too
            raise UserError(f"--{name}: found {value}, expected {least} or more")


@dataclass(frozen=True)
class Settings:
    """What every training script hands to the loop."""

    training: TrainSettings
    run: RunSettings
    device: DeviceSettings
    watch: WatchSettings
