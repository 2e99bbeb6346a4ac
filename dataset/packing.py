"""The packed set: tokenised text in rows of one length, written once and opened as memory maps.

A folder, made by `data_process.py` and read by the training scripts:

    tokens.npy    [rows, row_length] uint16 (uint32 for a vocabulary above 65,536); padding holds the pad id
    mask.npy      [rows, row_length] bool, True = this token is a target; absent where everything trains
    segments.npy  one record a segment (a document, a part of one, a conversation, one side of a pair)
    rows.npy      one record a row: its first segment, its number of segments and of targets
    meta.json     what the set is, how it was made, and a sha256 of each file
    tokenizer/    the tokenizer that made the ids
    report.md     what went in, what came out, what was dropped and why

A row holds `max_seq_len + 1` tokens (a preference set's twice that), because a model that sees L tokens is
asked for L next ones: `input_ids = row[:-1]`, `targets = row[1:]`, and no position is idle. A segment's first
token is never a target: nothing in its own segment could have predicted it. The segments of a row follow each
other without gaps, and padding, if any, is at the end.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.errors import UserError
from model.files import canonical_json, read_json, sha256_of_file, sha256_of_text, write_json

FORMAT_VERSION = 1
KINDS = ("pretrain", "sft", "dpo")
ROLE_DOCUMENT, ROLE_CONTINUATION, ROLE_CHOSEN, ROLE_REJECTED = range(4)
IGNORED_TARGET = -100  # the value that torch's cross entropy leaves out

SEGMENT_DTYPE = np.dtype(
    [
        ("row", "<i4"),
        ("start", "<i4"),
        ("length", "<i4"),
        ("source", "<i4"),
        ("targets", "<i4"),
        ("role", "<i4"),
    ]
)
# `segments` counts those with an input position: an opener alone in a row's last slot is a target of nothing
# and an input of nothing (see `dataset/filling.py`).
ROW_DTYPE = np.dtype([("first_segment", "<i8"), ("segments", "<i4"), ("targets", "<i4")])

_ARRAYS = ("tokens.npy", "mask.npy", "segments.npy", "rows.npy")
_HEADER_BYTES = 512  # reserved before a streamed array's data; its final shape is known only at the end
_BUFFERED_BYTES = 2 << 20


class Piece(NamedTuple):
    """A segment on its way into a row."""

    tokens: np.ndarray  # [length]
    mask: np.ndarray | None  # [length] bool, or None: all but the first are targets
    source: int
    role: int


def row_length(kind: str, max_seq_len: int) -> int:
    """Slots of a row: one more than the inputs; a preference pair has two sides."""
    return 2 * (max_seq_len + 1) if kind == "dpo" else max_seq_len + 1


class _StreamedArray:
    """An `.npy` file that grows by its first axis: memory holds only what is being appended."""

    def __init__(self, path: Path, dtype: np.dtype, row_shape: tuple[int, ...] = ()) -> None:
        self.path, self.dtype, self.row_shape = path, dtype, row_shape
        self.count = 0
        self._file = open(path, "wb")  # noqa: SIM115 - closed by close()
        self._file.write(b"\0" * _HEADER_BYTES)

    def append(self, rows: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(rows, dtype=self.dtype).data)
        self.count += len(rows)

    def close(self) -> None:
        descr, shape = np.lib.format.dtype_to_descr(self.dtype), (self.count, *self.row_shape)
        header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode("latin1")
        magic = np.lib.format.magic(1, 0) + (_HEADER_BYTES - 10).to_bytes(2, "little")
        self._file.seek(0)
        self._file.write(magic + header.ljust(_HEADER_BYTES - 11) + b"\n")
        self._file.close()

    def abandon(self) -> None:
        self._file.close()


class PackedSetWriter:
    """Writes a packed set row by row into a folder (give it an atomic one)."""

    def __init__(self, folder: Path, kind: str, max_seq_len: int, vocab_size: int, pad_token_id: int) -> None:
        assert kind in KINDS
        self.folder, self.kind, self.max_seq_len = folder, kind, max_seq_len
        self.row_length = row_length(kind, max_seq_len)
        self._pad = pad_token_id
        self._vocab_size = vocab_size
        dtype = np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")
        self._tokens = _StreamedArray(folder / "tokens.npy", dtype, (self.row_length,))
        self._mask = None
        if kind != "pretrain":
            self._mask = _StreamedArray(folder / "mask.npy", np.dtype(bool), (self.row_length,))
        self._segments = _StreamedArray(folder / "segments.npy", SEGMENT_DTYPE)
        self._rows = _StreamedArray(folder / "rows.npy", ROW_DTYPE)
        buffered_rows = max(1, _BUFFERED_BYTES // (self.row_length * np.dtype(dtype).itemsize))
        self._row_buffer = np.full((buffered_rows, self.row_length), pad_token_id, dtype)
        self._mask_buffer = np.zeros((buffered_rows, self.row_length), bool)
        self._new_rows: list[tuple[int, int, int]] = []
        self._new_segments: list[tuple[int, int, int, int, int, int]] = []
        self.num_rows = self.num_targets = self.num_repeated_tokens = self.num_slots_filled = 0
        self._num_segments = 0

    def add_row(self, pieces: list[Piece]) -> None:
        """Write one row: its segments one after another, then padding."""
        slot = len(self._new_rows)
        start = row_targets = row_segments = 0
        for tokens, mask, source, role in pieces:
            length = len(tokens)
            self._row_buffer[slot, start : start + length] = tokens
            if mask is None:
                targets = length - 1
            else:
                self._mask_buffer[slot, start + 1 : start + length] = mask[1:]
                targets = int(np.count_nonzero(mask[1:]))
            self._new_segments.append((self.num_rows, start, length, source, targets, role))
            row_segments += start < self.row_length - 1
            row_targets += targets
            self.num_repeated_tokens += role == ROLE_CONTINUATION
            start += length
        assert 0 < start <= self.row_length, "a row is never empty, and never longer than its slots"
        self._new_rows.append((self._num_segments, row_segments, row_targets))
        self._num_segments += len(pieces)
        self.num_slots_filled += start
        self.num_targets += row_targets
        self.num_rows += 1
        if len(self._new_rows) == len(self._row_buffer):
            self._flush()
        if self.num_rows == np.iinfo(np.int32).max:
            raise UserError(f"{self.folder}: a packed set holds at most {self.num_rows} rows; make several sets of it")

    def _flush(self) -> None:
        count = len(self._new_rows)
        self._tokens.append(self._row_buffer[:count])
        self._row_buffer.fill(self._pad)
        if self._mask is not None:
            self._mask.append(self._mask_buffer[:count])
            self._mask_buffer.fill(False)
        self._segments.append(np.array(self._new_segments, SEGMENT_DTYPE))
        self._rows.append(np.array(self._new_rows, ROW_DTYPE))
        self._new_rows, self._new_segments = [], []

    def close_arrays(self) -> None:
        """Write what is buffered and close the array files."""
        self._flush()
        for array in self._arrays():
            array.close()

    def abandon(self) -> None:
        """Close the files without finishing them: the folder is about to be removed."""
        for array in self._arrays():
            array.abandon()

    def _arrays(self) -> list[_StreamedArray]:
        return [a for a in (self._tokens, self._mask, self._segments, self._rows) if a is not None]

    def finish(self, tokenizer: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Close the arrays, copy the tokenizer beside them, write `meta.json`; returns it.

        `tokenizer` has `save(folder)`, `vocabulary_hash` and `template_hash`; `facts` are the keys of
        meta.json that only the caller knows (name, sources, num_documents, cleaning, ...).
        """
        self.close_arrays()
        tokenizer.save(self.folder / "tokenizer")
        names = [array.path.name for array in self._arrays()]
        names += sorted(f"tokenizer/{file.name}" for file in (self.folder / "tokenizer").iterdir())
        files = {
            name: {"bytes": (self.folder / name).stat().st_size, "sha256": sha256_of_file(self.folder / name)}
            for name in names
        }
        num_slots = self.num_rows * self.row_length
        meta = {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "max_seq_len": self.max_seq_len,
            "row_length": self.row_length,
            "num_rows": self.num_rows,
            # Each token of the input once; with the repeated ones they fill the rows up to the padding.
            "num_tokens": self.num_slots_filled - self.num_repeated_tokens,
            "num_repeated_tokens": self.num_repeated_tokens,
            "num_targets": self.num_targets,
            "num_segments": self._num_segments,
            "packing_efficiency": self.num_slots_filled / num_slots if num_slots else 0.0,
            "vocab_size": self._vocab_size,
            "pad_token_id": self._pad,
            "vocabulary_hash": tokenizer.vocabulary_hash,
            "template_hash": tokenizer.template_hash,
            **facts,
            "files": files,
            "fingerprint": sha256_of_text(canonical_json(files)),
        }
        meta["digest"] = _digest(meta)  # the sums above guard the arrays, this one guards the description itself
        write_json(self.folder / "meta.json", meta)
        return meta


class PackedSet:
    """A packed set, opened: arrays stay on the disk and are shared by every process that maps them."""

    def __init__(self, folder: Path, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.folder, self.meta = folder, meta
        self.kind: str = meta["kind"]
        self.max_seq_len: int = meta["max_seq_len"]
        self.row_length: int = meta["row_length"]
        self.num_rows: int = meta["num_rows"]
        self.sources: list[str] = meta["sources"]
        self.vocabulary_hash: str = meta["vocabulary_hash"]
        self.template_hash: str = meta["template_hash"]
        self.fingerprint: str = meta["fingerprint"]
        self.tokens = arrays["tokens.npy"]
        self.mask = arrays.get("mask.npy")
        self.segments = arrays["segments.npy"]
        self.rows = arrays["rows.npy"]
        self._attached: dict[str, tuple[Path, int, np.ndarray]] = {}

    @classmethod
    def open(cls, folder: str | Path, kind: str | None = None, verify: bool = False) -> "PackedSet":
        """Open a packed set.

        Args:
            folder: where `data_process.py` wrote it.
            kind: "pretrain", "sft" or "dpo" when only that will do.
            verify: read every file and compare its sha256 with meta.json.

        Raises:
            UserError: no such set, a raw file in its place, a cut or altered file, a format from the future,
            or
                another kind.
        """
        folder = Path(folder)
        meta = _read_meta(folder, kind)
        for name, expected in meta["files"].items():
            _check_file(folder / name, expected, verify)
        try:
            arrays = {name: np.load(folder / name, mmap_mode="r") for name in _ARRAYS if name in meta["files"]}
            packed = cls(folder, meta, arrays)
        except (ValueError, KeyError) as error:
            raise UserError(f"{folder}: not readable as a packed set ({error}); build it again") from error
        shape = (packed.num_rows, packed.row_length)
        if packed.tokens.shape != shape or packed.rows.shape != shape[:1]:
            raise UserError(f"{folder}/tokens.npy: shape {packed.tokens.shape}, meta.json says {shape}; build it again")
        return packed

    def attach(self, name: str, path: Path, width: int) -> None:
        """Let batches bring one more array: a number for each segment.

        Args:
            name: of the array, [batch, width], by the segment's number in its row; zeros where there is none.
            path: an .npy file with as many numbers as the set has segments, in their order.
            width: at least as many as any row has segments.
        """
        values = np.load(path, mmap_mode="r")
        assert values.shape == self.segments.shape and width >= self.segments_per_row.max(initial=0)
        self._attached[name] = (path, width, values)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        # A pickled memory map would carry all its data to a worker; the worker opens the same files instead.
        attached = [(name, path, width) for name, (path, width, _) in self._attached.items()]
        return _open_again, (self.folder, self.kind, attached)

    def tokenizer_files(self) -> dict[str, str]:
        """The tokenizer that made the ids: file name → text."""
        files = sorted((self.folder / "tokenizer").iterdir())
        return {file.name: file.read_text(encoding="utf-8") for file in files}

    @cached_property
    def targets_per_row(self) -> np.ndarray:
        """[num_rows] int64: how many tokens of each row are targets."""
        return self.rows["targets"].astype(np.int64)

    @cached_property
    def segments_per_row(self) -> np.ndarray:
        """[num_rows] int64: how many segments of each row have an input position."""
        return self.rows["segments"].astype(np.int64)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of some rows, each int64 [batch, row_length - 1].

        `input_ids`; `targets` (the token after each input, -100 where there is no loss); `segment_ids` (0, 1, ...
        within the row, -1 for padding and for a segment's last token, which nothing of its own follows);
        `position_ids` (restart at 0 with each segment and with the padding); `source_ids` (index into `sources`,
        -1 padding).
        """
        rows = np.asarray(rows, dtype=np.int64)
        batch, length = len(rows), self.row_length - 1
        # As plain arrays: everything made of a memory map drags its bookkeeping along, which small batches feel.
        tokens = np.asarray(self.tokens)[rows]
        index = np.asarray(self.rows)[rows]
        counts = index["segments"].astype(np.int64)
        row_of = np.repeat(np.arange(batch), counts)  # [segments]
        before = np.cumsum(counts) - counts  # segments of the batch before each row
        number = np.arange(len(row_of)) - before[row_of]  # 0, 1, ... within the row
        segments = np.asarray(self.segments)[index["first_segment"][row_of] + number]
        starts = segments["start"].astype(np.int64)
        ends = np.minimum(starts + segments["length"], length)

        # Run lengths of the flat batch: each row's segments, then one run of padding (maybe empty).
        at = np.arange(len(row_of)) + row_of
        padding_at = before + counts + np.arange(batch)
        run_lengths = np.zeros(len(row_of) + batch, np.int64)
        run_lengths[at] = ends - starts
        filled = np.bincount(row_of, weights=ends - starts, minlength=batch).astype(np.int64)
        run_lengths[padding_at] = length - filled

        def spread(values: np.ndarray, padding: np.ndarray | int) -> np.ndarray:
            runs = np.empty(len(run_lengths), np.int64)
            runs[at], runs[padding_at] = values, padding
            return np.repeat(runs, run_lengths).reshape(batch, length)

        row_starts = np.arange(batch) * length
        run_starts = spread(row_starts[row_of] + starts, row_starts + filled)
        segment_ids = spread(number, -1)
        # After a segment's last token comes another segment's first one, or padding: nothing of its own follows, so it
        # counts as padding does. Whether a segment ends with its row or before it then makes no difference.
        last = ends - 1
        inside = starts + segments["length"] <= length
        segment_ids[row_of[inside], last[inside]] = -1
        if self.mask is not None:
            targets = np.where(np.asarray(self.mask)[rows][:, 1:], tokens[:, 1:], np.int64(IGNORED_TARGET))
        else:
            targets = tokens[:, 1:].astype(np.int64)
            targets[segment_ids < 0] = IGNORED_TARGET
        attached = {}
        for name, (_, width, values) in self._attached.items():
            attached[name] = np.zeros((batch, width), values.dtype)
            attached[name][row_of, number] = np.asarray(values)[index["first_segment"][row_of] + number]
        return {
            **attached,
            "input_ids": tokens[:, :-1].astype(np.int64),
            "targets": targets,
            "segment_ids": segment_ids,
            "position_ids": np.arange(batch * length).reshape(batch, length) - run_starts,
            "source_ids": spread(segments["source"], -1),
        }


def _open_again(folder: Path, kind: str, attached: list[tuple[str, Path, int]]) -> PackedSet:
    packed = PackedSet.open(folder, kind)
    for each in attached:
        packed.attach(*each)
    return packed


def _read_meta(folder: Path, kind: str | None) -> dict[str, Any]:
    name = folder.stem or "mine"
    made_by = f"python data_process.py {kind or 'pretrain|sft'} --name {name} --data_path"
    if folder.is_file():
        raise UserError(f"{folder}: a raw file, not a packed set; pack it first: {made_by} {folder}")
    if not folder.exists():
        raise UserError(f"{folder}: no such packed set; make it with: {made_by} <your file>")
    if not (folder / "meta.json").is_file():
        raise UserError(f"{folder}: not a packed set (no meta.json); pack raw files first: {made_by} {folder}")
    meta = read_json(folder / "meta.json")
    if not isinstance(meta, dict) or not isinstance(meta.get("format_version"), int):
        raise UserError(f"{folder}/meta.json: not the description of a packed set; build it again")
    if meta["format_version"] != FORMAT_VERSION:
        raise UserError(
            f"{folder}: packed set of format {meta['format_version']}, this version reads {FORMAT_VERSION}; "
            f"update Seedling or build it again"
        )
    missing = {
        "kind",
        "max_seq_len",
        "row_length",
        "num_rows",
        "sources",
        "files",
        "fingerprint",
        "digest",
    } - meta.keys()
    if missing:
        raise UserError(f"{folder}/meta.json: lacks {', '.join(sorted(missing))}; build the set again")
    if meta["digest"] != _digest(meta):
        raise UserError(f"{folder}/meta.json: altered since it was written; build the set again with --overwrite")
    if kind is not None and meta["kind"] != kind:
        raise UserError(
            f"{folder}: a {meta['kind']} set, but this stage needs a {kind} one; make it with: {made_by} <your file>"
        )
    return meta


def _digest(meta: Mapping[str, Any]) -> str:
    """sha256 over all of meta.json but this very entry."""
    return sha256_of_text(canonical_json({name: value for name, value in meta.items() if name != "digest"}))


def _check_file(path: Path, expected: Mapping[str, Any], verify: bool) -> None:
    size = path.stat().st_size if path.exists() else None
    if size != expected["bytes"]:
        found = "missing" if size is None else f"{size} bytes, should be {expected['bytes']} (cut or altered)"
        raise UserError(f"{path}: {found}; build the set again with data_process.py --overwrite")
    if verify and sha256_of_file(path) != expected["sha256"]:
        raise UserError(f"{path}: altered since it was written (sha256 differs from meta.json); build the set again")
