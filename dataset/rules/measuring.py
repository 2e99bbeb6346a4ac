"""Cleaning that judges: each function measures a text and answers "" or what it found and the threshold.

Thresholds of the kind used for large web corpora are named in `dataset/cleaning.py`; the measures themselves follow
Rae et al. 2021 (Gopher, appendix A1.1) where they say so.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from dataset.rules.characters import DIGIT, FIRST_LETTER, LANGUAGES, SPACE, SYMBOL, count_kinds
from dataset.rules.ngrams import repeated_share
from model.errors import UserError

NGRAM = 10  # units: ten words, or ten Chinese characters (about six words)


def too_few_characters(text: str, at_least: int) -> str:
    """Length in characters, not in bytes or tokens."""
    return f"{len(text)} characters, at least {at_least}" if len(text) < at_least else ""


def too_many_characters(text: str, at_most: int) -> str:
    """Length in characters, not in bytes or tokens."""
    return f"{len(text)} characters, at most {at_most}" if len(text) > at_most else ""


def parse_language_shares(value: str) -> dict[str, float]:
    """`zh:0.5,en:0.9` → {"zh": 0.5, "en": 0.9}; UserError names what is wrong."""
    shares: dict[str, float] = {}
    for part in value.split(","):
        language, _, number = part.partition(":")
        language = language.strip()
        if language not in LANGUAGES:
            known = ", ".join(LANGUAGES)
            raise UserError(f"--min_language_share {value}: no language {language!r}; expected {known}, as in zh:0.5")
        try:
            share = float(number)
        except ValueError:
            share = -1.0
        if not 0 < share <= 1:
            raise UserError(f"--min_language_share {value}: expected a share above 0 and up to 1, as in zh:0.5")
        shares[language] = share
    return shares


def outside_languages(text: str, shares: Mapping[str, float]) -> str:
    """Whether no language, told by its script, has its share of the letters. What has no letters has no language."""
    counts = _kinds(text)
    num_letters = int(counts[FIRST_LETTER:].sum())
    if not num_letters:
        return ""
    found = {language: int(counts[LANGUAGES[language]]) / num_letters for language in shares}
    if any(found[language] >= share for language, share in shares.items()):
        return ""
    return " and ".join(
        f"{found[language]:.0%} of the letters are {language}, at least {share:.0%}"
        for language, share in shares.items()
    )


def too_many_symbols(text: str, at_most: float) -> str:
    """The share of symbols among what is not space; the marks of ordinary prose are none."""
    return _share_above(_share_of_kind(text, SYMBOL), at_most, "of the characters are symbols")


def too_many_digits(text: str, at_most: float) -> str:
    """The share of digits among what is not space."""
    return _share_above(_share_of_kind(text, DIGIT), at_most, "of the characters are digits")


def too_many_repeated_lines(text: str, at_most: float) -> str:
    """The share of characters in lines equal to an earlier one (Gopher's duplicate line character fraction)."""
    if "\n" not in text:
        return ""
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    repeated = sum(map(len, lines)) - sum(map(len, set(lines)))
    share = repeated / sum(map(len, lines)) if lines else 0.0
    return _share_above(share, at_most, "of the text is in repeated lines")


def too_many_repeated_ngrams(text: str, at_most: float) -> str:
    """The share of words or characters in 10-grams that came before (Gopher's duplicate n-gram fraction)."""
    if len(text) <= NGRAM:
        return ""
    return _share_above(repeated_share(text, NGRAM), at_most, f"of the text is in repeated {NGRAM}-grams")


def _share_of_kind(text: str, kind: int) -> float:
    counts = _kinds(text)
    num_shown = int(counts.sum() - counts[SPACE])
    return int(counts[kind]) / num_shown if num_shown else 0.0


def _share_above(share: float, at_most: float, what: str) -> str:
    # Enough decimals that a share just above the threshold does not read as equal to it.
    return f"{share:.2%} {what}, at most {at_most:.2%}" if share > at_most else ""


@lru_cache(maxsize=4)
def _kinds(text: str) -> np.ndarray:
    """Several rules ask about the same text, one after another."""
    return count_kinds(text)
