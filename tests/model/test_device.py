"""Device and precision: what is chosen here, what would be chosen elsewhere, and what is refused."""

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
