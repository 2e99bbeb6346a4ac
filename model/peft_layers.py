"""Our adapters' tensors and PEFT's, layer by layer: the names and shapes of one in those of the other.

PEFT puts its matrices beside the layers of the stock architecture that carries the base, so its names are theirs. Two
layers of ours are others there: the routed experts are stacks of parameters, whose matrices PEFT keeps flat, and
granitemoeshared computes the shared experts' gate_proj and up_proj as one layer. Names here are without PEFT's prefix.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from model.config import LMConfig
from model.errors import UserError

SHARED_IN, SHARED_OUT = "shared_mlp.input_linear", "shared_mlp.output_linear"  # granitemoeshared's shared experts
_IN_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_SAME_NAME = re.compile(r"self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj")
# Where the matrices of a stack of experts lie. PEFT wraps their module once for each parameter, the first innermost.
# The last two are granitemoeshared's names before transformers renamed them.
_STACKS = {
    "mlp.experts.base_layer": ("gate_up_proj", "mlp.experts.gate_up_proj"),
    "mlp.experts": ("down_proj", "mlp.experts.down_proj"),
    "block_sparse_moe.experts.base_layer": ("gate_up_proj", "block_sparse_moe.experts.gate_up_proj"),
    "block_sparse_moe.experts": ("down_proj", "block_sparse_moe.experts.down_proj"),
    "block_sparse_moe.input_linear": ("gate_up_proj", "block_sparse_moe.input_linear.weight"),
    "block_sparse_moe.output_linear": ("down_proj", "block_sparse_moe.output_linear.weight"),
}


class PeftLayer(NamedTuple):
    """What one layer has learned, in PEFT's shapes."""

    lora_A: Tensor  # [rank, in]; of a stack of experts [experts · rank, in], one expert after the other
    lora_B: Tensor  # [out, rank]; of a stack of experts [out, rank · experts], each row expert by expert within a rank
    magnitude: Tensor | None = None  # [out], DoRA's


def routed_block(base: LMConfig) -> str:
    """What the module of the routed experts is called in the architecture that carries the base."""
    return "mlp" if base.qk_norm else "block_sparse_moe"  # qwen3_moe, granitemoeshared


# ---- ours to PEFT's -------------------------------------------------------------------------------------------


def to_peft_layers(weights: Mapping[str, Tensor], base: LMConfig) -> dict[str, PeftLayer]:
    """All of an adapter's tensors but the rows of new tokens, by the names of PEFT's layers."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        layer, _, part = name.rpartition(".lora_")
        if part != "rows":
            parts.setdefault(layer, {})[part] = tensor
    layers = {}
    for name, own in parts.items():
        parent, _, last = name.rpartition(".mlp.")
        if last == "experts":
            module = f"{parent}.{routed_block(base)}.experts"
            layers[f"{module}.base_layer"] = _flat(own["A_gate_up_proj"], own["B_gate_up_proj"])
            layers[module] = _flat(own["A_down_proj"], own["B_down_proj"])
        elif last == "shared_experts.down_proj":
            layers[f"{parent}.{SHARED_OUT}"] = _layer_of(own)
        elif last.startswith("shared_experts."):
            halves = [parts.get(f"{parent}.mlp.shared_experts.{half}") for half in ("gate_proj", "up_proj")]
            layers[f"{parent}.{SHARED_IN}"] = _joined(*(None if half is None else _layer_of(half) for half in halves))
        else:
            layers[name] = _layer_of(own)
    return layers


def _layer_of(own: Mapping[str, Tensor]) -> PeftLayer:
    return PeftLayer(own["A"], own["B"], own.get("magnitude"))


def _flat(thin_a: Tensor, thin_b: Tensor) -> PeftLayer:
    """[experts, rank, in] and [experts, out, rank] of a stack."""
    return PeftLayer(thin_a.flatten(0, 1), thin_b.permute(1, 2, 0).flatten(1))


def _joined(gate: PeftLayer | None, up: PeftLayer | None) -> PeftLayer:
    """The additions to two layers with one input as the addition to both together."""
    if gate is not None and up is not None:
        magnitude = None
        if gate.magnitude is not None and up.magnitude is not None:
            magnitude = torch.cat((gate.magnitude, up.magnitude))
        return PeftLayer(torch.cat((gate.lora_A, up.lora_A)), torch.block_diag(gate.lora_B, up.lora_B), magnitude)
    if gate is not None:
        return PeftLayer(gate.lora_A, torch.cat((gate.lora_B, torch.zeros_like(gate.lora_B))))
    assert up is not None
    return PeftLayer(up.lora_A, torch.cat((torch.zeros_like(up.lora_B), up.lora_B)))


# ---- PEFT's to ours -------------------------------------------------------------------------------------------


def pattern_key(name: str) -> str:
    """What PEFT matches rank_pattern and alpha_pattern with: a layer's name, or its parameter's."""
    found = _IN_LAYER.fullmatch(name)
    if found is None or found[2] not in _STACKS:
        return name
    return f"model.layers.{found[1]}.{_STACKS[found[2]][1]}"


def from_peft_layers(layers: Mapping[str, PeftLayer], rank: int, use_dora: bool) -> dict[str, Tensor]:
    """The inverse of `to_peft_layers`, of any adapter that PEFT has made.

    Args:
        layers: its layers by name.
        rank: of each addition; twice that where two of ours were joined.
        use_dora: whether each layer must have its magnitudes.

    Raises:
        UserError: a layer that ours have no addition to, shapes that cannot be, or not the same in all layers.
    """
    weights: dict[str, Tensor] = {}
    shared: dict[str, PeftLayer] = {}
    for name, layer in layers.items():
        if (layer.magnitude is not None) != use_dora:
            raise UserError(f"{name} {'lacks' if use_dora else 'has'} a lora_magnitude_vector, use_dora is {use_dora}")
        place = _IN_LAYER.fullmatch(name)
        number, last = (place[1], place[2]) if place else ("", name)
        start = f"model.layers.{number}."
        if last in _STACKS:
            weights |= _stack_of(f"{start}mlp.experts.lora", _STACKS[last][0], name, layer, rank)
        elif last == SHARED_IN:
            shared[f"{start}mlp.shared_experts."] = layer
        elif last == SHARED_OUT:
            weights |= _linear_of(f"{start}mlp.shared_experts.down_proj", name, layer, rank)
        elif name == "lm_head" or (place and _SAME_NAME.fullmatch(last)):
            weights |= _linear_of(name, name, layer, rank)
        else:
            raise UserError(f"{name} is no layer that ours have an addition to; train without it")
    weights |= _split(shared, rank)
    _check_all_alike(weights)
    return weights


def _linear_of(own_name: str, name: str, layer: PeftLayer, rank: int) -> dict[str, Tensor]:
    _check_rank(name, layer, rank)
    found = {f"{own_name}.lora_A": layer.lora_A, f"{own_name}.lora_B": layer.lora_B}
    return found if layer.magnitude is None else {**found, f"{own_name}.lora_magnitude": layer.magnitude}


def _stack_of(start: str, stack: str, name: str, layer: PeftLayer, rank: int) -> dict[str, Tensor]:
    num_experts = max(1, len(layer.lora_A) // rank)
    _check_rank(name, layer, rank * num_experts)
    return {
        f"{start}_A_{stack}": layer.lora_A.unflatten(0, (num_experts, rank)),
        f"{start}_B_{stack}": layer.lora_B.unflatten(1, (rank, num_experts)).permute(2, 0, 1),
    }


def _check_rank(name: str, layer: PeftLayer, rank: int) -> None:
    shapes = [list(layer.lora_A.shape), list(layer.lora_B.shape)]
    if [len(shape) for shape in shapes] != [2, 2] or shapes[0][0] != rank or shapes[1][1] != rank:
        raise UserError(f"{name} has lora_A of shape {shapes[0]} and lora_B of {shapes[1]}, expected the rank {rank}")


def _split(shared: Mapping[str, PeftLayer], rank: int) -> dict[str, Tensor]:
    """Additions to the shared experts' gate_proj and up_proj together as one to each.

    Two side by side, of twice the rank, come apart as they were. Any other has its rows divided: both read by the same
    lora_A then, and what adds nothing anywhere is left away.
    """
    halves: dict[str, dict[str, PeftLayer]] = {"gate_proj": {}, "up_proj": {}}
    for start, layer in shared.items():
        is_double = len(layer.lora_A) == 2 * rank
        _check_rank(f"{start}{SHARED_IN}", layer, 2 * rank if is_double else rank)
        gate, up = layer.lora_B.chunk(2)
        if is_double and (gate[:, rank:].any() or up[:, :rank].any()):
            raise UserError(f"{SHARED_IN} has a rank of {2 * rank} that is not two of {rank} side by side")
        read = layer.lora_A.chunk(2) if is_double else (layer.lora_A, layer.lora_A.clone())
        written = (gate[:, :rank], up[:, rank:]) if is_double else (gate, up)
        magnitudes = (None, None) if layer.magnitude is None else layer.magnitude.chunk(2)
        for half, thin_a, thin_b, magnitude in zip(halves, read, written, magnitudes, strict=True):
            halves[half][start] = PeftLayer(thin_a, thin_b, magnitude)
    if not any(len(layer.lora_A) == 2 * rank or layer.magnitude is not None for layer in shared.values()):
        adding = {half: layers for half, layers in halves.items() if any(each.lora_B.any() for each in layers.values())}
        halves = adding or halves
    weights: dict[str, Tensor] = {}
    for half, layers in halves.items():
        for start, layer in layers.items():
            weights |= _linear_of(f"{start}{half}", f"{start}{half}", layer, rank)
    return weights


def num_layers_of(weights: Mapping[str, Tensor]) -> int:
    """The number of layers that an adapter of ours has additions in; 0 where only its head has one."""
    return max((int(place[1]) + 1 for name in weights if (place := _IN_LAYER.fullmatch(name))), default=0)


def _check_all_alike(weights: Mapping[str, Tensor]) -> None:
    """An adapter of ours has the same additions in all layers."""
    layers_with: dict[str, set[int]] = {}
    for name in weights:
        if place := _IN_LAYER.fullmatch(name):
            layers_with.setdefault(place[2], set()).add(int(place[1]))
    everywhere = set(range(num_layers_of(weights)))
    for part, numbers in layers_with.items():
        if missing := sorted(everywhere - numbers):
            target = part.partition(".lora_")[0]
            raise UserError(f"layer {missing[0]} has no addition to {target}, others have; train it on all layers")
    stacks = [stack for stack in ("gate_up_proj", "down_proj") if f"mlp.experts.lora_A_{stack}" in layers_with]
    if len(stacks) == 1:
        raise UserError(f"only {stacks[0]} of the experts has an addition; train with both in target_parameters")
