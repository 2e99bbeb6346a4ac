"""Ctrl-C and SIGTERM while training: a number to ask for, so that the step is finished and saved first."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signals(is_speaking: bool) -> Iterator[Callable[[], int]]:
    """While this lasts the two signals do nothing by themselves.

    Args:
        is_speaking: say that the signal was heard; of several processes one is enough.

    Yields:
        what gives the first signal's number, or 0 while there was none.
    """
    received: list[int] = []
    process = os.getpid()

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)
        # Data workers are forked with this handler. Not by print: the signal may have come in the middle of one, which
        # cannot be entered twice.
        if len(received) == 1 and is_speaking and os.getpid() == process:
            os.write(2, b"\nfinishing this step, then saving\n")

    earlier = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
