"""From a path to a model ready to speak: a `.pth` of ours, an adapter with its base, or a Hugging Face folder."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint import Checkpoint, load_checkpoint, read_digest, weights_of
from model.convert import open_checkpoint
from model.decoder import CausalLM
from model.errors import UserError
from model.lora import LoRAConfig, load_lora, merge_lora, unmerge_lora
from model.tokenizer import ChatTokenizer

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def load_model(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    base: str | Path | None = None,
) -> tuple[CausalLM, ChatTokenizer, Checkpoint]:
    """A model ready to generate, with its tokenizer. An adapter is merged into its base (see `load_whole`)."""
    checkpoint = load_whole(path, base)
    try:
        model = checkpoint.build_model()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return model.to(device=device, dtype=dtype).eval(), checkpoint.tokenizer(), checkpoint


def load_whole(path: str | Path, base: str | Path | None = None) -> Checkpoint:
    """What a path holds, with all weights.

    Args:
        path: a `.pth`, an adapter's `.pth`, or a Hugging Face folder. An adapter is merged into its base, which may
            be an adapter in its turn; digest, lineage and tokenizer are the adapter's own.
        base: where the adapter's base is, when it is no longer where it was.

    Raises:
        UserError: a file is missing or damaged, or the adapter's base is not to be found.
    """
    checkpoint = open_checkpoint(path)
    if checkpoint.adapter is None:
        if base is not None:
            raise UserError(f"--base {base}: {path} is no adapter, it has weights of its own; leave the flag out")
        return checkpoint
    whole = widened(load_whole(find_base(path, checkpoint, base)), checkpoint.tokenizer())
    model = whole.build_model()
    _load_adapter(model, path, checkpoint)
    merge_lora(model)
    return replace(checkpoint, config=model.config, weights=weights_of(model), adapter=None)


def find_base(path: str | Path, adapter: Checkpoint, base: str | Path | None = None) -> Path:
    """Where an adapter's base is: at the path it was trained from, or beside it under any name.

    Raises:
        UserError: it is not there, or `base` is another model.
    """
    assert adapter.adapter is not None, "a model needs no base"
    digest, known = adapter.adapter["base_digest"], Path(adapter.adapter["base_path"])
    if base is not None:
        if _digest(Path(base)) != digest:
            raise UserError(f"--base {base}: is not the model that {path} was trained on ({known}, {digest[:12]}…)")
        return Path(base)
    folder, unreadable = Path(path).parent, []
    beside = sorted(folder.glob("*.pth")) + sorted(folder.glob("*.pth.bak-*"))  # what --overwrite moved aside too
    for candidate in dict.fromkeys((known, folder / known.name, *beside)):
        if candidate == Path(path) or not candidate.exists():
            continue
        try:
            if _digest(candidate) == digest:
                return candidate
        except UserError:  # another program's file, or a damaged one: it may lie there, and may have been the base
            unreadable.append(f"{candidate}")
    remark = f" ({', '.join(unreadable)} cannot be read)" if unreadable else ""
    raise UserError(
        f"{path}: its base {known} ({digest[:12]}…) is neither there nor beside it{remark}; put it beside it "
        "(2-eval.py also takes its path with --base)"
    )


def _digest(path: Path) -> str:
    """Of a `.pth` the one it says it has; a folder has to be read for it."""
    return open_checkpoint(path).digest if path.is_dir() else read_digest(path)


def _load_adapter(model: CausalLM, path: str | Path, adapter: Checkpoint) -> None:
    assert adapter.adapter is not None
    try:
        load_lora(model, LoRAConfig.from_dict(adapter.adapter["lora"]), adapter.weights)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


# ---- more tokens ----------------------------------------------------------------------------------------------


def new_token_ids(checkpoint: Checkpoint, tokenizer: ChatTokenizer) -> tuple[int, ...]:
    """The ids of a wider tokenizer that the checkpoint's own does not have."""
    return tuple(range(checkpoint.tokenizer().vocab_size, tokenizer.vocab_size))


def widened(checkpoint: Checkpoint, tokenizer: ChatTokenizer) -> Checkpoint:
    """The model with a wider tokenizer: the rows of its new tokens are the mean of those that it knows.

    The mean is what an unknown token should be taken for: rows of zeros or noise would get far more or far less
    probability than any token deserves. A vocabulary that is padded already may have room for them.
    """
    new = new_token_ids(checkpoint, tokenizer)
    if not new:
        return checkpoint
    size = max(checkpoint.config.vocab_size, tokenizer.vocab_size)
    weights = dict(checkpoint.weights)
    for name in (_EMBEDDING, _HEAD):
        if name in weights:
            weights[name] = _with_mean_rows(weights[name], size, new)
    config = replace(checkpoint.config, vocab_size=size)
    return replace(checkpoint, config=config, weights=weights, tokenizer_files=tokenizer.files)


def _with_mean_rows(table: Tensor, size: int, new: Sequence[int]) -> Tensor:
    wide = table.new_zeros(size, table.shape[1])
    wide[: len(table)] = table
    wide[list(new)] = table[: new[0]].double().mean(dim=0).to(table.dtype)
    return wide


# ---- several adapters on one base -----------------------------------------------------------------------------


class AdapterSwitch:
    """One model that takes on one of several adapters, or none, at a time.

    Args:
        model: as `load_model` gives it; it is changed in place.
        checkpoint: where it comes from.
        paths: adapters of it. Their names are those of their files, without `.pth`.

    Raises:
        UserError: one of them is no adapter, one of another base, or one with a tokenizer of its own.
    """

    def __init__(self, model: CausalLM, checkpoint: Checkpoint, paths: Sequence[str | Path]) -> None:
        self._model, self._base, self.active = model, checkpoint, ""
        self._before: dict[str, Tensor] = {}
        self._adapters: dict[str, tuple[Path, Checkpoint]] = {}
        for path in map(Path, paths):
            adapter = load_checkpoint(path)
            if adapter.adapter is None:
                raise UserError(f"--adapters {path}: is a whole model; name it in the place of the model")
            if adapter.adapter["base_digest"] != checkpoint.digest:
                known = adapter.adapter["base_path"]
                raise UserError(f"--adapters {path}: is an adapter of another model, {known}; name that one")
            if adapter.tokenizer_files != checkpoint.tokenizer_files:
                raise UserError(f"--adapters {path}: has a tokenizer of its own; name it in the place of the model")
            if path.stem in self._adapters:
                raise UserError(f"--adapters {path}: two are called {path.stem}; rename one of them")
            self._adapters[path.stem] = (path, adapter)

    def __iter__(self) -> Iterator[str]:
        """The adapters' names."""
        return iter(self._adapters)

    def use(self, name: str) -> None:
        """Take on the adapter of this name, or the only one it is a part of; with none the base, bit for bit."""
        named = [name] if name in self._adapters else [each for each in self if name and name in each]
        if name and len(named) != 1:
            which = f"{', '.join(named)} are" if named else "no adapter is"
            raise UserError(f"{which} called {name!r}; there are {', '.join(self) or 'none'}")
        name = "".join(named)
        unmerge_lora(self._model, self._before)
        self._before, self.active = {}, ""
        if name:
            path, adapter = self._adapters[name]
            _load_adapter(self._model, path, adapter)
            merge_lora(self._model, {**self._base.weights, **adapter.weights}, self._before)
            self.active = name

    @property
    def checkpoint(self) -> Checkpoint:
        """Of the adapter that is on, else of the model: what speaks, and where its answers end."""
        return self._adapters[self.active][1] if self.active else self._base
