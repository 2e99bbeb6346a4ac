"""What a run tells: log, bar, trackers, curves, samples, report. Every rank has one; only the main one's speaks.

The loop says what happened; here it is decided where that is written.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dataset.mixed_order import MixedOrder
from model.device import Precision, memory_used, peak_flops
from trainer.curves import draw_curves
from trainer.engine import Engine
from trainer.loader import Step
from trainer.metrics import MetricsLog
from trainer.parallel import Parallel
from trainer.plan import Plan
from trainer.preflight import duration, steps_for_minutes
from trainer.progress import Progress
from trainer.report import (
    data_table,
    event_table,
    expert_table,
    measure_table,
    mixture_table,
    source_table,
    throughput_table,
    write_report,
)
from trainer.run_folder import RunFolder
from trainer.samples import generate_samples, sample_prompts
from trainer.settings import Settings
from trainer.stages import Stage
from trainer.state import TrainState
from trainer.trackers import Trackers
from trainer.validation import Validation

SECONDS_BETWEEN_CURVES = 60.0
TIMED_FROM = 5  # the first updates of a process warm up: they are left out of its speed
TIMED_UPDATES = 15  # so many more say how long the run takes


class Journal:
    """The run's voice.

    Args:
        tracker_id: the experiment tracker's name for this run, the same after every restart.
    """

    def __init__(
        self,
        stage: Stage,
        settings: Settings,
        plan: Plan,
        precision: Precision,
        parallel: Parallel,
        folder: RunFolder,
        tracker_id: str,
    ) -> None:
        self._stage, self._settings, self._plan = stage, settings, plan
        self._precision, self._parallel, self._folder = precision, parallel, folder
        self._tracker_id = tracker_id
        self._config = stage.origin.model.config
        self._log: MetricsLog | None = None
        self._trackers: Trackers | None = None
        self._progress: Progress | None = None
        self._drawn_at = time.monotonic()  # curves.png: first after a minute
        self._seconds = 0.0  # spent training by the run, earlier processes included
        self._total_steps: int | None = None
        self._steps = self._positions = self._tokens = 0  # of this process, since it is warm
        self._warm_seconds = 0.0
        self._stepped_seconds = 0.0
        self._peak = peak_flops(precision.device, precision.compute).flops if parallel.is_main else 1.0
        self._alarms: list[str] = []  # since the last saved step was written
        self._expert_load: list[list[float]] = []
        self._prompts = sample_prompts(stage.val_set or stage.train_set)

    def begin(self, state: TrainState) -> None:
        """Open log, trackers and bar at the step where training begins or goes on."""
        self._seconds, self._total_steps = state.seconds, state.total_steps
        watch, folder, is_main = self._settings.watch, self._folder, self._parallel.is_main
        order = self._plan.loader.order
        if is_main and isinstance(order, MixedOrder) and state.total_steps:
            print(mixture_table(order, state.total_steps).as_text())
        self._log = MetricsLog(folder.metrics_path, state.step, is_main, state.rollbacks, state.look_is_due)
        self._trackers = Trackers(
            folder.path,
            watch.wandb_run_name or folder.name,
            self._plan.identity,
            wandb_project=watch.wandb_project if watch.use_wandb else None,
            wandb_id=self._tracker_id,
            tensorboard=watch.use_tensorboard,
            resume_step=state.step,
            enabled=is_main,
        )
        self._progress = Progress(folder.name, state.total_steps, state.step, enabled=is_main)

    def say(self, line: str) -> None:
        """A line for people."""
        if not self._parallel.is_main:
            return
        if self._progress is not None:
            self._progress.say(line)

    def set_total(self, total_steps: int) -> None:
        """The run's length is known now."""
        self._total_steps = total_steps
        self.say(f"--max_minutes {self._settings.training.max_minutes:g}: {total_steps:,} steps")
        assert self._progress is not None
        self._progress.set_total(total_steps)

    # ---- time -------------------------------------------------------------------------------------------------

    @contextmanager
    def clock(self) -> Iterator[None]:
        """What happens inside is time spent training; validation, samples and pictures are not."""
        start = time.monotonic()
        yield
        self._stepped_seconds = time.monotonic() - start
        self._seconds += self._stepped_seconds

    @property
    def seconds(self) -> float:
        """Seconds spent training by the run, over all restarts."""
        return self._seconds

    def stepped(self, step: Step) -> None:
        """One more update."""
        self._steps += 1
        if self._steps > TIMED_FROM:
            self._warm_seconds += self._stepped_seconds
            self._positions += step.num_positions
            self._tokens += step.units["tokens"]
        assert self._progress is not None
        self._progress.advance()
        total = self._total_steps
        if self._steps == TIMED_FROM + TIMED_UPDATES and total is not None:
            left = self._seconds_per_step * (total - step.index - 1)
            self.say(f"{self._seconds_per_step:.3g} s an update: about {duration(left)} to go")

    @property
    def is_timed(self) -> bool:
        """Whether enough updates have been timed to tell how long others take."""
        return self._steps >= TIMED_FROM + TIMED_UPDATES

    @property
    def _seconds_per_step(self) -> float:
        return self._warm_seconds / max(self._steps - TIMED_FROM, 1)

    def speed(self) -> dict[str, float]:
        """Rates of this process since it was warm; empty before."""
        if not self._warm_seconds:
            return {}
        flops = self._config.flops_per_token(self._plan.loader.packed.max_seq_len) * self._positions
        return {
            "tokens_per_second": self._tokens / self._warm_seconds,
            "mfu": flops / self._warm_seconds / (self._peak * self._parallel.world_size),
        }

    def steps_that_fit(self, state: TrainState) -> int:
        """Updates of a run of --max_minutes, from the speed until now."""
        steps = steps_for_minutes(self._settings.training.max_minutes, self._seconds_per_step)
        end = self._plan.loader.order.end_step
        return max(state.step, steps if end is None else min(steps, end))

    # ---- what happened ----------------------------------------------------------------------------------------

    def is_logged(self, step: int, total_steps: int | None) -> bool:
        """Whether this update gets a line in the log."""
        return step % self._settings.watch.log_interval == 0 or step == total_steps

    def trained(self, state: TrainState, values: dict[str, Any]) -> None:
        """A logged update."""
        now = {"tokens": state.tokens, "seconds": state.seconds, **self.speed()}
        now["memory"] = memory_used(self._precision.device)
        if (cost := self._cost(state.seconds)) is not None:
            now["cost"] = cost
        self._expert_load = values.get("expert_load", [])
        self._write("train", state.step, {**values, **now})
        assert self._progress is not None
        shown = {name: values[name] for name in ("loss", "learning_rate", "grad_norm")}
        self._progress.show(
            {**shown, **{name: now.get(name) for name in ("tokens_per_second", "mfu", "memory", "cost")}}
        )

    def _cost(self, seconds: float) -> float | None:
        """What the run has cost so far, in the currency of --price_per_hour."""
        return self._settings.watch.price_per_hour * seconds / 3600 or None

    def validated(self, step: int, found: Validation) -> None:
        """A validation."""
        self._write("validation", step, found.values())
        if step:
            accuracy = found.measured.get("accuracy")
            right = "" if accuracy is None else f", {accuracy:.1%} of the pairs in the right order"
            self.say(f"step {step}: validation loss {found.loss:.4f}{right}")

    def measured(self, step: int, values: dict[str, float]) -> None:
        """What a stage measures where there is no validation set."""
        self._write("measured", step, values)

    def sample(self, engine: Engine, step: int) -> None:
        """Let the model speak."""
        with engine.speaking_model() as model:
            if model is not None:
                samples = generate_samples(model, self._stage.tokenizer, self._prompts, self._settings.run.seed)
                self._write("samples", step, {"samples": samples})

    def alarm(self, step: int, sentence: str) -> None:
        """Something drifts."""
        self._write("alarm", step, {"message": sentence})
        self._alarms.append(sentence)
        self.say(f"alarm: {sentence}")

    def saved(self) -> None:
        """What comes from here on is what a rollback would undo."""
        self._alarms = []

    def skipped(self, step: int, loss: float, grad_norm: float) -> None:
        """An update that was left out."""
        self._write("skipped", step, {"loss": loss, "grad_norm": grad_norm})
        what = "gradient" if grad_norm == grad_norm or loss == loss else "loss"
        self.say(f"step {step}: the {what} is not finite; this update is left out")

    def rolled_back(self, state: TrainState, spiked_at: int, window: list[int]) -> None:
        """The run went back to an earlier step."""
        assert self._log is not None and self._progress is not None
        self._log.go_back(state.step)
        # Their own rows lie behind the step gone back to, and went with it.
        since = {"alarms": self._alarms} if self._alarms else {}
        what = {"number": state.rollbacks, "spiked_at": spiked_at, "skipped_window": window, **since}
        self._write("rollback", state.step, what)
        self._alarms = []
        self._progress.go_to(state.step)
        self._seconds = state.seconds
        self.say(
            f"step {spiked_at}: the loss spiked; back to step {state.step}, "
            f"jumping over the data of {window[1] - window[0] + 1} updates"
        )

    def _write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        assert self._log is not None and self._trackers is not None
        self._log.write(kind, step, values)
        self._trackers.log(kind, step, values)

    # ---- pictures and the end ---------------------------------------------------------------------------------

    def draw_curves(self, at_once: bool = False) -> None:
        """Keep curves.png fresh (called from the thread that saves): once a minute, or at once.

        Drawing is pure Python and holds the interpreter, so the training beside it waits.
        """
        if not self._parallel.is_main or not (at_once or time.monotonic() - self._drawn_at > SECONDS_BETWEEN_CURVES):
            return
        self._drawn_at = time.monotonic()
        path, unit = self._folder.path / "curves.png", self._stage.objective.loss_unit
        draw_curves(self._folder.metrics_path, path, self._folder.name, unit)

    def finish(self, state: TrainState) -> None:
        """The report, and the mark that this run is done."""
        if not self._parallel.is_main:
            return
        losses, speed = state.validation_losses, self.speed()
        summary = {
            "stage": self._stage.name,
            "checkpoint": self._folder.checkpoint_path.name,
            "parameters": self._config.num_parameters(),
            "data": self._stage.train_set.folder.name,
            "steps": state.step,
            "tokens": state.tokens,
            "seconds": state.seconds,
            "tokens_per_second": state.tokens / max(state.seconds, 1e-9),
            "mfu": speed.get("mfu"),
            "memory": memory_used(self._precision.device),
            "validation_loss_before": losses.get("before"),
            "validation_loss_after": losses.get("last"),
            "loss_unit": self._stage.objective.loss_unit,
            "skipped_updates": state.skipped_updates,
            "rollbacks": state.rollbacks,
            "skipped_windows": state.skipped_windows,
            "device": str(self._precision.device),
            "dtype": str(self._precision.compute).removeprefix("torch."),
            "processes": self._parallel.world_size,
            "threads": torch.get_num_threads(),
        }
        metrics_path, order = self._folder.metrics_path, self._plan.loader.order
        by_source, measured = source_table(metrics_path), measure_table(metrics_path)
        for table in (by_source, measured):
            if table is not None:
                print(table.as_text())
        tables = [
            data_table({"training": self._stage.train_set, "validation": self._stage.val_set}),
            mixture_table(order, state.step) if isinstance(order, MixedOrder) else None,
            throughput_table(metrics_path, self._cost(state.seconds)),
            by_source,
            measured,
            expert_table(self._expert_load) if self._expert_load else None,
            event_table(metrics_path),
        ]
        path = self._folder.path / "report.md"
        write_report(path, self._folder.name, summary, self._plan.identity, tables, metrics_path)
        self._folder.finish(summary)
        print(
            f"{self._folder.checkpoint_path}: {state.step} steps, {state.tokens:,} tokens, {state.seconds:.0f} s",
            flush=True,
        )

    def close(self) -> None:
        """Close what is open."""
        for opened in (self._progress, self._trackers):
            if opened is not None:
                opened.close()
