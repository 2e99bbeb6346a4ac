"""How much of what a training step computes is text, not padding; and that packing loses no token.

    python -m benchmarks.packing_efficiency                    text of several length distributions, and conversations
    python -m benchmarks.packing_efficiency alpaca_zh_10k.json --kind sft
    python -m benchmarks.packing_efficiency poems.jsonl --tokenizer out/tokenizer --max_seq_len 256

Packs each input with `data_process.py` into a temporary folder; without --tokenizer one is trained on the input
first. Beside it stands what padding would give: one document a row, cut or filled to its length. Tokens in are counted
by encoding the input once more, without the code that packs; tokens out by adding up the set's arrays. Without real
data the conversations are the little world's, and the output says so.
"""

import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.inputs import real_file, run, write_documents
from model.errors import run_script
from trainer.settings import flag, parse_settings

if TYPE_CHECKING:
    from dataset.packing import PackedSet
    from model.tokenizer import ChatTokenizer

# Sentences in a document of generated text: length distributions that packing must cope with.
DISTRIBUTIONS: dict[str, Callable[[random.Random], int]] = {
    "one sentence each": lambda numbers: 1,
    "all alike, a third of a row": lambda numbers: 12,
    "evenly spread": lambda numbers: numbers.randint(1, 60),
    "log-normal, few very long": lambda numbers: min(5000, max(1, round(numbers.lognormvariate(2, 1.5)))),
    "longer than a row": lambda numbers: numbers.randint(60, 400),
    "short ones and books": lambda numbers: 3000 if numbers.random() < 0.005 else 2,
}


@dataclass(frozen=True)
class EfficiencySettings:
    """What to pack, and how."""

    kind: str = flag("pretrain", "pretrain, sft or dpo")
    tokenizer: str | None = flag(None, "a tokenizer's folder (default: one trained on the input)")
    max_seq_len: int = flag(512, "inputs in a row")
    megabytes: int = flag(10, "size of each generated text")


def main() -> None:
    """Settings → tokenizer → packed sets → table."""
    positionals = {"path": {"nargs": "?", "help": "a raw file (default: generated text, and real data)"}}
    settings, rest = parse_settings(EfficiencySettings, description=__doc__, positionals=positionals)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = [(settings.kind, Path(rest.path), "")] if rest.path else default_inputs(folder, settings.megabytes)
        for number, (kind, path, note) in enumerate(inputs):
            tokenizer = settings.tokenizer
            if tokenizer is None:
                tokenizer = str(folder / f"tokenizer_{number}")
                run("train_tokenizer.py", "--data_path", path, "--tokenizer", tokenizer)
            flags = ["--data_path", path, "--name", f"measured_{number}", "--packed_dir", folder]
            run("data_process.py", kind, *flags, "--tokenizer", tokenizer, "--max_seq_len", settings.max_seq_len)
            report(folder / f"measured_{number}", path, note)


def default_inputs(folder: Path, megabytes: int) -> Iterator[tuple[str, Path, str]]:
    """Kind, file and a remark: generated text, poems, conversations."""
    for name, num_sentences in DISTRIBUTIONS.items():
        path = folder / "generated.jsonl"
        write_documents(path, megabytes * 1_000_000, num_sentences)
        yield "pretrain", path, f" [{name}]"
    poems = real_file("text/poems.jsonl")
    if poems:
        yield "pretrain", poems, ""
    conversations = real_file("instruct/alpaca_zh_10k.json")
    if conversations:
        yield "sft", conversations, ""
    else:
        run("data_process.py", "little_world", "--raw_dir", folder / "raw")
        yield "sft", folder / "raw" / "little_world" / "sft.jsonl", " [little world, not real data]"


def report(folder: Path, path: Path, note: str) -> None:
    """Print shares of the slots of a set, and what padding would have made of the same documents."""
    from dataset.packing import ROLE_CONTINUATION, PackedSet

    packed = PackedSet.open(folder)
    meta, segments = packed.meta, packed.segments
    slots, inputs = packed.num_rows * packed.row_length, packed.num_rows * (packed.row_length - 1)
    # Counted from the arrays: the slots of all segments, less the token that each continuation repeats.
    goes_on = segments["role"] == ROLE_CONTINUATION
    filled, tokens_out = int(segments["length"].sum()), int((segments["length"] - goes_on).sum())
    lengths = np.add.reduceat(segments["length"] - goes_on, np.flatnonzero(~goes_on))
    padded = np.minimum(lengths, packed.max_seq_len + 1).sum() / (len(lengths) * (packed.max_seq_len + 1))
    documents = f"{meta['num_documents']:,} documents"
    print(f"{path.name}{note}: {documents}, {packed.num_rows:,} rows of {packed.row_length}")
    for share, meaning in (
        (filled / slots, "useful share: slots that hold no padding"),
        (tokens_out / slots, "distinct tokens only (what a cut repeats not counted)"),
        (meta["num_targets"] / inputs, "input positions with a target"),
        (padded, "useful share of the same documents padded, one a row"),
    ):
        print(f"  {share:8.3%}  {meaning}")
    expected, too_long = tokens_in(packed, path)
    print(f"  {expected:,} tokens in, {tokens_out:,} tokens out: {expected - tokens_out} lost in packing", end="")
    print(f"; {too_long} conversations are longer than a row" if packed.kind != "pretrain" else "", flush=True)


def tokens_in(packed: "PackedSet", path: Path) -> tuple[int, int]:
    """Tokens of the input's different documents that fit a row, and how many do not: without the code that packs."""
    from dataset.reading.formats import Row
    from dataset.sources import read_rows
    from model.files import canonical_json
    from model.tokenizer import ChatTokenizer

    tokenizer = ChatTokenizer.from_files(packed.tokenizer_files())
    rows = [row.value for row in read_rows([path]) if isinstance(row, Row)]
    if packed.kind == "pretrain":
        texts = {row["text"].strip() for row in rows}
        return sum(len(tokens) + 2 for tokens in tokenizer.encode_batch(sorted(texts))), 0
    different = {canonical_json(conversation): conversation for conversation in _conversations(packed.kind, rows)}
    lengths = [_tokens_of(tokenizer, conversation) for conversation in different.values()]
    fitting = [sum(sides) for sides in lengths if max(sides) <= packed.max_seq_len + 1]
    return sum(fitting), len(lengths) - len(fitting)


def _conversations(kind: str, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    from dataset.conversations import BadRow, to_conversation, to_preference

    for row in rows:
        try:
            yield (to_preference if kind == "dpo" else to_conversation)(row)
        except BadRow:
            continue


def _tokens_of(tokenizer: "ChatTokenizer", conversation: dict[str, Any]) -> list[int]:
    from model.chat import encode_conversation

    messages, tools = conversation["messages"], conversation.get("tools")
    sides = [[*messages, conversation[side]] for side in ("chosen", "rejected") if side in conversation] or [messages]
    return [len(encode_conversation(tokenizer, side, tools).token_ids) for side in sides]


if __name__ == "__main__":
    run_script(main)
