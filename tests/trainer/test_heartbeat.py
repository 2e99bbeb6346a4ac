"""Signs of life, with threads of one process in the place of processes."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

import trainer.heartbeat
from trainer.heartbeat import Heartbeat

BEAT, SILENCE = 0.05, 0.5


@pytest.fixture
def beating(monkeypatch) -> Iterator[Any]:
    """Start the heartbeats of some ranks; `ended` has what a rank said when it left."""
    monkeypatch.setattr(trainer.heartbeat, "SECONDS_BETWEEN_BEATS", BEAT)
    monkeypatch.setattr(trainer.heartbeat, "SECONDS_OF_SILENCE", SILENCE)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    ended: dict[int, str] = {}

    def end_process(heartbeat: Heartbeat, complaint: str) -> None:
        ended.setdefault(heartbeat._rank, complaint)
        heartbeat._stopped.set()

    monkeypatch.setattr(Heartbeat, "_end_process", end_process)
    started: list[Heartbeat] = []

    def begin(*ranks: int, world_size: int = 3, meeting: str = "first") -> list[Heartbeat]:
        started.extend(Heartbeat(rank, world_size, meeting) for rank in ranks)
        return started[-len(ranks) :]

    begin.ended = ended  # type: ignore[attr-defined]
    yield begin
    for heartbeat in started:
        heartbeat._stopped.set()


def wait_until(is_true: Any) -> None:
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_who_lives_is_left_alone(beating):
    first, *others = beating(0, 1, 2)
    time.sleep(2 * SILENCE)
    assert beating.ended == {}
    assert first.reason() is None
    for heartbeat in (*others, first):
        heartbeat.stop(None)
    assert beating.ended == {}


def test_a_silent_rank_ends_all_others(beating):
    beating(0, 1)  # and no sign from rank 2, ever
    wait_until(lambda: len(beating.ended) == 2)
    assert beating.ended[0].startswith("process 2 has given no sign of life for ")
    assert beating.ended[1] == beating.ended[0]


def test_the_main_process_is_watched_too(beating):
    beating(1, 2)
    wait_until(lambda: len(beating.ended) == 2)
    assert all(each.startswith("process 0 has given no sign of life for ") for each in beating.ended.values())


def test_who_leaves_in_peace_is_not_missed(beating):
    _, second, third = beating(0, 1, 2)
    second.stop(None)
    third.stop(None)
    time.sleep(2 * SILENCE)
    assert beating.ended == {}


@pytest.mark.parametrize("failing", [0, 2])
def test_a_reason_reaches_everybody(beating, failing):
    ranks = beating(0, 1, 2)
    ranks[failing].stop("ValueError: so\nit went")
    wait_until(lambda: len(beating.ended) == 2)
    assert set(beating.ended.values()) == {f"process {failing} stopped (ValueError: so it went)"}
    assert ranks[1].reason() == f"process {failing} stopped (ValueError: so it went)"


def test_only_the_first_reason_counts(beating):
    ranks = beating(0, 1, 2)
    ranks[2].stop("first")
    wait_until(lambda: len(beating.ended) == 2)
    assert {each.split("(")[1] for each in beating.ended.values()} == {"first)"}


def test_a_restart_knows_nothing_of_the_reasons_before(beating):
    [failed] = beating(2)
    failed.stop("the first attempt")
    ranks = beating(0, 1, 2, meeting="second")
    time.sleep(2 * SILENCE)
    assert beating.ended == {} and ranks[0].reason() is None


class StoreThat:
    """A store that fails or hangs."""

    def __init__(self, answer: Any) -> None:
        self.set = self.get = self.check = answer


def fail(*arguments: Any) -> Any:
    raise RuntimeError("Connection reset")


def test_a_store_that_has_gone(beating):
    [other] = beating(1)
    other._store = StoreThat(fail)
    wait_until(lambda: beating.ended)
    assert beating.ended == {1: "process 0 has gone"}
    assert other.reason() == "process 0 has gone"
    other.stop("nobody hears it")


def test_a_reason_is_remembered_after_the_store_has_gone(beating):
    first, second, _ = beating(0, 1, 2)
    first.stop("SomeError: found")
    wait_until(lambda: 1 in beating.ended)
    second._store = StoreThat(fail)
    assert second.reason() == "process 0 stopped (SomeError: found)"


def test_a_store_that_does_not_answer(beating):
    """As when the machine of the main process has lost its power: the connection stays open, and nothing comes."""
    [other] = beating(1)
    released = threading.Event()
    other._store = StoreThat(lambda *arguments: released.wait(60) and fail())
    wait_until(lambda: beating.ended)
    assert beating.ended[1].startswith("process 0 has given no sign of life for ")
    start = time.monotonic()
    other.stop("this has no place to be said")
    assert time.monotonic() - start < 30 * BEAT + 1, "it does not wait for it"
    released.set()


def test_the_launcher_may_keep_the_store(beating, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    [other] = beating(1)
    other._store = StoreThat(fail)
    wait_until(lambda: beating.ended)
    assert beating.ended == {1: "the launcher has gone"}
