"""LoRA (arXiv:2106.09685): a frozen model learns by thin matrices beside its linear layers, y = Wx + s·B(Ax).

`attach_lora` puts them in place, `detach_lora` takes them off again, `merge_lora` folds them into the weights. Only
they are trained and stored: an adapter is a few hundred times smaller than its model, and many share one. A layer keeps
the names of its own parameters; what is added begins with `lora_`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from model.decoder import CausalLM
from model.errors import UserError
from model.head import LMHead
from model.moe import Experts, grouped_linear

EXPERTS, HEAD = "experts", "lm_head"
_STACKS = ("gate_up_proj", "down_proj")  # of the routed experts


@dataclass(frozen=True)
class LoRAConfig:
    """What an adapter is. Raises UserError for what cannot be."""

    targets: tuple[str, ...]  # linear layers by their last name; `experts` for all routed experts' matrices
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0  # of what the thin matrices read
    use_rslora: bool = False  # scale by 1/√rank, so that a larger rank does not learn more slowly (arXiv:2312.03732)
    use_dora: bool = False  # learn each row's length apart from its direction (arXiv:2402.09353)
    token_ids: tuple[int, ...] = ()  # new tokens, whose rows of embedding and head are trained whole

    def __post_init__(self) -> None:
        """Refuse values that cannot be."""
        for name, value, wanted in (
            ("rank", self.rank >= 1, "at least 1"),
            ("alpha", 0 < self.alpha < math.inf, "a number above 0"),
            ("dropout", 0 <= self.dropout < 1, "a share from 0 to below 1"),
        ):
            if not value:
                raise UserError(f"--lora_{name}: found {getattr(self, name)}, expected {wanted}")
        if not self.targets:
            raise UserError("--lora_targets: found none, expected names of linear layers")
        if self.use_dora and (without := [name for name in (EXPERTS, HEAD) if name in self.targets]):
            raise UserError(f"--use_dora: not for {without[0]}; name --lora_targets without it")

    @property
    def scale(self) -> float:
        """What B(Ax) is multiplied with."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a file."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; UserError for a missing or unknown key."""
        names = {each.name for each in fields(cls)}
        if names != values.keys():
            raise UserError(f"adapter: lacks or has too many of {', '.join(sorted(names ^ values.keys()))}")
        plain: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in values.items()}
        return cls(**plain)


# ---- the layers -----------------------------------------------------------------------------------------------


def _thin_matrix(like: Tensor, *shape: int) -> nn.Parameter:
    return nn.Parameter(like.new_zeros(shape))


def _wide(weight: Tensor) -> Tensor:
    """In float64, so that a merged weight is rounded once; on the CPU where a device has no float64."""
    return (weight.cpu() if weight.device.type == "mps" else weight).detach().double()


class LoRALinear(nn.Linear):
    """A linear layer of any shape with its addition. `weight` and `bias` are those of the layer it stands for."""

    def __init__(self, base: nn.Linear, config: LoRAConfig) -> None:
        nn.Module.__init__(self)  # not Linear's, which would make a weight
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias, self.scale = base.weight, base.bias, config.scale
        self.lora_dropout = nn.Dropout(config.dropout)
        self.lora_A = _thin_matrix(base.weight, config.rank, base.in_features)
        self.lora_B = _thin_matrix(base.weight, base.out_features, config.rank)
        self.lora_magnitude = nn.Parameter(base.weight.detach().norm(dim=1)) if config.use_dora else None

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] → [..., out_features]."""
        read = self.lora_dropout(input)
        added = nn.functional.linear(nn.functional.linear(read, self.lora_A) * self.scale, self.lora_B)
        result = nn.functional.linear(input, self.weight, self.bias)
        if self.lora_magnitude is None:
            return result + added
        # DoRA: row i of W + sBA is given the length that lora_magnitude[i] says. As in the paper (4.3) its own length
        # is a constant to the gradient. What dropout hides, it hides from the change of W's part too.
        gain = self.lora_magnitude / self._lengths()
        directed = nn.functional.linear(read, self.weight)
        return result + (gain - 1) * directed + gain * added

    @torch.no_grad()
    def _lengths(self) -> Tensor:
        """[out_features] of the rows of W + sBA."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return (self.weight + self.scale * self.lora_B @ self.lora_A).norm(dim=1)

    def plain(self) -> nn.Linear:
        """The layer without the addition."""
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        layer.weight, layer.bias = self.weight, self.bias
        return layer

    def merged(self) -> dict[str, Tensor]:
        """The weight of a plain layer that computes the same; summed in float64, to be rounded once."""
        whole = _wide(self.weight) + self.scale * _wide(self.lora_B) @ _wide(self.lora_A)
        if self.lora_magnitude is not None:
            whole = whole * (_wide(self.lora_magnitude) / whole.norm(dim=1))[:, None]
        return {"weight": whole}


class LoRAExperts(Experts):
    """Routed experts, each with thin matrices of its own."""

    def __init__(self, base: Experts, config: LoRAConfig) -> None:
        nn.Module.__init__(self)
        self.scale, self.lora_dropout = config.scale, nn.Dropout(config.dropout)
        for name in _STACKS:
            weight = cast(nn.Parameter, getattr(base, name))
            count, width_out, width_in = weight.shape
            setattr(self, name, weight)
            setattr(self, f"lora_A_{name}", _thin_matrix(weight, count, config.rank, width_in))
            setattr(self, f"lora_B_{name}", _thin_matrix(weight, count, width_out, config.rank))

    def product(self, name: str, tokens: Tensor, num_tokens: Tensor) -> Tensor:
        """`tokens` [total, in], sorted by expert, times each expert's own matrix of the stack."""
        thin = grouped_linear(self.lora_dropout(tokens), getattr(self, f"lora_A_{name}"), num_tokens) * self.scale
        added = grouped_linear(thin, getattr(self, f"lora_B_{name}"), num_tokens)
        return super().product(name, tokens, num_tokens) + added

    def plain(self) -> Experts:
        """The experts without the additions."""
        layer = Experts.__new__(Experts)
        nn.Module.__init__(layer)
        for name in _STACKS:
            setattr(layer, name, getattr(self, name))
        return layer

    def merged(self) -> dict[str, Tensor]:
        """The stacks of plain experts that compute the same."""
        return {
            name: _wide(getattr(self, name))
            + self.scale * _wide(getattr(self, f"lora_B_{name}")) @ _wide(getattr(self, f"lora_A_{name}"))
            for name in _STACKS
        }


class LoRAEmbedding(nn.Embedding):
    """An embedding of which the rows of new tokens are trained."""

    def __init__(self, base: nn.Embedding, config: LoRAConfig) -> None:
        nn.Module.__init__(self)
        # What torch's class reads besides the weight.
        self.num_embeddings, self.embedding_dim = base.num_embeddings, base.embedding_dim
        self.padding_idx, self.max_norm, self.norm_type = None, None, 2.0
        self.scale_grad_by_freq = self.sparse = False
        self.weight = base.weight
        self.lora_rows = nn.Parameter(base.weight.detach()[list(config.token_ids)].clone())
        place = torch.full((base.num_embeddings,), -1, dtype=torch.long, device=base.weight.device)
        self.token_ids = list(config.token_ids)
        place[self.token_ids] = torch.arange(len(self.token_ids), device=place.device)
        self.register_buffer("place", place, persistent=False)  # of each token's row in `lora_rows`, or −1
        self.place: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """[batch, seq] token ids → [batch, seq, dim]."""
        place = self.place[input]
        new = nn.functional.embedding(place.clamp(min=0), self.lora_rows)
        return torch.where((place >= 0)[..., None], new, super().forward(input))

    def plain(self) -> nn.Embedding:
        """The embedding with the rows it had."""
        layer = nn.Embedding(self.num_embeddings, self.embedding_dim, device="meta")
        layer.weight = self.weight
        return layer

    def merged(self) -> dict[str, Tensor]:
        """The weight of a plain embedding."""
        return {"weight": _with_rows(self.weight, self.token_ids, self.lora_rows)}


class LoRAHead(LMHead):
    """An output head with its addition, with rows of new tokens that are trained, or with both."""

    def __init__(self, base: LMHead, config: LoRAConfig, rows: nn.Parameter | None) -> None:
        nn.Module.__init__(self)
        self.weight, self.scale = base.weight, config.scale
        self.lora_dropout = nn.Dropout(config.dropout)
        self.token_ids = list(config.token_ids)
        self.has_addition = HEAD in config.targets
        if self.has_addition:
            self.lora_A = _thin_matrix(base.weight, config.rank, base.weight.shape[1])
            self.lora_B = _thin_matrix(base.weight, base.weight.shape[0], config.rank)
        if self.token_ids:  # a tied head has the embedding's rows
            self.lora_rows = nn.Parameter(base.weight.detach()[self.token_ids].clone()) if rows is None else rows

    def product(self, hidden_states: Tensor) -> Tensor:
        """Logits in the dtype of the product."""
        logits = super().product(hidden_states)
        if self.has_addition:
            thin = nn.functional.linear(self.lora_dropout(hidden_states), self.lora_A) * self.scale
            logits = logits + nn.functional.linear(thin, self.lora_B)
        if self.token_ids:
            places = torch.tensor(self.token_ids, device=logits.device)
            logits = logits.index_copy(-1, places, nn.functional.linear(hidden_states, self.lora_rows))
        return logits

    def plain(self) -> LMHead:
        """The head without the addition, with the rows it had."""
        layer = LMHead(self.weight.shape[1], 0)
        layer.weight = self.weight
        return layer

    def merged(self) -> dict[str, Tensor]:
        """The weight of a plain head."""
        whole = _wide(self.weight)
        if self.has_addition:
            whole = whole + self.scale * _wide(self.lora_B) @ _wide(self.lora_A)
        return {"weight": _with_rows(whole, self.token_ids, self.lora_rows) if self.token_ids else whole}


AdapterLayer = LoRALinear | LoRAExperts | LoRAEmbedding | LoRAHead


def _with_rows(weight: Tensor, token_ids: list[int], rows: Tensor) -> Tensor:
    places = torch.tensor(token_ids, device=weight.device)
    return weight.detach().index_copy(0, places, rows.detach().to(weight.device).to(weight.dtype))


# ---- putting them in place ------------------------------------------------------------------------------------


def possible_targets(model: CausalLM) -> list[str]:
    """The names that `LoRAConfig.targets` may have for this model; the default is all of them but the head."""
    names = {name.rpartition(".")[2]: None for name, module in _linear_layers(model) if isinstance(module, nn.Linear)}
    experts = [EXPERTS] if any(isinstance(module, Experts) for _, module in _linear_layers(model)) else []
    return [*names, *experts, *([] if model.config.tie_embeddings else [HEAD])]


def default_targets(model: CausalLM) -> tuple[str, ...]:
    """Attention and feed-forward, experts included."""
    return tuple(name for name in possible_targets(model) if name != HEAD)


def _linear_layers(model: CausalLM) -> Iterator[tuple[str, nn.Module]]:
    """What may get an addition inside the layers. The router is left alone: it decides, and is no product."""
    for name, module in model.named_modules():
        if isinstance(module, Experts) or (isinstance(module, nn.Linear) and not name.endswith("router")):
            yield name, module


def attach_lora(model: CausalLM, config: LoRAConfig, seed: int = 0) -> None:
    """Freeze the model and put an adapter on it that does not change what it computes yet (B is zero).

    A is uniform in ±1/√in_features, drawn from `seed` alone.

    Raises:
        UserError: this model has no layer of a target's name.
    """
    assert model.adapter is None, "one adapter at a time"
    possible = possible_targets(model)
    if wrong := [name for name in config.targets if name not in possible]:
        tied = "; its head is tied to the embedding" if HEAD in wrong else ""
        raise UserError(f"--lora_targets: found {wrong[0]!r}, this model has {', '.join(possible)}{tied}")
    model.adapter = config
    model.requires_grad_(False)
    for name, module in list(_linear_layers(model)):
        if isinstance(module, Experts) and EXPERTS in config.targets:
            _replace(model, name, LoRAExperts(module, config))
        elif isinstance(module, nn.Linear) and name.rpartition(".")[2] in config.targets:
            _replace(model, name, LoRALinear(module, config))
    if config.token_ids:
        _replace(model, "model.embed_tokens", LoRAEmbedding(model.model.embed_tokens, config))
    if config.token_ids or HEAD in config.targets:
        is_shared = bool(config.token_ids) and model.config.tie_embeddings
        rows = cast(LoRAEmbedding, model.model.embed_tokens).lora_rows if is_shared else None
        _replace(model, "lm_head", LoRAHead(model.lm_head, config, rows))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapter_parameters(model):
        if ".lora_A" in name:
            bound = 1 / math.sqrt(parameter.shape[-1])
            drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            parameter.data.copy_(drawn)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    # A new module is in training mode: in a model that is not, its dropout would go on.
    module.train(model.get_submodule(name).training)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def adapter_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The adapter's parameters, by name; those that a tied head shares come once."""
    return [each for each in model.named_parameters() if each[0].rpartition(".")[2].startswith("lora_")]


@torch.no_grad()
def load_lora(model: CausalLM, config: LoRAConfig, weights: Mapping[str, Tensor]) -> None:
    """Put a stored adapter on a model. UserError, and the model is as before: it belongs to another architecture."""
    attach_lora(model, config)
    parameters = dict(adapter_parameters(model))
    try:
        _check_fit(parameters, weights)
    except UserError:
        detach_lora(model)
        raise
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])


def _check_fit(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    if wrong := sorted(parameters.keys() ^ weights.keys()):
        what = "lacks" if wrong[0] in parameters else "has"
        raise UserError(f"the adapter {what} {wrong[0]}; it belongs to another architecture")
    for name, parameter in parameters.items():
        if parameter.shape != weights[name].shape:
            found, wanted = list(weights[name].shape), list(parameter.shape)
            raise UserError(f"the adapter's {name} has shape {found}, the model needs {wanted}; it is another's")


def _take_off(model: CausalLM) -> Iterator[tuple[str, AdapterLayer, nn.Module]]:
    """Put a plain layer into the place of each of the adapter's; yields its name, what was there, and what is now.

    One at a time, and none is kept here: what is made of a layer can go before the next one comes.
    """
    for name in [name for name, module in model.named_modules() if isinstance(module, AdapterLayer)]:
        layer = cast(AdapterLayer, model.get_submodule(name))
        plain = layer.plain()
        _replace(model, name, plain)
        yield name, layer, plain
    model.adapter = None
    model.requires_grad_(True)


def detach_lora(model: CausalLM) -> None:
    """Take the adapter off: the model is what it was, bit for bit."""
    for _ in _take_off(model):
        pass


@torch.no_grad()
def merge_lora(
    model: CausalLM, unrounded: Mapping[str, Tensor] | None = None, before: dict[str, Tensor] | None = None
) -> None:
    """Fold the adapter into the weights: a plain model that computes the same.

    Args:
        model: changed in place, a layer at a time, so that this takes a layer's memory and not a model's.
        unrounded: parameters of model and adapter by name, where the model's own have been rounded to 16 bits: summed
            from these, the weights are those of an adapter that was merged first and rounded then.
        before: gets the weights that are changed as they were, by name, for `unmerge_lora`.
    """
    done = set()
    for name, layer, plain in _take_off(model):
        if unrounded is not None:
            _take(layer, name, unrounded)
        for key, weight in layer.merged().items():
            parameter = plain.get_parameter(key)
            if parameter in done:  # a tied head is the embedding
                continue
            done.add(parameter)
            if before is not None:
                before[f"{name}.{key}"] = parameter.detach().clone()
            own = cast(Tensor, getattr(layer, key))
            parameter.copy_(weight.to(own.dtype).to(parameter.dtype))


def _take(layer: nn.Module, name: str, values: Mapping[str, Tensor]) -> None:
    """Give a layer's parameters the values of those names, in float32."""
    for key, parameter in list(layer.named_parameters(recurse=False)):
        if f"{name}.{key}" in values:  # not what a tied head has from the embedding
            value = values[f"{name}.{key}"].to(parameter.device, torch.float32)
            setattr(layer, key, nn.Parameter(value, requires_grad=False))


@torch.no_grad()
def unmerge_lora(model: CausalLM, before: Mapping[str, Tensor]) -> None:
    """Give a merged model its own weights back, bit for bit."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, weight in before.items():
        parameters[name].copy_(weight)
