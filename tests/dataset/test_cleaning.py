from hypothesis import given
from hypothesis import strategies as st

from dataset.cleaning import CleaningRules, SeenBefore, clean_text, digest, failed_rule, in_validation


def test_rules_are_counted_by_name() -> None:
    rules = CleaningRules(min_chars=3, max_chars=5)
    verdicts = {
        text: failed_rule(clean_text(text), rules) for text in (" \n\u3000", " ab ", "abc", "abcdef", "好好好好好")
    }
    assert list(verdicts.values()) == ["empty", "too few characters", None, "too many characters", None]
    assert failed_rule("x" * 10**6, CleaningRules()) is None


def test_seen_before() -> None:
    seen = SeenBefore()
    assert [seen(digest(text)) for text in "abcab"] == [False, False, False, True, True]


@given(st.text(alphabet="ab\n"), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_validation_share_keeps_what_was_in_it(text: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert in_validation(digest(text), large) or not in_validation(digest(text), small)
    assert not in_validation(digest(text), 0)
    assert in_validation(digest(text), 1)


def test_validation_share_is_met() -> None:
    share = sum(in_validation(digest(str(number)), 0.1) for number in range(5000)) / 5000
    assert 0.085 < share < 0.115
