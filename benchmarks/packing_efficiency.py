"""How much of what a training step computes is text, not padding.

    python -m benchmarks.packing_efficiency                                  $SEEDLING_DATA/text/poems.jsonl
    python -m benchmarks.packing_efficiency alpaca_zh_10k.json --kind sft
    python -m benchmarks.packing_efficiency poems.jsonl --tokenizer out/tokenizer --max_seq_len 256

Packs the file with `data_process.py` into a temporary folder; without --tokenizer one is trained on the file
first. Beside it stands what padding would give: one document a row, cut or filled to its length. Without
real data it runs on the little world and says so.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model.errors import run_script
from trainer.settings import flag, parse_settings

if TYPE_CHECKING:
    from dataset.packing import PackedSet

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class EfficiencySettings:
    """What to pack, and how."""

    kind: str = flag("pretrain", "pretrain, sft or dpo")
    tokenizer: str | None = flag(None, "a tokenizer's folder (default: one trained on the file)")
    max_seq_len: int = flag(512, "inputs in a row")


def main() -> None:
    """Settings → tokenizer → packed set → table."""
    positionals = {"path": {"nargs": "?", "help": "a raw file (default: the poems of the real data)"}}
    settings, rest = parse_settings(EfficiencySettings, description=__doc__, positionals=positionals)
    with tempfile.TemporaryDirectory() as folder:
        path, note = find_input(rest.path, settings.kind, Path(folder))
        tokenizer = settings.tokenizer
        if tokenizer is None:
            tokenizer = f"{folder}/tokenizer"
            run("train_tokenizer.py", "--data_path", str(path), "--tokenizer", tokenizer)
        flags = [
            "--data_path",
            str(path),
            "--name",
            "measured",
            "--packed_dir",
            folder,
            "--tokenizer",
            tokenizer,
        ]
        run("data_process.py", settings.kind, *flags, "--max_seq_len", str(settings.max_seq_len))
        report(Path(folder) / "measured", path, note)


def find_input(given: str | None, kind: str, folder: Path) -> tuple[Path, str]:
    """The file to pack, and a mark for results that do not come from real data."""
    if given:
        return Path(given), ""
    data = Path(os.environ.get("SEEDLING_DATA", REPOSITORY.parent / "shared" / "data"))
    path = data / {"pretrain": "text/poems.jsonl", "sft": "instruct/alpaca_zh_10k.json"}.get(
        kind, "preference/dpo_zh_demo.json"
    )
    if path.is_file():
        return path, ""
    print(f"no real data at {path}: packing the little world instead")
    run("data_process.py", "little_world", "--raw_dir", str(folder / "raw"))
    name = {"pretrain": "pretrain.jsonl", "sft": "sft.jsonl"}.get(kind, "preference.jsonl")
    return folder / "raw" / "little_world" / name, " [little world, not real data]"


def run(script: str, *flags: str) -> None:
    """Run one of the numbered scripts as a user would; where it ends in an error, so do we."""
    result = subprocess.run([sys.executable, REPOSITORY / script, *flags], check=False, stdout=subprocess.DEVNULL)
    if result.returncode:
        sys.exit(result.returncode)


def report(folder: Path, path: Path, note: str) -> None:
    """Print shares of the slots of a set, and what padding would have made of the same documents."""
    from dataset.packing import ROLE_CONTINUATION, PackedSet

    packed = PackedSet.open(folder)
    meta, slots = packed.meta, packed.num_rows * packed.row_length
    inputs = packed.num_rows * (packed.row_length - 1)
    # A document's length: its own segments, less the token that each continuation repeats.
    opens = packed.segments["role"] != ROLE_CONTINUATION
    lengths = np.add.reduceat(packed.segments["length"] - ~opens, np.flatnonzero(opens))
    padded = np.minimum(lengths, packed.max_seq_len + 1).sum() / (len(lengths) * (packed.max_seq_len + 1))
    documents = f"{meta['num_documents']:,} documents"
    print(f"{path.name}{note}: {documents}, {packed.num_rows:,} rows of {packed.row_length}")
    for share, meaning in (
        (meta["packing_efficiency"], "useful share: slots that hold no padding"),
        (meta["num_tokens"] / slots, "distinct tokens only (what a cut repeats not counted)"),
        (meta["num_targets"] / inputs, "input positions with a target"),
        (padded, "useful share of the same documents padded, one a row"),
    ):
        print(f"  {share:8.3%}  {meaning}")
    if packed.kind == "pretrain":
        print(f"  {tokens_in(packed, path) - meta['num_tokens']} tokens lost")


def tokens_in(packed: "PackedSet", path: Path) -> int:
    """Tokens of the file's different documents, counted without the code that packs."""
    from dataset.sources import Row, read_rows
    from model.tokenizer import ChatTokenizer

    tokenizer = ChatTokenizer.from_files(packed.tokenizer_files())
    texts = {row.value["text"].strip() for row in read_rows([path]) if isinstance(row, Row)}
    return sum(len(tokens) + 2 for tokens in tokenizer.encode_batch(sorted(texts)))


if __name__ == "__main__":
    run_script(main)
