"""How many processes train together: the only file that knows.

One process, several that `torchrun` started (DistributedDataParallel), or several under DeepSpeed's ZeRO
(`trainer/zero.py`). The loop asks this object for its rank, for sums over ranks and for the engine that trains; with
one process all of it does nothing.
"""

import math
import os
import sys
import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from model.decoder import CausalLM
from model.device import Precision, choose_device, num_cores
from model.errors import RunFailed, UserError
from trainer.engine import Engine
from trainer.heartbeat import Heartbeat
from trainer.settings import DeviceSettings, TrainSettings

T = TypeVar("T")

# A rank that died is noticed by the heartbeat within a minute; this only bounds what nobody foresaw.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
MEETING_TIMEOUT = timedelta(minutes=10)
# What gloo and NCCL say when another rank has gone.
_LOST_CONNECTION = ("gloo", "NCCL", "nccl", "onnection closed", "onnection reset", "Broken pipe", "timed out")


@dataclass(frozen=True)
class Parallel:
    """This process's place among those that train together."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among those of this machine
    local_world_size: int = 1
    zero: dict[str, Any] | None = None  # DeepSpeed's configuration, as the user gave it
    heartbeat: Heartbeat | None = field(default=None, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def say(self, line: str) -> None:
        """Print a line on standard error, once for all ranks."""
        if self.is_main:
            print(line, file=sys.stderr, flush=True)

    def say_plainly(self, line: str) -> None:
        """Print a result on standard output, once for all ranks."""
        if self.is_main:
            print(line, flush=True)

    # ---- the engine -------------------------------------------------------------------------------------------

    def engine(self, model: CausalLM, training: TrainSettings, precision: Precision) -> Engine:
        """What trains the model here."""
        if self.zero is None:
            return Engine(model, training, precision, self)
        from trainer.zero import ZeroEngine  # DeepSpeed takes seconds to load

        return ZeroEngine(model, training, precision, self)

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """`model`, exchanging gradients with the other ranks during the backward pass."""
        if self.world_size == 1:
            return model
        with warnings.catch_warnings():
            # torch 2.13 has another name for it, which 2.11 does not know.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
            return nn.parallel.DistributedDataParallel(
                model,
                device_ids=[device.index] if device.type == "cuda" else None,
                broadcast_buffers=False,  # constants of the architecture: every rank has made the same ones
                gradient_as_bucket_view=True,
            )

    # ---- words between ranks ----------------------------------------------------------------------------------

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` over all ranks."""
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def max(self, tensor: Tensor) -> Tensor:
        """The largest of each element over all ranks."""
        return self._reduced(tensor, dist.ReduceOp.MAX)

    def _reduced(self, tensor: Tensor, operation: Any) -> Tensor:
        if self.world_size == 1:
            return tensor
        tensor = tensor.clone()
        dist.all_reduce(tensor, operation)
        return tensor

    def from_main(self, values: list[Any]) -> list[Any]:
        """The main process's numbers (or None), on every rank."""
        if self.world_size == 1:
            return values
        message = torch.tensor([math.nan if value is None else value for value in values], dtype=torch.float64)
        dist.broadcast(message, 0)
        # What is missing is missing on every rank.
        return [None if value is None else found for value, found in zip(values, message.tolist(), strict=True)]

    def on_main(self, function: Callable[[], T]) -> T:
        """What `function` gives on the main process, on every rank; a UserError there ends them all."""
        if self.world_size == 1:
            return function()
        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer[0] = function()
            except (UserError, OSError) as error:
                answer[1] = error
        dist.broadcast_object_list(answer, device=torch.device("cpu"))
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def broadcast_tensors(self, tensors: dict[str, Any] | None) -> dict[str, Any]:
        """The main process's dictionary (nested ones too) of CPU tensors and plain values, on every rank."""
        if self.world_size == 1:
            assert tensors is not None
            return tensors
        described = self.on_main(lambda: _described(tensors))
        return self._filled(described, tensors)

    def _filled(self, described: Any, values: Any) -> Any:
        if isinstance(described, dict):
            return {key: self._filled(value, values and values[key]) for key, value in described.items()}
        if isinstance(described, _Described):
            tensor = values.contiguous() if self.is_main else torch.empty(described.shape, dtype=described.dtype)
            dist.broadcast(tensor, 0)
            return tensor
        return described

    # ---- the end ----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        """Take leave of the other ranks, whatever has happened; RunFailed when it is they who are gone."""
        failure: Exception | None = None
        if isinstance(error, torch.OutOfMemoryError):
            advice = "pass a smaller --batch_size (or auto); --gradient_checkpointing needs less while training"
            failure = UserError(f"the device's memory is full; {advice}")
        elif isinstance(error, RuntimeError):
            failure = self.lost(error)
        self.finish(failure or error)
        if failure is not None:
            raise failure from error

    def lost(self, error: RuntimeError) -> RunFailed | None:
        """The reason in one line when `error` says that another rank has gone, else None."""
        if self.world_size == 1 or not any(word in str(error) for word in _LOST_CONNECTION):
            return None
        reason = self.heartbeat.reason() if self.heartbeat else None
        return RunFailed(f"{reason or 'another process has gone'}; stopped without saving: the same command goes on")

    def finish(self, failure: BaseException | None = None) -> None:
        """Take leave of the other ranks; with `failure`, tell them why."""
        if self.heartbeat is not None:
            self.heartbeat.stop(f"{type(failure).__name__}: {failure}" if failure else None)
        if failure is None and dist.is_initialized():
            dist.destroy_process_group()


@dataclass(frozen=True)
class _Described:
    """A tensor's place, without its values."""

    shape: torch.Size
    dtype: torch.dtype


def _described(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _described(each) for key, each in value.items()}
    return _Described(value.shape, value.dtype) if isinstance(value, Tensor) else value


# ---- the beginning --------------------------------------------------------------------------------------------


def start(settings: DeviceSettings) -> Parallel:
    """Find out how the script was launched, and join the other processes: `with start(settings) as processes:`.

    Raises:
        UserError: more processes than devices, a DeepSpeed configuration with a mistake, or nobody to join.
    """
    # DeepSpeed's launcher says so with a flag; torchrun says all in the environment.
    by_deepspeed = any(argument.startswith("--local_rank=") for argument in sys.argv)
    world_size, rank = _environment("WORLD_SIZE", 1), _environment("RANK", 0)
    if rank >= max(world_size, 1):
        raise UserError(f"RANK: found {rank}, expected less than WORLD_SIZE ({world_size}); start with torchrun")
    local_rank = _environment("LOCAL_RANK", 0)
    local_world_size = _environment("LOCAL_WORLD_SIZE", _environment("LOCAL_SIZE", world_size))
    _check_devices(settings.device, local_rank, local_world_size)
    zero = None
    if settings.deepspeed or by_deepspeed:
        from trainer.zero import read_configuration

        zero = read_configuration(settings.deepspeed or "zero1", choose_device(settings.device))
    _set_threads(settings, local_world_size)
    if world_size == 1 and zero is None:
        return Parallel()
    os.environ["LOCAL_RANK"] = str(local_rank)  # DeepSpeed reads it
    heartbeat = _join(settings.device, rank, world_size)
    return Parallel(rank, world_size, local_rank, local_world_size, zero, heartbeat)


def _environment(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    if value and not value.isdigit():
        raise UserError(f"{name}: found {value!r} in the environment, expected a number; start with torchrun")
    return int(value) if value else default


def uses_cuda(device: str) -> bool:
    """Whether `--device` means CUDA here."""
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def _check_devices(device: str, local_rank: int, local_world_size: int) -> None:
    if local_world_size == 1 and local_rank == 0:
        return
    if device == "mps":
        raise UserError("--device mps: one Apple GPU serves one process; start the script with python")
    if uses_cuda(device):
        if ":" in device:
            raise UserError(f"--device {device}: each process takes a device of its own; pass --device cuda")
        if max(local_rank + 1, local_world_size) > torch.cuda.device_count():
            raise UserError(
                f"launched with {local_world_size} processes on this machine, which has "
                f"{torch.cuda.device_count()} CUDA devices; start as many as there are devices"
            )
    elif local_world_size > num_cores():
        raise UserError(
            f"launched with {local_world_size} processes on this machine, which has {num_cores()} CPU cores; "
            "start at most as many"
        )


def _set_threads(settings: DeviceSettings, local_world_size: int) -> None:
    """Share the cores. torchrun says OMP_NUM_THREADS=1 when nobody else does, which would idle most of them."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    elif local_world_size > 1 and asked in ("", "1"):
        torch.set_num_threads(max(1, num_cores() // local_world_size))


def _join(device: str, rank: int, world_size: int) -> Heartbeat | None:
    """Meet the other processes."""
    if world_size == 1:
        os.environ.update({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"})
        os.environ.setdefault("MASTER_ADDR", "localhost")
        os.environ.setdefault("MASTER_PORT", "0")
    backend = "cpu:gloo,cuda:nccl" if uses_cuda(device) else "gloo"
    if uses_cuda(device):
        torch.cuda.set_device(_environment("LOCAL_RANK", 0))
    try:
        store, _, _ = next(rendezvous("env://", rank=rank, world_size=world_size, timeout=MEETING_TIMEOUT))
        meeting = _meeting(store, rank, world_size)
        dist.init_process_group(
            backend,
            store=PrefixStore(f"training/{meeting}", store),
            rank=rank,
            world_size=world_size,
            timeout=COLLECTIVE_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot meet the other processes at {address} ({reason}); start with torchrun") from error
    return Heartbeat(rank, world_size, meeting) if world_size > 1 else None


def _meeting(store: Store, rank: int, world_size: int) -> str:
    """A name that all ranks of this start know, and that no earlier start knew.

    torchrun --max_restarts keeps its store, with the addresses of the processes that died. Its count of restarts may
    differ from machine to machine, so the main process gives each start a name, and the others ask for it with
    questions of their own, which nobody can have answered before.
    """
    mine = uuid.uuid4().hex
    if rank:
        store.set(f"asks/{rank}", mine)
        name = store.get(f"answer/{mine}").decode()
        store.set(f"joined/{name}/{rank}", "1")
        return name
    waiting, deadline = set(range(1, world_size)), time.monotonic() + MEETING_TIMEOUT.total_seconds()
    while waiting:
        for other in sorted(waiting):
            if store.check([f"joined/{mine}/{other}"]):
                waiting.remove(other)
            elif store.check([f"asks/{other}"]):
                store.set(f"answer/{store.get(f'asks/{other}').decode()}", mine)
        if time.monotonic() > deadline:
            raise RuntimeError(f"process {min(waiting)} has not come")
        time.sleep(0.01)
    return mine
