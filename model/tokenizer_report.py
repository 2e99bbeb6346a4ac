"""How good a tokenizer is: characters a token by language, entries by kind, entries never used."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from model.tokenizer import ChatTokenizer

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_LATIN = re.compile(r"[A-Za-z]")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True)
class LanguageFigures:
    """What text in one language costs: with more characters a token, more of it fits into a context."""

    characters: int
    utf8_bytes: int
    tokens: int

    @property
    def characters_per_token(self) -> float | None:
        return self.characters / self.tokens if self.tokens else None

    @property
    def bytes_per_token(self) -> float | None:
        return self.utf8_bytes / self.tokens if self.tokens else None


@dataclass(frozen=True)
class TokenizerReport:
    """The figures of a tokenizer; `measured_on` names the text of `languages`."""

    vocab_size: int
    vocabulary_hash: str
    file_bytes: int
    measured_on: str
    languages: dict[str, LanguageFigures]
    entries_by_kind: dict[str, int]
    num_unused: int
    unused_examples: list[str]

    def to_json(self) -> dict[str, Any]:
        """As plain values, with the ratios written out."""
        value = asdict(self)
        for language, figures in self.languages.items():
            value["languages"][language]["characters_per_token"] = figures.characters_per_token
            value["languages"][language]["bytes_per_token"] = figures.bytes_per_token
        return value

    def to_markdown(self) -> str:
        """As a page for people."""
        lines = [
            "# Tokenizer",
            "",
            f"{self.vocab_size} entries, tokenizer.json {self.file_bytes / 1024:.0f} KiB, vocabulary "
            f"{self.vocabulary_hash[:12]}.",
            "",
            f"| language, {self.measured_on} | characters | tokens | characters a token | bytes a token |",
            "|---|---:|---:|---:|---:|",
        ]
        for language, figures in self.languages.items():
            counts = f"| {figures.characters} | {figures.tokens} |"
            ratios = [figures.characters_per_token, figures.bytes_per_token]
            cells = " | ".join("–" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
            lines.append(f"| {language} {counts} {cells} |")
        lines += ["", "| kind of entry | entries |", "|---|---:|"]
        lines += [f"| {kind} | {count} |" for kind, count in self.entries_by_kind.items()]
        examples = " ".join(f"`{text}`" for text in self.unused_examples)
        lines += ["", f"Learned entries that the sample never uses: {self.num_unused}. {examples}".rstrip()]
        return "\n".join(lines) + "\n"


def tokenizer_report(
    tokenizer: ChatTokenizer, measured: Sequence[str], sample: Sequence[str], measured_on: str
) -> TokenizerReport:
    """Measure a tokenizer of ours: languages on `measured`, the use of its entries on the whole `sample`."""
    entries = entry_kinds(tokenizer)
    used = set()
    for start in range(0, len(sample), 500):
        for token_ids in tokenizer.encode_batch(sample[start : start + 500]):
            used.update(token_ids)
    # Single bytes stay whether used or not: they are why every text can be written.
    unused = [i for i, kind in entries.items() if i not in used and kind not in ("special", "single byte")]
    readable = [i for i in unused if entries[i] != "part of characters"]
    return TokenizerReport(
        vocab_size=tokenizer.vocab_size,
        vocabulary_hash=tokenizer.vocabulary_hash,
        file_bytes=len(tokenizer.files["tokenizer.json"].encode("utf-8")),
        measured_on=measured_on,
        languages=language_figures(tokenizer, measured),
        entries_by_kind=dict(Counter(entries.values()).most_common()),
        num_unused=len(unused),
        unused_examples=[tokenizer.decode([i]) for i in readable[:20]],
    )


def language_of(text: str) -> str:
    """Chinese, English or other, by the letters that prevail (a Chinese one says as much as two Latin)."""
    han, latin = len(_HAN.findall(text)), len(_LATIN.findall(text))
    others = len(_LETTER.findall(text)) - han - latin
    if max(2 * han, latin, others) == 0 or others > max(2 * han, latin):
        return "other"
    return "Chinese" if 2 * han >= latin else "English"


def language_figures(tokenizer: ChatTokenizer, texts: Iterable[str]) -> dict[str, LanguageFigures]:
    """Characters, bytes and tokens by language, line by line."""
    lines: dict[str, list[str]] = {"Chinese": [], "English": [], "other": []}
    for text in texts:
        for line in text.split("\n"):
            if line:
                lines[language_of(line)].append(line)
    return {
        language: LanguageFigures(
            characters=sum(map(len, found)),
            utf8_bytes=sum(len(line.encode("utf-8")) for line in found),
            tokens=sum(map(len, tokenizer.encode_batch(found))),
        )
        for language, found in lines.items()
    }


def entry_kinds(tokenizer: ChatTokenizer) -> dict[int, str]:
    """id → what the entry is."""
    special = set(tokenizer.special_tokens.values())
    return {i: "special" if i in special else _kind(tokenizer, i) for i in range(tokenizer.vocab_size)}


def _kind(tokenizer: ChatTokenizer, token_id: int) -> str:
    # In a byte-level vocabulary every character of an entry's name stands for one byte.
    if len(tokenizer.entry_name(token_id)) == 1:
        return "single byte"
    text = tokenizer.decode([token_id])
    if "\ufffd" in text:
        return "part of characters"
    if _HAN.search(text):
        return "Chinese"
    if _LATIN.search(text):
        return "Latin letters"
    if _LETTER.search(text):
        return "other letters"
    if any(character.isdigit() for character in text):
        return "digits"
    return "punctuation" if text.strip() else "white space"
