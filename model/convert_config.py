"""The config.json of a stock architecture, read as our `LMConfig`: exactly, or not at all.

What a stock model computes and ours cannot is refused with the key's name. What a file leaves out means what
transformers' own configuration class says it means, so that no default is written down twice.
"""

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.config import ROPE_SCALING_TYPES, LMConfig
from model.errors import UserError
from model.files import read_json

# The stock architectures that compute what our decoder computes, and the class of transformers that does.
STOCK_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "granitemoeshared": "GraniteMoeSharedForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
# Our name of a value → theirs, where nothing else differs.
STOCK_KEYS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "vocab_size": "vocab_size",
    "hidden_dim": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "max_seq_len": "max_position_embeddings",
    "tie_embeddings": "tie_word_embeddings",
}
# Without these a file says nothing about its model: the classes' defaults are some large model's numbers.
_REQUIRED = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("max_position_embeddings", "rms_norm_eps"),
)
_REQUIRED_BY = {
    "granitemoeshared": ("num_local_experts", "num_experts_per_tok", "shared_intermediate_size"),
    "qwen3_moe": ("moe_intermediate_size", "num_experts_per_tok", "norm_topk_prob"),
}
# Keys that may have one value only: ours is fixed.
_FIXED: dict[str, Any] = {"hidden_act": "silu"}
_FIXED_BY: dict[str, dict[str, Any]] = {
    "granitemoeshared": {"embedding_multiplier": 1, "residual_multiplier": 1, "logits_scaling": 1},
    "qwen3_moe": {"mlp_only_layers": [], "decoder_sparse_step": 1},
}
# The architectures whose layers may each have their own kind of attention.
_KINDS_BY_LAYER = ("qwen2", "qwen3")
_NO_WINDOW = ("llama", "granitemoeshared")
_ROPE_TYPES = ("default", *ROPE_SCALING_TYPES)


def read_stock_config(path: str | Path) -> tuple[dict[str, Any], LMConfig]:
    """Read a config.json: what it holds, and the architecture that it describes.

    Bias on q, k, v and o is reported as `attention_bias`; the weights tell whether the one on o is only zeros.
    UserError names the file, the key, what was found, and what Seedling carries.
    """
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(raw).__name__}")
    try:
        return raw, _to_lm_config(raw)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _to_lm_config(raw: Mapping[str, Any]) -> LMConfig:
    kind = _model_type(raw)
    _check_keys(kind, raw)
    stock = _stock_config(kind, raw)
    for key, carried in {**_FIXED, **_FIXED_BY.get(kind, {})}.items():
        if getattr(stock, key) != carried:
            raise _not_carried(key, getattr(stock, key), json.dumps(carried))
    theta, scaling = _rope(raw, stock)
    # As the architectures do it, rounding down; no heads at all are for LMConfig to refuse.
    head_dim = getattr(stock, "head_dim", None) or stock.hidden_size // (stock.num_attention_heads or 1)
    values = {ours: getattr(stock, theirs) for ours, theirs in STOCK_KEYS.items()} | _experts(kind, stock)
    values |= {"head_dim": head_dim, "rope_theta": theta, "rope_scaling": scaling}
    values["sliding_window"] = _window(kind, raw, stock)
    values["qk_norm"] = kind in ("qwen3", "qwen3_moe")
    values["qkv_bias"] = kind == "qwen2"
    # mistral and qwen2 have no such key: transformers would not look at one.
    values["attention_bias"] = kind not in ("mistral", "qwen2") and stock.attention_bias
    values["mlp_bias"] = kind == "llama" and stock.mlp_bias
    try:
        config = LMConfig(**values)
    except UserError as error:  # it begins with our name of the value
        name, colon, rest = str(error).partition(":")
        raise UserError(f"{STOCK_KEYS.get(name, name)}{colon}{rest}") from error
    if kind == "granitemoeshared":
        _check_attention_multiplier(stock.attention_multiplier, head_dim)
    return config


def _check_keys(kind: str, raw: Mapping[str, Any]) -> None:
    required = (*_REQUIRED, *_REQUIRED_BY.get(kind, ()))
    if missing := [key for key in required if raw.get(key) is None]:
        raise UserError(f"lacks {', '.join(missing)}, which a {kind} model is described with")
    if raw.get("quantization_config") is not None:
        method = _mapping(raw, "quantization_config").get("quant_method")
        raise _not_carried("quantization_config", method, "unquantised weights; use the original model's folder")


def _model_type(raw: Mapping[str, Any]) -> str:
    """Which of the stock architectures it is; code that comes with a folder is never run."""
    kind, carried = raw.get("model_type"), ", ".join(STOCK_CLASSES)
    own_code = "its own Python code (auto_map) is not run; " if raw.get("auto_map") else ""
    if not isinstance(kind, str) or kind not in STOCK_CLASSES:
        raise UserError(f"model_type: found {json.dumps(kind)}; {own_code}Seedling carries {carried}")
    classes = raw.get("architectures") or [STOCK_CLASSES[kind]]
    if classes != [STOCK_CLASSES[kind]]:
        found = json.dumps(classes)
        raise UserError(f"architectures: found {found}; {own_code}for {kind} Seedling carries {STOCK_CLASSES[kind]}")
    return kind


def _stock_config(kind: str, raw: Mapping[str, Any]) -> Any:
    """transformers' configuration object: what the file says, and the architecture's defaults for the rest."""
    # Here, because transformers takes a while to load.
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    values = copy.deepcopy(dict(raw))  # the class changes nested values
    # transformers would forget `rope_parameters` where a file has the older `rope_scaling` as well.
    values["rope_parameters"] = _rope_keys(raw) or None
    values.pop("rope_scaling", None)
    try:
        return CONFIG_MAPPING[kind](**values)
    except (StrictDataclassError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"is no {kind} configuration that transformers reads ({reason})") from error


def _rope_keys(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of RoPE, as transformers 5 spells it (`rope_parameters`) or 4 (`rope_scaling`), or both.

    Null is as good as absent.
    """
    found: dict[str, Any] = {}
    for spelling in ("rope_parameters", "rope_scaling"):
        for key, value in _mapping(raw, spelling).items():
            key = "rope_type" if key == "type" else key  # the name before 4.43
            if value is None:
                continue
            if key == "rope_type" and value not in _ROPE_TYPES:
                raise _not_carried(f"{spelling}.{key}", value, ", ".join(_ROPE_TYPES))
            if isinstance(value, dict):
                raise _not_carried(f"{spelling}.{key}", value, "one RoPE for all layers")
            if found.setdefault(key, value) != value:
                both = f"{json.dumps(found[key])} and {json.dumps(value)}"
                raise UserError(f"{spelling}.{key}: the file says both {both}; keep one")
    theta = raw.get("rope_theta")
    if theta is not None and found.get("rope_theta", theta) != theta:
        both = f"{json.dumps(theta)} and, in rope_parameters, {json.dumps(found['rope_theta'])}"
        raise UserError(f"rope_theta: the file says both {both}; keep one")
    return found


def _rope(raw: Mapping[str, Any], stock: Any) -> tuple[float, dict[str, Any] | None]:
    """Base and scaling of the rotary embedding."""
    parameters = {key: value for key, value in stock.rope_parameters.items() if value is not None}
    parameters.pop("type", None)
    theta, kind = parameters.pop("rope_theta"), parameters.pop("rope_type")
    spelling = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    if (share := parameters.pop("partial_rotary_factor", 1)) != 1:
        raise _not_carried("partial_rotary_factor", share, "RoPE on whole heads (1.0)")
    if kind == "yarn" and parameters.get("truncate") is True:
        del parameters["truncate"]  # the default, and what ours does
    if kind == "default" and parameters:
        raise UserError(f"{spelling}: rope_type default does not know {', '.join(sorted(parameters))}; remove it")
    # A whole number may stand for a float.
    theta = float(theta) if isinstance(theta, int) and not isinstance(theta, bool) else theta
    return theta, None if kind == "default" else {"rope_type": kind, **parameters}


def _window(kind: str, raw: Mapping[str, Any], stock: Any) -> int | None:
    """How many tokens each token sees, in all layers alike; None means all."""
    if kind in _NO_WINDOW:
        if raw.get("sliding_window") is not None and raw.get("use_sliding_window") is not False:
            carried = f"no window in a {kind} (transformers looks at none there: remove the key if that is meant)"
            raise _not_carried("sliding_window", raw["sliding_window"], carried)
        window = None
    else:
        window = stock.sliding_window
    layers = set(getattr(stock, "layer_types", None) or [])
    if kind in _KINDS_BY_LAYER and layers == {"full_attention"}:
        return None
    if layers - {"full_attention" if window is None else "sliding_attention"}:
        key = "layer_types" if raw.get("layer_types") else "max_window_layers"
        carried = f"one kind of attention for all layers (here sliding_window is {json.dumps(window)})"
        raise _not_carried(key, raw.get(key, stock.layer_types), carried)
    return window


def _check_attention_multiplier(found: float | None, head_dim: int) -> None:
    """granitemoeshared multiplies queries and keys with a number of its own; ours is 1 / √head_dim."""
    carried = head_dim**-0.5
    if found is None or not math.isclose(found, carried, rel_tol=1e-6):
        raise _not_carried("attention_multiplier", found, f"head_dim ** -0.5, here {carried}")


def _experts(kind: str, stock: Any) -> dict[str, Any]:
    """The values of `LMConfig` that only a mixture of experts has."""
    if kind == "granitemoeshared":
        width, shared_width, num_experts = stock.intermediate_size, stock.shared_intermediate_size, "num_local_experts"
        if width < 1 or shared_width % width:
            carried = f"shared experts as wide as the routed ones (a multiple of intermediate_size {width})"
            raise _not_carried("shared_intermediate_size", shared_width, carried)
        num_shared, norm_topk_prob = shared_width // width, True  # its softmax is over the chosen experts alone
    elif kind == "qwen3_moe":
        # transformers 5 writes `num_local_experts`, 4 wrote `num_experts`; its class knows both.
        width, num_shared, num_experts = stock.moe_intermediate_size, 0, "num_experts"
        norm_topk_prob = stock.norm_topk_prob
    else:
        return {}
    return {
        "use_moe": True,
        "n_routed_experts": getattr(stock, num_experts),
        "n_shared_experts": num_shared,
        "num_experts_per_tok": stock.num_experts_per_tok,
        "moe_hidden_dim": width,
        "norm_topk_prob": norm_topk_prob,
        "aux_loss_alpha": float(stock.router_aux_loss_coef or 0.0),
    }


def _mapping(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key) or {}
    if not isinstance(value, dict):
        raise UserError(f"{key}: found {json.dumps(value)}, expected a JSON object")
    return value


def _not_carried(key: str, found: Any, carried: str) -> UserError:
    return UserError(f"{key}: found {json.dumps(found)}; Seedling carries {carried}")
