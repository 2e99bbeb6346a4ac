"""Raw data → packed sets: clean, tokenise and pack once, train from memory maps.

    python data_process.py little_world            write the little world to dataset/raw/little_world/
    python data_process.py                         pack all of the little world (after train_tokenizer.py)
    python data_process.py pretrain --data_path wiki.jsonl books/ --name wiki --val_share 0.01
    python data_process.py sft --data_path alpaca_zh.json sharegpt.jsonl --name chat --max_seq_len 1024
    python data_process.py sft --data_path mine.json --name mine --tokenizer out/pretrain_512.pth
    python data_process.py dpo --data_path pairs.json --name pairs

Files may be JSON Lines, JSON, CSV, TSV, or plain text with one document a line; what they are is seen from
their content. `pretrain` reads {"text"}; `sft` reads OpenAI messages, ShareGPT conversations, Alpaca rows,
and q, a, history; `dpo` reads prompt, chosen, rejected. Bad rows are counted and kept in rejects.jsonl of the
set, beside its report.md. Runs on the CPU; the result does not depend on --num_workers. Needs no torch.
"""

import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import UserError, run_script
from trainer.settings import flag, parse_settings

if TYPE_CHECKING:
    from model.tokenizer import ChatTokenizer

COMMANDS = ("little_world", "pretrain", "sft", "dpo")

# The sets of the little world: kind, raw files, and the share of documents kept for validation.
LITTLE_WORLD: dict[str, tuple[str, tuple[str, ...], float]] = {
    "little_world_pretrain": ("pretrain", ("pretrain.jsonl",), 0.01),
    "little_world_sft": ("sft", ("sft.jsonl", "sft_alpaca.json"), 0.01),
    "little_world_identity": ("sft", ("identity.jsonl",), 0.05),
    "little_world_dpo": ("dpo", ("preference.jsonl",), 0.05),
}


@dataclass(frozen=True)
class DataProcessSettings:
    """What goes in, and how it is packed."""

    data_path: list[str] | None = flag(None, "files, folders or patterns to pack")
    name: str | None = flag(None, "name of the set (default: that of the first file or folder)")
    tokenizer: str = flag("out/tokenizer", "a tokenizer's folder, or a .pth that holds one")
    raw_dir: str = flag("dataset/raw", "where the little world's files are")
    packed_dir: str = flag("dataset/packed", "where packed sets are written")
    max_seq_len: int | None = flag(None, "inputs in a row (default: 256 for the little world, else 512)")
    val_share: float | None = flag(None, "share that goes to <name>_val (default: 0; little world: 0.01 or 0.05)")
    text_key: str = flag("text", "the field that holds the text (pretrain)")
    min_chars: int = flag(1, "drop documents with fewer characters")
    max_chars: int = flag(0, "drop documents with more characters (0: no limit)")
    keep_duplicates: bool = flag(False, "keep documents that are exactly equal to an earlier one")
    max_reject_share: float = flag(0.05, "stop when more than this share of the rows is bad")
    num_workers: int = flag(-1, "processes that tokenise (-1: one a core, none for small files; 0: none)")
    seed: int | None = flag(None, "of the little world's texts (little_world)")
    overwrite: bool = flag(False, "replace sets of the same name that were made otherwise")


def main() -> None:
    """Settings → tokenizer → sets."""
    command = {"nargs": "?", "choices": COMMANDS, "help": "what to do (default: pack the little world)"}
    settings, rest = parse_settings(DataProcessSettings, description=__doc__, positionals={"command": command})
    # A polite kill leaves no half-written folder behind, as Ctrl-C does not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if rest.command == "little_world":
        write_raw_files(settings)
    elif rest.command is None:
        pack_little_world(settings)
    else:
        pack_files(rest.command, settings)


def write_raw_files(settings: DataProcessSettings) -> None:
    """Generate the little world: the same files for the same seed."""
    from dataset.little_world.generator import DEFAULT_SEED, write_little_world

    folder = Path(settings.raw_dir) / "little_world"
    summary = write_little_world(folder, seed=DEFAULT_SEED if settings.seed is None else settings.seed)
    num_bytes = sum(file["bytes"] for file in summary["files"].values())
    print(f"{folder}: {len(summary['files'])} files, {num_bytes:,} bytes, {summary['num_facts']:,} facts")


def pack_little_world(settings: DataProcessSettings) -> None:
    """Pack every set of the little world."""
    if settings.data_path or settings.name:
        raise UserError("--data_path and --name need a command: python data_process.py pretrain|sft|dpo …")
    folder = Path(settings.raw_dir) / "little_world"
    for name in (file for _, files, _ in LITTLE_WORLD.values() for file in files):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: missing; write it first: python data_process.py little_world")
    tokenizer = load_tokenizer(settings.tokenizer)
    for name, (kind, files, val_share) in LITTLE_WORLD.items():
        build(settings, kind, name, [str(folder / file) for file in files], tokenizer, 256, val_share)


def pack_files(kind: str, settings: DataProcessSettings) -> None:
    """Pack the files that --data_path names."""
    if not settings.data_path:
        raise UserError(f"--data_path: missing; python data_process.py {kind} --data_path <files to pack>")
    name = settings.name or Path(settings.data_path[0]).stem
    build(settings, kind, name, settings.data_path, load_tokenizer(settings.tokenizer), 512, 0.0)


def load_tokenizer(path: str) -> "ChatTokenizer":
    """From a folder, or from a checkpoint that carries its own."""
    from model.tokenizer import ChatTokenizer

    if Path(path).is_file():
        from model.checkpoint import load_checkpoint  # loads torch, which a folder does not need

        return load_checkpoint(path).tokenizer()
    return ChatTokenizer.from_folder(path)


def build(
    settings: DataProcessSettings,
    kind: str,
    name: str,
    files: list[str],
    tokenizer: "ChatTokenizer",
    max_seq_len: int,
    val_share: float,
) -> None:
    """One set; `max_seq_len` and `val_share` hold where the flags say nothing."""
    from dataset.building import BuildSettings, build_packed_set
    from dataset.cleaning import CleaningRules

    build_packed_set(
        BuildSettings(
            kind=kind,
            name=name,
            data_path=tuple(files),
            tokenizer=tokenizer,
            packed_dir=Path(settings.packed_dir),
            max_seq_len=max_seq_len if settings.max_seq_len is None else settings.max_seq_len,
            val_share=val_share if settings.val_share is None else settings.val_share,
            text_key=settings.text_key,
            rules=CleaningRules(settings.min_chars, settings.max_chars, settings.keep_duplicates),
            num_workers=settings.num_workers,
            overwrite=settings.overwrite,
            max_reject_share=settings.max_reject_share,
        )
    )


if __name__ == "__main__":
    run_script(main)
