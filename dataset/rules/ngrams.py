"""Text → units (words, or single characters of scripts without spaces) → hashes of n neighbouring units.

Everything is NumPy over whole texts. A hash of a stretch is polynomial: Σ valueᵢ·Bⁱ modulo 2⁶⁴. With prefix
sums, the hash of *any* stretch is one subtraction, so n-grams of every length cost the same.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from dataset.rules.characters import DIGIT, FIRST_LETTER, HAN, KANA, MARK, THAI, code_points, kind_table

MAX_CHARS = 1 << 17  # longest text of one call: the tables of powers below have this length

# Any odd numbers of 64 bits will do (odd: they can be divided by). These are random.
_CHARACTER_BASE = 0x9E6C63D0876A9A47
_UNIT_BASE = 0xD1B54A32D192ED03
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Units:
    """The units of a text: their hashes (uint64), where they stand in it, and which are Chinese characters."""

    hashes: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    is_han: np.ndarray

    def __len__(self) -> int:
        return len(self.hashes)


def units_of(text: str) -> Units:
    """Cut a text of at most `MAX_CHARS` characters into units; marks and spaces between them are left out.

    A word is a run of letters and digits. Chinese, Japanese and Thai write no spaces: each character is a unit.
    """
    assert len(text) <= MAX_CHARS
    codes = code_points(text)
    kinds = kind_table()[codes]
    in_word = (kinds >= FIRST_LETTER) | (kinds == DIGIT) | (kinds == MARK)
    alone = (kinds == HAN) | (kinds == KANA) | (kinds == THAI)
    joins = in_word & ~alone
    begins = in_word.copy()
    begins[1:] &= ~(joins[1:] & joins[:-1])  # goes on with the word before it
    starts = np.flatnonzero(begins)
    ends_word = in_word.copy()
    ends_word[:-1] &= ~(joins[1:] & joins[:-1])
    ends = np.flatnonzero(ends_word) + 1
    hashes = stretch_hashes(prefix_sums(codes.astype(np.uint64) + np.uint64(1), _CHARACTER_BASE), starts, ends)
    return Units(hashes, starts, ends, kinds[starts] == HAN)


@dataclass(frozen=True)
class PrefixSums:
    """Σ valueᵢ·baseⁱ up to each place, uint64 `[n + 1]`."""

    sums: np.ndarray
    base: int


def prefix_sums(values: np.ndarray, base: int = _UNIT_BASE) -> PrefixSums:
    """Prefix sums of at most `MAX_CHARS` values, from which `stretch_hashes` reads any stretch."""
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * _powers(base)[: len(values)], out=sums[1:])
    return PrefixSums(sums, base)


def stretch_hashes(prefix: PrefixSums, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The hashes of the stretches [start, end), uint64: equal stretches have equal hashes wherever they stand."""
    # Dividing by base^start moves the stretch to the beginning.
    hashes = (prefix.sums[ends] - prefix.sums[starts]) * _powers(pow(prefix.base, -1, 1 << 64))[starts]
    return _mixed(hashes)


def ngram_hashes(prefix: PrefixSums, n: int) -> np.ndarray:
    """The hashes of all runs of n neighbouring units, uint64 `[number of units − n + 1]` (none: an empty array)."""
    count = len(prefix.sums) - n
    if count <= 0:
        return np.zeros(0, np.uint64)
    hashes = (prefix.sums[n:] - prefix.sums[:-n]) * _powers(pow(prefix.base, -1, 1 << 64))[:count]
    return _mixed(hashes)


def repeated_share(text: str, n: int) -> float:
    """The share of a text's units, weighed by their characters, in n-grams that occurred before in it.

    The first occurrence does not count: the share is what could be taken away. After the duplicate n-gram fraction
    of Rae et al. 2021 (Gopher), table A1, which counts the first as well.
    """
    repeated = total = 0
    for start in range(0, len(text), MAX_CHARS):
        units = units_of(text[start : start + MAX_CHARS])
        hashes = ngram_hashes(prefix_sums(units.hashes), n)
        chars = units.ends - units.starts
        total += int(chars.sum())
        order = np.argsort(hashes, kind="stable")
        again = order[1:][hashes[order[1:]] == hashes[order[:-1]]]
        # Mark where repeated runs begin and end; the running sum is above zero inside of them.
        border = np.zeros(len(units) + 1, np.int64)
        np.add.at(border, again, 1)
        np.add.at(border, again + n, -1)
        repeated += int(chars[np.cumsum(border[:-1]) > 0].sum())
    return repeated / total if total else 0.0


@cache
def _powers(base: int) -> np.ndarray:
    """base⁰, base¹, … modulo 2⁶⁴, uint64 `[MAX_CHARS]`."""
    powers = np.full(MAX_CHARS, base & _MASK, np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Stir the bits (the finish of splitmix64), so that any part of them can serve as an index."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))
