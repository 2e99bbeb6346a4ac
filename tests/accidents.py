"""Training processes to which something happens at a chosen step: a signal, or an error nobody foresaw.

    python tests/accidents.py "SIGKILL rank=1 step=5" 1-pretrain.py --max_steps 10 …

`Ranks` starts several at once without any launcher. They are forked from one process that has the libraries loaded
already, so a start costs tenths of a second; launchers themselves are for `tests/scripts/test_launching.py`.
"""

import importlib
import multiprocessing
import os
import re
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model.errors import UserError
from tests.tiny_chain import Finished

PRELOADED = ["torch", "torch.distributed", "trainer.loop", "trainer.parser", "trainer.zero"]
LONGEST = 120.0  # seconds until a test gives up


@dataclass(frozen=True)
class Accident:
    """What happens in the middle of which update."""

    # A signal, "error", "sleep", "unchecked" (the disk gets full after it was looked at) or "no_data" (before the run).
    what: str = "nothing"
    rank: int | None = None  # None: to all of them
    step: int = 0
    silence: float | None = None  # seconds after which the heartbeat takes a rank for dead

    @classmethod
    def parse(cls, text: str) -> "Accident":
        """From words such as `SIGKILL rank=1 step=5 silence=2`."""
        what, *others = text.split()
        values: dict[str, Any] = dict(each.split("=") for each in others)
        kinds = {"rank": int, "step": int, "silence": float}
        return cls(what, **{name: kinds[name](value) for name, value in values.items()})

    def prepare(self) -> None:
        """Let it happen in this process, unless a launcher has restarted it since."""
        forecast: Any = importlib.import_module("trainer.forecast")
        heartbeat: Any = importlib.import_module("trainer.heartbeat")
        loop: Any = importlib.import_module("trainer.loop")

        if self.silence is not None:
            heartbeat.SECONDS_BETWEEN_BEATS = self.silence / 10
            heartbeat.SECONDS_OF_SILENCE = self.silence
        if self.what == "unchecked":
            forecast.check_disk = lambda found: None
            return
        is_first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if self.rank not in (None, int(os.environ.get("RANK", "0"))) or not is_first or self.what == "nothing":
            return
        if self.what == "no_data":
            stages: Any = importlib.import_module("trainer.stages")

            def no_data(*_: Any) -> None:
                raise UserError("packed/text: not on this machine")

            stages.open_sets = no_data
            return
        usual = loop.make_update

        def make_update(engine: Any, objective: Any, step: Any, *others: Any) -> Any:
            if step.index == self.step:
                if self.what == "sleep":
                    time.sleep(LONGEST)
                if self.what == "error":
                    raise ValueError("a bug that nobody\nforesaw")
                os.kill(os.getpid(), signal.Signals[self.what])
            return usual(engine, objective, step, *others)

        loop.make_update = make_update


def train_rank(
    script: str, argv: list[str], environment: dict[str, str], folder: Path, name: str, accident: Accident
) -> None:
    """What a forked process does: become the script."""
    # The process that it was forked from may have been started for the workers of `data_process.py`, which hold back
    # Ctrl-C; a fresh process does not.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.chdir(folder)
    os.environ.update(environment)
    for number, suffix in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{name}.{suffix}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    # What a terminal would say is of no use in a file, and what a fresh process has not buffered stays so.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    sys.argv = [script, *argv]
    accident.prepare()
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the script has ended: what follows is not its business
        sys.stdout.flush()
        sys.stderr.flush()


class Ranks:
    """The processes of one run."""

    def __init__(self, folder: Path, script: Path, flags: list[object], number: int, accident: str = "nothing") -> None:
        self._folder, self._started = folder, time.monotonic()
        self._name = f"ranks_{time.monotonic_ns()}"
        environment = {}
        if number > 1:
            environment = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        context = multiprocessing.get_context("forkserver")
        self.processes = [
            context.Process(
                target=train_rank,
                args=(
                    str(script),
                    [*map(str, flags)],
                    {**environment, **({"RANK": str(rank), "LOCAL_RANK": str(rank)} if number > 1 else {})},
                    folder,
                    str(folder / f"{self._name}_{rank}"),
                    Accident.parse(accident),
                ),
                daemon=True,
            )
            for rank in range(number)
        ]
        for process in self.processes:
            process.start()

    def kill(self, sent: signal.Signals = signal.SIGKILL) -> None:
        """Send all of them a signal."""
        for process in self.processes:
            if process.is_alive():
                os.kill(process.pid or 0, sent)

    def wait_for(self, is_reached: Callable[[str], bool]) -> None:
        """Until the main process has said enough on standard error, or has ended."""
        while self.processes[0].is_alive() and not is_reached(self._said(0)[1]):
            assert time.monotonic() < self._started + LONGEST
            time.sleep(0.005)

    def _said(self, rank: int) -> list[str]:
        paths = [self._folder / f"{self._name}_{rank}.{suffix}" for suffix in ("out", "err")]
        return [path.read_text(encoding="utf-8") if path.exists() else "" for path in paths]

    def finished(self, *, only: int | None = None) -> list[Finished]:
        """Exit code, output and errors of each (or only one: the others, which hang, are killed then)."""
        for process in self.processes if only is None else [self.processes[only]]:
            process.join(max(0.0, self._started + LONGEST - time.monotonic()))
        is_late = only is None and any(process.is_alive() for process in self.processes)
        self.kill()
        for process in self.processes:
            process.join()
        found = []
        for rank, process in enumerate(self.processes):
            assert process.exitcode is not None
            found.append(Finished(process.exitcode, *self._said(rank)))
        for path in self._folder.glob(f"{self._name}_*"):
            path.unlink()
        assert not is_late, found
        return found


def load_libraries(repository: Path) -> None:
    """Start the process that all ranks are forked from."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([*PRELOADED])
    with chdir(repository):
        forkserver.ensure_running()


def lines_of_ours(text: str) -> list[str]:
    """What the script said, without what launchers and libraries say around it."""
    own = (
        r"(error|warning|alarm|process \d+): |going on |stopped at |step \d+|model: |length: |out/|optimizer: |it was "
    )
    return [line for line in text.splitlines() if re.match(own, line)]


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


if __name__ == "__main__":
    accident_text, script_path, *script_flags = sys.argv[1:]
    sys.argv = [script_path, *script_flags]
    Accident.parse(accident_text).prepare()
    runpy.run_path(script_path, run_name="__main__")
