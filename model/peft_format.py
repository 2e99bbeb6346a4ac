"""An adapter in PEFT's form, written and read: a folder of adapter_config.json and adapter_model.safetensors."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from model.checkpoint import Checkpoint, weights_of
from model.config import LMConfig
from model.errors import UserError
from model.files import atomic_folder, read_json
from model.loading import widened
from model.lora import EXPERTS, HEAD, LoRAConfig, load_lora
from model.peft_layers import (
    SHARED_IN,
    SHARED_OUT,
    PeftLayer,
    from_peft_layers,
    num_layers_of,
    pattern_key,
    routed_block,
    to_peft_layers,
)
from model.tokenizer import ChatTokenizer

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_EMBEDDING = "model.embed_tokens"
_ROWS = "token_adapter.trainable_tokens_delta"  # despite its name whole rows, not what is added to them
_MERGE = "merge it with PEFT's merge_and_unload and import the whole model"
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", EXPERTS, HEAD)

# What an adapter_config.json may say besides what is read below. These change what an adapter computes:
_NOT_OURS = {
    *("alora_invocation_tokens", "arrow_config", "fan_in_fan_out", "kasa_config", "layer_replication", "lora_bias"),
    *("megatron_config", "modules_to_save", "monteclora_config", "use_bdlora", "use_qalora"),
}
# These say how it was trained, or choose layers, which the tensors' names tell.
_WITHOUT_EFFECT = {
    *("auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config"),
    *("exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_ga_config"),
    *("megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules"),
    *("target_parameters", "task_type", "velora_config"),
}
_READ = {
    *("alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "lora_dropout", "peft_type", "r", "rank_pattern"),
    *("trainable_token_indices", "use_dora", "use_rslora"),
}
# Beginnings of an adapter that leave the base's weights as they are; the others (PiSSA, LoftQ, …) change them.
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


# ---- writing --------------------------------------------------------------------------------------------------


def write_peft(folder: str | Path, adapter: Checkpoint, base_name: str) -> None:
    """Write an adapter as PEFT 0.21 saves one, in float32, with its tokenizer's files.

    PEFT has no dropout for stacks of experts: an adapter with these is written with none, which matters only to
    training it further there. Rows of new tokens need a base with room for them: where it has none, call its
    `resize_token_embeddings` before PEFT loads the adapter.

    Args:
        folder: is made; nothing may be there yet.
        adapter: an adapter's checkpoint.
        base_name: the path or hub name of its base in Hugging Face form.

    Raises:
        UserError: `folder` exists, or PEFT cannot hold this adapter.
    """
    assert adapter.adapter is not None, "a whole model is no adapter"
    config = LoRAConfig.from_dict(adapter.adapter["lora"])
    _check_writable(config, adapter.config)
    tensors: dict[str, Tensor] = {}
    for name, layer in to_peft_layers(adapter.weights, adapter.config).items():
        tensors |= {f"{name}.lora_A.weight": layer.lora_A, f"{name}.lora_B.weight": layer.lora_B}
        if layer.magnitude is not None:
            tensors[f"{name}.lora_magnitude_vector"] = layer.magnitude
    for name, rows in adapter.weights.items():
        if name.endswith(".lora_rows"):
            tensors[f"{name.removesuffix('lora_rows')}{_ROWS}"] = rows
    content = {f"{_PREFIX}{name}": tensor.float().contiguous() for name, tensor in sorted(tensors.items())}
    description = json.dumps(_describe(config, adapter.config, base_name), ensure_ascii=False, indent=2)
    with atomic_folder(folder) as temporary:
        for name, text in {**adapter.tokenizer_files, _CONFIG: f"{description}\n"}.items():
            (temporary / name).write_bytes(text.encode("utf-8"))
        # As bytes, so that a full disk is the operating system's error and not the library's.
        (temporary / _WEIGHTS).write_bytes(safetensors.torch.save(content, metadata={"format": "pt"}))


def _check_writable(config: LoRAConfig, base: LMConfig) -> None:
    advice = "export the model with the adapter merged into it"
    if reason := base.unexportable_reason():
        raise UserError(f"no stock architecture carries the adapter's base: {reason}")
    if config.token_ids and HEAD in config.targets:
        raise UserError(f"rows of new tokens beside {HEAD} as a target: PEFT refuses the two together; {advice}")
    halves = {"gate_proj", "up_proj"} & {*config.targets}
    if config.use_dora and _has_shared_experts(base) and len(halves) == 1:
        # The other half's magnitudes would be the lengths of the base's rows, which are not here.
        raise UserError(
            f"DoRA on {halves.pop()} alone: PEFT sees shared experts' gate_proj and up_proj as one; {advice}"
        )


def _has_shared_experts(base: LMConfig) -> bool:
    return base.use_moe and base.n_shared_experts > 0


def _describe(config: LoRAConfig, base: LMConfig, base_name: str) -> dict[str, Any]:
    """The content of adapter_config.json."""
    experts = f"{routed_block(base)}.experts"
    stacks = [f"{experts}.gate_up_proj", f"{experts}.down_proj"] if EXPERTS in config.targets else []
    modules = [name for name in config.targets if name != EXPERTS]
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    if _has_shared_experts(base):
        if {"gate_proj", "up_proj"} <= {*modules}:
            # Two additions side by side have twice the rank; alpha grows so that the scale stays.
            ranks[SHARED_IN] = 2 * config.rank
            alphas[SHARED_IN] = _plain(config.alpha * (math.sqrt(2) if config.use_rslora else 2))
        joined = {"gate_proj": SHARED_IN, "up_proj": SHARED_IN, "down_proj": SHARED_OUT}
        modules = [joined.get(name, name) for name in modules]
    tables = ["embed_tokens"] if base.tie_embeddings else ["embed_tokens", HEAD]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": _plain(config.alpha),
        "lora_dropout": 0.0 if stacks else config.dropout,
        "target_modules": sorted(set(modules)),
        "target_parameters": stacks or None,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "trainable_token_indices": {table: list(config.token_ids) for table in tables} if config.token_ids else None,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def _plain(value: float) -> float:
    """16 for 16.0: some readers of these files expect a whole alpha."""
    return int(value) if value == int(value) else value


# ---- reading --------------------------------------------------------------------------------------------------


def read_peft(folder: str | Path) -> tuple[LoRAConfig, dict[str, Tensor]]:
    """What a PEFT folder holds, as ours: the adapter, and its tensors as `load_lora` takes them, in float32.

    Its targets are those of the tensors. Copies of whole embeddings, which PEFT may put beside them, are left out here;
    `adapter_from_peft` compares them with the base's.

    Raises:
        UserError: a file is missing or damaged, or ours cannot be such an adapter.
    """
    config, weights, _ = _read(Path(folder))
    return config, weights


def adapter_from_peft(folder: str | Path, base: Checkpoint, base_path: str) -> Checkpoint:
    """A PEFT folder as an adapter's checkpoint.

    Args:
        folder: the adapter.
        base: the whole model that it belongs to.
        base_path: where that lies.

    Raises:
        UserError: as `read_peft`, or the adapter is another model's.
    """
    folder = Path(folder)
    config, weights, copies = _read(folder)
    if 0 < (num_layers := num_layers_of(weights)) < base.config.n_layers:
        found = f"has additions to {num_layers} layers, {base_path} has {base.config.n_layers}"
        raise UserError(f"{folder / _WEIGHTS}: {found}; ours have them in all, so {_MERGE}")
    for name, copied in copies.items():
        own = base.weights.get(name, base.weights[f"{_EMBEDDING}.weight"])  # a tied head is the embedding
        if not torch.equal(own.to(copied.dtype), copied):
            raise UserError(f"{folder / _WEIGHTS}: {name} is whole, and not {base_path}'s; {_MERGE}")
    tokenizer = _tokenizer_of(folder, base, base_path)
    whole = widened(base, tokenizer)
    if too_high := [number for number in config.token_ids if number >= whole.config.vocab_size]:
        found = f"trainable_token_indices has {too_high[0]}, {base_path} has {whole.config.vocab_size} tokens"
        raise UserError(f"{folder / _CONFIG}: {found}; put the adapter's tokenizer into the folder")
    if config.token_ids and not base.config.tie_embeddings:
        for name in (_EMBEDDING, HEAD):  # trained in one table alone: the other keeps the base's rows
            weights.setdefault(f"{name}.lora_rows", whole.weights[f"{name}.weight"][list(config.token_ids)])
    model = whole.build_model()
    try:
        load_lora(model, config, weights)
    except UserError as error:
        raise UserError(f"{folder}: does not fit {base_path}: {error}") from error
    stops = dict.fromkeys([*tokenizer.stop_token_ids, *base.generation.get("stop_token_ids", [])])
    return Checkpoint(
        stage="lora",
        config=whole.config,
        weights=weights_of(model, only_trained=True),
        tokenizer_files=tokenizer.files,
        generation={**base.generation, "stop_token_ids": list(stops)},
        lineage={"imported": f"{folder}", "parent": {"digest": base.digest, "stage": base.stage, **base.lineage}},
        adapter={"lora": config.to_dict(), "base_digest": base.digest, "base_path": base_path},
    )


def _tokenizer_of(folder: Path, base: Checkpoint, base_path: str) -> ChatTokenizer:
    """The folder's own tokenizer where it says what the base's does not: more tokens, or another chat template."""
    known = base.tokenizer()
    if not (folder / "tokenizer.json").is_file():
        return known
    own = ChatTokenizer.from_folder(folder)
    if not own.extends(known):
        raise UserError(f"{folder}: has another tokenizer than {base_path}; name the model that it was trained on")
    same_template = own.chat_template is None or own.template_hash == known.template_hash
    return known if same_template and own.vocab_size == known.vocab_size else own


def _read(folder: Path) -> tuple[LoRAConfig, dict[str, Tensor], dict[str, Tensor]]:
    """The adapter, its tensors, and copies of the base's own, all by our names."""
    path = folder / _CONFIG
    values = read_json(path)
    try:
        _check_description(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    layers, rows, copies = _sort(_load(folder / _WEIGHTS), folder / _WEIGHTS)
    use_dora = values.get("use_dora") is True
    try:
        rank, alpha = _common_rank(values, layers)
        config = LoRAConfig(
            targets=("any",),  # chosen below, by the tensors
            rank=rank,
            alpha=float(alpha),
            dropout=float(values.get("lora_dropout", 0)),
            use_rslora=values.get("use_rslora") is True,
            use_dora=use_dora,
            token_ids=_token_ids(values, rows),
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    try:
        weights = from_peft_layers(layers, rank, use_dora)
        found = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in weights}
        config = replace(config, targets=tuple(name for name in _TARGETS if name in found))
    except UserError as error:
        raise UserError(f"{folder / _WEIGHTS}: {error}") from error
    weights |= {f"{name}.lora_rows": tensor for name, tensor in rows.items()}
    return config, {name: tensor.float().contiguous() for name, tensor in weights.items()}, copies


def _check_description(values: Any) -> None:
    """Whether all that adapter_config.json says is something that ours can be."""
    if not isinstance(values, dict) or values.get("peft_type") != "LORA":
        found = values.get("peft_type") if isinstance(values, dict) else type(values).__name__
        raise UserError(f"peft_type: found {found!r}, expected 'LORA'; {_MERGE}")
    for name, kinds in (("r", int), ("lora_alpha", int | float), ("lora_dropout", int | float)):
        value = values.get(name, 0 if name == "lora_dropout" else None)
        if not isinstance(value, kinds) or isinstance(value, bool) or value < 0:
            raise UserError(f"{name}: found {value!r}, expected a number")
    if values.get("bias", "none") != "none":
        raise UserError(f"bias: found {values['bias']!r}, expected 'none'; {_MERGE}")
    begun = values.get("init_lora_weights")
    if begun not in _PLAIN_BEGINNINGS:
        raise UserError(f"init_lora_weights: found {begun!r}, which may change the base's weights too; {_MERGE}")
    for name, value in values.items():
        if name in _NOT_OURS and value:
            raise UserError(f"{name}: found {value!r}, ours have none; {_MERGE}")
        if name not in _NOT_OURS | _WITHOUT_EFFECT | _READ and value:
            raise UserError(f"{name}: found {value!r}, a setting that is not known here; {_MERGE}")


def _load(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; save the adapter with a PEFT that writes safetensors")
    try:
        return dict(sorted(safetensors.torch.load(path.read_bytes()).items()))
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a readable safetensors file (cut short or altered?): {error}") from error


def _sort(
    tensors: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, PeftLayer], dict[str, Tensor], dict[str, Tensor]]:
    """The layers, rows of new tokens, and copies of the base's own weights, by name."""
    parts: dict[str, dict[str, Tensor]] = {}
    rows, copies = {}, {}
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix(_PREFIX)
        layer, _, part = name.rpartition(".lora_")
        part = part.removesuffix(".weight")
        table = name.removesuffix(f".{_ROWS}")
        whole = name.removesuffix(".weight").removesuffix(".base_layer")
        if full_name == name:
            raise UserError(
                f"{path}: {name} does not begin with {_PREFIX}; save the adapter with PEFT's save_pretrained"
            )
        if layer and part in ("A", "B", "magnitude_vector"):
            parts.setdefault(layer, {})[part] = tensor
        elif table in (_EMBEDDING, HEAD):
            rows[table] = tensor
        elif whole in (_EMBEDDING, HEAD):
            copies[f"{whole}.weight"] = tensor
        else:
            raise UserError(f"{path}: {name} is no part of an adapter of ours; {_MERGE}")
    for layer, own in parts.items():
        if missing := {"A", "B"} - own.keys():
            raise UserError(f"{path}: {layer} lacks lora_{min(missing)}")
    return (
        {name: PeftLayer(own["A"], own["B"], own.get("magnitude_vector")) for name, own in parts.items()},
        rows,
        copies,
    )


def _common_rank(values: Mapping[str, Any], layers: Mapping[str, PeftLayer]) -> tuple[int, float]:
    """The rank and alpha that all layers have, whatever patterns say so."""
    found = {name: _rank_of(values, pattern_key(name)) for name in layers}
    usual = {each for name, each in found.items() if not name.endswith(SHARED_IN)} or {
        (values["r"], values["lora_alpha"])
    }
    rank, alpha = min(usual)
    # Where ours are joined to one layer, that has their ranks together.
    joined = {each for name, each in found.items() if name.endswith(SHARED_IN)}
    power = 0.5 if values.get("use_rslora") is True else 1.0
    fits = all(r in (rank, 2 * rank) and math.isclose(a / r**power, alpha / rank**power) for r, a in joined)
    if len(usual) > 1 or not fits:
        ranks = ", ".join(f"{r} with alpha {a}" for r, a in sorted(usual | joined))
        raise UserError(f"rank_pattern and alpha_pattern: found ranks {ranks}, ours have one for all layers; {_MERGE}")
    return rank, alpha


def _rank_of(values: Mapping[str, Any], key: str) -> tuple[int, float]:
    """As PEFT resolves its patterns: the first that matches the end of a name."""
    found = []
    for name, usual in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
        patterns = values.get(name) or {}
        try:
            matching = [value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", key)]
        except (re.error, AttributeError) as error:
            raise UserError(f"{name}: found {patterns!r}, expected names or regular expressions ({error})") from error
        found.append(matching[0] if matching else values[usual])
    if not (isinstance(found[0], int) and found[0] >= 1 and isinstance(found[1], int | float)):
        raise UserError(f"rank_pattern and alpha_pattern: found rank {found[0]!r} with alpha {found[1]!r} for {key}")
    return found[0], found[1]


def _token_ids(values: Mapping[str, Any], rows: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Of the rows that are trained whole: the same in the embedding and the head."""
    given = values.get("trainable_token_indices") or {}
    tables = given if isinstance(given, dict) else {_EMBEDDING: given}
    by_table = {name.rpartition(".")[2]: numbers for name, numbers in tables.items()}
    ids: tuple[int, ...] = ()
    for name, tensor in rows.items():
        own = by_table.get(name.rpartition(".")[2])
        if not isinstance(own, list) or not all(isinstance(number, int) and number >= 0 for number in own):
            raise UserError(f"trainable_token_indices: found {given!r}, expected the ids of {name}'s rows")
        if len(set(own)) != len(tensor) or len(own) != len(tensor):
            raise UserError(f"trainable_token_indices: found {len(own)} ids for the {len(tensor)} rows of {name}")
        if ids and ids != tuple(own):
            raise UserError(f"trainable_token_indices: found {given!r}, ours are the same in both tables; {_MERGE}")
        ids = tuple(own)
    return ids
