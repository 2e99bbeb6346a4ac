"""Judges a run's numbers: is it going as before, drifting, or has the loss spiked so that the run should go back?

A run that diverges announces it. The updates become too large for the weights, or the gradient grows, or a layer's
numbers do (PaLM, arXiv:2204.02311, section 5.1; arXiv:2309.14322); a few steps later the loss jumps. So each number
is compared with its own last steps, and what leaves its band by far is said in a plain sentence.

Only numbers come in and only JSON values are remembered, so a resumed run judges exactly as an uninterrupted one.
"""

import copy
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

WINDOW = 50  # steps that say what is usual
LEAST = 20  # steps seen before anything is judged
SIGMAS = 6  # half the width of the band, in standard deviations
CALM_STEPS = 10  # steps without anything unusual that end an episode
MAX_SKIPPED = 5  # updates without a finite loss and gradient, in a row, that the run cannot ignore

# A number's logarithm has to leave its band *and* grow by this factor. Warm-up alone multiplies the update by up to
# 2.7 against the mean of the steps before it, and batches of one row make gradients of 4 times the usual norm.
UPDATE_FACTOR = 5.0
GRADIENT_FACTOR = 5.0

# A loss outside the band is an odd batch; so many in a row that chance would not bring odd batches together once in ten
# million steps are a spike. How often batches are odd differs: a fine-tuning that knows its facts by heart still cannot
# guess a joke. Above what an untrained model loses, 2 are enough.
CHANCE = 1e-7
COUNTED = 500  # steps over which odd batches are counted
SPIKE_STEPS = 3  # at least
# In batches of a few tokens the band is wide. So in the wake of an alarm the mean of the last n losses is judged too,
# whose own deviation is σ / √n.
WAKE_STEPS = (5, 10, 20)
# A mean of losses this far above the lowest one has crept up. It makes an alarm and no episode: the data may be harder.
RISEN_SIGMAS = 12
# When half of the last losses are this many times what guessing loses, no data explain it.
LOST_FACTOR = 1.25
LOST_SKIPPED = 20  # updates left out in a row after which nothing will be learned any more

LAYER_WINDOW = 5  # logged steps that a layer is compared with
LAYER_LEAST = 10  # logged steps before a layer is judged: a young model's hidden states grow from almost nothing
VARIANCE_FACTOR = 20.0
ATTENTION_FACTOR, ATTENTION_GROWN, ATTENTION_LIMIT = 3.0, 50.0, 100.0
STARVING_SHARE = 0.1  # of an expert's fair share of the tokens
EXPERT_STEPS = 5  # logged steps in a row


@dataclass
class Series:
    """What is usual for one number, by the last `WINDOW` of its values that were in the band."""

    recent: list[float] = field(default_factory=list)  # oldest first
    outside: list[float] = field(default_factory=list)  # those outside the band since the last inside; not in `recent`
    odd_share: float = 0.0  # how often a value was outside for a moment only
    counted: int = 0  # the values that this share is of, at most COUNTED

    @property
    def is_judged(self) -> bool:
        """Whether enough values are known to tell what is usual."""
        return len(self.recent) >= LEAST

    def is_leaving(self, least: int, early: int = 0) -> bool:
        """Whether as many values in a row are outside as chance does not explain, or all but `early` of them."""
        # As if one more had been seen: while few are counted, none of them being odd says little.
        share = (self.odd_share * self.counted + 1) / (self.counted + 2)
        in_a_row = min(math.ceil(math.log(CHANCE) / math.log(share)), LEAST)
        return len(self.outside) >= max(least, in_a_row - early)

    def jitter(self) -> float:
        """Standard deviation from step to step: growth, however quick, is hardly counted as noise."""
        changes = [later - earlier for earlier, later in itertools.pairwise(self.recent)]
        return math.sqrt(statistics.fmean(each * each for each in changes) / 2)

    def spread(self) -> float:
        """Standard deviation about a straight line: a steady fall or rise is no noise."""
        steps = range(len(self.recent))
        slope, intercept = statistics.linear_regression(steps, self.recent)
        residuals = [value - intercept - slope * step for step, value in zip(steps, self.recent, strict=True)]
        return math.sqrt(statistics.fmean(each * each for each in residuals))

    def add(self, value: float, usual: float = 0.0, limit: float = math.inf) -> None:
        """Remember a value; one above `limit` waits outside."""
        if value > limit:
            self.outside.append(value)
            # After so many steps it is no exception any more. What is usual now is learned anew.
            if len(self.outside) >= WINDOW:
                self.recent, self.outside = [], []
            return
        self.counted = min(self.counted + len(self.outside) + 1, COUNTED)
        self.odd_share += (len(self.outside) - self.odd_share * (len(self.outside) + 1)) / self.counted
        # Those that stayed outside for a moment were noise after all: they widen the band, but not by their whole size,
        # or a few of them would widen it without end.
        edge = usual + (limit - usual) / 2
        self.recent = [*self.recent, *(min(each, edge) for each in self.outside), value][-WINDOW:]
        self.outside = []


@dataclass
class Verdict:
    """What one update's numbers say."""

    alarms: list[str] = field(default_factory=list)  # new ones: plain sentences
    is_spike: bool = False  # the weights are damaged: go back
    is_lost: bool = False  # the model is worse than when the run began, or has stopped to learn: no way back helps
    # Where the open episode began, None when there is none. Saved steps with a smaller number are good; the data of
    # this update and of all later ones are the window to skip.
    first_suspect_step: int | None = None


@dataclass
class _Memory:
    """All that `Stability` knows."""

    loss: Series = field(default_factory=Series)
    grad_norm: Series = field(default_factory=Series)  # logarithms
    update_ratio: Series = field(default_factory=Series)  # logarithms
    first_loss: float | None = None  # before anything was learned
    last_losses: list[float] = field(default_factory=list)  # the last LEAST, in the band or not
    lowest_loss: float | None = None  # least mean of LEAST losses so far
    risen_steps: int = 0  # for how long the mean has been well above it
    wake: list[float] = field(default_factory=list)  # last losses since an alarm about updates or gradients
    first_suspect_step: int | None = None
    calm_steps: int = 0  # since something was unusual
    skipped_in_a_row: int = 0
    open_alarms: dict[str, int] = field(default_factory=dict)  # what → observations since it was last unusual
    hidden_variance: list[list[float]] = field(default_factory=list)  # [n_layers][≤ LAYER_LEAST] logarithms
    attention_max: list[list[float]] = field(default_factory=list)
    starving: list[list[int]] = field(default_factory=list)  # [n_layers][n_experts] logged steps in a row
    crowded: list[list[int]] = field(default_factory=list)


class Stability:
    """Watches one run. `Stability(saved)` goes on from an earlier `state()`; after a rollback, from the one saved then.

    `step` is the number of an update as the loop counts it; whether from 0 or from 1 does not matter.

    Args:
        saved: an earlier `state()`; None for a run that begins.
        guessing: the loss of a model that knows nothing, ln(vocab_size) for next tokens; 0 where that is not known.
    """

    def __init__(self, saved: dict[str, Any] | None = None, guessing: float = 0.0) -> None:
        self._guessing = guessing
        values = copy.deepcopy(saved or {})  # what was saved does not change with what is seen later
        for name in ("loss", "grad_norm", "update_ratio"):
            values[name] = Series(**values.get(name, {}))
        self._memory = _Memory(**values)

    def state(self) -> dict[str, Any]:
        """Everything remembered, as plain JSON values; a copy."""
        return asdict(self._memory)

    @property
    def is_calm(self) -> bool:
        """No trouble is going on that chance would not explain: a step saved now is worth its room."""
        return self._memory.first_suspect_step is None

    @property
    def is_quiet(self) -> bool:
        """Not even a single batch is odd: of two steps saved now, one can be gone back to whatever comes."""
        return self.is_calm and not self._memory.loss.outside and not self._memory.grad_norm.outside

    @property
    def _untrained(self) -> float:
        """The loss of a model that has not learned anything yet."""
        return max(self._memory.first_loss or 0.0, self._guessing)

    # ---- every update ---------------------------------------------------------------------------------------------

    def observe_step(self, step: int, loss: float, grad_norm: float, update_ratio: float | None) -> Verdict:
        """Judge one update.

        Args:
            step: the update's number.
            loss: mean loss of its batch, with the weights before the update; finite.
            grad_norm: before clipping; finite.
            update_ratio: ‖Δw‖ / ‖w‖ of the update; None where it cannot be measured.

        Returns:
            the verdict. An alarm comes once an episode, `is_spike` and `is_lost` at every step for which they hold.
        """
        alarms: list[str] = []
        suspects: list[int] = []
        memory = self._memory
        memory.skipped_in_a_row = 0
        if update_ratio is not None:
            times = _times_usual(memory.update_ratio, update_ratio, UPDATE_FACTOR)
            if times:
                suspects.append(step)
            if self._is_new("update_ratio", bool(times)):
                alarms.append(_update_sentence(step, times))
        times = _times_usual(memory.grad_norm, grad_norm, GRADIENT_FACTOR)
        # One steep batch is common, so two in a row.
        if self._is_new("grad_norm", memory.grad_norm.is_leaving(2, early=1)):
            alarms.append(_gradient_sentence(step, times, len(memory.grad_norm.outside)))
        if memory.first_loss is None:
            memory.first_loss = loss
        usual, sigma, is_spike = self._judge_loss(loss)
        for series, is_certain in ((memory.grad_norm, False), (memory.loss, is_spike)):
            if is_certain or series.is_leaving(1, early=2):
                # Loss and gradient are those of the weights that the update before this one left behind.
                suspects.append(max(step - len(series.outside), 0))
        if self._is_new("loss", is_spike or memory.loss.is_leaving(2, early=1)):
            alarms.append(_loss_sentence(step, loss, usual, sigma, len(memory.loss.outside)))
        has_risen = self._has_loss_risen(usual, sigma)
        if self._is_new("risen_loss", has_risen):
            assert memory.lowest_loss is not None
            alarms.append(_risen_sentence(step, usual, memory.lowest_loss))
        memory.last_losses = [*memory.last_losses, loss][-LEAST:]
        half, untrained = statistics.median(memory.last_losses), self._untrained
        is_lost = len(memory.last_losses) == LEAST and half > LOST_FACTOR * untrained
        if self._is_new("lost", is_lost):
            alarms.append(_lost_sentence(step, half, untrained))
        self._keep_episode(suspects)
        return Verdict(alarms, is_spike, is_lost, memory.first_suspect_step)

    def observe_skipped(self, step: int) -> Verdict:
        """An update was left out, since its loss or gradient was not finite. Several in a row are as bad as a spike."""
        memory = self._memory
        memory.skipped_in_a_row += 1
        self._keep_episode([max(step - 1, 0)])
        is_spike = memory.skipped_in_a_row >= MAX_SKIPPED
        alarms = []
        if memory.skipped_in_a_row == MAX_SKIPPED:
            alarms.append(
                f"step {step}: loss or gradient was not a finite number {MAX_SKIPPED} times in a row, so nothing was "
                "learned; the weights have most likely grown out of what their number format holds: go back to an "
                "earlier step, and lower the learning rate if it happens again"
            )
        is_lost = memory.skipped_in_a_row >= LOST_SKIPPED
        return Verdict(alarms, is_spike, is_lost, memory.first_suspect_step)

    def _judge_loss(self, loss: float) -> tuple[float, float, bool]:
        """What the loss usually is, its σ, and whether it has spiked."""
        memory, series = self._memory, self._memory.loss
        is_wake = "update_ratio" in memory.open_alarms or "grad_norm" in memory.open_alarms
        if not series.is_judged:
            series.add(loss)
            return loss, math.inf, False
        # The last steps alone: early on the loss falls fast.
        usual = statistics.fmean(series.recent[-LEAST:])
        floor = _floor(usual)
        sigma = max(series.spread(), floor)
        limit = usual + SIGMAS * sigma
        # Where odd batches are known, one must not lift the mean alone.
        counted = min(loss, limit) if series.odd_share else loss
        memory.wake = [*memory.wake, counted][-max(WAKE_STEPS) :] if is_wake else []
        if loss > limit or not is_wake:
            series.add(loss, usual, limit)
        else:
            series.outside = []  # what follows an alarm is not what is usual, even inside the band
        is_huge = len(series.outside) >= 2 and min(series.outside[-2:]) > self._untrained
        is_raised = any(
            statistics.fmean(memory.wake[-steps:]) - usual > SIGMAS * max(sigma / math.sqrt(steps), floor)
            for steps in WAKE_STEPS
            if len(memory.wake) >= steps
        )
        return usual, sigma, is_huge or is_raised or series.is_leaving(SPIKE_STEPS)

    def _has_loss_risen(self, usual: float, sigma: float) -> bool:
        """Whether the loss has crept up from its lowest, too slowly for any step to be outside the band."""
        memory = self._memory
        if sigma == math.inf:
            return False
        if memory.lowest_loss is None or usual < memory.lowest_loss or memory.risen_steps >= 2 * WINDOW:
            # At last the higher level is taken as it is: the data may be of another kind from here on.
            memory.lowest_loss, memory.risen_steps = usual, 0
        # The difference of two means of LEAST losses deviates by σ · √(2 / LEAST).
        has_risen = usual - memory.lowest_loss > max(
            RISEN_SIGMAS * sigma * math.sqrt(2 / LEAST), SIGMAS * _floor(usual)
        )
        memory.risen_steps = memory.risen_steps + 1 if has_risen else 0
        return has_risen

    def _is_new(self, what: str, is_unusual: bool, calm_after: int = CALM_STEPS) -> bool:
        """Whether this is the beginning of something unusual, to be said once."""
        open_alarms = self._memory.open_alarms
        if is_unusual:
            is_new = what not in open_alarms
            open_alarms[what] = 0
            return is_new
        if what in open_alarms:
            open_alarms[what] += 1
            if open_alarms[what] >= calm_after:
                del open_alarms[what]
        return False

    def _keep_episode(self, suspects: Sequence[int]) -> None:
        """Open an episode, keep it open, or close it after enough calm steps."""
        memory = self._memory
        if suspects:
            memory.calm_steps = 0
            # The number that stays outside longest may be the last to be sure of it.
            earlier = memory.first_suspect_step
            memory.first_suspect_step = min(suspects) if earlier is None else min(earlier, *suspects)
            return
        memory.calm_steps += 1
        if memory.calm_steps >= CALM_STEPS:
            memory.first_suspect_step = None

    # ---- logged steps ---------------------------------------------------------------------------------------------

    def observe_layers(self, step: int, hidden_variance: Sequence[float], attention_max: Sequence[float]) -> list[str]:
        """New alarms about single layers, from `trainer.watch.measure_layers` [n_layers each]. Layers count from 1."""
        alarms: list[str] = []
        memory = self._memory
        pasts = [memory.hidden_variance, memory.attention_max]
        for past in pasts:
            past.extend([] for _ in range(len(hidden_variance) - len(past)))
        for layer, (variance, largest) in enumerate(zip(hidden_variance, attention_max, strict=True)):
            times = _times_past(memory.hidden_variance[layer], variance)
            if self._is_new(f"hidden_variance {layer}", times > VARIANCE_FACTOR, LAYER_WINDOW):
                alarms.append(_variance_sentence(step, layer, times))
            times = _times_past(memory.attention_max[layer], largest)
            # Beyond 50 a softmax looks at one token only, so further growth learns nothing.
            is_drifting = largest > ATTENTION_LIMIT or (largest > ATTENTION_GROWN and times > ATTENTION_FACTOR)
            if self._is_new(f"attention_max {layer}", is_drifting, LAYER_WINDOW):
                alarms.append(_attention_sentence(step, layer, largest))
        return alarms

    def observe_experts(self, step: int, load: Sequence[Sequence[float]]) -> list[str]:
        """New alarms about experts that get almost no tokens, or most of them.

        Args:
            step: the update's number.
            load: [n_layers][n_experts] shares of the tokens, 1 in each layer together.
        """
        alarms: list[str] = []
        memory = self._memory
        if not memory.starving:
            memory.starving = [[0] * len(shares) for shares in load]
            memory.crowded = [[0] * len(shares) for shares in load]
        for layer, shares in enumerate(load):
            fair = 1 / len(shares)
            # With two experts a token, one that every token chooses has a share of a half.
            most = max(0.45, 1.8 * fair)
            for expert, share in enumerate(shares):
                starving, crowded = memory.starving[layer], memory.crowded[layer]
                starving[expert] = starving[expert] + 1 if share < STARVING_SHARE * fair else 0
                crowded[expert] = crowded[expert] + 1 if share > most else 0
                if self._is_new(f"starving {layer} {expert}", starving[expert] >= EXPERT_STEPS, EXPERT_STEPS):
                    alarms.append(_starving_sentence(step, layer, expert, share, fair))
                if self._is_new(f"crowded {layer} {expert}", crowded[expert] >= EXPERT_STEPS, EXPERT_STEPS):
                    alarms.append(_crowded_sentence(step, layer, expert, share, fair))
        return alarms


def _times_usual(series: Series, value: float, factor: float) -> float:
    """How many times the usual `value` is when it is outside its band, else 0. `series` learns it."""
    if value <= 0:
        return 0.0  # a learning rate of 0, or a batch without targets: no logarithm, and nothing to fear
    logarithm = math.log(value)
    if not series.is_judged:
        series.add(logarithm)
        return 0.0
    usual = statistics.fmean(series.recent)
    limit = usual + max(math.log(factor), SIGMAS * series.jitter())
    series.add(logarithm, usual, limit)
    return math.exp(logarithm - usual) if logarithm > limit else 0.0


def _floor(loss: float) -> float:
    """The least σ that a loss is credited with: a very even one would make a spike of a trifle."""
    return 0.02 + 0.01 * abs(loss)


def _times_past(past: list[float], value: float) -> float:
    """How many times its last logged values `value` is, 0 while they are few. `past` learns it."""
    logarithm = math.log(max(value, 1e-30))
    times = math.exp(logarithm - statistics.fmean(past[-LAYER_WINDOW:])) if len(past) >= LAYER_LEAST else 0.0
    past.append(logarithm)
    del past[:-LAYER_LEAST]
    return times


# ---- what is said ---------------------------------------------------------------------------------------------------


def _update_sentence(step: int, times: float) -> str:
    return (
        f"step {step}: the update is {times:.0f} times as large against the weights as in the last {WINDOW} steps; "
        "a learning rate that is too high does this, and the loss often jumps a few steps later; if it does, "
        "lower --learning_rate or lengthen --warmup_iters"
    )


def _gradient_sentence(step: int, times: float, in_a_row: int) -> str:
    return (
        f"step {step}: the gradient norm is {times:.0f} times that of the last {WINDOW} steps, for {in_a_row} steps "
        "in a row now; the model is being pushed hard, which often comes before the loss jumps; if it does, lower "
        "--learning_rate or --grad_clip, or look for broken text in the data"
    )


def _loss_sentence(step: int, loss: float, usual: float, sigma: float, in_a_row: int) -> str:
    return (
        f"step {step}: the loss is {loss:.2f} where {usual:.2f} is usual, {(loss - usual) / sigma:.0f} times its "
        f"ordinary deviation, for {in_a_row} steps in a row now; the last updates have damaged the model, or the data "
        "are of another kind; if it comes again, lower --learning_rate or look at the data"
    )


def _risen_sentence(step: int, usual: float, lowest: float) -> str:
    return (
        f"step {step}: over the last {LEAST} steps the loss was {usual:.2f}, and had been down to {lowest:.2f}; the "
        "model is getting worse, slowly, as before a divergence, or the data have become harder; if they have not, "
        "lower --learning_rate"
    )


def _lost_sentence(step: int, half: float, untrained: float) -> str:
    return (
        f"step {step}: half of the last {LEAST} losses were above {half:.2f}, and {untrained:.2f} is that of an "
        "untrained model; this one has become worse than that; lower --learning_rate"
    )


def _variance_sentence(step: int, layer: int, times: float) -> str:
    return (
        f"step {step}: the hidden states that layer {layer + 1} gives on vary {times:.0f} times as much as at the last "
        f"{LAYER_WINDOW} logged steps; their growth often comes before a divergence; lower --learning_rate, or raise "
        "--weight_decay"
    )


def _attention_sentence(step: int, layer: int, largest: float) -> str:
    return (
        f"step {step}: the largest attention logit of layer {layer + 1} is {largest:.0f}; so large a one makes a token "
        "look at a single other token, and training grow unstable; lower --learning_rate, or train a model "
        "with --qk_norm true"
    )


def _starving_sentence(step: int, layer: int, expert: int, share: float, fair: float) -> str:
    return (
        f"step {step}: expert {expert + 1} of layer {layer + 1} gets {share:.1%} of the tokens, where {fair:.1%} is "
        f"its fair share, for {EXPERT_STEPS} logged steps; it hardly learns any more; raise --aux_loss_alpha"
    )


def _crowded_sentence(step: int, layer: int, expert: int, share: float, fair: float) -> str:
    return (
        f"step {step}: expert {expert + 1} of layer {layer + 1} takes {share:.1%} of the tokens, where {fair:.1%} is "
        f"its fair share, for {EXPERT_STEPS} logged steps; the others learn less; raise --aux_loss_alpha"
    )
