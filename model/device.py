"""Which device computes, in which precision, how fast it multiplies matrices, and how much memory it has."""

import os
import re
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from model.errors import UserError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

# Dense peaks in TFLOP/s by the name that the driver gives: 16-bit products summed in fp32, and plain fp32 (no TF32).
# From NVIDIA's data sheets and white papers; None: the card has no such unit. A name that is not whole here (a laptop's
# card, a slice of a card) has another peak, so it is measured.
_PEAKS = {
    r"H100 PCIe": (756, 51),
    r"H100 NVL": (835, 60),
    r"(H100|H200|GH200)\b(?! (PCIe|NVL))": (989, 67),
    r"(A100|A800)\b": (312, 19.5),
    r"RTX 5090": (210, 104.8),
    r"RTX 4090": (165, 82.6),
    r"RTX 3090": (71, 35.6),
    r"L40S": (362, 91.6),
    r"L4": (121, 30.3),
    r"T4": (65, 8.1),
}
_MEASURED_SIZES = {"cpu": 2048, "mps": 4096, "cuda": 8192}  # side of the largest matrices multiplied to measure a peak
_MEASURING_SECONDS = 0.5  # at most for the last size, about
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


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
    return 2 * size**3 / sorted(_product_seconds(device, dtype, size, 5))[2]


def _product_seconds(device: torch.device, dtype: torch.dtype, size: int, times: int) -> list[float]:
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(2 + times):  # the first two warm up
        synchronize(device)
        start = time.perf_counter()
        left @ right
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds[2:]


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


# ---- peak rate ------------------------------------------------------------------------------------------------


class Peak(NamedTuple):
    """The most that a device can compute."""

    flops: float  # FLOP/s
    is_measured: bool  # with a matrix product here; False: from the maker's table


def peak_flops(device: torch.device, dtype: torch.dtype) -> Peak:
    """The device's peak for matrix products in `dtype`, what MFU is a share of. Found once a process."""
    listed = _listed_peak(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None
    return Peak(listed, is_measured=False) if listed else Peak(_measured_peak(device, dtype), is_measured=True)


def _listed_peak(name: str, dtype: torch.dtype) -> float | None:
    """FLOP/s by the maker's table, or None."""
    if "MIG" in name or "Laptop" in name:
        return None
    for pattern, (half, single) in _PEAKS.items():
        # Nothing but memory size and form may follow: "RTX 4090 D" and "RTX 3090 Ti" are other cards.
        if re.search(rf"\b{pattern}(?:[ -](?:\d+ ?GB|PCIe|SXM\d?\S*|NVL|HBM\S*))*$", name):
            if dtype == torch.float16 or (dtype == torch.bfloat16 and pattern != "T4"):
                return half * 1e12
            # With TF32 allowed, fp32 products have another peak.
            is_plain = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
            return single * 1e12 if is_plain else None
    return None


@lru_cache
def _measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Sizes grow as long as the next one is quick: small matrices do not fill a device, large ones take a CPU long."""
    size, best, longest = 256, 0.0, 0.0
    # Eight times the last one's seconds is an upper bound for twice the side. A rate would not do: on a busy machine
    # every product waits some milliseconds for its threads, and small ones look as if the device were slow.
    while size <= _MEASURED_SIZES[device.type] and 8 * longest < _MEASURING_SECONDS:
        seconds = _product_seconds(device, dtype, size, times=3)
        best = max(best, 2 * size**3 / min(seconds))  # other users only ever make a product slower
        longest = sum(seconds)
        size *= 2
    return best


# ---- memory ---------------------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """A device's memory, in bytes."""

    total: int
    available: int


def memory_of(device: torch.device) -> Memory:
    """What there is, and what is free now. On a CPU a container's limit counts when it is lower."""
    if device.type == "cuda":
        available, total = torch.cuda.mem_get_info(device)
        return Memory(total, available)
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return Memory(total, max(0, total - torch.mps.driver_allocated_memory()))
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    for limit, used in _container_limits():
        total, available = min(total, limit), min(available, max(0, limit - used))
    return Memory(total, available)


def memory_used(device: torch.device) -> int:
    """Bytes: the most that was allocated (CUDA), this process's resident memory (CPU), the driver's share (MPS)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return psutil.Process().memory_info().rss


def _container_limits() -> list[tuple[int, int]]:
    """(limit, used) in bytes of the control groups that this process is in, and of those above them."""
    try:
        lines = _OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []  # not Linux
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = _CGROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = root / path.lstrip("/")
        # Inside a container the path may be the host's and not be there: the container's own group is the root then.
        for each in [folder, *folder.parents]:
            found = _container_limit(each, *names)
            if found is not None:
                limits.append(found)
            if each == root:
                break
    return limits


def _container_limit(folder: Path, limit_name: str, used_name: str, cache_name: str) -> tuple[int, int] | None:
    """Limit and use of one control group; None when it has no limit. Cached files give way, so they are no use."""
    try:
        limit = (folder / limit_name).read_text(encoding="utf-8").strip()
        used = int((folder / used_name).read_text(encoding="utf-8"))
        statistics = (folder / "memory.stat").read_text(encoding="utf-8")
    except OSError:
        return None
    if not limit.isdigit():  # "max"
        return None
    cached = re.search(rf"^{cache_name} (\d+)$", statistics, re.MULTILINE)
    return int(limit), max(0, used - (int(cached[1]) if cached else 0))
