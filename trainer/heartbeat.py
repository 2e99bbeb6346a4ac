"""Signs of life between the processes of a run: when one dies, the others stop within a minute and say why.

A collective operation waits for all ranks. Where a launcher watches the processes of one machine, and gloo's sockets
close with their owner, this is quick; when a machine loses power or a GPU hangs, nobody would ever be told.
"""

import os
import sys
import threading
import time

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore

SECONDS_BETWEEN_BEATS = 2.0
SECONDS_OF_SILENCE = 30.0


class Heartbeat:
    """A thread that tells the other ranks that this one lives, and ends this one when another does not.

    Every rank counts up its own key in the store in which the ranks met; the main one watches all of them, and all
    watch the main one and the place where whoever stops leaves a reason.
    """

    def __init__(self, rank: int, world_size: int, meeting: str) -> None:
        self._rank, self._world_size = rank, world_size
        # A connection of its own: the other one may be blocked in a meeting.
        server = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        self._store = PrefixStore(f"heartbeat/{meeting}", server)
        # torchrun keeps the store itself; without it, it is in the main process.
        by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._keeper = "the launcher" if by_launcher else "process 0"
        self._is_keeper = rank == 0 and not by_launcher
        self._complaint: str | None = None  # the reason that was found in the store
        self._unanswered = 0  # beats since the store answered last
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self._thread.start()
        threading.Thread(target=self._watch_store, daemon=True, name="heartbeat of the store").start()

    def stop(self, reason: str | None) -> None:
        """End the thread; `reason` says to the others why this rank fails."""
        self._stopped.set()
        self._thread.join(10 * SECONDS_BETWEEN_BEATS)
        if self._thread.is_alive():
            return  # it waits for a store that does not answer
        try:
            if reason is not None:
                self._store.set("reason", f"process {self._rank} stopped ({' '.join(reason.split())})")
            self._store.set(f"left/{self._rank}", "1")
            if reason is not None and self._is_keeper:
                time.sleep(2 * SECONDS_BETWEEN_BEATS)  # the others have to read it before the store goes
        except RuntimeError:
            pass  # whoever kept the store has gone: there is no place left to say it

    def reason(self) -> str | None:
        """Why another rank stopped, when it could still say so."""
        try:
            return self._store.get("reason").decode() if self._store.check(["reason"]) else None
        except RuntimeError:
            return self._complaint or f"{self._keeper} has gone"

    def _beat(self) -> None:
        # Silence is counted in beats of one's own, not by the clock: after Ctrl-Z and `fg` nobody is late.
        seen = dict.fromkeys(self._watched(), (-1, 0))
        number = 0
        while not self._stopped.wait(SECONDS_BETWEEN_BEATS):
            number += 1
            try:
                self._store.set(f"beat/{self._rank}", str(number))
                self._complaint = self._store.get("reason").decode() if self._store.check(["reason"]) else None
                complaint = self._complaint or self._silent(seen)
                if complaint and not self._store.check(["reason"]):
                    self._store.set("reason", complaint)
            except RuntimeError:
                complaint = self._complaint or f"{self._keeper} has gone"
            self._unanswered = 0
            if complaint:
                self._end_process(complaint)

    def _watch_store(self) -> None:
        """A thread of its own: who asks a machine that has lost its power waits for the answer for a long time."""
        while not self._stopped.wait(SECONDS_BETWEEN_BEATS):
            self._unanswered += 1
            if _is_long(self._unanswered) and self._thread.is_alive():
                self._end_process(f"{self._keeper} {_silence(self._unanswered)}")

    def _watched(self) -> list[int]:
        return list(range(1, self._world_size)) if self._rank == 0 else [0]

    def _silent(self, seen: dict[int, tuple[int, int]]) -> str | None:
        """Which rank has not counted up for too long; `seen` has its last count, and for how many beats that stands."""
        for rank, (last, beats) in list(seen.items()):
            if self._store.check([f"left/{rank}"]):
                del seen[rank]
                continue
            key = f"beat/{rank}"
            number = int(self._store.get(key)) if self._store.check([key]) else -1
            seen[rank] = (number, beats + 1 if number == last else 0)
            if _is_long(seen[rank][1]):
                return f"process {rank} {_silence(seen[rank][1])}"
        return None

    def _end_process(self, complaint: str) -> None:
        """Leave at once: the main thread may wait for ever in a collective operation."""
        # A moment for the main thread, which may have noticed by itself and says more.
        if self._stopped.wait(10 * SECONDS_BETWEEN_BEATS):
            return
        print(f"error: {complaint}; stopped without saving: the same command goes on", file=sys.stderr, flush=True)
        os._exit(1)


def _is_long(beats: int) -> bool:
    return beats * SECONDS_BETWEEN_BEATS > SECONDS_OF_SILENCE


def _silence(beats: int) -> str:
    return f"has given no sign of life for {beats * SECONDS_BETWEEN_BEATS:.0f} s"
