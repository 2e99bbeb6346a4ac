"""How a process finds its place among others, and what it does when it is alone."""

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from model.errors import RunFailed, UserError
from trainer.parallel import Parallel, start
from trainer.settings import DeviceSettings

LAUNCHED = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def launched(monkeypatch) -> Iterator[Any]:
    """Start as if a launcher had set these; threads are as before afterwards."""
    threads = torch.get_num_threads()

    def begin(*, device: str = "cpu", num_threads: int = 0, deepspeed: str | None = None, **environment: object):
        for name in (*LAUNCHED, "OMP_NUM_THREADS"):
            monkeypatch.setenv(name, "")  # so that what `start` itself sets is undone
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        return start(DeviceSettings(device=device, num_threads=num_threads, deepspeed=deepspeed))

    yield begin
    torch.set_num_threads(threads)


def test_alone_it_does_nothing(launched):
    parallel = launched()
    assert parallel == Parallel()
    assert parallel.is_main and parallel.world_size == 1
    tensor, model = torch.ones(2), nn.Linear(1, 1)
    assert parallel.sum(tensor) is tensor and parallel.max(tensor) is tensor
    assert parallel.wrap(model, torch.device("cpu")) is model
    assert parallel.on_main(lambda: 7) == 7
    assert parallel.broadcast_tensors({"a": tensor}) == {"a": tensor}
    assert not torch.distributed.is_initialized()
    parallel.finish(ValueError("nobody to be told"))


def test_an_error_on_the_only_process_is_itself():
    with pytest.raises(UserError, match=r"^mine$"):
        Parallel().on_main(lambda: (_ for _ in ()).throw(UserError("mine")))


def test_no_memory_left_is_one_line_wherever_it_happens():
    with (
        pytest.raises(UserError, match="the device's memory is full; pass a smaller --batch_size") as error,
        Parallel(),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert isinstance(error.value.__cause__, torch.OutOfMemoryError)


def test_only_the_main_process_speaks(capsys):
    for rank in (0, 1):
        Parallel(rank, 2).say(f"said by {rank}")
        Parallel(rank, 2).say_plainly(f"printed by {rank}")
    assert capsys.readouterr() == ("printed by 0\n", "said by 0\n")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: found 'two' in the environment, expected a number"),
        ({"WORLD_SIZE": 2, "RANK": -1}, "RANK: found '-1'"),
        ({"WORLD_SIZE": 2, "RANK": 0}, "cannot meet the other processes at None:None"),
        ({"WORLD_SIZE": 2, "RANK": 0, "MASTER_ADDR": "localhost"}, "cannot meet the other processes at localhost:None"),
        ({"WORLD_SIZE": 2, "RANK": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}, "RANK: found 2, expected"),
        ({"WORLD_SIZE": 9999, "LOCAL_WORLD_SIZE": 9999}, "launched with 9999 processes on this machine, which has"),
        ({"WORLD_SIZE": 9999, "LOCAL_SIZE": 9999}, "launched with 9999 processes on this machine, which has"),
    ],
)
def test_a_launch_that_cannot_be(launched, environment, words):
    with pytest.raises(UserError, match=words):
        launched(**environment)


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("mps", "--device mps: one Apple GPU serves one process"),
        ("cuda:1", "--device cuda:1: each process takes a device of its own"),
        ("cuda", "launched with 2 processes on this machine, which has 1 CUDA devices"),
    ],
)
def test_two_processes_on_one_device(launched, monkeypatch, device, words):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=words):
        launched(device=device, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2)


@pytest.mark.parametrize(
    ("name", "words"),
    [("none.json", "none.json: "), ("zero4", "--deepspeed: found 'zero4', expected zero1")],
)
def test_an_unknown_deepspeed_configuration(launched, name, words):
    with pytest.raises(UserError, match=words):
        launched(deepspeed=name)


def test_the_cores_are_shared(launched, monkeypatch):
    monkeypatch.setattr("trainer.parallel.num_cores", lambda: 8)
    monkeypatch.setattr("trainer.parallel._join", lambda *place: None)
    for environment, expected in (
        ({"OMP_NUM_THREADS": 1}, 4),  # what torchrun sets
        ({}, 4),
        ({"OMP_NUM_THREADS": 3}, None),  # what the user set: torch has taken it over by itself
    ):
        torch.set_num_threads(2)
        launched(WORLD_SIZE=2, LOCAL_WORLD_SIZE=2, **environment)
        assert torch.get_num_threads() == (expected or 2)
    launched(WORLD_SIZE=2, LOCAL_WORLD_SIZE=2, num_threads=1)
    assert torch.get_num_threads() == 1


# ---- the end ----


class Telling:
    """A heartbeat that knows a reason."""

    def __init__(self, reason: str | None) -> None:
        self.told: list[str | None] = []
        self._reason = reason

    def reason(self) -> str | None:
        return self._reason

    def stop(self, reason: str | None) -> None:
        self.told.append(reason)


@pytest.mark.parametrize(
    "message",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234",
        "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms",
        "NCCL communicator was aborted on rank 1",
        "Broken pipe",
    ],
)
@pytest.mark.parametrize(
    ("reason", "words"), [("process 1 stopped (X)", "process 1 stopped (X); "), (None, "another process has gone; ")]
)
def test_a_lost_connection_is_told_from_a_bug(message, reason, words):
    parallel: Any = Parallel(0, 2, heartbeat=Telling(reason))
    failure = parallel.lost(RuntimeError(message))
    assert isinstance(failure, RunFailed)
    assert str(failure) == f"{words}stopped without saving: the same command goes on"
    assert parallel.lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert Parallel().lost(RuntimeError(message)) is None


def test_a_failure_is_told():
    heartbeat = Telling(None)
    Parallel(1, 2, heartbeat=heartbeat).finish(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    Parallel(1, 2, heartbeat=heartbeat).finish()
    assert heartbeat.told == ["OSError: [Errno 28] No space left on device", None]
