"""How much memory a command and all its processes really take, at the worst moment."""

import threading
from pathlib import Path
from types import TracebackType

import psutil

_SECONDS = 0.1


class MemoryWatch:
    """While it is entered, notes the peak of a process and of all processes below it together, in bytes.

    Counted is the proportional set size without file pages: a page shared by n processes counts once, and what merely
    mirrors a file (which the system may drop at any time) does not. Where the system does not tell (not Linux), it is
    the resident set size, which counts more.
    """

    def __init__(self, process_id: int | None = None) -> None:
        self._process = psutil.Process(process_id)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_bytes = 0  # all processes together
        self.own_peak_bytes = 0  # the watched process alone

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            own, total = process_bytes(self._process), 0
            try:
                children = self._process.children(recursive=True)
            except psutil.NoSuchProcess:
                children = []
            total = own + sum(map(process_bytes, children))
            self.own_peak_bytes = max(self.own_peak_bytes, own)
            self.peak_bytes = max(self.peak_bytes, total)
            if self._ended.wait(_SECONDS):
                return


def process_bytes(process: psutil.Process) -> int:
    """The memory of one process, 0 when it is gone."""
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        lines = []
    except (ProcessLookupError, PermissionError):  # it ended while being read
        return 0
    sizes = {name: int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines[1:])}
    if "Pss_Anon" in sizes:
        return 1024 * (sizes["Pss_Anon"] + sizes["Pss_Shmem"])
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
