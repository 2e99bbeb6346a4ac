"""Sums and differences within 20: facts that follow a rule."""

from dataset.little_world.relation import Fact, Pair


def _number(value: int) -> Pair:
    return Pair(str(value), str(value))


# What a first-grader learns by heart: the sums of two numbers up to 10, the larger first, and the differences that
# undo them.
PAIRS = [(a, b) for a in range(1, 11) for b in range(1, a + 1)]
SUMS = tuple(Fact({"a": _number(a), "b": _number(b)}, _number(a + b)) for a, b in PAIRS)
DIFFERENCES = tuple(Fact({"a": _number(a + b), "b": _number(b)}, _number(a)) for a, b in PAIRS)
