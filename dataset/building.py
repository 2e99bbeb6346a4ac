"""From raw files to a packed set: read, encode in parallel, drop duplicates, split, pack, report.

Equal input, flags and tokenizer give equal bytes, whatever the number of workers, and are recognised: a set
that is there already is not made again, and one made otherwise is not replaced unless asked for.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from os import cpu_count
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from dataset.cleaning import DUPLICATE, CleaningRules, SeenBefore, in_validation
from dataset.encoding import EncodedBlock, EncodingSettings, encode_blocks
from dataset.filling import TextFiller, WholeFiller
from dataset.packing import (
    FORMAT_VERSION,
    ROLE_CHOSEN,
    ROLE_DOCUMENT,
    ROLE_REJECTED,
    PackedSet,
    PackedSetWriter,
    Piece,
)
from dataset.report import SetCounts, describe_left_out, report_text
from dataset.sources import Block, Reject, expand_paths, read_blocks
from model.chat import template_warnings
from model.errors import UserError
from model.files import atomic_folder, canonical_json, read_json, sha256_of_file, sha256_of_text
from model.tokenizer import ChatTokenizer

_SMALL_INPUT_BYTES = 16 << 20  # starting workers takes longer than doing it
_ENOUGH_ROWS_TO_JUDGE = 10_000
_MAX_SOURCES = 256


@dataclass(frozen=True)
class BuildSettings:
    """One packed set to build (and its validation set)."""

    kind: str  # pretrain, sft or dpo
    name: str
    data_path: tuple[str, ...]
    tokenizer: ChatTokenizer
    packed_dir: Path
    max_seq_len: int = 512
    val_share: float = 0.0
    text_key: str = "text"
    rules: CleaningRules = field(default_factory=CleaningRules)
    num_workers: int = -1  # -1: one a core, none for a small input
    overwrite: bool = False
    max_reject_share: float = 0.05

    def check(self) -> None:
        """UserError for values that cannot work."""
        if self.max_seq_len < 8:
            raise UserError(f"--max_seq_len {self.max_seq_len}: expected at least 8")
        for flag, share in (("val_share", self.val_share), ("max_reject_share", self.max_reject_share)):
            if not 0 <= share <= 1:
                raise UserError(f"--{flag} {share}: expected a share between 0 and 1")
        if self.packed_dir.exists() and not self.packed_dir.is_dir():
            raise UserError(f"--packed_dir {self.packed_dir}: this is a file, expected a folder")
        if not self.name or Path(self.name).name != self.name or self.name.startswith("."):
            raise UserError(f"--name {self.name!r}: expected a plain name, the folder's name in {self.packed_dir}")
        if self.kind != "pretrain" and self.tokenizer.chat_template is None:
            raise UserError("--tokenizer: it has no chat template, which conversations need")
        if self.kind == "pretrain" and self.tokenizer.eos_token_id is None:
            raise UserError("--tokenizer: it names no eos_token, which closes a document")


class _Output:
    """One set being written: the counts, the filler that chooses rows, the writer."""

    def __init__(self, settings: BuildSettings, folder: Path, name: str) -> None:
        tokenizer = settings.tokenizer
        self.folder, self.name, self.counts = folder, name, SetCounts()
        pad = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.writer = PackedSetWriter(folder, settings.kind, settings.max_seq_len, tokenizer.vocab_size, pad)
        self._text = self._whole = None
        if settings.kind == "pretrain":
            self._text = TextFiller(self.writer.row_length, self.writer.add_row)
        else:
            self._whole = WholeFiller(self.writer.row_length, self.writer.add_row)
        self._roles = (ROLE_CHOSEN, ROLE_REJECTED) if settings.kind == "dpo" else (ROLE_DOCUMENT,)

    def add(self, source: int, tokens: list[np.ndarray], masks: list[np.ndarray | None]) -> None:
        """Take one document, conversation or pair: tokens and mask of each side."""
        self.counts.add(source, sum(map(len, tokens)))
        if self._text is not None:
            self._text.add(tokens[0], source)
        elif self._whole is not None:
            sides = zip(tokens, masks, self._roles, strict=True)
            self._whole.add([Piece(t, mask, source, role) for t, mask, role in sides])

    def finish_rows(self) -> None:
        for filler in (self._text, self._whole):
            if filler is not None:
                filler.finish()


def build_packed_set(settings: BuildSettings) -> dict[str, Any]:
    """Build a packed set, and `<name>_val` beside it when `val_share` is above 0; returns its meta.json.

    Raises:
        UserError: missing, empty or cut input, too many bad rows, nothing left, or another set of that name.
    """
    settings.check()
    paths = expand_paths(settings.data_path)
    build = describe_build(settings, paths)
    names = [settings.name, f"{settings.name}_val"]
    folders = [settings.packed_dir / name for name in (names if settings.val_share else names[:1])]
    if _already_built(settings, build, folders):
        print(f"{folders[0]}: already built from this input with these flags")
        return PackedSet.open(folders[0]).meta
    for warning in template_warnings(settings.tokenizer) if settings.kind != "pretrain" else []:
        print(f"warning: {warning}")
    with ExitStack() as stack:
        # Left in reverse order: the main set appears last, so where it is, its validation set is as well.
        made = [stack.enter_context(atomic_folder(folder, overwrite=folder.exists())) for folder in folders]
        outputs = [_Output(settings, folder, name) for folder, name in zip(made, names[: len(made)], strict=True)]
        for output in outputs:
            stack.callback(output.writer.abandon)
        builder = _Builder(settings, paths, outputs)
        metas = builder.run(build)
    for folder, meta in zip(folders, metas, strict=True):
        print((folder / "report.md").read_text(encoding="utf-8") if folder == folders[0] else _line(folder, meta))
    return metas[0]


class _Builder:
    """The pass over the input, in order: everything that needs to know what came before."""

    def __init__(self, settings: BuildSettings, paths: list[Path], outputs: list[_Output]) -> None:
        self.settings, self.paths, self.outputs = settings, paths, outputs
        self.labels = source_labels(paths)
        self.sources: dict[str, int] = {}
        self.seen_before = SeenBefore()
        self.num_straddling = 0
        self.rejects_path = outputs[0].folder / "rejects.jsonl"

    def run(self, build: dict[str, Any]) -> list[dict[str, Any]]:
        settings, counts = self.settings, self.outputs[0].counts
        encoding = EncodingSettings(settings.kind, settings.max_seq_len, settings.text_key, settings.rules, self.labels)
        workers = choose_num_workers(settings.num_workers, self.paths)
        with (
            open(self.rejects_path, "w", encoding="utf-8", buffering=1) as rejects,
            closing(encode_blocks(self._blocks(), settings.tokenizer, encoding, workers)) as encoded_blocks,
            tqdm(desc=settings.name, unit=" rows", disable=None, leave=False) as progress,
        ):
            for block in encoded_blocks:
                self._take(block, rejects)
                progress.update(block.rows_in.total())
                if counts.num_rows_in >= _ENOUGH_ROWS_TO_JUDGE:
                    self._stop_if_too_many_rejects()
        self._stop_if_too_many_rejects()
        for output in self.outputs:
            output.finish_rows()
            if output.writer.num_rows == 0:
                raise UserError(self._nothing_left(output))
        return [self._finish(output, build) for output in self.outputs]

    def _blocks(self) -> Iterator[Block]:
        for path in self.paths:
            yield from read_blocks(path)

    def _take(self, block: EncodedBlock, rejects: TextIO) -> None:
        counts = self.outputs[0].counts
        for label, rows in block.rows_in.items():
            counts.rows_in[self._source(label, block.path)] += rows
        for reject in block.rejected:
            counts.rejected.add(reject)
        for reject in block.dropped:
            counts.dropped.add(reject)
        duplicates = []
        start = 0
        for number, lengths in enumerate(block.lengths):
            spans = []
            for length in lengths:
                spans.append(slice(start, start + length))
                start += length
            document = block.digests[number]
            if not self.settings.rules.keep_duplicates and self.seen_before(document):
                duplicates.append(Reject(block.path, block.lines[number], DUPLICATE))
                counts.dropped.add(duplicates[-1])
                continue
            tokens = [block.tokens[span] for span in spans]
            masks = [None if block.mask is None else block.mask[span] for span in spans]
            validation = self.settings.val_share and in_validation(document, self.settings.val_share)
            output = self.outputs[1 if validation else 0]
            output.add(self._source(block.sources[number], block.path), tokens, masks)
        self.num_straddling += block.num_straddling
        for reject in (*block.rejected, *block.dropped, *duplicates):
            fields = {name: getattr(reject, name) for name in Reject.__slots__}
            rejects.write(json.dumps(fields, ensure_ascii=False) + "\n")

    def _source(self, label: str, path: str) -> int:
        """The number of a source; rows that name too many different ones are counted under their file."""
        if label not in self.sources and len(self.sources) >= _MAX_SOURCES:
            label = self.labels[path]
        return self.sources.setdefault(label, len(self.sources))

    def _stop_if_too_many_rejects(self) -> None:
        counts = self.outputs[0].counts
        if counts.rejected.total <= self.settings.max_reject_share * counts.num_rows_in:
            return
        kept = self.settings.packed_dir / f"{self.settings.name}.rejects.jsonl"
        kept.write_bytes(self.rejects_path.read_bytes())
        raise UserError(
            f"{counts.rejected.total} of {counts.num_rows_in} rows are bad: "
            f"{describe_left_out(counts.rejected)}; "
            f"all are listed in {kept}; repair the input, or allow more with --max_reject_share "
            f"(now {self.settings.max_reject_share})"
        )

    def _nothing_left(self, output: _Output) -> str:
        if output is not self.outputs[0]:
            share = self.settings.val_share
            return f"--val_share {share}: no document fell into the validation set; use a larger share"
        counts = output.counts
        left_out = [describe_left_out(group) for group in (counts.rejected, counts.dropped) if group.total]
        where = ", ".join(map(str, self.paths[:3]))
        return f"{where}: nothing left to pack of {counts.num_rows_in} rows ({'; '.join(left_out) or 'no row'})"

    def _finish(self, output: _Output, build: dict[str, Any]) -> dict[str, Any]:
        counts = output.counts
        # The arrays must be whole before the report can speak of them, and the report is part of the folder.
        facts = {
            "name": output.name,
            "sources": list(self.sources),
            "num_documents": counts.num_documents,
            "num_straddling_tokens": self.num_straddling,
            "cleaning": counts.cleaning(self.settings.rules.as_dict()),
            "report": counts.as_dict(list(self.sources)),
            "validation_of": self.settings.name if output is not self.outputs[0] else None,
            "build": build,
        }
        meta = output.writer.finish(self.settings.tokenizer, facts)
        (output.folder / "report.md").write_text(report_text(meta), encoding="utf-8")
        rejects = output.folder / "rejects.jsonl"
        if rejects.exists() and rejects.stat().st_size == 0:
            rejects.unlink()
        return meta


def describe_build(settings: BuildSettings, paths: list[Path]) -> dict[str, Any]:
    """Everything that decides what is in a set; two builds with equal descriptions are the same set."""
    build: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "kind": settings.kind,
        "max_seq_len": settings.max_seq_len,
        "val_share": settings.val_share,
        "vocabulary": settings.tokenizer.vocabulary_hash,
        "rules": settings.rules.as_dict(),
        "input": [[label, sha256_of_file(path)] for path, label in source_labels(paths).items()],
    }
    if settings.kind == "pretrain":
        build["text_key"] = settings.text_key
    else:
        build["chat_template"] = settings.tokenizer.template_hash
    return {**build, "hash": sha256_of_text(canonical_json(build))}


def source_labels(paths: list[Path]) -> dict[str, str]:
    """File → name of its source: the file's name without its ending, with its folder where two are alike."""
    stems = [path.stem for path in paths]
    return {
        str(path): path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}/{path.name}" for path in paths
    }


def choose_num_workers(wanted: int, paths: list[Path]) -> int:
    """Processes that encode: as many as wanted; by default one a core, none when the input is small."""
    if wanted >= 0:
        return wanted
    small = sum(path.stat().st_size for path in paths) < _SMALL_INPUT_BYTES
    return 0 if small else cpu_count() or 1


def _already_built(settings: BuildSettings, build: dict[str, Any], folders: list[Path]) -> bool:
    """Whether these sets are there, made the same way; UserError when others are in their place."""
    same = []
    for folder in folders:
        if not folder.exists():
            continue
        if not (folder / "meta.json").is_file():
            # --overwrite replaces a packed set, never a folder of somebody's other files.
            raise UserError(f"{folder}: exists and is no packed set; choose another --name or --packed_dir")
        old = read_json(folder / "meta.json").get("build") or {}
        if old.get("hash") == build["hash"]:
            same.append(folder)
        elif not settings.overwrite:
            differs = [key for key in build if key != "hash" and old.get(key) != build[key]]
            raise UserError(
                f"{folder}: exists, made with other settings ({', '.join(differs)}); "
                f"pass --overwrite to replace it, or another --name"
            )
    stale = settings.packed_dir / f"{settings.name}_val"
    if not settings.val_share and stale.exists():
        raise UserError(
            f"{stale}: belongs to another build of {settings.name} and may hold the same documents; "
            f"remove it, or pass --val_share"
        )
    if same == folders:
        try:
            for folder in folders:
                PackedSet.open(folder)  # names what was cut or altered since
        except UserError:
            if settings.overwrite:
                return False
            raise
        return True
    return False


def _line(folder: Path, meta: dict[str, Any]) -> str:
    documents, tokens, rows = meta["num_documents"], meta["num_tokens"], meta["num_rows"]
    return f"{folder}: {documents:,} documents, {tokens:,} tokens in {rows:,} rows"
