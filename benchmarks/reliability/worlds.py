"""Small packed sets to train on: text, conversations and pairs of the little world, packed and, to compare, padded."""

import json
from pathlib import Path

import numpy as np

from benchmarks.reliability.launching import run
from dataset.little_world.generator import little_world_files
from dataset.packing import ROLE_CHOSEN, PackedSet, PackedSetWriter, Piece
from model.tokenizer import ChatTokenizer

MAX_SEQ_LEN = 96


# Name of the set: kind, file of the little world, and how many rows of it.
SETS = {
    "text": ("pretrain", "pretrain.jsonl", 60),
    "chat": ("sft", "sft.jsonl", 60),
    "pairs": ("dpo", "preference.jsonl", 80),
}


def make_world(folder: Path) -> Path:
    """Packed sets `text`, `chat` and `pairs`, and their twins `text_padded` and so on, in `folder`/packed."""
    if (folder / "packed").exists():
        return folder
    files = little_world_files()
    for _, name, count in SETS.values():
        lines = files[name].splitlines()
        chosen = lines[:: max(1, len(lines) // count)][:count]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(chosen) + "\n", encoding="utf-8")
    tokenizer = folder / "tokenizer"
    run("train_tokenizer.py", "--data_path", folder / "pretrain.jsonl", "--vocab_size", 512, "--tokenizer", tokenizer)
    packed = folder / "making"
    for name, (kind, source, _) in SETS.items():
        flags = ["--name", name, "--tokenizer", tokenizer, "--packed_dir", packed, "--max_seq_len", MAX_SEQ_LEN]
        run("data_process.py", kind, "--data_path", folder / source, *flags)
        pad_out(PackedSet.open(packed / name), packed / f"{name}_padded")
    packed.rename(folder / "packed")
    return folder


def pad_out(packed: PackedSet, folder: Path) -> PackedSet:
    """The same segments, one a row (or one pair): what a loader without packing would give."""
    folder.mkdir()
    tokenizer = ChatTokenizer.from_folder(packed.folder / "tokenizer")
    pad_token_id = packed.meta["pad_token_id"]
    writer = PackedSetWriter(folder, packed.kind, packed.max_seq_len, tokenizer.vocab_size, pad_token_id)
    pieces = []
    for segment in packed.segments:
        if segment["start"] == packed.row_length - 1:
            continue  # a lone opener in a row's last slot: nothing is predicted from it, here or there
        place = np.s_[segment["row"], segment["start"] : segment["start"] + segment["length"]]
        mask = None if packed.mask is None else np.array(packed.mask[place])
        pieces.append(Piece(np.array(packed.tokens[place]), mask, int(segment["source"]), int(segment["role"])))
        if segment["role"] != ROLE_CHOSEN:
            writer.add_row(pieces)
            pieces = []
    facts = {"name": folder.name, "sources": packed.sources, "num_documents": packed.meta["num_documents"]}
    writer.finish(tokenizer, facts)
    return PackedSet.open(folder)


def make_random_set(folder: Path, num_rows: int, max_seq_len: int = 512, vocab_size: int = 6400) -> Path:
    """A packed set of random tokens, one document a row: for timing, where nothing has to be learned."""
    path = folder / "packed" / "random"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "pretrain.jsonl"
    text.write_text(little_world_files()["pretrain.jsonl"], encoding="utf-8")
    run("train_tokenizer.py", "--data_path", text, "--vocab_size", vocab_size, "--tokenizer", folder / "tokenizer")
    tokenizer = ChatTokenizer.from_folder(folder / "tokenizer")
    assert tokenizer.pad_token_id is not None
    making = folder / "making"
    making.mkdir()
    writer = PackedSetWriter(making, "pretrain", max_seq_len, tokenizer.vocab_size, tokenizer.pad_token_id)
    numbers = np.random.default_rng(0)
    for _ in range(num_rows):
        tokens = numbers.integers(tokenizer.vocab_size // 2, tokenizer.vocab_size, max_seq_len + 1, dtype=np.uint16)
        writer.add_row([Piece(tokens, None, 0, 0)])
    writer.finish(tokenizer, {"name": path.name, "sources": ["random"], "num_documents": num_rows})
    path.parent.mkdir()
    making.rename(path)
    return path


def describe(folder: Path) -> str:
    """One line about the sets."""
    sets = [PackedSet.open(folder / "packed" / name) for each in SETS for name in (each, f"{each}_padded")]
    return json.dumps({each.folder.name: each.num_rows for each in sets})
