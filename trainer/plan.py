"""What a run will do, decided before anything trains: its settings without "auto", its batches, its length."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from model.device import Precision
from model.errors import UserError
from trainer.lineage import identity_of_run
from trainer.loader import Loader
from trainer.memory import Setup, zero_of
from trainer.parallel import Parallel
from trainer.preflight import attempt_micro_batch, automatic_micro_batch, memory_for_each, try_micro_batch
from trainer.run_folder import Launch
from trainer.schedule import DEFAULT_DECAY_SHAPE, DEFAULT_DECAY_SHARE, Schedule
from trainer.settings import Settings, TrainSettings
from trainer.stages import Stage
from trainer.zero import check_precision


@dataclass(frozen=True)
class Plan:
    """A run, ready to start."""

    training: TrainSettings  # optimizer, learning rate and batch decided
    schedule: Schedule
    loader: Loader
    total_steps: int | None  # None: as many as fit into --max_minutes, known after the first updates
    identity: dict[str, Any]
    launch: Launch


def make_plan(
    stage: Stage, settings: Settings, precision: Precision, parallel: Parallel, first_launch: Launch | None
) -> Plan:
    """Decide what the settings leave open.

    Args:
        first_launch: how the run of this name was started first, when there is one already.

    Raises:
        UserError: settings that contradict each other, or a global batch that these processes cannot share.
    """
    if parallel.zero is not None:
        check_precision(precision)
    training = _with_optimizer(settings.training, stage, parallel)
    if not training.batch_size:
        training = _with_fitting_batch(training, stage, settings, precision, parallel, first_launch)
    training, launch = _with_batch(training, parallel, first_launch)
    loader = Loader(
        stage.train_set,
        training.batch_size,
        training.accumulation_steps,
        settings.run.seed,
        precision.device,
        settings.run.num_workers,
        parallel.rank,
        parallel.world_size,
    )
    total_steps = None
    length = f"{training.max_minutes:g} minutes"
    if not training.max_minutes:
        total_steps = loader.total_steps(training.epochs or 1.0, training.max_steps, training.max_tokens)
        length = f"{total_steps} steps"
    schedule = _schedule(training, stage)
    identity = identity_of_run(
        stage, replace(settings, training=training), schedule, precision, length, loader.global_batch
    )
    return Plan(training, schedule, loader, total_steps, identity, launch)


def check_agreement(identity: dict[str, Any], parallel: Parallel) -> None:
    """UserError when this process was started with other data or flags than the main one (on another machine, say)."""
    of_main = parallel.on_main(lambda: identity)
    for name, value in identity.items():
        if of_main[name] != value:
            raise UserError(
                f"process {parallel.rank}: {name} is {value}, in process 0 {of_main[name]}; start them alike"
            )


def _with_optimizer(training: TrainSettings, stage: Stage, parallel: Parallel) -> TrainSettings:
    optimizer = training.optimizer
    saved = stage.origin.saved_step
    if saved is not None:
        # Its state goes on with the weights.
        theirs = saved.identity["optimizer"]
        if optimizer not in ("auto", theirs):
            raise UserError(f"--optimizer {optimizer}: --anneal_from {saved.path} has the state of {theirs}")
        optimizer = theirs
    if parallel.zero is not None and optimizer == "muon":
        raise UserError(
            "--optimizer muon: under DeepSpeed weights lie in pieces, which Muon cannot make orthogonal; "
            "choose adamw, or start with torchrun"
        )
    is_adapter, is_imported = stage.origin.model.adapter is not None, stage.origin.is_imported
    if optimizer == "auto":
        # An adapter's thin matrices have nothing to make orthogonal; a model from elsewhere has learned with AdamW.
        optimizer = "adamw" if parallel.zero is not None or is_adapter or is_imported else "muon"
        if parallel.zero is not None and not is_adapter and not is_imported:
            parallel.say("optimizer: AdamW, because weights lie in pieces under DeepSpeed, which Muon cannot use")
    rate = training.learning_rate
    if rate is None and saved is not None:
        rate = saved.surroundings["learning_rate"]  # an annealing goes down from where it was
    if rate is None:
        rates = training.default_learning_rates
        if is_adapter and training.adapter_learning_rates is not None:
            rates = training.adapter_learning_rates
        rate = rates["imported" if is_imported else optimizer]
        if is_imported:
            parallel.say(f"learning rate: {rate:g}, as is usual for models from elsewhere (--learning_rate)")
    return replace(training, optimizer=optimizer, learning_rate=rate)


def _schedule(training: TrainSettings, stage: Stage) -> Schedule:
    assert training.learning_rate is not None
    default_warmup = next(each.default for each in fields(training) if each.name == "warmup_iters")
    if stage.origin.saved_step is not None and training.warmup_iters not in (0, default_warmup):
        raise UserError(f"--warmup_iters {training.warmup_iters}: --anneal_from goes on without; leave the flag out")
    return Schedule(
        peak=training.learning_rate,
        # What goes on from a saved optimizer state is warm already.
        warmup_steps=0 if stage.origin.saved_step is not None else training.warmup_iters,
        min_ratio=training.min_lr_ratio,
        kind=training.schedule,
        decay_share=DEFAULT_DECAY_SHARE if training.decay_share is None else training.decay_share,
        decay_shape=training.decay_shape or DEFAULT_DECAY_SHAPE,
    )


def setup_of(
    stage: Stage, settings: Settings, training: TrainSettings, precision: Precision, parallel: Parallel
) -> Setup:
    """What decides the memory of one process."""
    zero_stage, offload = zero_of(parallel.zero)
    return Setup(
        stage.origin.model.config,
        training,
        precision,
        stage.train_set.row_length - 1,
        document_mask=stage.objective.document_mask,
        gradient_checkpointing=settings.device.gradient_checkpointing,
        world_size=parallel.world_size,
        zero_stage=zero_stage,
        offload=offload,
        adapter_parameters=stage.adapter_parameters,
        reference_parameters=stage.reference_parameters,
    )


def _with_fitting_batch(
    training: TrainSettings,
    stage: Stage,
    settings: Settings,
    precision: Precision,
    parallel: Parallel,
    first: Launch | None,
) -> TrainSettings:
    """--batch_size auto: the largest micro-batch that fits. The rows of an update are what they would be without it."""
    default: Any = next(each.default for each in fields(training) if each.name == "batch_size")
    usual = Launch(default, training.accumulation_steps, parallel.world_size)
    rows = (first or usual).global_batch
    rows_per_rank, rest = divmod(rows, parallel.world_size)
    if rest:
        raise UserError(
            f"{parallel.world_size} processes: the run's global batch of {rows} rows cannot be shared out evenly; "
            "start another number of processes"
        )
    setup = setup_of(stage, settings, training, precision, parallel)
    memory = memory_for_each(precision.device, parallel.local_world_size)
    largest = automatic_micro_batch(setup, rows_per_rank, memory)
    if precision.device.type == "cuda":
        model = stage.origin.model.to(device=precision.device, dtype=precision.weights)
        largest = try_micro_batch(
            lambda batch: attempt_micro_batch(setup, model, stage.objective, batch), largest, rows_per_rank
        )
    # What fits every process: each finds its own, and all have to take the same.
    largest = -int(parallel.max(torch.tensor(-float(largest))).item())
    return replace(training, batch_size=largest, accumulation_steps=rows_per_rank // largest)


def _with_batch(training: TrainSettings, parallel: Parallel, first: Launch | None) -> tuple[TrainSettings, Launch]:
    """The split of the global batch: the run's own when it was started with another number of processes."""
    rows, world_size = training.batch_size, parallel.world_size
    now = Launch(rows, training.accumulation_steps, world_size)
    if first is None or first.world_size == world_size or now.global_batch == first.global_batch:
        return training, first or now
    if rows * training.accumulation_steps != first.batch_size * first.accumulation_steps:
        return training, now  # another batch was asked for: that is another run, and is refused by name
    accumulation_steps, rest = divmod(first.global_batch, rows * world_size)
    if rest:
        raise UserError(
            f"{world_size} processes with --batch_size {rows}: {rows * world_size} rows do not divide the run's "
            f"global batch of {first.global_batch} rows; choose another --batch_size or number of processes"
        )
    return replace(training, accumulation_steps=accumulation_steps), first
