"""The moving parts of a run, in one object that the loop hands around."""

from collections.abc import Callable
from dataclasses import dataclass

from model.device import Precision
from trainer.engine import Engine
from trainer.journal import Journal
from trainer.parallel import Parallel
from trainer.plan import Plan
from trainer.run_folder import RunFolder
from trainer.saving import Writer
from trainer.settings import Settings
from trainer.stability import Stability
from trainer.stages import Stage
from trainer.state import TrainState
from trainer.watch import UpdateRatio


@dataclass
class Run:
    """What a run consists of; `state` and `stability` are replaced when it goes on or back."""

    stage: Stage
    settings: Settings
    plan: Plan
    precision: Precision
    parallel: Parallel
    folder: RunFolder
    engine: Engine
    journal: Journal
    writer: Writer
    state: TrainState
    stability: Stability
    update_ratio: UpdateRatio
    stopped_by: Callable[[], int]  # the signal that this process was sent, or 0
    last_save: float = 0.0  # time.monotonic() of it
