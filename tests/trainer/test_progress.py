"""The bar on a terminal, and the lines in a log file."""

import io
import os
import pty
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from trainer.progress import Progress, short_numbers

VALUES = {
    "loss": 12.34567,
    "learning_rate": 1.5e-4,
    "grad_norm": 12.345,
    "tokens_per_second": 1_234_567.0,
    "mfu": 0.412,
    "memory": 70.1e9,
    "cost": 1234.5,
    "step": 7.0,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(
    monkeypatch: pytest.MonkeyPatch, file: io.StringIO, act: Callable[[Progress], None], total: int | None = 100_000
) -> list[str]:
    monkeypatch.setattr(sys, "stderr", file)
    bar = Progress("pretrain_512", total, 12_340)
    act(bar)
    bar.close()
    return file.getvalue().replace("\n", "\r").split("\r")


def test_the_numbers_in_short() -> None:
    assert short_numbers(VALUES) == "loss 12.346 lr 1.5e-4 grad 12.3 1.23M tok/s MFU 41% 70.1GB cost 1234.50"
    assert short_numbers({"loss": 1.0, "mfu": None, "tokens_per_second": 42.4}) == "loss 1.000 42 tok/s"


def test_a_terminal_of_120_columns_holds_all(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, other_end = pty.openpty()
    termios.tcsetwinsize(other_end, (40, 120))
    with os.fdopen(other_end, "w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        bar = Progress("pretrain_512", 100_000, 12_340)
        bar.advance()
        bar.show(VALUES)
        bar.close()
    said = b""
    with suppress(OSError):  # how Linux says that the other end is closed and nothing is left
        while part := os.read(screen, 10_000):  # some of it at a time
            said += part
    os.close(screen)
    lines = said.decode().replace("\n", "\r").split("\r")
    last = [line for line in lines if "loss" in line][-1].rstrip()
    assert len(last) <= 120 and last.endswith("cost 1234.50") and "| 12341/100000 " in last and " left, loss" in last


def test_a_log_file_gets_a_line_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def act(bar: Progress) -> None:
        bar.show({"loss": 2.0})
        for _ in range(100):
            now[0] += 1.0
            bar.advance()
        bar.say("a word")

    lines = shown(monkeypatch, io.StringIO(), act, total=12_640)
    assert lines[:4] == [
        "pretrain_512 12370/12640 (98%) 04:30 left, loss 2.000",
        "pretrain_512 12400/12640 (98%) 04:00 left, loss 2.000",
        "pretrain_512 12430/12640 (98%) 03:30 left, loss 2.000",
        "a word",
    ]
    assert len(lines) == 6 and lines[4].startswith("pretrain_512 12440/12640")  # as it stands at the end


def test_the_total_may_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (Terminal(), io.StringIO()):

        def act(bar: Progress) -> None:
            bar.advance()
            bar._print_line() if bar._bar is None else bar._bar.refresh()
            bar.set_total(20_000)
            bar.advance()

        lines = [line for line in shown(monkeypatch, file, act, total=None) if line.strip()]
        assert any("12341 after 00:00" in line and "/" not in line for line in lines)
        assert "12342/20000" in lines[-1]


def test_a_rollback_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (Terminal(), io.StringIO()):

        def act(bar: Progress) -> None:
            for _ in range(50):
                bar.advance()
            bar.go_to(12_000)
            bar.advance()

        last = [line for line in shown(monkeypatch, file, act) if line.strip()][-1]
        assert "12001/100000" in last and "?" not in last and "-" not in last


def test_other_ranks_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", file)
        bar = Progress("run", None, 0, enabled=False)
        bar.set_total(3)
        bar.advance()
        bar.show(VALUES)
        bar.go_to(0)
        bar.say("hear me")
        bar.close()
        assert file.getvalue() == ""
