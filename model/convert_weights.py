"""The weights of a Hugging Face folder under our names, in our master precision.

One table says where each stock tensor's values stand in our tensors; it holds for both directions. Most names
are the same. Experts are stacked in ours, and granitemoeshared keeps gate and up of its shared experts as one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.checkpoint import read_tensors
from model.config import LMConfig
from model.decoder import CausalLM
from model.errors import UserError
from model.files import read_json

_SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_HARMLESS = re.compile(r"\.rotary_emb\.inv_freq$")  # a table that old versions saved beside the weights
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Part:
    """One of our tensors, or a piece of it: what `tensor[index]` gives."""

    name: str
    index: tuple[int | slice, ...] = ()


# Name of a stock tensor → the parts of ours that it holds, one after the other along its first axis.
Layout = dict[str, tuple[Part, ...]]


def stock_layout(model_type: str, config: LMConfig, stacked_experts: bool = False) -> Layout:
    """Where each tensor of a stock model stands in ours.

    The experts of a qwen3_moe are two tensors each, as files have them, or with `stacked_experts` as transformers 5
    holds them in memory.
    """
    layout: Layout = {name: (Part(name),) for name in _shapes(config) if not (config.use_moe and ".mlp." in name)}
    if config.use_moe:
        for number in range(config.n_layers):
            layer = f"model.layers.{number}"
            if model_type == "granitemoeshared":
                layout |= _granite_experts(layer, config)
            else:
                layout |= _qwen3_experts(layer, config, stacked_experts)
    return layout


def _granite_experts(layer: str, config: LMConfig) -> Layout:
    ours, routed, shared = f"{layer}.mlp", f"{layer}.block_sparse_moe", f"{layer}.shared_mlp"
    layout: Layout = {
        f"{routed}.router.layer.weight": (Part(f"{ours}.router.weight"),),
        f"{routed}.input_linear.weight": (Part(f"{ours}.experts.gate_up_proj"),),
        f"{routed}.output_linear.weight": (Part(f"{ours}.experts.down_proj"),),
    }
    if config.n_shared_experts:
        gate, up = (Part(f"{ours}.shared_experts.{name}.weight") for name in ("gate_proj", "up_proj"))
        layout[f"{shared}.input_linear.weight"] = (gate, up)
        layout[f"{shared}.output_linear.weight"] = (Part(f"{ours}.shared_experts.down_proj.weight"),)
    return layout


def _qwen3_experts(layer: str, config: LMConfig, stacked: bool) -> Layout:
    gate_up, down, width = f"{layer}.mlp.experts.gate_up_proj", f"{layer}.mlp.experts.down_proj", config.moe_hidden_dim
    layout: Layout = {f"{layer}.mlp.gate.weight": (Part(f"{layer}.mlp.router.weight"),)}
    if stacked:
        return {**layout, gate_up: (Part(gate_up),), down: (Part(down),)}
    for number in range(config.n_routed_experts):
        expert = f"{layer}.mlp.experts.{number}"
        layout[f"{expert}.gate_proj.weight"] = (Part(gate_up, (number, slice(None, width))),)
        layout[f"{expert}.up_proj.weight"] = (Part(gate_up, (number, slice(width, None))),)
        layout[f"{expert}.down_proj.weight"] = (Part(down, (number,)),)
    return layout


def _shapes(config: LMConfig) -> dict[str, torch.Size]:
    """The shape of every weight that a checkpoint of this architecture holds."""
    with torch.device("meta"):  # shapes without memory
        shapes = {name: tensor.shape for name, tensor in CausalLM(config).state_dict().items()}
    if config.tie_embeddings:
        del shapes[_HEAD]
    return shapes


class WeightFiles:
    """The tensors of a folder, in one file or in shards, read one after the other.

    Attributes:
        origin: the file that names the tensors: the only one, or the index of the shards.
        shards: each file with the names of its tensors.
    """

    def __init__(self, folder: Path) -> None:
        """Find the files and learn the names; UserError when one of them is missing or cannot be read."""
        present = [folder / name for name in _WEIGHT_FILES if (folder / name).is_file()]
        if not present:
            raise UserError(f"{folder}: has no weights; expected one of {', '.join(_WEIGHT_FILES)}")
        self.origin = present[0]
        self._opened: dict[str, Tensor] | None = None  # a lone .bin tells its names only when it is loaded
        if self.origin.name not in _SINGLE_FILES:
            self.shards = _shards_of_index(self.origin)
        elif self.origin.suffix == ".bin":
            self._opened = _read_bin(self.origin)
            self.shards = {self.origin: set(self._opened)}
        else:
            self.shards = {self.origin: set(_names_in_safetensors(self.origin))}
        self.names = set().union(*self.shards.values())

    def tensors(self) -> Iterator[tuple[Path, str, Tensor]]:
        """Each tensor with its file and name. Whoever keeps none of them never has more than a shard in memory."""
        for path, expected in self.shards.items():
            found = set()
            for name, tensor in self._read(path):
                if name not in expected:
                    raise UserError(f"{path}: has {name}, which {self.origin.name} does not know; download both anew")
                found.add(name)
                yield path, name, tensor
            if lacking := sorted(expected - found):
                raise UserError(
                    f"{path}: lacks {lacking[0]}, which {self.origin.name} looks for in it; download both anew"
                )

    def _read(self, path: Path) -> Iterator[tuple[str, Tensor]]:
        if path.suffix != ".bin":
            yield from _read_safetensors(path)
            return
        tensors, self._opened = self._opened or _read_bin(path), None
        while tensors:
            yield tensors.popitem()  # its memory is free as soon as it is copied


def _shards_of_index(path: Path) -> dict[Path, set[str]]:
    index = read_json(path)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{path}: expected `weight_map`, which names each tensor's file; download it anew")
    shards: dict[Path, set[str]] = {}
    for tensor, name in places.items():
        if Path(name).name != name:
            raise UserError(f"{path}: {tensor} is said to be in {name!r}; expected a file of the same folder")
        shards.setdefault(path.parent / name, set()).add(tensor)
    for shard in shards:
        if not shard.is_file():
            raise UserError(f"{shard}: missing, though {path.name} names it; download the folder's other files too")
    return shards


def _names_in_safetensors(path: Path) -> list[str]:
    _refuse_pointer(path)
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    _refuse_pointer(path)
    try:
        with safe_open(path, framework="pt") as file:
            for name in list(file.keys()):
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _read_bin(path: Path) -> dict[str, Tensor]:
    _refuse_pointer(path)
    content: Any = read_tensors(path)
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise UserError(f"{path}: expected tensors by their names and nothing else; is it a trainer's own state?")
    return dict(content)


def _refuse_pointer(path: Path) -> None:
    with open(path, "rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise UserError(f"{path}: is only Git LFS's pointer to the weights; run `git lfs pull` in its folder")


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cut short, altered, or another kind of file ({error}); download it anew")


def read_stock_weights(folder: Path, model_type: str, config: LMConfig) -> tuple[LMConfig, dict[str, Tensor], str]:
    """Read a folder's weights.

    Returns:
        the architecture, in which `attention_bias` has become `qkv_bias` when the bias on o is not there or only
        zeros; its weights by our names, float32; and the precisions that the files have them in.

    UserError names the file and the tensor that is missing, unexpected, of another shape or kind.
    """
    files = WeightFiles(folder)
    if config.attention_bias and not any(name.endswith("o_proj.bias") for name in files.names):
        config = config.with_changes(attention_bias=False, qkv_bias=True)
    stacked = "model.layers.0.mlp.experts.gate_up_proj" in files.names
    layout = stock_layout(model_type, config, stacked_experts=stacked)
    _check_names(files, layout, config)
    weights = {name: torch.empty(shape) for name, shape in _shapes(config).items()}
    tied_head, dtypes = None, set()
    for path, name, tensor in files.tensors():
        if name in layout:
            views = [weights[part.name][part.index] for part in layout[name]]
            _copy(path, name, tensor, views)
            dtypes.add(str(tensor.dtype).removeprefix("torch."))
        elif name == _HEAD:
            tied_head = tensor
    if tied_head is not None and not torch.equal(tied_head.float(), weights[_EMBEDDING]):
        raise UserError(
            f"{files.origin}: {_HEAD} differs from {_EMBEDDING} though config.json has tie_word_embeddings true; "
            "set it to false there if the head is its own"
        )
    return *_without_zero_bias(config, weights), ", ".join(sorted(dtypes))


def _check_names(files: WeightFiles, layout: Layout, config: LMConfig) -> None:
    if missing := sorted(layout.keys() - files.names):
        advice = "config.json describes another model, or a file was cut"
        if missing == [_HEAD]:
            advice = "if the head is the embedding, set tie_word_embeddings true in config.json"
        raise UserError(f"{files.origin}: lacks {_first(missing)}; {advice}")
    unexpected = sorted(name for name in files.names - layout.keys() if not _HARMLESS.search(name))
    if config.tie_embeddings and _HEAD in unexpected:
        unexpected.remove(_HEAD)  # compared with the embedding when both have been read
    if unexpected:
        raise UserError(f"{files.origin}: has {_first(unexpected)}, which the model that config.json describes has not")


def _copy(path: Path, name: str, tensor: Tensor, views: list[Tensor]) -> None:
    """Copy a stock tensor into the parts of ours that it holds."""
    expected = [sum(len(view) for view in views), *views[0].shape[1:]]
    if list(tensor.shape) != expected:
        raise UserError(f"{path}: {name} has shape {list(tensor.shape)}, config.json makes it {expected}")
    if tensor.dtype not in _DTYPES:
        carried = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        found = str(tensor.dtype).removeprefix("torch.")
        raise UserError(f"{path}: {name} is {found}; Seedling carries {carried} (quantised weights are not read)")
    for view, block in zip(views, tensor.split([len(view) for view in views]), strict=True):
        view.copy_(block)


def _without_zero_bias(config: LMConfig, weights: dict[str, Tensor]) -> tuple[LMConfig, dict[str, Tensor]]:
    """In stock models a bias on q, k and v brings one on o with it: all zeros, it is none.

    Beside experts it stays, zeros or not: no stock architecture with experts has a bias on q, k and v alone.
    """
    biases = [name for name in weights if name.endswith("o_proj.bias")]
    if not biases or config.use_moe or any(weights[name].any() for name in biases):
        return config, weights
    kept = {name: tensor for name, tensor in weights.items() if name not in biases}
    return config.with_changes(attention_bias=False, qkv_bias=True), kept


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
