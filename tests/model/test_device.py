"""Device and precision: what is chosen here, what would be chosen elsewhere, and what is refused."""

import mmap

import pytest
import torch

from model import device
from model.device import Precision, choose_device, choose_precision, matrix_product_rate, num_cores
from model.errors import UserError


def pretend(monkeypatch, cuda: int = 0, mps: bool = False, bf16: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(0, False, "cpu"), (0, True, "mps"), (2, False, "cuda"), (1, True, "cuda")]
)
def test_the_best_device_present(monkeypatch, cuda, mps, expected):
    pretend(monkeypatch, cuda, mps)
    assert choose_device().type == expected
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "tpu", "", "cuda:x", "meta", "xpu"])
def test_a_device_that_is_not_there(monkeypatch, name):
    pretend(monkeypatch)
    with pytest.raises(UserError, match="--device"):
        choose_device(name)


def test_a_card_too_many(monkeypatch):
    pretend(monkeypatch, cuda=2)
    assert choose_device("cuda:1").index == 1
    with pytest.raises(UserError, match=r"cuda:2: only 2 CUDA devices"):
        choose_device("cuda:2")


@pytest.mark.parametrize(
    ("type_", "bf16", "compute"),
    [
        ("cpu", True, torch.float32),
        ("mps", True, torch.float32),
        ("cuda", True, torch.bfloat16),
        ("cuda", False, torch.float16),
    ],
)
def test_automatic_precision(monkeypatch, type_, bf16, compute):
    """An old card only emulates bf16, slowly: it gets fp16."""
    pretend(monkeypatch, cuda=1, bf16=bf16)
    precision = choose_precision("auto", torch.device(type_))
    assert precision.compute == compute
    assert precision.weights == torch.float32
    assert precision.needs_scaler == (compute == torch.float16)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float64"])
def test_the_precision_asked_for_is_the_one_used(name):
    """`--dtype bfloat16` must not run something else: the product's own dtype tells."""
    precision = choose_precision(name, torch.device("cpu"))
    layer = torch.nn.Linear(4, 4).to(precision.weights)
    with precision.autocast():
        assert layer(torch.ones(2, 4, dtype=precision.weights)).dtype == getattr(torch, name)
    assert precision.weights == (torch.float64 if name == "float64" else torch.float32)
    assert not precision.needs_scaler


@pytest.mark.parametrize(
    ("name", "type_"), [("fp8", "cpu"), ("", "cpu"), ("bf16", "cuda"), ("float64", "mps"), ("float16", "cpu")]
)
def test_a_precision_that_cannot_be(name, type_):
    with pytest.raises(UserError, match="--dtype"):
        choose_precision(name, torch.device(type_))


def test_fp16_on_a_card_asks_for_a_scaler():
    precision = Precision(torch.device("cuda"), torch.float16)
    assert precision.needs_scaler
    assert precision.weights == torch.float32


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    assert num_cores() == 2
    monkeypatch.delattr(device.os, "sched_getaffinity")
    monkeypatch.setattr(device.os, "cpu_count", lambda: 7)
    assert num_cores() == 7


def test_matrix_product_rate():
    rate = matrix_product_rate(torch.device("cpu"), torch.float32, size=256)
    assert 1e7 < rate < 1e15


@pytest.mark.parametrize(
    ("name", "dtype", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989),
        ("NVIDIA H100 PCIe", torch.bfloat16, 756),
        ("NVIDIA H200", torch.float16, 989),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312),
        ("NVIDIA A100 80GB PCIe", torch.float32, 19.5),
        ("NVIDIA GeForce RTX 4090", torch.bfloat16, 165),
        ("NVIDIA GeForce RTX 3090", torch.float16, 71),
        ("Tesla T4", torch.float16, 65),
    ],
)
def test_the_makers_peak(monkeypatch, name, dtype, tera):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert device.peak_flops(torch.device("cuda"), dtype) == (tera * 1e12, False)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("NVIDIA GeForce RTX 4090 D", torch.bfloat16),
        ("NVIDIA GeForce RTX 3090 Ti", torch.bfloat16),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", torch.bfloat16),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", torch.bfloat16),
        ("NVIDIA A10", torch.bfloat16),
        ("NVIDIA L40", torch.bfloat16),
        ("Tesla T4", torch.bfloat16),
        ("NVIDIA H100 80GB HBM3", torch.float64),
    ],
)
def test_an_unknown_card_or_dtype_is_measured(monkeypatch, name, dtype):
    device._measured_peak.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    monkeypatch.setattr(device, "_product_seconds", lambda place, dtype, size, times: [2 * size**3 / 7e12] * times)
    assert device.peak_flops(torch.device("cuda"), dtype) == (pytest.approx(7e12), True)
    device._measured_peak.cache_clear()


def test_with_tf32_the_fp32_peak_is_another(monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert device._listed_peak("NVIDIA H200", torch.float32) is None
    assert device._listed_peak("NVIDIA H200", torch.bfloat16) == 989e12


@pytest.mark.parametrize(("rate", "largest"), [(1e9, 256), (1e11, 1024), (1e15, 2048)])
def test_a_slow_device_is_measured_with_small_matrices(monkeypatch, rate, largest):
    sizes = []

    def product_seconds(place, dtype, size, times):
        sizes.append(size)
        return [2 * size**3 / rate] * (times - 1) + [9 * size**3 / rate]  # one of them was disturbed

    monkeypatch.setattr(device, "_product_seconds", product_seconds)
    device._measured_peak.cache_clear()
    for _ in range(2):  # the second time from memory
        assert device.peak_flops(torch.device("cpu"), torch.float32) == (pytest.approx(rate), True)
    assert sizes == [size for size in (256, 512, 1024, 2048) if size <= largest]
    device._measured_peak.cache_clear()


def cgroup(monkeypatch, tmp_path, own: str, files: dict[str, str]) -> None:
    for name, text in {"own": own, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")
    monkeypatch.setattr(device, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(device, "_CGROUPS", tmp_path)


@pytest.mark.parametrize("path", ["/a/b", "/", "/of/the/host"])
def test_a_containers_limit(monkeypatch, tmp_path, path):
    """Version 2; the limit may stand at this group, above it, or at the only group that a container sees."""
    folder = "a/" if path == "/a/b" else ""
    files = {"memory.max": "1000000", "memory.current": "300000", "memory.stat": "anon 1\ninactive_file 100000"}
    cgroup(monkeypatch, tmp_path, f"0::{path}", {folder + name: text for name, text in files.items()})
    assert device.memory_of(torch.device("cpu")) == (1_000_000, 800_000)


def test_a_limit_of_version_1(monkeypatch, tmp_path):
    files = {"memory.limit_in_bytes": "5000", "memory.usage_in_bytes": "6000", "memory.stat": "total_inactive_file 500"}
    cgroup(monkeypatch, tmp_path, "7:blkio:/\n4:cpu,memory:/x", {f"memory/x/{name}": t for name, t in files.items()})
    assert device.memory_of(torch.device("cpu")) == (5000, 0)


def test_no_limit_leaves_the_machines_memory(monkeypatch, tmp_path):
    cgroup(monkeypatch, tmp_path, "0::/", {"memory.max": "max", "memory.current": "3", "memory.stat": ""})
    memory = device.memory_of(torch.device("cpu"))
    assert memory.total == device.psutil.virtual_memory().total
    assert 0 < memory.available <= memory.total


def test_memory_used_grows_with_what_is_held():
    before = device.memory_used(torch.device("cpu"))
    # Straight from the system: an allocator may have memory left over from earlier tests.
    with mmap.mmap(-1, 64 * 2**20) as held:
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        assert device.memory_used(torch.device("cpu")) - before > 0.8 * len(held)
