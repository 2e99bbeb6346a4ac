"""Units, hashes and counts against plain Python."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.rules.characters import DIGIT, HAN, LANGUAGES, OTHER_LETTER, SYMBOL, count_kinds, kinds_of
from dataset.rules.measuring import outside_languages, parse_language_shares
from dataset.rules.ngrams import MAX_CHARS, ngram_hashes, prefix_sums, repeated_share, stretch_hashes, units_of

mixed = st.text(alphabet="ab1 é\u0301好人か한я,。-\n👩", max_size=60)


def plain_units(text: str) -> list[str]:
    units: list[str] = []
    joins = False
    for character in text:
        category = unicodedata.category(character)[0]
        name = unicodedata.name(character, "")
        if category not in "LNM":
            joins = False
        elif name.startswith(("CJK", "HIRAGANA", "KATAKANA", "THAI")):
            units.append(character)
            joins = False
        elif joins:
            units[-1] += character
        else:
            units.append(character)
            joins = True
    return units


@given(mixed)
def test_units_are_words_and_single_characters(text: str) -> None:
    units = units_of(text)
    assert [text[a:b] for a, b in zip(units.starts, units.ends, strict=True)] == plain_units(text)
    assert [unicodedata.name(text[a]).startswith("CJK") for a in units.starts] == list(units.is_han)


@given(mixed, st.integers(1, 6))
def test_equal_runs_have_equal_hashes_and_others_do_not(text: str, n: int) -> None:
    words = plain_units(text)
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    prefix = prefix_sums(units_of(text).hashes)
    hashes = ngram_hashes(prefix, n)
    assert len(hashes) == len(runs)
    assert len(set(zip(runs, hashes.tolist(), strict=True))) == len(set(runs)) == len(set(hashes.tolist()))
    starts = np.arange(len(runs))
    assert (stretch_hashes(prefix, starts, starts + n) == hashes).all()


def test_a_hash_does_not_depend_on_the_place() -> None:
    alone = ngram_hashes(prefix_sums(units_of("the quick fox").hashes), 3)
    far = ngram_hashes(prefix_sums(units_of("x " * (MAX_CHARS // 2 - 20) + "The, quick: fox".lower()).hashes), 3)
    assert alone[0] == far[-1]


@given(st.lists(st.sampled_from("甲乙丙"), max_size=40).map("".join), st.integers(1, 4))
def test_repeated_share(text: str, n: int) -> None:
    covered: set[int] = set()
    seen: set[str] = set()
    for i in range(len(text) - n + 1):
        if text[i : i + n] in seen:
            covered.update(range(i, i + n))
        seen.add(text[i : i + n])
    assert repeated_share(text, n) == pytest.approx(len(covered) / len(text) if text else 0)


def test_a_long_text_is_measured_in_slices() -> None:
    assert repeated_share("好" * (3 * MAX_CHARS + 5), 10) > 0.999
    assert count_kinds("好1" * MAX_CHARS * 9)[[HAN, DIGIT]].tolist() == [9 * MAX_CHARS] * 2


@given(st.text())
def test_kinds_agree_with_unicode(text: str) -> None:
    for character, kind in zip(text, kinds_of(text).tolist(), strict=True):
        category = unicodedata.category(character)
        if category[0] == "L":
            assert kind >= HAN
        elif category[0] == "N":
            assert kind == DIGIT or character == "〇"
        elif category[0] == "S":
            assert kind in (SYMBOL, HAN) or character in "~～"


def test_languages_by_script() -> None:
    counts = count_kinds("中文和English，かな한글русский")
    found = {language: int(counts[kind]) for language, kind in LANGUAGES.items() if counts[kind]}
    assert found == {"zh": 3, "ja": 2, "ko": 2, "en": 7, "ru": 7}
    assert count_kinds("ʻԱԲ")[OTHER_LETTER] == 3
    assert outside_languages("中文ok", parse_language_shares("en:0.6, zh:0.5")) == ""
