"""The order of a mixture: what was asked for is what is read, and the step alone decides it."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dataset.mixed_order import MixedOrder
from dataset.mixture import Mixture, Part, Phase
from dataset.sampler import PlainOrder, rows_of_step
from model.errors import UserError


@dataclass
class Rows:
    """As much of a packed set as an order looks at: how many targets each row has."""

    targets: list[int]
    fingerprint: str

    @property
    def rows(self) -> np.ndarray:
        return np.array([(count,) for count in self.targets], [("targets", "<i4")])

    @property
    def num_rows(self) -> int:
        return len(self.targets)

    @property
    def meta(self) -> dict[str, Any]:
        return {"num_targets": sum(self.targets)}


def part(number: int, **amount: Any) -> Part:
    return Part(f"set{number}", Path(f"set{number}"), **amount)


def order_of(sets: list[Rows], phases: list[Phase], batch: int = 8, seed: int = 1, repeats: bool = True) -> MixedOrder:
    mixture = Mixture("mix", tuple(phases), repeats)
    return MixedOrder(mixture, sets, batch, seed)  # type: ignore[arg-type]


def epochs_of(sets: list[Rows], *parts: Part, **changes: Any) -> MixedOrder:
    return order_of(sets, [Phase("", parts)], **changes)


def phases_of(sets: list[Rows], *phases: Phase, **changes: Any) -> MixedOrder:
    return order_of(sets, list(phases), repeats=False, **changes)


def read(order: MixedOrder, steps: int, first: int = 0) -> np.ndarray:
    return np.concatenate([order.rows_of_step(step) for step in range(first, steps)])


def of_each_set(sets: list[Rows], rows: np.ndarray) -> list[list[int]]:
    """The rows of each set in the order in which they were read."""
    ends = np.cumsum([0, *(each.num_rows for each in sets)])
    found: list[list[int]] = []
    for start, end in pairwise(ends):
        found.append([int(row - start) for row in rows if start <= row < end])
    return found


def tokens_in(sets: list[Rows], rows: np.ndarray) -> list[int]:
    return [sum(s.targets[r] for r in mine) for s, mine in zip(sets, of_each_set(sets, rows), strict=True)]


def assert_every_row_before_any_again(rows: list[int], num_rows: int) -> None:
    for start in range(0, len(rows), num_rows):
        assert len(set(rows[start : start + num_rows])) == len(rows[start : start + num_rows])


def some_sets(seed: int, count: int, most_rows: int = 40) -> list[Rows]:
    random = np.random.default_rng(seed)
    sizes = random.integers(1, most_rows, count)
    return [Rows([*random.integers(0, 30, size).tolist(), 9], f"f{n}") for n, size in enumerate(sizes)]


TEN = Rows([10] * 10, "ten")  # 100 tokens
LONG = Rows([30] * 20, "long")  # 600 tokens


# ---- epochs ----


def test_weights_are_shares_of_tokens_and_an_epoch_holds_as_many_as_the_sets() -> None:
    order = epochs_of([TEN, LONG], part(0, weight=3), part(1, weight=1))
    steps = order.total_steps(epochs=1)
    rows = read(order, steps)
    # 700 tokens: 525 of the short rows, which is 52 or 53 of them, and 175 of the long ones.
    assert tokens_in([TEN, LONG], rows) == [520, 180]
    assert steps == -(-len(rows) // 8) and len(order.rows_of_step(steps - 1)) == len(rows) % 8
    assert [order.total_steps(epochs=n) for n in (0.001, 0.5, 2, 2.5)] == [1, steps / 2, 2 * steps, 2.5 * steps]
    [short, long] = order.plan(steps)
    assert (short.rows, short.tokens, short.passes) == (52, 520, 5.2)
    assert (long.rows, long.tokens, long.passes) == (6, 180, 0.3)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    amounts=st.lists(st.sampled_from([{"weight": 1.0}, {"weight": 0.3}, {"cap": 7}, {"tokens": 90}]), min_size=1),
    batch=st.integers(1, 20),
)
def test_what_was_asked_for_is_read_epoch_after_epoch(seed: int, amounts: list[dict[str, Any]], batch: int) -> None:
    amounts = amounts[:4]
    sets = some_sets(seed, len(amounts))
    parts = [part(number, **amount) for number, amount in enumerate(amounts)]
    try:
        order = epochs_of(sets, *parts, batch=batch, seed=seed)
    except UserError:
        assume(False)
    samples: list[set[frozenset[int]]] = [set() for _ in sets]
    sizes: list[set[int]] = [set() for _ in sets]
    first, everything = 0, []
    for epoch in range(1, 4):
        end = order.total_steps(epochs=epoch)
        rows = read(order, end, first)
        assert {len(order.rows_of_step(step)) for step in range(first, end - 1)} <= {batch}
        everything.append(rows)
        for number, (amount, mine) in enumerate(zip(amounts, of_each_set(sets, rows), strict=True)):
            samples[number].add(frozenset(mine))
            sizes[number].add(len(mine))
            if "tokens" in amount:
                tokens = sum(sets[number].targets[row] for row in mine)
                assert abs(tokens - amount["tokens"]) <= max(sets[number].targets)
            if "cap" in amount:
                assert len(set(mine)) == len(mine) == min(amount["cap"], sets[number].num_rows)
        first = end
    rows = np.concatenate(everything)
    assert order.total_steps(epochs=1, max_steps=5) == 5
    for number, (amount, mine) in enumerate(zip(amounts, of_each_set(sets, rows), strict=True)):
        if "cap" in amount:
            assert len(samples[number]) == 1, "the sample is the same in every epoch"
        else:
            assert_every_row_before_any_again(mine, sets[number].num_rows)
        if "weight" in amount:
            assert len(sizes[number]) == 1, "as many rows in every epoch"
    # The plan counts exactly what is read, wherever a run ends.
    for steps in (1, order.total_steps(epochs=1), order.total_steps(epochs=2.5), first):
        seen = read(order, steps)
        assert [each.tokens for each in order.plan(steps)] == tokens_in(sets, seen)
        assert [each.rows for each in order.plan(steps)] == [len(mine) for mine in of_each_set(sets, seen)]


def test_shares_come_close_to_the_weights_whatever_the_rows() -> None:
    sets = some_sets(3, 3, most_rows=400)
    order = epochs_of(sets, part(0, weight=5), part(1, weight=3), part(2, weight=2))
    tokens = tokens_in(sets, read(order, order.total_steps(epochs=1)))
    assert np.allclose(np.array(tokens) / sum(tokens), [0.5, 0.3, 0.2], atol=0.02)
    total = sum(sum(each.targets) for each in sets)
    assert abs(sum(tokens) / total - 1) < 0.03


def test_sets_are_mixed_evenly_not_one_after_another() -> None:
    order = epochs_of([Rows([10] * 1000, "a"), Rows([10] * 1000, "b")], part(0, weight=1), part(1, weight=1), batch=50)
    shares = [float((order.rows_of_step(step) < 1000).mean()) for step in range(40)]
    assert 0.2 < min(shares) < max(shares) < 0.8 and len(set(shares)) > 5


def test_a_larger_sample_holds_the_smaller_and_another_seed_draws_another() -> None:
    def sample(cap: int, seed: int = 1) -> set[int]:
        order = epochs_of([Rows([5] * 100, "x")], part(0, cap=cap), seed=seed)
        return set(read(order, order.total_steps(epochs=1)).tolist())

    assert len(sample(10)) == 10 and sample(10) < sample(30)
    assert sample(10) != sample(10, seed=2)
    assert sample(1000) == set(range(100)), "a cap above the rows is all of them"


# ---- phases ----


def test_phases_follow_each_other_at_step_boundaries() -> None:
    order = phases_of(
        [TEN, LONG],
        Phase("first", (part(0, weight=1), part(1, weight=1)), tokens=400),
        Phase("second", (part(1, weight=1), part(0, cap=3)), steps=2),
        Phase("third", (part(0, tokens=55), part(1, cap=50))),
    )
    steps = order.total_steps(epochs=1)
    # 20 short rows and 6 or 7 long ones; 16 rows; 5 or 6 rows and all 20.
    assert steps == 4 + 2 + 4
    sizes = [len(order.rows_of_step(step)) for step in range(steps)]
    assert sizes[:6] == [8, 8, 8, sum(sizes[:4]) - 24, 8, 8] and 1 <= sizes[-1] <= 8
    sets = [TEN, LONG]
    first, second, third = (tokens_in(sets, read(order, end, start)) for start, end in [(0, 4), (4, 6), (6, steps)])
    assert first in ([200, 180], [200, 210])
    assert second == [30, 13 * 30]
    assert third in ([50, 600], [60, 600])
    assert [order.place_of_step(step)["phase"] for step in (0, 1, 4, 5, 6, 7, steps)] == [
        *["first"] * 3,
        *["second"] * 2,
        *["third"] * 2,
    ]
    assert [(each.phase, each.set_name) for each in order.plan(5)] == [
        ("first", "set0"),
        ("first", "set1"),
        ("second", "set1"),
        ("second", "set0"),
    ]


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), tokens=st.integers(200, 3000), batch=st.integers(1, 12))
def test_a_phase_meets_its_tokens_to_within_a_row(seed: int, tokens: int, batch: int) -> None:
    sets = some_sets(seed, 3)
    mixed = (part(0, weight=2.5), part(1, weight=0.7), part(2, tokens=40))
    try:
        order = phases_of(sets, Phase("a", mixed, tokens=tokens), Phase("b", mixed, tokens=tokens + 77), batch=batch)
    except UserError:
        assume(False)
    end = order.total_steps(epochs=1)
    middle = next(step for step in range(end + 1) if order.place_of_step(step + 1)["phase"] == "b")
    for asked, (start, stop) in ((tokens, (0, middle)), (tokens + 77, (middle, end))):
        found = tokens_in(sets, read(order, stop, start))
        longest = max(max(each.targets) for each in sets)
        assert abs(sum(found) - asked) <= longest
        assert abs(found[2] - 40) <= max(sets[2].targets)
        assert abs(found[0] - (asked - found[2]) * 2.5 / 3.2) <= longest
    for number, mine in enumerate(of_each_set(sets, read(order, end))):
        assert_every_row_before_any_again(mine, sets[number].num_rows)
    assert [sum(each.tokens for each in order.plan(end) if each.set_name == f"set{n}") for n in range(3)] == tokens_in(
        sets, read(order, end)
    )


def test_steps_are_shared_in_tokens() -> None:
    order = phases_of([TEN, LONG], Phase("only", (part(0, weight=1), part(1, weight=1)), steps=40), batch=8)
    assert order.total_steps(epochs=1) == 40
    assert tokens_in([TEN, LONG], read(order, 40)) == [2400, 2400]


def test_a_phase_goes_on_where_the_one_before_left_a_set() -> None:
    order = phases_of([TEN], *(Phase(str(n), (part(0, weight=1),), tokens=40) for n in range(5)), batch=3)
    rows = read(order, order.total_steps(epochs=1))
    assert len(rows) == 20
    assert_every_row_before_any_again(rows.tolist(), 10)


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        (Phase("p", (part(0, weight=1), part(1, cap=20)), tokens=600), "come to 600 tokens, it has 600"),
        (Phase("p", (part(0, weight=1), part(1, cap=20)), steps=2), "come to 20 rows, its steps hold 16"),
        (Phase("p", (part(0, weight=1), part(1, weight=1e-6)), tokens=100), "no row of set1 fits in"),
    ],
)
def test_phases_that_cannot_be(phase: Phase, words: str) -> None:
    with pytest.raises(UserError, match=f"mix: phase p: .*{words}"):
        phases_of([TEN, LONG], phase)


def test_phases_decide_the_length_of_the_run() -> None:
    order = phases_of([TEN], Phase("p", (part(0, weight=1),), steps=3))
    assert order.total_steps(epochs=1) == 3 and order.total_steps(epochs=1, max_steps=2) == 2
    with pytest.raises(UserError, match=r"--epochs: found 2, but the phases of mix decide .* \(3 steps\)"):
        order.total_steps(epochs=2)
    with pytest.raises(UserError, match="--max_steps: found 4, but mix has 3 steps"):
        order.total_steps(epochs=1, max_steps=4)


# ---- the step alone decides ----


def example(seed: int = 1) -> MixedOrder:
    parts = (part(0, weight=3), part(1, cap=4), part(2, tokens=100))
    return epochs_of([TEN, LONG, Rows([7, 3, 11] * 5, "odd")], *parts, batch=4, seed=seed)


EXPECTED = [[41, 36, 34, 4], [39, 18, 26, 8], [31, 39, 18, 0]]


def test_order_is_the_same_for_ever() -> None:
    # Recorded values: what moves them changes what resumed runs train on.
    assert [example().rows_of_step(step).tolist() for step in (0, 9, 30)] == EXPECTED


def test_order_does_not_depend_on_what_was_asked_before() -> None:
    order = example()
    forward = [order.rows_of_step(step).tolist() for step in range(60)]
    assert [example().rows_of_step(step).tolist() for step in reversed(range(60))] == forward[::-1]
    assert [example(seed=2).rows_of_step(step).tolist() for step in range(60)] != forward


def test_rows_cannot_be_altered() -> None:
    with pytest.raises(ValueError, match="read-only"):
        example().rows_of_step(0)[0] = 3


def test_skipped_windows_move_the_steps_behind_them() -> None:
    order = example()
    kept = [position for position in range(40) if not 3 <= position <= 9]
    for step in range(30):
        found = order.rows_of_step(step, skipped=[(3, 9)])
        assert found.tolist() == order.rows_of_step(kept[step]).tolist()


def phases_without_repeats(lengths: list[int], batch: int = 2) -> MixedOrder:
    """Phases of so many steps over one set whose rows are all different and read once each."""
    rows = Rows([10] * (sum(lengths) * batch), "once")
    return phases_of([rows], *(Phase(str(n), (part(0, weight=1),), steps=n) for n in lengths), batch=batch)


def test_what_windows_took_from_the_last_phase_is_read_from_its_beginning() -> None:
    order = phases_without_repeats([40, 30])
    for windows, again in [
        ([(40, 43)], [44, 45, 46, 47]),
        ([(3, 5), (41, 41)], [40, 42, 43, 44]),
        ([(40, 67)], [68, 69] * 14),
        ([(68, 71)], [42, 43]),  # it took the last two batches, and two of those that come again
    ]:
        steps = range(70 - len(again), 70)
        found = [order.rows_of_step(step, windows).tolist() for step in steps]
        assert found == [order.rows_of_step(position).tolist() for position in again]
    assert order.position_of_step(66 + 26 * 10**12, [(40, 43)]) == 70 + 30 * 10**12 + 4, "worked out, not walked"
    assert order.rows_of_step(39, [(40, 69)]).tolist() == order.rows_of_step(39).tolist()
    for step, windows in [(40, [(40, 69)]), (50, [(50, 90)]), (40, [(40, 60), (55, 69)])]:
        lost = f"mix: phase 30: nothing is left for step {step + 1}: rollbacks have skipped all 30 steps .*; lower --le"
        with pytest.raises(UserError, match=lost):
            order.rows_of_step(step, windows)


some_phases = st.lists(st.integers(1, 9), min_size=1, max_size=3)


@given(lengths=some_phases, data=st.data())
def test_no_skipped_batch_is_read_and_every_step_gets_one(lengths: list[int], data: st.DataObject) -> None:
    order = phases_without_repeats(lengths)
    end = sum(lengths)
    ends = st.tuples(st.integers(0, end - 1), st.integers(0, end - 1))
    windows = data.draw(st.lists(ends.map(lambda pair: (min(pair), max(pair))), max_size=4))
    batches = [set(order.rows_of_step(position).tolist()) for position in range(end)]
    kept = [place for place in range(end) if not any(first <= place <= last for first, last in windows)]
    of_last = [place for place in kept if place >= end - lengths[-1]]
    for step in range(2 * end):
        if step < len(kept):
            expected = kept[step]
        elif of_last:
            expected = of_last[(step - len(kept)) % len(of_last)]
        else:
            with pytest.raises(UserError, match="nothing is left"):
                order.rows_of_step(step, windows)
            continue
        assert set(order.rows_of_step(step, windows).tolist()) == batches[expected]


@given(lengths=some_phases, data=st.data())
def test_a_run_that_rolls_back_never_meets_again_what_it_skipped(lengths: list[int], data: st.DataObject) -> None:
    order = phases_without_repeats(lengths)
    end = sum(lengths)
    spikes = data.draw(st.lists(st.tuples(st.integers(0, end - 1), st.integers(0, 4)), min_size=1, max_size=4))
    windows: list[tuple[int, int]] = []
    skipped: set[int] = set()
    for first, more in sorted(spikes):
        last = min(first + more, end - 1)
        read = [order.rows_of_step(step, windows).tolist() for step in range(last + 1)]
        window = (order.position_of_step(first, windows), order.position_of_step(last, windows))
        assume(window[1] < end + lengths[-1])  # the last phase is read no third time
        windows.append(window)
        skipped.update(row for rows in read[first:] for row in rows)
        assert [order.rows_of_step(step, windows).tolist() for step in range(first)] == read[:first]
        for step in range(first, end):
            try:
                assert not skipped & set(order.rows_of_step(step, windows).tolist())
            except UserError:
                of_last_phase = {row for n in range(end - lengths[-1], end) for row in order.rows_of_step(n).tolist()}
                assert of_last_phase <= skipped
                return


def test_a_step_costs_no_shuffle() -> None:
    order = epochs_of([Rows([10] * 2000, "a")], part(0, weight=1), batch=1)
    shuffles: Counter[int] = Counter()
    fill = order._rows_of_stretch

    def counted(stretch: Any) -> np.ndarray:
        shuffles[stretch.number] += 1
        return fill(stretch)

    order._rows_of_stretch = counted  # type: ignore[method-assign]
    for step in range(4000):
        order.rows_of_step(step)
        order.rows_of_step(step + 1)  # as a reader that runs ahead
    assert shuffles == {0: 1, 1: 1, 2: 1}


def test_the_plain_order_is_that_of_one_set() -> None:
    order = PlainOrder(100, 7, seed=3)
    assert [order.rows_of_step(step).tolist() for step in range(40)] == [
        rows_of_step(100, 7, 3, step).tolist() for step in range(40)
    ]
    assert [order.total_steps(epochs) for epochs in (0.01, 1, 2.5)] == [1, 15, 38]
    assert order.total_steps(1, max_steps=4) == 4
    assert order.place_of_step(30) == {"epoch": 2.0}
