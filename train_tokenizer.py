"""Train the tokenizer: raw text → out/tokenizer/ (byte-level BPE, fixed special tokens, chat template).

    python train_tokenizer.py                                    # the little world
    python train_tokenizer.py --data_path my_text.jsonl books/   # your own files and folders
    python train_tokenizer.py --data_path my_text.jsonl --vocab_size 16000 --tokenizer out/my_tokenizer
    python train_tokenizer.py --data_path dump.tar.gz https://example.org/wiki.jsonl.zst hf:owner/name

Files may be JSON Lines or JSON with `text`, `instruction` and `output`, or `messages`; CSV; Parquet; or plain text;
compressed or in archives too. Names as for `data_process.py`: files, folders, patterns, addresses, hf:… and ms:….
Runs on the CPU, all cores. The same text, settings and seed give the same tokenizer, byte for byte.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import UserError, run_script
from trainer.settings import flag, parse_settings

if TYPE_CHECKING:
    from dataset.text_sample import TextSample

NUM_SPECIAL, NUM_BYTES = 64, 256
HELD_OUT_SHARE = 0.05  # of the sample: measured on, never trained on


@dataclass(frozen=True)
class TokenizerSettings:
    """What the tokenizer learns from, and how large it gets."""

    data_path: list[str] | None = flag(None, "files, folders, addresses… (default: RAW_DIR/little_world/tokenizer.txt)")
    raw_dir: str = flag("dataset/raw", "where `data_process.py little_world` wrote its files")
    tokenizer: str = flag("out/tokenizer", "the folder that is written")
    vocab_size: int = flag(6400, "number of entries, the 64 special tokens and 256 bytes included")
    max_bytes: int = flag(
        100_000_000,
        "train on a random sample of this many bytes when there is more text; each needs up to 80 bytes of "
        "memory (Chinese), less where words repeat (English)",
    )
    min_frequency: int = flag(2, "merge only pairs that occur this often")
    max_token_length: int = flag(18, "longest entry in bytes (a Chinese character has 3)")
    max_seq_len: int = flag(512, "the model's context; the tokenizer warns above it (model_max_length)")
    max_reject_share: float = flag(0.05, "stop when more than this share of the rows cannot be read")
    seed: int = flag(42, "of the random sample and of the part it is measured on")
    overwrite: bool = flag(False, "replace the folder if it exists")


def main() -> None:
    """Run the stage from settings to result."""
    # 1. Settings: everything that can be wrong is found before any work is done.
    (settings,) = parse_settings(TokenizerSettings, description=__doc__)
    check(settings)
    little_world = Path(settings.raw_dir) / "little_world" / "tokenizer.txt"
    if not settings.data_path and not little_world.is_file():
        raise UserError(f"{little_world}: missing; run `python data_process.py little_world` or pass --data_path")

    # Only now the libraries that take a second to load: `--help` and mistakes are answered at once.
    from dataset.text_sample import held_out_split, sample_texts
    from model.files import atomic_folder, write_json
    from model.tokenizer import ChatTokenizer, seedling_files
    from model.tokenizer_report import tokenizer_report

    # 2. Data: a fair sample, a part of it held out.
    sample = sample_texts(settings.data_path or [little_world], settings.max_bytes, settings.seed)
    tell_about(sample, settings)
    made_from = fingerprint(sample, settings)
    if already_trained(settings, made_from):
        print(f"{settings.tokenizer}: already trained from this text with these settings; --overwrite trains it again")
        return
    training, held_out = held_out_split(sample.pieces, HELD_OUT_SHARE, settings.seed)

    # 3. Training.
    tokenizer_json, num_entries = train_bpe(training, settings)
    if num_entries < settings.vocab_size:
        # A smaller vocabulary than asked for would be another model; that is the user's to decide.
        raise UserError(
            f"--vocab_size {settings.vocab_size}: this text has only {num_entries} entries to learn; "
            f"pass --vocab_size {num_entries} or give more text"
        )
    tokenizer = ChatTokenizer.from_files(seedling_files(tokenizer_json, settings.max_seq_len))

    # 4. Report and result.
    measured_on = f"{len(held_out)} held-out pieces" if held_out else "the training text (too short to split)"
    report = tokenizer_report(tokenizer, held_out or training, sample.pieces, measured_on)
    with atomic_folder(settings.tokenizer, overwrite=settings.overwrite) as folder:
        for name, text in tokenizer.files.items():
            (folder / name).write_bytes(text.encode("utf-8"))
        (folder / "report.md").write_text(report.to_markdown(), encoding="utf-8")
        write_json(folder / "report.json", {"fingerprint": made_from, **report.to_json()})
    print(report.to_markdown())
    print(f"{settings.tokenizer}: {tokenizer.vocab_size} entries; next: python data_process.py")


def train_bpe(pieces: list[str], settings: TokenizerSettings) -> tuple[str, int]:
    """Byte-pair encoding (Sennrich et al. 2016) over bytes: `tokenizer.json`'s text and number of entries.

    It begins with the 256 bytes, so that no text is ever unknown. Then, again and again, the most frequent
    pair of neighbours becomes a new entry.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from model.tokenizer import ROLES, SPECIAL_TOKENS

    tokenizer = Tokenizer(models.BPE())
    # No normalizer: what comes out is what went in, to the byte. GPT-2's pattern (use_regex) keeps words,
    # numbers and punctuation apart; a space belongs to the word behind it.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        min_frequency=settings.min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        # Chinese has no spaces: without a limit, a sentence that the text repeats becomes one single entry,
        # and the model never sees the words in it.
        max_token_length=settings.max_token_length,
        show_progress=sys.stderr.isatty(),
    )
    # The template begins every turn with the role's name, which the text itself need not hold: seen this often, each
    # becomes one entry. (Each merge takes a byte or more from the text where it occurs, so the last and rarest occurs
    # at most this often.)
    size = sum(len(piece.encode("utf-8")) for piece in pieces)
    num_merges = max(1, settings.vocab_size - NUM_SPECIAL - NUM_BYTES)
    times = max(settings.min_frequency, size // num_merges + 1)
    names = [f"{role}\n" * times for role in ROLES]
    tokenizer.train_from_iterator([*pieces, *names], trainer, length=len(pieces) + len(names))
    return tokenizer.to_str(pretty=True), tokenizer.get_vocab_size()


def check(settings: TokenizerSettings) -> None:
    """UserError for settings that cannot work, before any file is read."""
    smallest = NUM_SPECIAL + NUM_BYTES
    if settings.vocab_size < smallest:
        raise UserError(
            f"--vocab_size {settings.vocab_size}: at least {smallest} are needed "
            f"({NUM_SPECIAL} special tokens and {NUM_BYTES} bytes)"
        )
    for name in ("max_bytes", "min_frequency", "max_token_length", "max_seq_len"):
        if getattr(settings, name) < 1:
            raise UserError(f"--{name} {getattr(settings, name)}: expected at least 1")


def fingerprint(sample: "TextSample", settings: TokenizerSettings) -> str:
    """A hash of all that decides the result: the text, and the settings of the training."""
    from model.files import canonical_json, sha256_of_text
    from model.tokenizer import ROLES

    names = ("vocab_size", "min_frequency", "max_token_length", "max_seq_len", "seed")
    values = [getattr(settings, name) for name in names]
    return sha256_of_text(canonical_json([ROLES, values, [sha256_of_text(piece) for piece in sample.pieces]]))


def already_trained(settings: TokenizerSettings, made_from: str) -> bool:
    """Whether the folder holds this very tokenizer; UserError when it holds anything else."""
    from model.files import read_json

    folder = Path(settings.tokenizer)
    if not os.path.lexists(folder):
        return False
    if not (folder / "tokenizer.json").is_file():
        # --overwrite replaces a tokenizer, never a folder of somebody's other files.
        raise UserError(f"{folder}: exists already and holds no tokenizer; name another --tokenizer")
    if settings.overwrite:
        return False
    report = folder / "report.json"
    if report.is_file() and read_json(report).get("fingerprint") == made_from:
        return True
    raise UserError(f"{folder}: exists already, made otherwise; pass --overwrite or another --tokenizer")


def tell_about(sample: "TextSample", settings: TokenizerSettings) -> None:
    """Print what was read; UserError when too much of it was unreadable, or nothing left."""
    total, used = sample.total_bytes / 1e6, sample.num_bytes / 1e6
    print(f"read {sample.num_rows} rows, {total:.2f} MB of text; using {used:.2f} MB")
    num_rejects = sum(sample.rejects.values())
    if num_rejects:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sample.rejects.most_common())
        print(f"warning: left out {num_rejects} of {sample.num_rows} rows: {reasons}", file=sys.stderr)
        for reject in sample.first_rejects:
            print(f"  {reject.path}:{reject.line}: {reject.reason} ({reject.detail})", file=sys.stderr)
    if num_rejects > settings.max_reject_share * sample.num_rows:
        raise UserError(
            f"{num_rejects} of {sample.num_rows} rows cannot be read (see above), more than "
            f"--max_reject_share {settings.max_reject_share}: repair the data or raise the limit"
        )
    if not sample.pieces:
        raise UserError("no text found; expected plain text, or rows with a field like `text` or `messages`")


if __name__ == "__main__":
    run_script(main)
