"""Any amount of text to measure with: sentences of the little world in ever new orders, as JSON Lines.

It stands in for real text where that is absent or not large enough. Its words repeat more than those of real text
do, so a tokenizer, which remembers words, is quicker with it, and all that is not tokenising weighs more.
"""

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path

from dataset.little_world.generator import little_world_files
from model.files import sha256_of_text

REPOSITORY = Path(__file__).resolve().parent.parent


def real_file(name: str) -> Path | None:
    """A file of the real data (`$SEEDLING_DATA`), None where it is absent."""
    path = Path(os.environ.get("SEEDLING_DATA", REPOSITORY.parent / "shared" / "data")) / name
    return path if path.is_file() else None


def sentences() -> list[str]:
    """The little world's pretraining text, sentence by sentence, in both languages."""
    rows = little_world_files()["pretrain.jsonl"].splitlines()
    found = (re.findall(r"[^.。!?！？\n]+[.。!?！？]?\s*", json.loads(row)["text"]) for row in rows)
    return list(dict.fromkeys(sentence for row in found for sentence in row if len(sentence) > 3))


def write_documents(
    path: Path, num_bytes: int, num_sentences: Callable[[random.Random], int], seed: int = 1, min_documents: int = 1
) -> int:
    """Write about `num_bytes` of different documents, each of `num_sentences(random)` sentences; returns how many."""
    numbers, pool = random.Random(seed), sentences()
    written = count = 0
    with open(path, "w", encoding="utf-8") as file:
        while written < num_bytes or count < min_documents:
            # The number makes each document different, however few sentences it has.
            chosen = numbers.choices(pool, k=num_sentences(numbers))
            line = json.dumps({"text": f"{count}. " + "".join(chosen)}, ensure_ascii=False) + "\n"
            file.write(line)
            written += len(line.encode("utf-8"))
            count += 1
    return count


def train_tokenizer_on(texts: list[str], folder: Path, vocab_size: int = 6400) -> None:
    """A tokenizer as `train_tokenizer.py` makes it."""
    import subprocess
    import sys

    sample = folder.parent / f"{folder.name}-{sha256_of_text(texts[0])[:8]}.jsonl"
    sample.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    flags = ["--data_path", str(sample), "--tokenizer", str(folder), "--vocab_size", str(vocab_size)]
    done = subprocess.run([sys.executable, REPOSITORY / "train_tokenizer.py", *flags], stdout=subprocess.DEVNULL)
    sample.unlink()
    if done.returncode:
        sys.exit(done.returncode)
