"""The `.pth` that one stage hands to the next: one self-contained dictionary of tensors and plain values.

Weights, architecture, tokenizer, chat template and lineage are all in it, so a file is enough to chat, to go
on training, or to export. It loads with `weights_only=True`: nothing in it can execute. A digest over
everything finds a file that was cut or altered.
"""

import hashlib
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from model.config import LMConfig
from model.decoder import CausalLM
from model.errors import UserError
from model.files import atomic_path, canonical_json
from model.tokenizer import ChatTokenizer

FORMAT = 1
# What a file holds besides its format and its digest.
_FIELDS: dict[str, type] = {
    "stage": str,
    "config": dict,
    "weights": dict,
    "tokenizer_files": dict,
    "generation": dict,
    "step": int,
    "tokens": int,
    "metrics": dict,
    "lineage": dict,
}
_ADAPTER = {"lora": dict, "base_digest": str, "base_path": str}  # what "adapter" holds, in an adapter's file
# A flipped byte in the pickled part can surface as almost any error; files of another kind do as well.
_DAMAGE = (
    *(RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError, LookupError, TypeError),
    *(AttributeError, AssertionError, ImportError, OverflowError, MemoryError, OSError, struct.error),
)


@dataclass
class Checkpoint:
    """What a `.pth` holds.

    `lineage` says where the model comes from: its parents' digests, its data sets' fingerprints, its flags.
    `generation` holds the stop ids and the sampling defaults.
    """

    stage: str  # "pretrain", "full_sft", "lora", "rl", or "imported"
    config: LMConfig
    weights: dict[str, Tensor]
    tokenizer_files: dict[str, str]  # file name → text, the chat template included
    generation: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    tokens: int = 0  # target tokens trained on in this stage
    metrics: dict[str, float] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    # Of an adapter: "lora" (a LoRAConfig's values), and its base's "base_digest" and "base_path". Its weights are the
    # adapter's own, without the base's.
    adapter: dict[str, Any] | None = None
    digest: str = ""  # set by saving, loading and importing

    def tokenizer(self) -> ChatTokenizer:
        """The tokenizer that this model was trained with."""
        return ChatTokenizer.from_files(self.tokenizer_files)

    def build_model(self) -> CausalLM:
        """The model with these weights, on the CPU; UserError names those that do not fit its shape."""
        model = CausalLM(self.config)
        load_weights(model, self.weights)
        return model


def stored_parameters(model: CausalLM, only_trained: bool = False) -> dict[str, nn.Parameter]:
    """A model's parameters by the names under which a file holds them: what is shared comes once, a tied head as the
    embedding. With `only_trained` those that are not frozen: of a model with an adapter, the adapter's.
    """
    return {name: each for name, each in model.named_parameters() if each.requires_grad or not only_trained}


def weights_of(model: CausalLM, copy: bool = False, only_trained: bool = False) -> dict[str, Tensor]:
    """The values of `stored_parameters`, on the CPU.

    Those of a model on the CPU are its own memory, which training goes on changing, unless `copy` is asked for.
    """
    stored = stored_parameters(model, only_trained)
    return {name: each.detach().to("cpu", copy=copy).contiguous() for name, each in stored.items()}


def load_weights(model: CausalLM, weights: Mapping[str, Tensor], only_trained: bool = False) -> None:
    """Copy `weights` into `model`; every name and shape must fit, or a UserError names those that do not."""
    expected = stored_parameters(model, only_trained)
    if missing := sorted(expected.keys() - weights.keys()):
        raise UserError(f"weights: lack {_first(missing)}; they belong to another architecture")
    if extra := sorted(weights.keys() - expected.keys()):
        raise UserError(f"weights: unexpected {_first(extra)}; they belong to another architecture")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            found, wanted = list(tensor.shape), list(expected[name].shape)
            raise UserError(f"weights: {name} has shape {found}, the configuration expects {wanted}")
    with torch.no_grad():
        for name, tensor in weights.items():
            expected[name].copy_(tensor)


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> str:
    """Write a `.pth` atomically and return its digest."""
    checkpoint.digest = digest_of(checkpoint)
    write_tensors(path, {**_content(checkpoint), "digest": checkpoint.digest})
    return checkpoint.digest


def digest_of(checkpoint: Checkpoint) -> str:
    """The digest of all that a checkpoint holds: what saving it gives, on any machine."""
    return _digest(_content(checkpoint))


class _HashedFile:
    """A file that is hashed while it is written, so that it need not be read again for that."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def write(self, block: Any) -> int:
        self.sha256.update(block)
        return self._file.write(block)

    def flush(self) -> None:
        self._file.flush()


def write_tensors(path: str | Path, value: Any) -> str:
    """`torch.save`, atomically; a full disk raises OSError with the file's name.

    Returns:
        the sha256 of the bytes that were given to the disk, in hexadecimal.
    """
    with atomic_path(path) as temporary:
        try:
            with open(temporary, "wb") as file:
                hashed = _HashedFile(file)
                torch.save(value, hashed)  # type: ignore[arg-type]
        except (RuntimeError, OSError) as error:
            # torch turns what the disk said into a RuntimeError of its own.
            cause = error if isinstance(error, OSError) else error.__context__
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror, str(path)) from error
            raise
    return hashed.sha256.hexdigest()


def read_tensors(path: str | Path, mmap: bool = False) -> Any:
    """The inverse, on the CPU; nothing in the file can execute. UserError when it cannot be read so.

    With `mmap` tensors are read from the disk when they are looked at.
    """
    with open(path, "rb") as file:  # outside the `try`: a file that may not be read is other trouble
        try:
            return torch.load(path if mmap else file, map_location="cpu", weights_only=True, mmap=mmap)
        except _DAMAGE as error:
            reason = "cut short, altered, or another kind of file"
            raise UserError(f"{path}: not a readable checkpoint ({reason})") from error


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a `.pth` of ours and check it whole. UserError names the file and what is wrong with it."""
    path = Path(path)
    content = _read(path)
    if "format" not in content or "digest" not in content:
        advice = "import it with export_model.py --from"
        raise UserError(f"{path}: not a Seedling checkpoint (a bare state dict?); {advice}")
    if content["format"] != FORMAT:
        found = content["format"]
        raise UserError(f"{path}: has format {found}, this version reads {FORMAT}; update Seedling")
    digest = content.pop("digest")
    if not _matches(content, digest):
        advice = "restore it or train again"
        raise UserError(f"{path}: the file was altered (its digest does not match); {advice}")
    del content["format"]
    try:
        config = LMConfig.from_dict(content.pop("config"))
        return Checkpoint(config=config, digest=digest, **content)
    except (UserError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error


def read_digest(path: str | Path) -> str:
    """The digest that a `.pth` says it has, without reading its weights; UserError when it is no such file."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint file")
    content = read_tensors(path, mmap=True)
    digest = content.get("digest") if isinstance(content, dict) else None
    if not isinstance(digest, str):
        raise UserError(f"{path}: not a Seedling checkpoint")
    return digest


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    content = read_tensors(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a Seedling checkpoint")
    return content


def _matches(content: Mapping[str, Any], digest: Any) -> bool:
    """Whether the content is what the digest was taken of."""
    try:
        return _is_well_formed(content) and digest == _digest(content)
    except _DAMAGE:  # values of the right types can still be impossible: half a character, a dictionary in itself
        return False


def _is_well_formed(content: Mapping[str, Any]) -> bool:
    """Whether the fields are those of this format and the digest can be taken at all."""
    if content.keys() - {"format", "adapter"} != _FIELDS.keys():
        return False
    if not all(isinstance(content[name], kind) for name, kind in _FIELDS.items()):
        return False
    adapter = content.get("adapter")
    if adapter is not None and {name: type(value) for name, value in adapter.items()} != _ADAPTER:
        return False
    plain = {name: value for name, value in content.items() if name != "weights"}
    return _is_plain(plain) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) and tensor.layout == torch.strided
        for name, tensor in content["weights"].items()
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(each) for name, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _content(checkpoint: Checkpoint) -> dict[str, Any]:
    plain = {
        "format": FORMAT,
        "stage": checkpoint.stage,
        "config": checkpoint.config.to_dict(),
        "tokenizer_files": dict(checkpoint.tokenizer_files),
        "generation": checkpoint.generation,
        "step": checkpoint.step,
        "tokens": checkpoint.tokens,
        "metrics": checkpoint.metrics,
        "lineage": checkpoint.lineage,
        **({} if checkpoint.adapter is None else {"adapter": checkpoint.adapter}),
    }
    # Through JSON and back: a subclass of str (torch.__version__ is one) would not load with
    # weights_only=True.
    return {**json.loads(canonical_json(plain)), "weights": checkpoint.weights}


def _digest(content: Mapping[str, Any]) -> str:
    """sha256 over every plain value and every tensor's name, dtype, shape and bytes."""
    plain = {key: value for key, value in content.items() if key != "weights"}
    digest = hashlib.sha256(canonical_json(plain).encode("utf-8"))
    for name, tensor in sorted(content["weights"].items()):
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
