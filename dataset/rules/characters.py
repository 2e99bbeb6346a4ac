"""What kind of character is this? One table over all of Unicode, read by NumPy: counting costs almost nothing.

The cleaning rules ask for shares of scripts, digits and symbols, and decontamination cuts text into words; both
look every character up here, millions a second, instead of asking Python about each.
"""

import unicodedata
from functools import cache

import numpy as np

# Kinds that are no letters …
SPACE, PUNCTUATION, SYMBOL, DIGIT, MARK = range(5)
# … and letters, by script.
HAN, KANA, HANGUL, LATIN, CYRILLIC, GREEK, ARABIC, HEBREW, THAI, DEVANAGARI, OTHER_LETTER = range(5, 16)
NUM_KINDS = 16
FIRST_LETTER = HAN

# The first word of a character's Unicode name tells its script.
_SCRIPTS = {
    "CJK": HAN,
    "IDEOGRAPHIC": HAN,
    "HIRAGANA": KANA,
    "KATAKANA": KANA,
    "KATAKANA-HIRAGANA": KANA,
    "HANGUL": HANGUL,
    "LATIN": LATIN,
    "CYRILLIC": CYRILLIC,
    "GREEK": GREEK,
    "ARABIC": ARABIC,
    "HEBREW": HEBREW,
    "THAI": THAI,
    "DEVANAGARI": DEVANAGARI,
}
# Scripts as users name them: a language stands for the script it is written in.
LANGUAGES = {
    "zh": HAN,
    "ja": KANA,
    "ko": HANGUL,
    "en": LATIN,
    "ru": CYRILLIC,
    "el": GREEK,
    "ar": ARABIC,
    "he": HEBREW,
    "th": THAI,
    "hi": DEVANAGARI,
}
# Marks of ordinary prose. Every other mark counts as a symbol: brackets of code, table bars, hashes, arrows.
PROSE_MARKS = "".join(
    (
        ".,;:!?'\"()-",
        "‘’“”–—…·",
        "，。、；：！？（）《》〈〉「」『』【】～－．",
    )
)

_CODES = 0x110000
_ASSIGNED = 0x33480  # above lie only variation selectors and private characters


@cache
def kind_table() -> np.ndarray:
    """Code point → kind, uint8 `[0x110000]`; made once a process (about a tenth of a second)."""
    table = np.full(_CODES, SYMBOL, np.uint8)
    table[0xE0000:0xE1000] = MARK
    for code in range(_ASSIGNED):
        table[code] = _kind(chr(code))
    table[0x20000:0x33480] = HAN  # newer ideographs than this Python's Unicode knows
    for mark in PROSE_MARKS:
        table[ord(mark)] = PUNCTUATION
    return table


def _kind(character: str) -> int:
    category = unicodedata.category(character)
    if category[0] == "L":
        words = unicodedata.name(character, "").removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ").split()
        return _SCRIPTS.get(words[0], OTHER_LETTER) if words else OTHER_LETTER
    if character.isspace() or category[0] == "Z":
        return SPACE
    return {"N": DIGIT, "M": MARK, "C": MARK if category == "Cf" else SYMBOL}.get(category[0], SYMBOL)


def code_points(text: str) -> np.ndarray:
    """The characters as numbers, uint32 `[len(text)]`."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def kinds_of(text: str) -> np.ndarray:
    """The kind of each character, uint8 `[len(text)]`."""
    return kind_table()[code_points(text)]


def count_kinds(text: str) -> np.ndarray:
    """How many characters of each kind, int64 `[NUM_KINDS]`."""
    counts = np.zeros(NUM_KINDS, np.int64)
    for start in range(0, len(text), 1 << 20):  # a gigantic document is counted in slices
        counts += np.bincount(kinds_of(text[start : start + (1 << 20)]), minlength=NUM_KINDS)
    return counts
