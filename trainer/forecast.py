"""Before a run: what it will need, said in a few lines or, with --dry_run, in a table after some real updates."""

import itertools
import time
from dataclasses import replace

from model.device import Precision
from trainer.engine import Engine
from trainer.parallel import Parallel
from trainer.plan import Plan, setup_of
from trainer.preflight import (
    Estimate,
    as_table,
    check_disk,
    check_memory,
    disk_warning,
    estimate,
    first_lines,
    memory_warning,
)
from trainer.report import Table
from trainer.settings import Settings
from trainer.stages import Stage
from trainer.update import make_update

WARMING_UPDATES, TIMED_UPDATES = 2, 4


def forecast_of(stage: Stage, settings: Settings, plan: Plan, precision: Precision, parallel: Parallel) -> Estimate:
    """What the run will need.

    Raises:
        UserError: more memory or disk than there is.
    """
    forecast = estimate(
        setup_of(stage, settings, plan.training, precision, parallel),
        settings.watch,
        settings.run.out_dir,
        micro_batch=plan.training.batch_size,
        accumulation_steps=plan.training.accumulation_steps,
        targets_per_row=float(stage.train_set.targets_per_row.mean()),
        total_steps=plan.total_steps,
        processes_here=parallel.local_world_size,
    )
    check_memory(forecast)
    if not settings.run.dry_run:
        check_disk(forecast)
    return forecast


def announce(forecast: Estimate, parallel: Parallel) -> None:
    """The first lines of a run."""
    for line in first_lines(forecast):
        parallel.say_plainly(line)
    for warning in (memory_warning(forecast), disk_warning(forecast)):
        if warning is not None:
            parallel.say(warning)


def build_engine(stage: Stage, settings: Settings, plan: Plan, precision: Precision, parallel: Parallel) -> Engine:
    """The model on its device, compiled when that is asked for, and what updates it."""
    model = stage.origin.model
    model.to(device=precision.device, dtype=precision.weights)
    model.model.gradient_checkpointing = settings.device.gradient_checkpointing
    if settings.device.compile == "on" or (settings.device.compile == "auto" and precision.device.type == "cuda"):
        model.compile()  # in place: parameters keep their names
    return parallel.engine(model, plan.training, precision)


def dry_run(
    stage: Stage, settings: Settings, plan: Plan, precision: Precision, parallel: Parallel, forecast: Estimate
) -> int:
    """Train for some updates, throw them away, and say how long the whole run would take. Nothing is written."""
    engine = build_engine(stage, settings, plan, precision, parallel)
    seconds = []
    for step in itertools.islice(plan.loader.steps(0, None), WARMING_UPDATES + TIMED_UPDATES):
        start = time.perf_counter()
        rate = plan.schedule.learning_rate(step.index, plan.total_steps)
        make_update(engine, stage.objective, step, rate, settings.run.seed)
        seconds.append(time.perf_counter() - start)
    timed = sorted(seconds[WARMING_UPDATES:])
    seconds_per_step = (timed[1] + timed[2]) / 2
    if plan.total_steps is not None:
        forecast = replace(forecast, seconds=seconds_per_step * plan.total_steps)
    rows = [*as_table(forecast, settings.watch.price_per_hour), ("a step takes", f"{seconds_per_step:.3f} s")]
    parallel.say_plainly(Table("dry run: nothing was trained or written", ["what", " value"], rows).as_text(len(rows)))
    return 0
