"""What the benchmarks of the data room run on: real files where they are, and any amount of generated text."""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from dataset.little_world.generator import little_world_files

REPOSITORY = Path(__file__).resolve().parent.parent


def real_file(name: str) -> Path | None:
    """A file of the real data (`$SEEDLING_DATA`); None, and a line that says so, where it is absent."""
    path = Path(os.environ.get("SEEDLING_DATA", REPOSITORY.parent / "shared" / "data")) / name
    if path.is_file():
        return path
    print(f"no real data at {path}: without it")
    return None


def run(script: str, *flags: object) -> str:
    """Run one of the numbered scripts as a user would; where it ends in an error, so do we. Returns its output."""
    command = [sys.executable, str(REPOSITORY / script), *map(str, flags)]
    result = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(result.returncode)
    return result.stdout


def sentences() -> list[str]:
    """The little world's pretraining text, sentence by sentence, in both languages."""
    rows = little_world_files()["pretrain.jsonl"].splitlines()
    found = (re.findall(r"[^.。!?！？\n]+[.。!?！？]?\s*", json.loads(row)["text"]) for row in rows)
    return list(dict.fromkeys(sentence for row in found for sentence in row if len(sentence) > 3))


def write_documents(
    path: Path, num_bytes: int, num_sentences: Callable[[random.Random], int], seed: int = 1, min_documents: int = 1
) -> int:
    """Write about `num_bytes` of JSON Lines: sentences of the little world in new orders; returns how many documents.

    Each document has `num_sentences(random)` of them, and none is equal to another. The words repeat more than those
    of real text do; a tokenizer, which remembers words, is quicker with it, and all that is not tokenising weighs more.
    """
    numbers, pool = random.Random(seed), sentences()
    written = count = 0
    with open(path, "w", encoding="utf-8") as file:
        while written < num_bytes or count < min_documents:
            # The number makes each document different, however few sentences it has.
            text = f"{count}. " + "".join(numbers.choices(pool, k=num_sentences(numbers)))
            line = json.dumps({"text": text}, ensure_ascii=False) + "\n"
            file.write(line)
            written += len(line.encode("utf-8"))
            count += 1
    return count
