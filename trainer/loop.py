"""The one loop that every stage trains with.

Stages differ in data, model and objective; what is the same for all of them is here: the global batch and its
denominator, the update, validation, saving, stopping, going on, and going back when the loss spikes.
"""

import math
import signal
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from model.checkpoint import save_checkpoint
from model.device import Precision
from model.errors import RunFailed, UserError
from trainer.forecast import announce, build_engine, dry_run, forecast_of
from trainer.journal import Journal
from trainer.lineage import checkpoint_of, lineage_of_run
from trainer.loader import Step
from trainer.look import look, look_inside, source_losses
from trainer.parallel import Parallel
from trainer.plan import check_agreement, make_plan
from trainer.run import Run
from trainer.run_folder import RunFolder, named_step
from trainer.saving import Writer, remove_after, write_step
from trainer.settings import Settings
from trainer.signals import stop_signals
from trainer.stability import Stability, Verdict
from trainer.stages import Stage
from trainer.state import SavedStep, TrainState, load_newest
from trainer.update import Update, make_update
from trainer.watch import UpdateRatio

SAVE_SECONDS = 300.0  # a crash loses at most this much work unless --save_interval says otherwise

# What the ranks tell each other in every step.
_INTERRUPTED, _TERMINATED, _SAVE_IS_DUE, _MAIN_FAILED = range(4)


def train(stage: Stage, settings: Settings, precision: Precision, parallel: Parallel) -> int:
    """Train a stage to its end, or until it is told to stop, and leave `out/<run>.pth`.

    Returns:
        the process's exit code: 0, or 128 + the signal that stopped it.

    Raises:
        UserError: something in the settings, the data or on the disk does not fit.
        RunFailed: the loss would not come back from its spikes.
    """
    folder = RunFolder(Path(settings.run.out_dir), settings.run.run_name or stage.default_run_name)
    with closing(folder):
        return _train(stage, settings, precision, parallel, folder)


def _train(stage: Stage, settings: Settings, precision: Precision, parallel: Parallel, folder: RunFolder) -> int:
    flags = settings.run
    if stage.train_set.num_rows == 0:
        raise UserError(f"{stage.train_set.folder}: has no rows to train on")
    first_launch = parallel.on_main(lambda: None if flags.overwrite else folder.first_launch())
    plan = make_plan(stage, settings, precision, parallel, first_launch)
    parent_path = stage.origin.parent_path
    check_agreement(plan.identity, parallel)
    forecast = forecast_of(stage, settings, plan, precision, parallel)
    if flags.dry_run:
        return dry_run(stage, settings, plan, precision, parallel, forecast)
    # Before anything is written: it may be no step of this run.
    named = parallel.on_main(lambda: _Handle(named_step(flags.resume, plan.identity))).value
    claim = parallel.on_main(lambda: folder.claim(plan.identity, plan.launch, flags.overwrite, parent_path))
    if claim.is_finished:
        length = plan.identity["length"]
        parallel.say_plainly(f"{folder.checkpoint_path}: already done ({length}); --overwrite trains it again")
        return 0
    if parallel.is_main:
        folder.remove_half_written()
    announce(forecast, parallel)
    engine = build_engine(stage, settings, plan, precision, parallel)
    state = TrainState(total_steps=plan.total_steps)
    with (
        closing(Writer()) as writer,
        closing(Journal(stage, settings, plan, precision, parallel, folder, claim.tracker_id)) as journal,
        stop_signals(parallel.is_main) as stopped_by,
    ):
        run = Run(
            stage,
            settings,
            plan,
            precision,
            parallel,
            folder,
            engine,
            journal,
            writer,
            state,
            _stability(stage, state),
            UpdateRatio(engine.model),
            stopped_by,
        )
        stop_signal = _begin(run, named) or _loop(run)
        writer.wait()
        journal.draw_curves(at_once=True)
        if stop_signal:
            break_at = f"step {run.state.step} of {run.state.total_steps or '?'}"
            parallel.say_plainly(f"stopped at {break_at}, saved; the same command goes on from there")
            return 128 + stop_signal
        journal.finish(run.state)
    return 0


# ---- going on, going back -------------------------------------------------------------------------------------


def _begin(run: Run, named: SavedStep | None) -> int:
    """Go on from a saved step of this run (the named one, else the newest), from another run's, or start anew.

    Returns:
        the signal that ended it, or 0.
    """
    is_named = run.settings.run.resume not in ("auto", "none")
    saved = named if is_named else run.parallel.on_main(lambda: _Handle(_newest_step(run))).value
    annealed = run.stage.origin.saved_step
    if _put_in_place(run, saved):
        if saved is not None:
            # With --resume <path> later steps are of a future that is turned away from.
            remove_after(run.folder.resume_path, run.state.step)
            run.parallel.say(f"going on from step {run.state.step} of {run.state.total_steps or '?'} ({saved.path})")
        if saved and saved.surroundings["threads"] != torch.get_num_threads():
            run.parallel.say(
                f"it was saved by processes of {saved.surroundings['threads']} threads, now they have "
                f"{torch.get_num_threads()}: sums may differ in their last bits (--num_threads)"
            )
    elif annealed is not None:
        run.engine.load_tensors(annealed.tensors if run.parallel.is_main else None)
    for used in (saved, annealed):
        if used is not None:
            used.tensors.clear()  # as large as the model and its optimizer
    run.journal.begin(run.state)
    state, is_best, stop = run.state, False, 0
    if state.step == 0 or state.look_is_due:
        is_best, stop = look(run)
    # At step 0: something to go back to. At the end: a crash came between the last saved step and its .pth, or that
    # file was removed.
    needed = run.plan.training.max_rollbacks > 0 if state.step == 0 else is_best or state.step == state.total_steps
    if needed and not stop:
        _save(run)
    run.last_save = time.monotonic()
    return stop


def _newest_step(run: Run) -> SavedStep | None:
    """The saved step that --resume auto means. There must not be one for --resume none."""
    folder = run.folder.resume_path
    if run.settings.run.resume == "none":
        if any(folder.glob("step-*")):
            raise UserError(
                f"--resume none: {folder} has saved steps of this run; "
                "pass --overwrite to move them aside, or leave the flag out to go on"
            )
        return None
    return load_newest(folder)


class _Handle(NamedTuple):
    """Carries a value past `on_main` without sending it to the other ranks."""

    value: SavedStep | None

    def __reduce__(self) -> tuple[Any, tuple[None]]:
        return _Handle, (None,)


def _put_in_place(run: Run, saved: SavedStep | None) -> bool:
    """Take over a saved step; the main process has it, the others get it from there. False when there is none."""
    values = run.parallel.on_main(lambda: asdict(saved.state) if saved else None)
    if values is None:
        return False
    run.state = TrainState(**values)
    run.stability = _stability(run.stage, run.state)
    try:
        run.engine.load_tensors(saved.tensors if saved else None)
    except UserError as error:
        raise UserError(f"{saved.path if saved else 'saved step'}: {error}") from error
    return True


def _stability(stage: Stage, state: TrainState) -> Stability:
    """What judges the run from this state on."""
    return Stability(state.stability or None, guessing=math.log(stage.origin.model.config.vocab_size))


def _roll_back(run: Run, verdict: Verdict) -> None:
    """Return to the last good saved step, and jump over the data since the trouble began."""
    state = run.state
    spiked_at, first = state.step, verdict.first_suspect_step or state.step
    in_a_row = state.rollbacks_in_a_row + 1
    # A spike that comes again was longer than what was skipped: each time in a row twice as much more.
    last = spiked_at + (2 ** (in_a_row - 1) - 1) * (spiked_at - first + 1)
    window = run.plan.loader.window(first - 1, last - 1, state.skipped_windows)
    run.writer.wait()
    saved = run.parallel.on_main(lambda: _Handle(load_newest(run.folder.resume_path, not_after=first - 1))).value
    if in_a_row > run.plan.training.max_rollbacks or not _put_in_place(run, saved):
        raise _failure(run, "the loss spiked again")
    run.state.rollbacks = state.rollbacks + 1
    run.state.rollbacks_in_a_row = in_a_row
    run.state.furthest_step = spiked_at
    run.state.total_steps = state.total_steps  # --max_minutes is decided once
    run.state.skipped_windows = [*state.skipped_windows, window]
    run.journal.rolled_back(run.state, spiked_at, window)
    _save(run)  # the list of skipped windows is part of the run from here on


def _failure(run: Run, what: str) -> RunFailed:
    """Why the run ends here, with what it knows."""
    state = run.state
    return RunFailed(
        f"step {state.step}: {what}, after {state.rollbacks} rollbacks (data skipped: "
        f"{state.skipped_windows or 'none'}); lower --learning_rate (now {run.plan.schedule.peak:g}) under another "
        f"--run_name; {run.folder.resume_path} has the last good step"
    )


# ---- the loop -------------------------------------------------------------------------------------------------


def _loop(run: Run) -> int:
    """Update after update, with what happens between them. Returns the signal that ended it, or 0."""
    while run.state.step != run.state.total_steps:
        state = run.state
        with closing(run.plan.loader.steps(state.step, state.total_steps, state.skipped_windows)) as steps:
            for step in steps:
                update, verdict = _one_step(run, step)
                may_go_back = run.plan.training.max_rollbacks > 0
                if verdict.is_lost and not update.was_made:
                    raise _failure(run, "no update had a finite loss and gradient any more")
                if verdict.is_lost and may_go_back:
                    raise _failure(run, "the model has become worse than an untrained one")
                if verdict.is_spike and may_go_back:
                    _roll_back(run, verdict)
                    break
                is_timed = run.state.total_steps is None and run.journal.is_timed
                if is_timed:
                    _fix_length(run)
                if stop := _after_step(run, update):
                    return stop
                if is_timed:
                    break  # to read until the end, which is known now
    return 0


def _one_step(run: Run, step: Step) -> tuple[Update, Verdict]:
    """One update, what it was, and what it says about the run's health."""
    state = run.state
    rate = run.plan.schedule.learning_rate(step.index, state.total_steps)
    is_logged = run.journal.is_logged(step.index + 1, state.total_steps)
    by_source = source_losses(run) if is_logged else None

    def words() -> list[bool]:
        stop, overdue = run.stopped_by(), time.monotonic() - run.last_save > SAVE_SECONDS
        return [stop == signal.SIGINT, stop == signal.SIGTERM, overdue, run.writer.failed]

    with run.journal.clock():
        update = make_update(
            run.engine,
            run.stage.objective,
            step,
            rate,
            run.settings.run.seed,
            run.update_ratio,
            by_source,
            words,
        )
    if update.words[_MAIN_FAILED]:
        run.writer.check()
        raise UserError("the main process could not save; see its message")
    state.step, state.tokens = step.index + 1, state.tokens + step.units["tokens"]
    state.seconds = run.journal.seconds
    run.journal.stepped(step)
    if update.was_made:
        verdict = run.stability.observe_step(state.step, update.losses["loss"], update.grad_norm, update.ratio)
    elif update.is_overflow:
        verdict = Verdict()  # fp16's scaler is still looking for the largest scale that fits
    else:
        state.skipped_updates += 1
        verdict = run.stability.observe_skipped(state.step)
        run.journal.skipped(state.step, update.losses["loss"], update.grad_norm)
    alarms = verdict.alarms
    if is_logged:
        values: dict[str, Any] = {**update.losses, "learning_rate": rate, "grad_norm": update.grad_norm}
        values["update_ratio"] = update.ratio
        values |= run.plan.loader.order.place_of_step(state.step)
        if by_source is not None:
            values["loss_by_source"] = by_source.means(run.parallel)
        alarms = [*alarms, *look_inside(run, step, update, values)]
        run.journal.trained(state, values)
    for alarm in alarms:
        run.journal.alarm(state.step, alarm)
    if state.rollbacks_in_a_row and state.step > state.furthest_step and run.stability.is_calm:
        state.rollbacks_in_a_row = 0
    return update, verdict


def _stop_signal(update: Update) -> int:
    """The signal that some rank was sent, or 0."""
    if update.words[_INTERRUPTED]:
        return signal.SIGINT
    return signal.SIGTERM if update.words[_TERMINATED] else 0


def _after_step(run: Run, update: Update) -> int:
    """Validate, sample and save when it is time. Returns the signal that ends the run here, or 0."""
    state, watch = run.state, run.settings.watch
    stop, is_best = _stop_signal(update), False
    if stop:
        state.look_is_due = True
    else:
        is_best, stop = look(run)
    due = state.step % watch.save_interval == 0 if watch.save_interval else update.words[_SAVE_IS_DUE]
    # While something is wrong a saved step would be no place to go back to.
    if stop or state.step == state.total_steps or ((due or is_best) and run.stability.is_calm):
        _save(run)
    return stop


def _fix_length(run: Run) -> None:
    """Decide, once and for the whole run, how many updates fit into --max_minutes."""
    run.state.total_steps = run.parallel.on_main(lambda: run.journal.steps_that_fit(run.state))
    run.journal.set_total(run.state.total_steps)
    _save(run)  # so that no restart decides it again


def _save(run: Run) -> None:
    """Copy what a restart needs, and have it written while training goes on: a saved step, then the `.pth`."""
    tensors = run.engine.tensors()  # all ranks together
    run.last_save = time.monotonic()
    run.journal.saved()
    if run.stability.is_quiet and run.state.step not in run.state.calm_saves:
        run.state.calm_saves = [*run.state.calm_saves, run.state.step][-2:]
    if tensors is None:
        return
    run.state.stability = run.stability.state()
    saved = SavedStep(
        state=run.state,
        identity=run.plan.identity,
        config=run.stage.origin.model.config,
        stage=run.stage.name,
        generation=run.stage.generation,
        surroundings={
            "threads": torch.get_num_threads(),
            "world_size": run.parallel.world_size,
            "torch": str(torch.__version__),
            "learning_rate": run.plan.schedule.learning_rate(max(run.state.step - 1, 0), run.state.total_steps),
        },
        tensors=tensors,
    )
    lineage = lineage_of_run(run.stage, run.plan.identity, run.folder.name)

    def write() -> None:
        write_step(run.folder.resume_path, saved, run.settings.watch.save_total_limit)
        if saved.state.step:  # an untrained model is something to go back to, and nothing to use
            save_checkpoint(run.folder.checkpoint_path, checkpoint_of(run.stage, saved, lineage))
            run.journal.draw_curves()

    run.writer.submit(write)
