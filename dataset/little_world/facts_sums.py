"""Sums and differences within 10: facts that follow a rule."""

from dataset.little_world.relation import Fact, Pair

WORDS = (
    Pair("零", "zero"),
    Pair("一", "one"),
    Pair("二", "two"),
    Pair("三", "three"),
    Pair("四", "four"),
    Pair("五", "five"),
    Pair("六", "six"),
    Pair("七", "seven"),
    Pair("八", "eight"),
    Pair("九", "nine"),
    Pair("十", "ten"),
)


def _sum(first: int, second: int, result: int) -> Fact:
    """A question has its numbers in digits. The answer repeats them in words, so that its one number in digits is the
    result."""
    return Fact(
        slots={"a": _digits(first), "b": _digits(second)},
        object=_digits(result),
        spelled={"c": WORDS[first], "d": WORDS[second]},
    )


def _digits(number: int) -> Pair:
    return Pair(str(number), str(number))


# What a child learns first: the sums up to 10, the larger number first, and the differences that undo them.
PAIRS = [(a, b) for a in range(1, 10) for b in range(1, a + 1) if a + b <= 10]
SUMS = tuple(_sum(a, b, a + b) for a, b in PAIRS)
DIFFERENCES = tuple(_sum(a + b, b, a) for a, b in PAIRS)
