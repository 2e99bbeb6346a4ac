"""How many million characters a second each cleaning rule, each preset and decontamination get through, on one core.

    python -m benchmarks.cleaning_speed                     the text files of $SEEDLING_DATA
    python -m benchmarks.cleaning_speed my.jsonl more.txt   any files of text

Documents are taken one by one, as in a build; short ones cost more a character. Decontamination searches for the
held-out files given (--decontaminate; default: C-Eval of the real data), a block of documents at a time. Without
real data it runs on the little world and says so.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.cleaning import PRESETS, RULES, Cleaner, CleaningRules
from dataset.decontamination import Decontaminator
from dataset.reading.formats import Row, parse_block
from dataset.sources import find_inputs
from model.errors import UserError, run_script
from trainer.settings import flag, parse_settings

REPOSITORY = Path(__file__).resolve().parent.parent
_BLOCK_DOCUMENTS = 1000
# A threshold for each rule that is not simply on; lax ones, so that no rule ends early.
_THRESHOLDS: dict[str, Any] = {
    "unicode_form": "nfc",
    "max_line_repeats": 5,
    "mask_personal_data": "all",
    "min_language_share": "zh:0.01,en:0.01",
}


@dataclass(frozen=True)
class SpeedSettings:
    """What to search for."""

    decontaminate: list[str] | None = flag(None, "held-out files (default: C-Eval of the real data)")
    max_chars: int = flag(5_000_000, "characters taken of each file")


def main() -> None:
    """Settings → documents → a table."""
    positionals = {"path": {"nargs": "*", "help": "files of text (default: those of the real data)"}}
    settings, rest = parse_settings(SpeedSettings, description=__doc__, positionals=positionals)
    with tempfile.TemporaryDirectory() as folder:
        paths, held_out, note = find_files(rest.path, settings.decontaminate, Path(folder))
        texts = {found.label: read_texts(found, settings.max_chars) for found in find_inputs(paths)}
        decontaminator = Decontaminator.from_files(held_out) if held_out else None
    texts = {label: documents for label, documents in texts.items() if documents}
    if not texts:
        raise UserError(f"{paths[0]}: no rows with a field `text`")
    print(f"million characters a second, one core{note}")
    print(f"{'':24}" + "".join(f"{label[:16]:>17}" for label in texts))
    for name, work in works(decontaminator):
        print(f"{name:24}" + "".join(f"{speed(work, documents):17.1f}" for documents in texts.values()))


def find_files(given: list[str], held_out: list[str] | None, folder: Path) -> tuple[list[str], list[str], str]:
    """What to clean, what to search for, and a mark for results that do not come from real data."""
    data = Path(os.environ.get("SEEDLING_DATA", REPOSITORY.parent / "shared" / "data"))
    if given or data.is_dir():
        exams = [str(data / "ceval")] if data.is_dir() else []
        return given or [str(data / "text")], exams if held_out is None else held_out, ""
    from dataset.little_world.generator import write_little_world

    print(f"no real data at {data}: cleaning the little world instead")
    write_little_world(folder)
    exams = [str(folder / "questions.jsonl")] if held_out is None else held_out
    return [str(folder / "pretrain.jsonl")], exams, " [little world, not real data]"


def read_texts(found: Any, max_chars: int) -> list[str]:
    """The documents of a file, up to so many characters."""
    texts: list[str] = []
    for block in found.blocks():
        for row in parse_block(block):
            text = row.value.get("text") if isinstance(row, Row) else None
            if isinstance(text, str):
                texts.append(text)
                max_chars -= len(text)
        if max_chars <= 0:
            break
    return texts


def works(decontaminator: Decontaminator | None) -> list[tuple[str, Callable[[Sequence[str]], Any]]]:
    """Name → what is done to all documents of a file."""

    def cleaning(rules: CleaningRules) -> Callable[[Sequence[str]], Any]:
        cleaner = Cleaner(rules)
        return lambda texts: [cleaner.clean_text(text) for text in texts]

    found: list[tuple[str, Callable[[Sequence[str]], Any]]] = []
    for name, rule in RULES.items():
        if rule.part not in ("question", "answer"):
            lax = 1.0 if rule.field.endswith("_share") else 1 if rule.field == "min_chars" else 1 << 40
            threshold = _THRESHOLDS.get(rule.field, True if rule.rewrite else lax)
            rules: dict[str, Any] = {rule.field: rule.kind or threshold}
            found.append((name, cleaning(CleaningRules(cleaning="none", **rules))))
    presets: list[Any] = list(PRESETS)
    found += [(f"preset {name}", cleaning(CleaningRules(cleaning=name))) for name in presets]
    if decontaminator is not None:
        found.append((f"decontamination ({decontaminator.num_bytes >> 20} MiB)", decontaminator.find))
    return found


def speed(work: Callable[[Sequence[str]], Any], texts: list[str]) -> float:
    """Million characters a second; a first call without the clock fills the tables."""
    work(texts[:1])
    begin = time.perf_counter()
    for start in range(0, len(texts), _BLOCK_DOCUMENTS):
        work(texts[start : start + _BLOCK_DOCUMENTS])
    return sum(map(len, texts)) / (time.perf_counter() - begin) / 1e6


if __name__ == "__main__":
    run_script(main)
