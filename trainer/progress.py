"""Where a run stands, for whoever watches: a bar on a terminal, a line now and then in a log file."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0  # in a log file a bar that redraws itself is noise

# `{bar}` takes what the numbers leave of the terminal's width.
_BAR = "{desc} |{bar}| {n_fmt}/{total_fmt} {remaining} left{postfix}"
_LINE = "{desc} {n_fmt}/{total_fmt} ({percentage:.0f}%) {remaining} left{postfix}"
_WITHOUT_TOTAL = "{desc} {n_fmt} after {elapsed}{postfix}"


class Progress:
    """Shows steps made, time left, and the numbers of the last logged step.

    Args:
        name: the run's name.
        total_steps: None while it is not known; `set_total` tells it later.
        first_step: the step that this process goes on from.
        enabled: False on all ranks but one: nothing is shown.
    """

    def __init__(self, name: str, total_steps: int | None, first_step: int, enabled: bool = True) -> None:
        self._name, self._total, self._step, self._enabled = name, total_steps, first_step, enabled
        self._numbers = ""
        self._steps_made, self._start = 0, time.monotonic()
        self._last_line = self._start
        self._bar: Any = None
        if enabled and sys.stderr.isatty():
            self._bar = tqdm(
                total=total_steps, initial=first_step, desc=name, dynamic_ncols=True, bar_format=self._format(_BAR)
            )

    def advance(self) -> None:
        """One more step."""
        self._step += 1
        self._steps_made += 1
        if self._bar is not None:
            self._bar.update()
        elif self._enabled and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print_line()

    def show(self, values: Mapping[str, float | None]) -> None:
        """Numbers of a logged step, from then on beside the bar: what `short_numbers` knows of them."""
        self._numbers = short_numbers(values)
        if self._bar is not None:
            self._bar.set_postfix_str(self._numbers, refresh=False)

    def set_total(self, total_steps: int) -> None:
        """The run's length, when it has become known or has changed."""
        self._total = total_steps
        if self._bar is not None:
            self._bar.total, self._bar.bar_format = total_steps, self._format(_BAR)
            self._bar.refresh()

    def go_to(self, step: int) -> None:
        """The run stands at `step`: after a rollback."""
        self._step = step
        if self._bar is not None:
            # Not an update by a negative number, which would count as slow progress in the time left.
            self._bar.n = self._bar.last_print_n = step
            self._bar.initial = min(self._bar.initial, step)
            self._bar.refresh()

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        elif self._enabled:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands; in a log file, say where the run stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._enabled and self._steps_made:
            self._print_line()
        self._enabled = False

    def _format(self, with_total: str) -> str:
        return _WITHOUT_TOTAL if self._total is None else with_total

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        elapsed = self._last_line - self._start
        line = tqdm.format_meter(
            self._step,
            self._total or 0,
            elapsed,
            prefix=self._name,
            rate=self._steps_made / elapsed if elapsed else None,
            postfix=self._numbers,
            bar_format=self._format(_LINE),
        )
        print(line, file=sys.stderr, flush=True)


def short_numbers(values: Mapping[str, float | None]) -> str:
    """The numbers of a training step on one short line: beside a name and a bar it fits 120 columns.

    Known are `loss`, `learning_rate`, `grad_norm`, `tokens_per_second`, `mfu` (a share of 1), `memory` (bytes) and
    `cost` (in the currency of `--price_per_hour`); what is missing or None is left out.
    """
    formats = {
        "loss": "loss {:.3f}",
        "learning_rate": "lr {}",
        "grad_norm": "grad {:.3g}",
        "tokens_per_second": "{} tok/s",
        "mfu": "MFU {:.0%}",
        "memory": "{}B",
        "cost": "cost {:.2f}",
    }
    shortened = {
        "learning_rate": lambda rate: f"{rate:.1e}".replace("e-0", "e-"),
        "tokens_per_second": _in_thousands,
        "memory": _in_thousands,
    }
    parts = []
    for name, form in formats.items():
        value = values.get(name)
        if value is not None:
            parts.append(form.format(shortened[name](value) if name in shortened else value))
    return " ".join(parts)


def _in_thousands(value: float) -> str:
    """Three digits and a letter: 987, 12.3k, 4.56M."""
    return str(tqdm.format_sizeof(value)) if value >= 1000 else f"{value:.0f}"
