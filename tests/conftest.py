"""Fixtures of all tests, and what must be set before torch is first imported."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# One thread a process: workers do not fight for cores, and sums are added in the same order on every machine.
# Scripts that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test needs the network, or may wait for it. Nothing opens a window.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["MPLBACKEND"] = "Agg"

# A shell that starts the tests in the background lets them ignore Ctrl-C, and every process that they start would
# inherit that: the tests that press it would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# On a busy machine an example's time says nothing about the code.
settings.register_profile("seedling", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("seedling")

_REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def settings_of_torch() -> Iterator[None]:
    """What a script sets for its whole process must not reach the next test; DeepSpeed even replaces a function."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    linear = torch.nn.functional.linear
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)
    torch.nn.functional.linear = linear


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root, where scripts are started as a user would."""
    return _REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real public data, `$SEEDLING_DATA`; tests that need it are skipped without it."""
    folder = Path(os.environ.get("SEEDLING_DATA", _REPOSITORY / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set SEEDLING_DATA to its folder")
    return folder
