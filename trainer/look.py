"""What is looked at beside the updates: validation, samples, losses by source, and the inside of the model."""

import math
from dataclasses import replace
from typing import Any

import torch

from trainer.loader import Step
from trainer.run import Run
from trainer.state import TrainState
from trainer.update import Update
from trainer.validation import SourceLosses, Validation, validate
from trainer.watch import expert_shares, measure_layers

VALIDATIONS_PER_RUN = 10
SAMPLES_PER_RUN = 5  # besides those of the untrained model
LOGGED_SOURCES = 16  # a training step's loss is logged apart for so many sources at most; validation's for all


def look(run: Run) -> tuple[bool, int]:
    """Validate, and let the model speak, where it is time. A stop signal ends it: then all of it is due once more.

    Returns:
        whether the validation loss is the lowest so far, and the signal, or 0.
    """
    state, watch, total = run.state, run.settings.watch, run.state.total_steps
    is_end = state.step in (0, total)
    # 0 while --max_minutes has not yet decided how long the run is.
    eval_interval = watch.eval_interval or (max(1, total // VALIDATIONS_PER_RUN) if total else 0)
    sample_interval = watch.sample_interval or (max(1, total // SAMPLES_PER_RUN) if total else 0)
    is_evaluated = is_end or (eval_interval > 0 and state.step % eval_interval == 0)
    is_sampled = is_end or (sample_interval > 0 and state.step % sample_interval == 0)
    state.look_is_due = is_evaluated or is_sampled
    if not state.look_is_due:
        return False, 0
    found = _validate(run) if is_evaluated else None
    stop = int(run.parallel.max(torch.tensor(float(run.stopped_by()))).item())
    if stop:
        return False, stop
    if is_sampled and watch.sample_interval >= 0:
        run.journal.sample(run.engine, state.step)
    state.look_is_due = False
    return found is not None and _is_best(state, found), 0


def _is_best(state: TrainState, found: Validation) -> bool:
    """Remember a validation loss; whether it is the lowest so far."""
    losses = state.validation_losses
    losses.setdefault("before", found.loss)
    losses["last"] = found.loss
    if found.loss >= losses.get("best", math.inf):
        return False
    losses["best"], state.best_step = found.loss, state.step
    return True


def _validate(run: Run) -> Validation | None:
    """Measure and log the validation loss; None without a validation set, or when a signal came."""
    val_set, engine = run.stage.val_set, run.engine
    if val_set is None or val_set.num_rows == 0:
        measured = _probe(run)
        if measured:
            run.journal.measured(run.state.step, measured)
        return None
    found = validate(
        engine.forward,
        engine.model,
        run.stage.objective,
        val_set,
        run.plan.training.batch_size,
        run.precision.device,
        engine.autocast,
        run.parallel,
        run.stage.token_bytes,
        run.stopped_by,
    )
    if found is not None:
        run.journal.validated(run.state.step, replace(found, measured={**found.measured, **_probe(run)}))
    return found


def _probe(run: Run) -> dict[str, float]:
    """What the stage measures besides its objective's terms, if anything; its alarms are told."""
    if run.stage.probe is None:
        return {}
    measured, alarms = run.stage.probe(run.engine)
    for alarm in alarms:
        run.journal.alarm(run.state.step, alarm)
    return measured


def source_losses(run: Run) -> SourceLosses | None:
    """Where a logged step's loss is gathered by source, when there are some to tell apart."""
    sources = run.stage.train_set.sources
    return SourceLosses(sources, run.precision.device) if 1 < len(sources) <= LOGGED_SOURCES else None


def look_inside(run: Run, step: Step, update: Update, values: dict[str, Any]) -> list[str]:
    """Add to `values` what the layers and experts do. Returns alarms about it."""
    batch = {name: tensor[:1] for name, tensor in step.micro_batches[0].items()}
    layers = measure_layers(run.engine.model, batch, run.stage.objective.document_mask, run.engine.autocast())
    variance = run.parallel.max(layers.hidden_variance).tolist()
    largest = run.parallel.max(layers.attention_max).tolist()
    values |= {"hidden_variance": variance, "attention_max": largest}
    alarms = run.stability.observe_layers(run.state.step, variance, largest)
    if update.expert_load is not None:
        values["expert_load"] = expert_shares(update.expert_load).tolist()
        alarms = [*alarms, *run.stability.observe_experts(run.state.step, values["expert_load"])]
    return alarms
