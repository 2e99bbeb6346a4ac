"""The one loop that every stage trains with.

Stages differ in data, model and objective; what is the same for all of them is here: the global batch and its
denominator, the update, validation, saving, stopping and going on.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.mixed_order import MixedOrder
from model.checkpoint import Checkpoint, save_checkpoint, weights_of
from model.device import Precision
from model.errors import UserError
from trainer.lineage import data_lineage, identity_of_run
from trainer.loader import Loader, Step
from trainer.optimizer import Optimizers, build_optimizers, set_learning_rate
from trainer.parallel import Parallel
from trainer.report import MetricsLog, Progress, Tracker, draw_curves, mixture_table, source_table, write_report
from trainer.run_folder import RunFolder
from trainer.schedule import learning_rate
from trainer.settings import RunSettings, TrainSettings
from trainer.stages import Stage
from trainer.state import TrainState, load_newest, restore, save_state
from trainer.validation import SourceLosses, validate

SAVE_SECONDS = 300.0  # a crash loses at most this much work unless --save_interval says otherwise
VALIDATIONS_PER_RUN = 10
LOGGED_SOURCES = 16  # a training step's loss is logged apart for so many sources at most; validation's for all


@dataclass
class _Run:
    """The moving parts of a run."""

    stage: Stage
    training: TrainSettings
    settings: RunSettings
    precision: Precision
    parallel: Parallel
    folder: RunFolder
    loader: Loader
    optimizers: Optimizers
    scaler: torch.amp.GradScaler
    total_steps: int
    identity: dict[str, Any]
    state: TrainState = field(default_factory=TrainState)


def train(
    stage: Stage, training: TrainSettings, settings: RunSettings, precision: Precision, parallel: Parallel
) -> int:
    """Train a stage to its end, or until it is told to stop, and leave `out/<run>.pth`.

    Returns:
        the process's exit code: 0, or 128 + the signal that stopped it.
    """
    if stage.train_set.num_rows == 0:
        raise UserError(f"{stage.train_set.folder}: has no rows to train on")
    loader = Loader(
        stage.train_set,
        training.batch_size,
        training.accumulation_steps,
        settings.seed,
        precision.device,
        settings.num_workers,
    )
    total_steps = loader.order.total_steps(training.epochs, training.max_steps)
    identity = identity_of_run(stage, training, settings, precision, total_steps, loader.global_batch)
    folder = RunFolder(Path(settings.out_dir), settings.run_name or stage.default_run_name)
    if folder.claim(identity, settings.overwrite, stage.parent_path):
        print(f"{folder.checkpoint_path}: already done ({total_steps} steps); --overwrite trains it again")
        return 0
    stage.model.to(device=precision.device, dtype=precision.weights)
    optimizers = build_optimizers(stage.model, training)
    scaler = torch.amp.GradScaler(precision.device.type, enabled=precision.needs_scaler)
    run = _Run(
        stage, training, settings, precision, parallel, folder, loader, optimizers, scaler, total_steps, identity
    )
    folder.remove_half_written()
    if isinstance(loader.order, MixedOrder):
        print(mixture_table(loader.order, total_steps).as_text())
    _resume(run)
    with (
        closing(_tracker(run)) as tracker,
        closing(Progress(folder.name, total_steps, run.state.step)) as progress,
        _stop_signals() as stopped_by,
    ):
        _loop(run, tracker, progress, stopped_by)
    if run.state.step < total_steps:
        print(f"stopped at step {run.state.step} of {total_steps}, saved; the same command goes on from there")
        return 128 + stopped_by()
    _finish(run)
    return 0


class _Clock:
    """Seconds spent training: validation and drawing stop it, restarts go on counting."""

    def __init__(self, seconds_before: float) -> None:
        self._before, self._start = seconds_before, time.monotonic()

    def since_start(self) -> float:
        """Seconds trained by this process."""
        return time.monotonic() - self._start

    def seconds(self) -> float:
        """Seconds trained by the run, earlier processes included."""
        return self._before + self.since_start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count."""
        start = time.monotonic()
        yield
        self._start += time.monotonic() - start


def _tracker(run: _Run) -> Tracker:
    """The experiment tracker; after a restart it continues the same run."""
    settings, state = run.settings, run.state
    name = settings.wandb_run_name or run.folder.name
    tracker = Tracker(settings.use_wandb, settings.wandb_project, name, state.tracker_id, run.identity)
    state.tracker_id = tracker.run_id
    return tracker


def _loop(run: _Run, tracker: Tracker, progress: Progress, stopped_by: Callable[[], int]) -> None:
    """Update after update, with what happens between them."""
    state, settings = run.state, run.settings
    log = MetricsLog(run.folder.metrics_path, state.step)
    eval_interval = settings.eval_interval or max(1, run.total_steps // VALIDATIONS_PER_RUN)
    if state.step == 0:
        _validate(run, log, tracker)
    clock = _Clock(state.seconds)
    first_tokens, last_save = state.tokens, time.monotonic()
    for step in run.loader.steps(state.step, run.total_steps):
        rate = learning_rate(
            step.index,
            run.total_steps,
            run.training.learning_rate,
            run.training.warmup_iters,
            run.training.min_lr_ratio,
        )
        is_last = step.index + 1 == run.total_steps
        is_logged = (step.index + 1) % settings.log_interval == 0 or is_last
        by_source = _source_losses(run) if is_logged else None
        totals, grad_norm = _update(run, step, rate, by_source)
        state.step, state.tokens = step.index + 1, state.tokens + step.units["tokens"]
        state.seconds = clock.seconds()
        progress.advance()
        if is_logged:
            values = _measure(run, totals, grad_norm, rate, by_source)
            values["tokens_per_second"] = (state.tokens - first_tokens) / clock.since_start()
            log.write("train", state.step, values)
            tracker.log("train", state.step, values)
            progress.show(loss=f"{values['loss']:.3f}", lr=f"{rate:.1e}", tok_s=f"{values['tokens_per_second']:,.0f}")
        if state.step % eval_interval == 0 or is_last:
            with clock.paused():
                loss = _validate(run, log, tracker)
            if loss is not None:
                progress.say(f"step {state.step}: validation loss {loss:.4f}")
        due = time.monotonic() - last_save > SAVE_SECONDS
        if settings.save_interval:
            due = state.step % settings.save_interval == 0
        if due or is_last or stopped_by():
            _save(run)
            draw_curves(run.folder.metrics_path, run.folder.path / "curves.png", run.folder.name)
            last_save = time.monotonic()
        if stopped_by():
            break


def _source_losses(run: _Run) -> SourceLosses | None:
    """Where a logged step's loss is gathered by source, when there are some to tell apart."""
    sources = run.stage.train_set.sources
    return SourceLosses(sources, run.precision.device) if 1 < len(sources) <= LOGGED_SOURCES else None


def _update(run: _Run, step: Step, rate: float, by_source: SourceLosses | None) -> tuple[dict[str, Tensor], Tensor]:
    """One update from one global batch. Returns the sums of each term of the loss, and the gradient norm."""
    model = run.stage.model.train()
    _seed_step(run.settings.seed, step.index, run.parallel.rank)
    totals: dict[str, Tensor] = {}
    # A batch without any target teaches nothing; 0 / 0 would spoil every weight.
    units = {name: max(count, 1) for name, count in step.units.items()}
    for number, batch in enumerate(step.micro_batches):
        is_last = number == len(step.micro_batches) - 1
        with run.parallel.micro_batch(is_last):
            with run.precision.autocast():
                terms = run.stage.objective(model, batch)
            # Divided by what the whole global batch counts, not by this part of it: the parts may differ.
            loss = torch.stack([term.weight * term.total / units[term.unit] for term in terms.values()]).sum()
            run.scaler.scale(loss).backward()
        for name, term in terms.items():
            mean = term.total.detach() / units[term.unit]
            totals[name] = totals[name] + mean if name in totals else mean
        token_losses = terms["loss"].token_losses
        if by_source is not None and token_losses is not None:
            by_source.add(batch, token_losses)
    for optimizer in run.optimizers:
        run.scaler.unscale_(optimizer)
    longest = run.training.grad_clip or float("inf")
    grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), longest)
    set_learning_rate(run.optimizers, rate)
    for optimizer in run.optimizers:
        run.scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    run.scaler.update()
    return {name: run.parallel.sum(total) for name, total in totals.items()}, grad_norm


def _measure(
    run: _Run, totals: dict[str, Tensor], grad_norm: Tensor, rate: float, by_source: SourceLosses | None
) -> dict[str, Any]:
    """The numbers of one logged step. Reading them waits for the device, so it is not done every step."""
    values: dict[str, Any] = {name: total.item() for name, total in totals.items()}
    if not np.isfinite(values["loss"]):
        raise UserError(
            f"step {run.state.step}: the loss is {values['loss']}; lower --learning_rate "
            f"(now {run.training.learning_rate}), then go on from the last saved step with --run_name or --overwrite"
        )
    if by_source is not None:
        values["loss_by_source"] = by_source.means(run.parallel)
    return {
        **values,
        "learning_rate": rate,
        "grad_norm": grad_norm.item(),
        **run.loader.order.place_of_step(run.state.step),
        "tokens": run.state.tokens,
        "seconds": run.state.seconds,
    }


def _validate(run: _Run, log: MetricsLog, tracker: Tracker) -> float | None:
    """Measure the validation loss, remember it, and log it. None when there is nothing to validate on."""
    if run.stage.val_set is None or run.stage.val_set.num_rows == 0:
        return None
    batch_size = run.training.batch_size
    found = validate(run.stage.model, run.stage.objective, run.stage.val_set, batch_size, run.precision)
    losses = run.state.validation_losses
    losses.setdefault("before", found.loss)
    losses["last"] = found.loss
    losses["best"] = min(found.loss, losses.get("best", found.loss))
    values: dict[str, Any] = {"loss": found.loss}
    if found.by_source:
        values["loss_by_source"] = found.by_source
    log.write("validation", run.state.step, values)
    tracker.log("validation", run.state.step, values)
    return found.loss


def _resume(run: _Run) -> None:
    """Go on from the newest saved step that is whole."""
    if run.settings.resume == "none":
        if any(run.folder.resume_path.glob("step-*")):
            raise UserError(
                f"--resume none: {run.folder.resume_path} has saved steps of this run; "
                "pass --overwrite to move them aside, or leave the flag out to go on"
            )
        return
    saved = load_newest(run.folder.resume_path)
    if saved is not None:
        run.state = restore(saved, run.stage.model, run.optimizers, run.scaler)
        print(f"going on from step {run.state.step} of {run.total_steps} ({saved.path})", file=sys.stderr)
        if run.state.step == run.total_steps:
            _save(run)  # a crash came between the last saved step and its .pth, or that file was removed


def _save(run: _Run) -> None:
    """A resume step, then the `.pth` made from the same weights."""
    save_state(run.folder.resume_path, run.state, run.stage.model, run.optimizers, run.scaler)
    save_checkpoint(run.folder.checkpoint_path, _checkpoint(run))


def _checkpoint(run: _Run) -> Checkpoint:
    stage, parent = run.stage, run.stage.parent
    lineage = {
        "run": run.folder.name,
        "settings": run.identity,
        "data": data_lineage(stage.train_set),
        "parent": parent and {"digest": parent.digest, "stage": parent.stage, **parent.lineage},
        "torch": torch.__version__,
    }
    metrics = {f"validation_loss_{name}": value for name, value in run.state.validation_losses.items()}
    return Checkpoint(
        stage=stage.name,
        config=stage.model.config,
        weights=weights_of(stage.model),
        tokenizer_files=stage.tokenizer_files,
        generation=stage.generation,
        step=run.state.step,
        tokens=run.state.tokens,
        metrics=metrics,
        lineage=lineage,
    )


def _finish(run: _Run) -> None:
    """The report, and the mark that this run is done."""
    state, losses = run.state, run.state.validation_losses
    summary = {
        "stage": run.stage.name,
        "checkpoint": run.folder.checkpoint_path.name,
        "parameters": run.stage.model.config.num_parameters(),
        "data": run.stage.train_set.folder.name,
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "tokens_per_second": state.tokens / max(state.seconds, 1e-9),
        "validation_loss_before": losses.get("before"),
        "validation_loss_after": losses.get("last"),
        "device": str(run.precision.device),
        "dtype": str(run.precision.compute).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    tables = []
    if isinstance(run.loader.order, MixedOrder):
        tables.append(mixture_table(run.loader.order, run.total_steps))
    by_source = source_table(run.folder.metrics_path)
    if by_source is not None:
        tables.append(by_source)
        print(by_source.as_text())
    write_report(run.folder.path / "report.md", run.folder.name, summary, run.identity, tables)
    run.folder.write_record(run.identity, summary)
    print(f"{run.folder.checkpoint_path}: {state.step} steps, {state.tokens:,} tokens, {state.seconds:.0f} s")


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Dropout of step k depends on (seed, k, rank) alone: nothing random has to be saved or restored."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))


@contextmanager
def _stop_signals() -> Iterator[Callable[[], int]]:
    """Turn Ctrl-C and SIGTERM into a number to ask for: the step is finished and saved first."""
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)

    earlier = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
