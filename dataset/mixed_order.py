"""Which rows of a mixture are trained when: like `dataset/sampler.py`, a pure function of the seed and the step.

Each set is an endless stream of its rows, pass after pass, every pass in a new order. A stretch of training (an
epoch, or a phase) takes the next rows from each stream, and shuffles not the rows but the *sets* among each other:
slot 17 belongs to `wiki`, and gets the next row of wiki's stream. So no row is seen again before all others of its
set have been, however often a small set repeats within a stretch.

A stretch is worked out once, when its first step is asked for: one shuffle of its length. Where it begins and ends
follows from the stretches before it without shuffling those.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np

from dataset.mixture import Mixture, Part, Phase
from dataset.packing import PackedSet
from dataset.sampler import SkippedWindows, epoch_order, num_skipped, position_of_step
from model.errors import UserError


def derived_seed(seed: int, *words: str) -> int:
    """A seed for one purpose. What it gives does not change with the other sets of the mixture."""
    return int.from_bytes(sha256(" ".join([str(seed), *words]).encode()).digest()[:8], "little")


class Stream:
    """The endless sequence of one set's rows, or of a fixed sample of them."""

    def __init__(self, packed: PackedSet, first_row: int, seed: int, cap: int | None) -> None:
        """`first_row` is where the set's rows begin in the numbering of the whole mixture."""
        self._first_row = first_row
        self._targets = packed.rows["targets"]
        self._sample: np.ndarray | None = None
        self._seed = derived_seed(seed, "rows", packed.fingerprint)
        self.num_rows = packed.num_rows
        self.tokens_per_pass = int(packed.meta["num_targets"])
        if cap is not None and cap < packed.num_rows:
            # A larger sample of the same set holds the smaller one.
            sample = epoch_order(packed.num_rows, derived_seed(seed, "sample", packed.fingerprint), 0)[:cap]
            self._sample, self.num_rows = np.sort(sample), cap
            self.tokens_per_pass = int(self._targets[self._sample].sum(dtype=np.int64))

    def _pass(self, number: int) -> np.ndarray:
        order = epoch_order(self.num_rows, self._seed, number)
        return order if self._sample is None else self._sample[order]

    def rows(self, first: int, count: int) -> np.ndarray:
        """[count] int64: the stream's rows from position `first` on, in the mixture's numbering."""
        pieces = []
        while count:
            number, start = divmod(first, self.num_rows)
            piece = self._pass(number)[start : start + count]
            pieces.append(piece + self._first_row)
            first, count = first + len(piece), count - len(piece)
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)

    def tokens_before(self, position: int) -> int:
        """Trained tokens of the rows before a position."""
        number, rest = divmod(position, self.num_rows)
        tokens = number * self.tokens_per_pass
        return tokens + (int(self._targets[self._pass(number)[:rest]].sum(dtype=np.int64)) if rest else 0)

    def position_after(self, tokens: int) -> int:
        """The position before which there are `tokens` trained tokens, as nearly as whole rows can."""
        number, rest = divmod(tokens, self.tokens_per_pass)
        before = np.concatenate([[0], np.cumsum(self._targets[self._pass(number)], dtype=np.int64)])
        nearest = int(np.searchsorted(before, rest))
        if nearest and rest - before[nearest - 1] <= before[nearest] - rest:
            nearest -= 1
        return number * self.num_rows + nearest


@dataclass(frozen=True)
class Stretch:
    """An epoch or a phase: from each stream of its phase, the rows of these positions."""

    number: int
    phase: Phase
    streams: tuple[int, ...]
    starts: tuple[int, ...]
    counts: tuple[int, ...]
    first_step: int
    end_step: int


@dataclass(frozen=True)
class Planned:
    """What a run reads of one set, exactly: a line of the table that it prints."""

    phase: str
    set_name: str
    asked: str
    rows: int
    tokens: int  # trained ones
    passes: float  # over the set, or over its sample


class MixedOrder:
    """The order of a mixture's rows.

    Args:
        mixture: what is asked for.
        sets: its sets, opened, in the order of `mixture.folders()`.
        global_batch: rows of a step.
        seed: decides order and samples.
    """

    def __init__(self, mixture: Mixture, sets: Sequence[PackedSet], global_batch: int, seed: int) -> None:
        self.mixture, self.global_batch, self.seed = mixture, global_batch, seed
        self._streams: list[Stream] = []
        self._parts = self._open_streams(sets)  # of each phase: the stream of each of its parts
        self._stretches: list[Stretch] = []
        self._positions = [0] * len(self._streams)  # of each stream, behind the last stretch of the list
        self._rows: dict[int, np.ndarray] = {}
        if mixture.repeats:
            self._stretch(0)
        else:
            for number in range(len(mixture.phases)):
                self._stretch(number)

    def _open_streams(self, sets: Sequence[PackedSet]) -> list[tuple[int, ...]]:
        numbers = {folder.resolve(): number for number, folder in enumerate(self.mixture.folders())}
        first_rows = np.cumsum([0, *(each.num_rows for each in sets)]).tolist()
        known: dict[tuple[int, int | None], int] = {}
        phases = []
        for phase in self.mixture.phases:
            streams = []
            for part in phase.parts:
                number = numbers[part.path.resolve()]
                if (number, part.cap) not in known:
                    known[number, part.cap] = len(self._streams)
                    self._streams.append(Stream(sets[number], first_rows[number], self.seed, part.cap))
                stream = known[number, part.cap]
                if not self._streams[stream].tokens_per_pass:
                    raise UserError(f"{self._where(phase)}: the sample of {part.name} has no token to train on")
                streams.append(stream)
            phases.append(tuple(streams))
        return phases

    # ---- stretches --------------------------------------------------------------------------------------------

    def _stretch(self, number: int) -> Stretch:
        """The stretch of this number; those before it are added on the way."""
        while len(self._stretches) <= number:
            index = len(self._stretches)
            at = 0 if self.mixture.repeats else index
            phase, streams = self.mixture.phases[at], self._parts[at]
            starts = tuple(self._positions[stream] for stream in streams)
            counts = self._counts(phase, streams, starts)
            for part, count in zip(phase.parts, counts, strict=True):
                if count < 1:
                    raise UserError(
                        f"{self._where(phase)}: no row of {part.name} fits in; raise its weight, or leave it out"
                    )
            for stream, start, count in zip(streams, starts, counts, strict=True):
                self._positions[stream] = start + count
            first_step = self._stretches[-1].end_step if self._stretches else 0
            end_step = first_step + -(-sum(counts) // self.global_batch)
            self._stretches.append(Stretch(index, phase, streams, starts, counts, first_step, end_step))
        return self._stretches[number]

    def _counts(self, phase: Phase, streams: Sequence[int], starts: Sequence[int]) -> tuple[int, ...]:
        """How many rows of each part a stretch reads."""
        counts = [0] * len(phase.parts)
        weighted: list[int] = []
        for index, part in enumerate(phase.parts):
            stream = self._streams[streams[index]]
            if part.cap is not None:
                counts[index] = stream.num_rows
            elif part.tokens is not None:
                end = stream.position_after(stream.tokens_before(starts[index]) + part.tokens)
                counts[index] = max(1, end - starts[index])
            else:
                weighted.append(index)
        if weighted:
            shares = _normalised([phase.parts[index] for index in weighted])
            mine = [self._streams[streams[index]] for index in weighted]
            if self.mixture.repeats:
                found = _rows_of_epoch(mine, shares)
            elif phase.steps is not None:
                rows = self._left(phase, "steps", phase.steps * self.global_batch, sum(counts))
                found = _rows_of_total(mine, shares, rows)
            else:
                assert phase.tokens is not None
                tokens = sum(self._tokens(streams[i], starts[i], counts[i]) for i in range(len(counts)) if counts[i])
                tokens = self._left(phase, "tokens", phase.tokens, tokens)
                found = _rows_of_budget(mine, shares, [starts[index] for index in weighted], tokens)
            for index, count in zip(weighted, found, strict=True):
                counts[index] = count
        return tuple(counts)

    def _left(self, phase: Phase, unit: str, asked: int, taken: int) -> int:
        if taken >= asked:
            what = "rows, its steps hold" if unit == "steps" else "tokens, it has"
            raise UserError(
                f"{self._where(phase)}: its caps and tokens come to {taken:,} {what} {asked:,}: "
                f"nothing is left for the weights; raise its {unit}"
            )
        return asked - taken

    def _tokens(self, stream: int, start: int, count: int) -> int:
        return self._streams[stream].tokens_before(start + count) - self._streams[stream].tokens_before(start)

    def _where(self, phase: Phase) -> str:
        return f"{self.mixture.name}: phase {phase.name}" if phase.name else self.mixture.name

    # ---- steps ------------------------------------------------------------------------------------------------

    def position_of_step(self, step: int, skipped: SkippedWindows = ()) -> int:
        """Where in the order of global batches a step reads (see `dataset.sampler.position_of_step`).

        Behind the end of the phases the positions of the last one come again, pass after pass. A window stands for
        the same batches in each of these passes, and behind the end of the phases all of them are jumped over.

        Raises:
            UserError: the windows leave nothing of the last phase to read again.
        """
        skipped = list(skipped)
        position = position_of_step(step, skipped)
        if self.end_step is None or position < self.end_step:
            return position
        last = self._stretches[-1]
        length = last.end_step - last.first_step
        windows = _within_a_pass(skipped, last.first_step, length)
        of_pass = length - num_skipped(length, windows)
        if not of_pass:
            raise UserError(
                f"{self._where(last.phase)}: nothing is left for step {step + 1:,}: rollbacks have skipped all "
                f"{length:,} steps of this last phase; lower --learning_rate under another --run_name"
            )
        again = step - (self.end_step - num_skipped(self.end_step, skipped))
        number, of_this_pass = divmod(again, of_pass)
        return self.end_step + number * length + position_of_step(of_this_pass, windows)

    def rows_of_step(self, step: int, skipped: SkippedWindows = ()) -> np.ndarray:
        """Row ids of a global step (see `dataset.sampler.rows_of_step`).

        Raises:
            UserError: as `position_of_step`.
        """
        position = self.position_of_step(step, skipped)
        if self.end_step is not None and position >= self.end_step:
            last = self._stretches[-1]
            position = last.first_step + (position - last.end_step) % (last.end_step - last.first_step)
        stretch = self._stretch_at(position)
        if stretch.number not in self._rows:
            if len(self._rows) == 2:  # the stretch that runs and, for a prefetching reader, the next one
                del self._rows[next(iter(self._rows))]
            self._rows[stretch.number] = self._rows_of_stretch(stretch)
        first = (position - stretch.first_step) * self.global_batch
        return self._rows[stretch.number][first : first + self.global_batch]

    def _stretch_at(self, position: int) -> Stretch:
        while self._stretches[-1].end_step <= position:
            assert self.mixture.repeats, "phases come to an end"
            self._stretch(len(self._stretches))
        return self._stretches[bisect_right(self._stretches, position, key=lambda stretch: stretch.end_step)]

    def _slots(self, stretch: Stretch) -> list[np.ndarray]:
        """The slots of a stretch that belong to each of its parts, each in ascending order."""
        # As in epoch_order; not cached, because each stretch needs it once.
        key = np.array([derived_seed(self.seed, "slots"), stretch.number], np.uint64)
        shuffled = np.argsort(np.random.Philox(key=key).random_raw(sum(stretch.counts)), kind="stable")
        return [np.sort(part) for part in np.split(shuffled, np.cumsum(stretch.counts)[:-1])]

    def _rows_of_stretch(self, stretch: Stretch) -> np.ndarray:
        rows = np.empty(sum(stretch.counts), np.int64)
        for slots, stream, start in zip(self._slots(stretch), stretch.streams, stretch.starts, strict=True):
            rows[slots] = self._streams[stream].rows(start, len(slots))
        rows.flags.writeable = False  # it is handed out again and again
        return rows

    @property
    def end_step(self) -> int | None:
        """How many steps the phases have; None where epochs repeat for ever."""
        return None if self.mixture.repeats else self._stretches[-1].end_step

    def total_steps(self, epochs: float, max_steps: int = 0) -> int:
        """Steps of a run: of so many epochs, or `max_steps`. Phases decide for themselves, and may be cut short."""
        if self.mixture.repeats:
            if max_steps:
                return max_steps
            whole = int(epochs)
            stretch = self._stretch(whole)
            return max(1, stretch.first_step + round((epochs - whole) * (stretch.end_step - stretch.first_step)))
        end = self._stretches[-1].end_step
        if epochs != 1:
            raise UserError(
                f"--epochs: found {epochs:g}, but the phases of {self.mixture.name} decide the length of the run "
                f"({end:,} steps); leave --epochs out"
            )
        if max_steps > end:
            raise UserError(
                f"--max_steps: found {max_steps:,}, but {self.mixture.name} has {end:,} steps; leave it out"
            )
        return max_steps or end

    def place_of_step(self, step: int) -> dict[str, Any]:
        """For the log: how far the data has been read after so many steps, and which phase step `step` ended in."""
        if not self.mixture.repeats:
            end = self._stretches[-1].end_step
            return {"epoch": step / end, "phase": self._stretch_at(max(step - 1, 0)).phase.name}
        stretch = self._stretch_at(step)
        return {"epoch": stretch.number + (step - stretch.first_step) / (stretch.end_step - stretch.first_step)}

    def plan(self, total_steps: int) -> list[Planned]:
        """What a run of so many steps reads of each set in each phase, exactly."""
        planned: list[Planned] = []
        last = self._stretch_at(max(total_steps - 1, 0))
        for stretch in [last] if self.mixture.repeats else self._stretches[: last.number + 1]:
            counts = stretch.counts
            if total_steps < stretch.end_step:
                end = (total_steps - stretch.first_step) * self.global_batch
                counts = tuple(int(np.searchsorted(slots, end)) for slots in self._slots(stretch))
            for index, part in enumerate(stretch.phase.parts):
                # Epochs count together, from the stream's beginning; phases each for itself.
                start = 0 if self.mixture.repeats else stretch.starts[index]
                rows = stretch.starts[index] + counts[index] - start
                tokens = self._tokens(stretch.streams[index], start, rows)
                passes = rows / self._streams[stretch.streams[index]].num_rows
                planned.append(Planned(stretch.phase.name, part.name, part.amount, rows, tokens, passes))
        return planned


def _within_a_pass(windows: SkippedWindows, start: int, length: int) -> list[tuple[int, int]]:
    """The windows as places 0 … length − 1 of passes of this length, the first of which begins at `start`."""
    found: list[tuple[int, int]] = []
    for first, last in windows:
        first, last = max(first - start, 0), last - start
        if last - first + 1 >= length:
            return [(0, length - 1)]
        if last >= first:
            first, last = first % length, last % length
            found += [(first, last)] if first <= last else [(0, last), (first, length - 1)]
    return found


def _normalised(parts: Sequence[Part]) -> list[Fraction]:
    """Weights as shares of one. Fractions, so that sums do not depend on an order of rounding."""
    weights = [Fraction(part.weight or 0) for part in parts]
    return [weight / sum(weights) for weight in weights]


def _rows_of_epoch(streams: Sequence[Stream], shares: Sequence[Fraction]) -> list[int]:
    """Rows of each set in an epoch that trains as many tokens as the sets hold together."""
    tokens = sum(stream.tokens_per_pass for stream in streams)
    return [
        round(share * tokens * stream.num_rows / stream.tokens_per_pass)
        for stream, share in zip(streams, shares, strict=True)
    ]


def _rows_of_total(streams: Sequence[Stream], shares: Sequence[Fraction], rows: int) -> list[int]:
    """So many rows, divided so that the *tokens* are in these shares: a set of short rows gives more of them."""
    needs = [share * stream.num_rows / stream.tokens_per_pass for stream, share in zip(streams, shares, strict=True)]
    ends, total = [0], Fraction(0)
    for need in needs:  # rounding the running sum keeps the whole exact
        total += need
        ends.append(round(rows * total / sum(needs)))
    return [end - start for start, end in pairwise(ends)]


def _rows_of_budget(
    streams: Sequence[Stream], shares: Sequence[Fraction], starts: Sequence[int], tokens: int
) -> list[int]:
    """Rows of each set that come to so many tokens in these shares; what one has too many the next has fewer."""
    counts: list[int] = []
    asked, found = Fraction(0), 0
    for stream, share, start in zip(streams, shares, starts, strict=True):
        asked += share * tokens
        before = stream.tokens_before(start)
        end = max(start, stream.position_after(max(before, before + round(asked) - found)))
        found += stream.tokens_before(end) - before
        counts.append(end - start)
    return counts
