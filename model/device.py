"""Which device computes, in which precision, and how fast it multiplies matrices."""

import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from model.errors import UserError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def choose_device(name: str = "auto") -> torch.device:
    """The device asked for, or the best one present; UserError when it is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device: found {name!r}, expected auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: no CUDA device here; leave the flag out to use what is there")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: only {torch.cuda.device_count()} CUDA devices here")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: no Apple GPU here; leave the flag out to use what is there")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device: found {name!r}, expected auto, cpu, cuda, cuda:N or mps")
    return device


@dataclass(frozen=True)
class Precision:
    """How arithmetic is done: weights are kept in `weights`, matrix products run in `compute`."""

    device: torch.device
    compute: torch.dtype

    @property
    def weights(self) -> torch.dtype:
        """Master precision: the optimizer's small updates would vanish in 16 bits."""
        return torch.float64 if self.compute == torch.float64 else torch.float32

    @property
    def needs_scaler(self) -> bool:
        """fp16 gradients underflow unless the loss is scaled up."""
        return self.compute == torch.float16

    def autocast(self) -> AbstractContextManager:
        """The context in which a forward pass runs."""
        if self.compute in (torch.float32, torch.float64):
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute)


def choose_precision(name: str, device: torch.device) -> Precision:
    """`auto`: bf16 where the hardware has it, fp16 on older CUDA cards, fp32 elsewhere."""
    if name == "auto":
        if device.type != "cuda":
            return Precision(device, torch.float32)
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision(device, torch.bfloat16 if has_bf16 else torch.float16)
    if name not in DTYPES:
        raise UserError(f"--dtype: found {name!r}, expected auto, {', '.join(DTYPES)}")
    if name == "float64" and device.type == "mps":
        raise UserError("--dtype float64: Apple GPUs have none; use --device cpu or another dtype")
    if name == "float16" and device.type == "cpu":
        raise UserError("--dtype float16: CPUs train in float32 or bfloat16; use one of them")
    return Precision(device, DTYPES[name])


def num_cores() -> int:
    """Cores that this process may use (a container's share, not the machine's total)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def matrix_product_rate(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """Measured FLOP/s of a large square matrix product: what the device can really do (median of 5)."""
    size = size or (2048 if device.type == "cpu" else 8192)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(7):  # the first two warm up
        synchronize(device)
        start = time.perf_counter()
        left @ right
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / sorted(seconds[2:])[2]


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
