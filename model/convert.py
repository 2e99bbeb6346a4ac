"""Models of other programs as our `Checkpoint`: a Hugging Face folder of a stock architecture.

What was read gives the logits that transformers gives, and goes on as any parent does: it is tuned, spoken to,
exported. Whatever a folder says that our model could not compute ends in one line instead.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.checkpoint import Checkpoint, digest_of, load_checkpoint
from model.config import LMConfig
from model.convert_config import STOCK_CLASSES, read_stock_config
from model.convert_weights import read_stock_weights
from model.errors import UserError
from model.files import read_json
from model.tokenizer import ChatTokenizer

_SAMPLING_KEYS = ("temperature", "top_p")  # what a checkpoint of ours says about sampling


def open_checkpoint(path: str | Path) -> Checkpoint:
    """A model from wherever it lies: a `.pth` of ours, or a Hugging Face folder. UserError says what is wrong."""
    path = Path(path)
    return read_hf_folder(path) if path.is_dir() else load_checkpoint(path)


def read_hf_folder(folder: str | Path) -> Checkpoint:
    """Read a Hugging Face folder (config.json, weights, tokenizer) of a stock architecture.

    The weights become float32. The digest is the one that saving gives; it depends on what the folder holds,
    not on its name or place. UserError names the file, and the key or tensor, that cannot be carried.
    """
    folder = Path(folder)
    _check_is_hf_folder(folder)
    raw, config = read_stock_config(folder / "config.json")
    # The large files last: everything else can be wrong sooner.
    tokenizer = _read_tokenizer(folder, config)
    generation = _generation(folder, raw, tokenizer, config)
    model_type = raw["model_type"]
    config, weights, dtypes = read_stock_weights(folder, model_type, config)
    imported = {
        "model_type": model_type,
        "architecture": STOCK_CLASSES[model_type],
        "torch_dtype": dtypes,
    }
    checkpoint = Checkpoint(
        stage="imported",
        config=config,
        weights=weights,
        tokenizer_files=tokenizer.files,
        generation=generation,
        lineage={"imported": imported},
    )
    checkpoint.digest = digest_of(checkpoint)
    return checkpoint


def _check_is_hf_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a Hugging Face folder")
    if not (folder / "config.json").is_file():
        beside = folder.resolve().with_name(f"{folder.resolve().name}.pth")
        advice = f"; did you mean {folder.parent / beside.name}?" if beside.is_file() else ""
        needed = "config.json, model.safetensors, tokenizer.json and tokenizer_config.json"
        raise UserError(f"{folder}: has no config.json; a model is a .pth or a Hugging Face folder ({needed}){advice}")


def _read_tokenizer(folder: Path, config: LMConfig) -> ChatTokenizer:
    if not (folder / "tokenizer.json").is_file():
        convert = f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        raise UserError(
            f"{folder}: has no tokenizer.json; have transformers write it once: "
            f'python -c "from transformers import AutoTokenizer; {convert}"'
        )
    tokenizer = ChatTokenizer.from_folder(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}/tokenizer.json: has {tokenizer.vocab_size} ids, but config.json's vocab_size is "
            f"{config.vocab_size}; expected at most so many (are tokenizer and model from different folders?)"
        )
    return tokenizer


def _generation(folder: Path, raw: Mapping[str, Any], tokenizer: ChatTokenizer, config: LMConfig) -> dict[str, Any]:
    """Where an answer ends, by all that the folder says, and how its makers advise to sample."""
    path = folder / "generation_config.json"
    advised = read_json(path) if path.is_file() else {}
    if not isinstance(advised, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(advised).__name__}")
    stops = set(tokenizer.stop_token_ids)
    for file, values in ((folder / "config.json", raw), (path, advised)):
        found = values.get("eos_token_id")
        ids = found if isinstance(found, list) else [] if found is None else [found]
        if not all(type(token) is int and 0 <= token < config.vocab_size for token in ids):
            raise UserError(f"{file}: eos_token_id: found {found}, expected ids below vocab_size {config.vocab_size}")
        stops.update(ids)
    sampling = {key: advised[key] for key in _SAMPLING_KEYS if advised.get(key) is not None}
    return {"stop_token_ids": sorted(stops), **sampling}
