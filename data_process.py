"""Raw data → packed sets: clean, tokenise and pack once, train from memory maps.

    python data_process.py little_world            write the little world to dataset/raw/little_world/
    python data_process.py                         pack all of the little world (after train_tokenizer.py)
    python data_process.py pretrain --data_path wiki.jsonl.zst books/ 'news/*.parquet' --name wiki --val_share 0.01
    python data_process.py pretrain --data_path hf:roneneldan/TinyStories:train --cleaning web --near_dedup
    python data_process.py sft --data_path alpaca_zh.json sharegpt.jsonl --name chat --max_seq_len 1024
    python data_process.py --recipe list           the published sets that are known by name
    python data_process.py sft --recipe belle --decontaminate ceval/test --rejects left_out.jsonl
    python data_process.py sft --data_path mine.json --tokenizer out/pretrain_512.pth --add_tokens '<|map|>' '<|end|>'
    python data_process.py sft --data_path mine.json --add_tokens '<|Human|>' '<|Bot|>' --chat_template mine.jinja
    python data_process.py dpo --data_path pairs.json --name pairs
    python data_process.py inspect dataset/packed/chat --rows 3        show rows, what is trained in colour

Data may be JSON Lines, JSON, CSV, TSV, Parquet, or plain text, one document a line (or all that is between two lines
<|endoftext|>), compressed or in archives, on the disk, on the web or on a hub (hf:owner/name[/config][:split],
ms:owner/name[/folder]); what it is is seen from its content. `pretrain` reads {"text"}; `sft` reads OpenAI messages,
ShareGPT conversations, Alpaca rows, and q, a, history; `dpo` reads prompt, chosen, rejected; --recipe knows where a
published set lies and how its rows look.
Rows that are left out are counted and kept in rejects.jsonl of the set, beside its report.md. A command that was
stopped goes on where it was when it is given again. Runs on the CPU; the result does not depend on --num_workers.
"""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import UserError, run_script
from trainer.settings import flag, parse_settings

if TYPE_CHECKING:
    from dataset.cleaning import CleaningRules
    from dataset.recipes import Recipe
    from model.tokenizer import ChatTokenizer

COMMANDS = ("little_world", "pretrain", "sft", "dpo", "inspect")

# The sets of the little world: kind, raw files, and the share of documents kept for validation.
LITTLE_WORLD: dict[str, tuple[str, tuple[str, ...], float]] = {
    "little_world_pretrain": ("pretrain", ("pretrain.jsonl",), 0.01),
    "little_world_sft": ("sft", ("sft.jsonl", "sft_alpaca.json"), 0.01),
    "little_world_identity": ("sft", ("identity.jsonl", "review.jsonl"), 0.01),
    "little_world_dpo": ("dpo", ("preference.jsonl",), 0.05),
}


@dataclass(frozen=True)
class DataProcessSettings:
    """What goes in, and how it is packed."""

    data_path: list[str] | None = flag(None, "files, folders, patterns, addresses or hub names to pack")
    recipe: str | None = flag(
        None, "a published set by name (list shows them), fetched unless --data_path says where your copy is"
    )
    name: str | None = flag(None, "name of the set (default: that of the recipe, or of the first file or folder)")
    tokenizer: str = flag("out/tokenizer", "a tokenizer's folder, or a .pth that holds one")
    add_tokens: list[str] | None = flag(None, "control tokens to add to the vocabulary, for your own chat template")
    chat_template: str | None = flag(None, "a file with a Jinja chat template, in place of the tokenizer's (sft, dpo)")
    raw_dir: str = flag("dataset/raw", "where the little world's files are")
    packed_dir: str = flag("dataset/packed", "where packed sets are written")
    max_seq_len: int | None = flag(None, "inputs in a row (default: 256 for the little world, else 512)")
    val_share: float | None = flag(None, "share that goes to <name>_val (default: 0; little world: 0.01, pairs 0.05)")
    text_key: str = flag("text", "the field that holds the text (pretrain)")
    near_dedup: float | None = flag(
        None, "drop near-duplicates: Jaccard similarity from which on (0.85)", nargs="?", const=0.85
    )
    decontaminate: list[str] | None = flag(None, "exams and held-out files: rows that share text with them are dropped")
    decontaminate_words: int = flag(13, "so many words in a row are shared text …")
    decontaminate_characters: int = flag(20, "… or so many Chinese, Japanese or Thai characters")
    max_reject_share: float = flag(0.05, "stop when more than this share of the rows is bad")
    rejects: str | None = flag(None, "a file for a copy of all rows left out")
    num_workers: int = flag(-1, "processes that tokenise (-1: one a core, none for small files; 0: none)")
    memory_gb: float = flag(4.0, "GiB of memory for all processes together; what does not fit goes to the disk")
    seed: int | None = flag(None, "of the little world's texts (little_world)")
    rows: int = flag(3, "how many rows to show (inspect)")
    row: int | None = flag(None, "the first row to show (inspect; default: some at random)")
    overwrite: bool = flag(False, "replace sets of the same name that were made otherwise")


def main() -> None:
    """Settings → tokenizer → sets."""
    from dataset.cleaning import CleaningRules

    positionals: dict[str, dict[str, Any]] = {
        "command": {"nargs": "?", "choices": COMMANDS, "help": "what to do (default: pack the little world)"},
        "set": {"nargs": "?", "help": "the packed set to show (inspect)"},
    }
    settings, rules, rest = parse_settings(
        DataProcessSettings, CleaningRules, description=__doc__, positionals=positionals
    )
    if rest.set is not None and rest.command != "inspect":
        raise UserError(f"unexpected {rest.set!r}; files to pack are named with --data_path")
    # A polite kill leaves no half-written folder behind, as Ctrl-C does not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if settings.recipe == "list":
        from dataset.recipes import recipe_lines

        print("\n".join(recipe_lines()))
    elif rest.command == "little_world":
        write_raw_files(settings)
    elif rest.command == "inspect":
        inspect(settings, rest.set)
    elif rest.command is None:
        pack_little_world(settings, rules)
    else:
        pack_files(rest.command, settings, rules)


def write_raw_files(settings: DataProcessSettings) -> None:
    """Generate the little world: the same files for the same seed."""
    from dataset.little_world.generator import DEFAULT_SEED, write_little_world

    folder = Path(settings.raw_dir) / "little_world"
    summary = write_little_world(folder, seed=DEFAULT_SEED if settings.seed is None else settings.seed)
    num_bytes = sum(file["bytes"] for file in summary["files"].values())
    print(f"{folder}: {len(summary['files'])} files, {num_bytes:,} bytes, {summary['num_facts']:,} facts")


def inspect(settings: DataProcessSettings, name: str | None) -> None:
    """Show rows of a packed set, given by its folder or its name."""
    from dataset.inspection import show_rows

    if name is None:
        raise UserError("inspect: which set? python data_process.py inspect dataset/packed/<name>")
    folder = Path(name) if Path(name).exists() or "/" in name else Path(settings.packed_dir) / name
    show_rows(folder, settings.rows, settings.row)


def pack_little_world(settings: DataProcessSettings, rules: "CleaningRules") -> None:
    """Pack every set of the little world."""
    if settings.data_path or settings.name or settings.recipe:
        raise UserError("--data_path, --recipe and --name need a command: python data_process.py pretrain|sft|dpo …")
    if settings.chat_template:
        raise UserError("--chat_template needs a command: python data_process.py sft|dpo …")
    folder = Path(settings.raw_dir) / "little_world"
    for name in (file for _, files, _ in LITTLE_WORLD.values() for file in files):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: missing; write it first: python data_process.py little_world")
    tokenizer = load_tokenizer(settings)
    for name, (kind, files, val_share) in LITTLE_WORLD.items():
        paths = [str(folder / file) for file in files]
        build(settings, rules, kind, name, paths, tokenizer, max_seq_len=256, val_share=val_share, brief=True)


def pack_files(kind: str, settings: DataProcessSettings, rules: "CleaningRules") -> None:
    """Pack what --data_path or --recipe names."""
    from dataset.building.settings import default_name

    if kind == "pretrain" and settings.chat_template:
        raise UserError("--chat_template: pretraining text has no turns to write; give the flag to sft and dpo")
    recipe = find_recipe(kind, settings)
    names = settings.data_path or (list(recipe.data_path) if recipe else [])
    if not names:
        note = f" ({recipe.note})" if recipe else ""
        raise UserError(f"--data_path: missing; python data_process.py {kind} --data_path <files to pack>{note}")
    name = settings.name or (recipe.name if recipe else default_name(names[0]))
    build(settings, rules, kind, name, names, load_tokenizer(settings), recipe=recipe)


def find_recipe(kind: str, settings: DataProcessSettings) -> "Recipe | None":
    """The recipe that --recipe names, if it fits the command."""
    if settings.recipe is None:
        return None
    from dataset.recipes import recipe_named

    recipe = recipe_named(settings.recipe)
    command = "sft" if recipe.kind == "exam" else recipe.kind
    if command != kind:
        raise UserError(f"--recipe {recipe.name}: {recipe.title} is packed with: python data_process.py {command}")
    print(f"{recipe.name}: {recipe.title}; licence: {recipe.licence}" + (f"; {recipe.note}" if recipe.note else ""))
    return recipe


def load_tokenizer(settings: DataProcessSettings) -> "ChatTokenizer":
    """From a folder, or from a checkpoint that carries its own; with --add_tokens and --chat_template."""
    from model.tokenizer import ChatTokenizer

    if Path(settings.tokenizer).is_file():
        from model.checkpoint import load_checkpoint  # loads torch, which a folder does not need

        tokenizer = load_checkpoint(settings.tokenizer).tokenizer()
    else:
        tokenizer = ChatTokenizer.from_folder(settings.tokenizer)
    added = [token for word in settings.add_tokens or [] for token in word.split(",") if token]
    tokenizer = tokenizer.with_tokens(added) if added else tokenizer
    return tokenizer if settings.chat_template is None else with_template_file(tokenizer, Path(settings.chat_template))


def with_template_file(tokenizer: "ChatTokenizer", path: Path) -> "ChatTokenizer":
    """The tokenizer with the chat template that a file holds."""
    if not path.is_file():
        raise UserError(f"--chat_template {path}: no such file; expected one with a Jinja chat template")
    try:
        # An editor's byte order mark would stand at the beginning of every conversation.
        return tokenizer.with_chat_template(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"--chat_template {path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except UserError as error:
        raise UserError(f"--chat_template {path}: {error}") from error


def build(
    settings: DataProcessSettings,
    rules: "CleaningRules",
    kind: str,
    name: str,
    files: Sequence[str],
    tokenizer: "ChatTokenizer",
    max_seq_len: int = 512,
    val_share: float = 0.0,
    **more: Any,
) -> None:
    """One set; `max_seq_len` and `val_share` hold where the flags say nothing."""
    from dataset.building.pipeline import build_packed_set
    from dataset.building.settings import BuildSettings
    from dataset.dedup import NearDuplicateSettings

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
            rules=rules,
            near=None if settings.near_dedup is None else NearDuplicateSettings(settings.near_dedup),
            decontaminate=tuple(settings.decontaminate or ()),
            decontaminate_words=settings.decontaminate_words,
            decontaminate_characters=settings.decontaminate_characters,
            num_workers=settings.num_workers,
            memory_gb=settings.memory_gb,
            overwrite=settings.overwrite,
            max_reject_share=settings.max_reject_share,
            rejects=Path(settings.rejects) if settings.rejects else None,
            **more,
        )
    )


if __name__ == "__main__":
    run_script(main)
