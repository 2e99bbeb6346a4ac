"""Numbers that tell how a model is doing, taken from the model itself: see trainer/stability.py for what they mean.

They cost little: the ratio of an update to the weights looks at a slice of each matrix, and the layers are measured
in one forward pass of a row or two, at logged steps only.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from model.decoder import Attention, AttentionInputs, CausalLM
from model.rope import rotate

SAMPLE_SIZE = 16_384  # elements looked at of each matrix
_QUERIES_AT_ONCE = 256  # bounds the memory of the attention logits: [batch, n_heads, this, seq]


class UpdateRatio:
    """How long an update is compared with the weights, ‖Δw‖ / ‖w‖, over a slice of every trained matrix.

    A healthy update changes the weights by about a thousandth. Call `before` and `after` around the update.
    """

    def __init__(self, model: nn.Module) -> None:
        # Gains and biases are few and start at 1 or 0: they would say little.
        self._matrices = [each for each in model.parameters() if each.requires_grad and each.ndim >= 2]
        # DeepSpeed's stage 3 spreads each parameter's parts about and leaves an empty tensor in its place. Small ones
        # are whole between some steps and not between others.
        self._is_partitioned = any(hasattr(each, "ds_id") for each in model.parameters())
        self._before: list[Tensor] = []

    def before(self) -> None:
        """Remember the weights' slices."""
        if not self._is_partitioned:
            self._before = [_middle(each).clone() for each in self._matrices]

    def after(self) -> Tensor | None:
        """The ratio, a scalar on the model's device; None where this process does not hold the whole weights."""
        if self._is_partitioned or not self._matrices:
            return None
        assert self._before, "call before() first"
        changes = [_middle(now) - before for now, before in zip(self._matrices, self._before, strict=True)]
        changed = torch.nn.utils.get_total_norm(changes)
        length = torch.nn.utils.get_total_norm(self._before)
        self._before = []
        return changed / length.clamp(min=torch.finfo(length.dtype).tiny)


def _middle(parameter: Tensor) -> Tensor:
    """A slice of the flattened parameter, in at least float32. A table's middle rows are ordinary tokens."""
    flat = parameter.detach().flatten()
    size = min(SAMPLE_SIZE, len(flat))
    start = (len(flat) - size) // 2
    return _wide(flat[start : start + size])


class Layers(NamedTuple):
    """What one row looks like inside the model."""

    hidden_variance: Tensor  # [n_layers] of each layer's output, over real positions and channels
    attention_max: Tensor  # [n_layers] largest |q·k / √head_dim| among pairs of which one sees the other


@torch.no_grad()
def measure_layers(
    model: CausalLM,
    batch: Mapping[str, Tensor],
    document_mask: bool,
    autocast: AbstractContextManager | None = None,
) -> Layers:
    """Read a row or two without dropout and look at every layer. The model, its mode and the random state stay.

    Args:
        model: the plain model, not what DDP or DeepSpeed wrap around it.
        batch: `input_ids`, `position_ids` and `segment_ids`, each [batch, seq], as a packed set gives them.
        document_mask: attention and positions restart at each segment.
        autocast: the context of the training's forward pass, entered here.
    """
    is_real = batch["segment_ids"] >= 0
    variances: list[Tensor] = []
    largest: list[Tensor] = []

    def see_layer(layer: nn.Module, args: Any, output: Any) -> None:
        variances.append(_wide(output[0][is_real]).var(correction=0))

    def see_attention(attention: nn.Module, args: Any, keywords: Any) -> None:
        largest.append(_largest_logit(cast(Attention, attention), is_real, *args, **keywords))

    with evaluating(model), _eagerly(), autocast or nullcontext(), _hooked(model, see_layer, see_attention):
        # Not model(…): what has been compiled as a whole would not see the hooks.
        model.forward(
            batch["input_ids"],
            position_ids=batch["position_ids"] if document_mask else None,
            segment_ids=batch["segment_ids"],
            document_mask=document_mask,
            logits="none",
        )
    return Layers(torch.stack(variances), torch.stack(largest))


def _largest_logit(attention: Attention, is_real: Tensor, hidden_states: Tensor, inputs: AttentionInputs) -> Tensor:
    """max |q·k / √head_dim| over the pairs that `attention` looks at, padding left out; 0 where there are none.

    The fused kernel that `Attention.forward` calls does not give its logits away, so they are computed once more.
    """
    batch, seq, _ = hidden_states.shape
    shape = (batch, seq, -1, attention.head_dim)
    queries = attention.q_norm(attention.q_proj(hidden_states).view(shape)).transpose(1, 2)
    keys = attention.k_norm(attention.k_proj(hidden_states).view(shape)).transpose(1, 2)
    queries, keys = _wide(rotate(queries, inputs.cos, inputs.sin)), _wide(rotate(keys, inputs.cos, inputs.sin))
    keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)  # [batch, n_heads, seq, head_dim]
    place = torch.arange(seq, device=hidden_states.device)
    largest = queries.new_zeros(())
    with torch.autocast(hidden_states.device.type, enabled=False):
        for start in range(0, seq, _QUERIES_AT_ONCE):
            part = slice(start, start + _QUERIES_AT_ONCE)
            logits = queries[:, :, part] @ keys.mT / math.sqrt(attention.head_dim)
            visible = place[part, None] >= place if inputs.mask is None else inputs.mask[:, :, part]
            visible = visible & is_real[:, None, part, None]
            largest = torch.maximum(largest, (logits.abs() * visible).amax())
    return largest


def expert_shares(load: Tensor) -> Tensor:
    """Tokens sent to each expert [n_layers, n_experts] as shares, which sum to 1 in each layer."""
    wide = _wide(load)
    return wide / wide.sum(dim=-1, keepdim=True).clamp(min=1)


@contextmanager
def _hooked(model: CausalLM, see_layer: Callable[..., None], see_attention: Callable[..., None]) -> Iterator[None]:
    handles = []
    try:
        for layer in model.model.layers:
            handles.append(layer.register_forward_hook(see_layer))
            attention = cast(Attention, layer.self_attn)
            handles.append(attention.register_forward_pre_hook(see_attention, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module is in the mode it was in, which need not be the same for all."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _eagerly() -> AbstractContextManager:
    """No compiled code inside: it would be compiled again for the hooks. Nothing to do where nothing is compiled."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _wide(values: Tensor) -> Tensor:
    """In at least float32: sums and squares of bf16 values would be rounded away."""
    return values if values.dtype == torch.float64 else values.float()
