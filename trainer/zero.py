"""DeepSpeed's ZeRO (arXiv:1910.02054): weights, gradients and optimizer state spread over the processes.

`ZeroEngine` has the methods of `trainer/engine.py` and saves the same tensors, so a run may change between one
process, torchrun and any stage of ZeRO, with any number of processes. DeepSpeed only spreads memory here: what is
learned, in which precision and how fast is said by Seedling's own flags. Written against DeepSpeed 0.19.
"""

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from model.checkpoint import load_weights, stored_parameters
from model.decoder import CausalLM
from model.device import Precision
from model.errors import RunFailed, UserError
from model.files import read_json
from model.lora import attach_lora
from trainer.engine import Engine, Tensors
from trainer.optimizer import build_optimizers, set_learning_rate
from trainer.settings import TrainSettings

if TYPE_CHECKING:
    from trainer.parallel import Parallel

BUNDLED = ("zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
_FOLDER = Path(__file__).parent / "deepspeed"
_MOMENTS = ("exp_avg", "exp_avg_sq")

# What a DeepSpeed file may say too, and the flag that says it here. Two answers to one question are a mistake.
_OUR_FLAGS = {
    "train_batch_size": "--batch_size",
    "train_micro_batch_size_per_gpu": "--batch_size",
    "gradient_accumulation_steps": "--accumulation_steps",
    "gradient_clipping": "--grad_clip",
    "optimizer": "--optimizer",
    "scheduler": "--schedule",
    **dict.fromkeys(("fp16", "bf16", "bfloat16", "torch_autocast", "amp"), "--dtype"),
    **dict.fromkeys(("data_types", "communication_data_type"), "--dtype"),
}
# These would change what the sum over processes is, or hide it.
_NOT_SUPPORTED = {"gradient_allreduce_op", "managed_gradient_accumulation", "compute_grad_norm", "zenflow"}

# In the place of what pydantic says of DeepSpeed's classes.
_ADVICE = {
    "extra_forbidden": "DeepSpeed knows no such key; leave it out",
    "model_type": "expected an object with keys of its own",
}

# What DeepSpeed warns of without need: that AdamW is torch's; that our model returns a dataclass, so its hooks do not
# see the outermost module, which has no weights of its own; and skipped updates, of which the loop speaks.
_KNOWN_WARNINGS = ("untested optimizer", "unknown inputs or outputs type", "OVERFLOW! Skipping step")


# ---- the configuration ----------------------------------------------------------------------------------------


def read_configuration(name_or_path: str, device: torch.device) -> dict[str, Any]:
    """One of the bundled configurations, or a user's .json file, without what our flags decide.

    What is "auto", as in Hugging Face's files, is left to our flags or to DeepSpeed's own defaults. A user's file loads
    DeepSpeed, which checks its values and from then on uses the kind of `device`.

    Raises:
        UserError: no such file, no stage from 1 to 3, a key that contradicts one of our flags, or what DeepSpeed
            refuses.
    """
    is_bundled = name_or_path in BUNDLED
    if is_bundled:
        path = _FOLDER / f"{name_or_path}.json"
    elif not name_or_path.endswith(".json"):
        raise UserError(f"--deepspeed: found {name_or_path!r}, expected {', '.join(BUNDLED)} or a .json file")
    else:
        path = Path(name_or_path)
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(values).__name__}")
    for name, flag in _OUR_FLAGS.items():
        if name in values and not _is_auto(values[name]):
            raise UserError(f'{path}: {name}: is said by {flag} here; leave it out or write "auto", and use {flag}')
    _check_stage(path, values)
    remaining = {
        name: _without_auto(value) for name, value in values.items() if name not in _OUR_FLAGS and value != "auto"
    }
    if not is_bundled:
        _check_values(path, remaining, device)
    return remaining


def _is_auto(value: Any) -> bool:
    return value == "auto" or (isinstance(value, dict) and value.get("enabled") == "auto")


def _without_auto(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _without_auto(each) for name, each in value.items() if each != "auto"}


def _check_stage(path: Path, values: dict[str, Any]) -> None:
    zero = values.get("zero_optimization", {"stage": 0})
    if not isinstance(zero, dict):
        raise UserError(f"{path}: zero_optimization: expected an object, found {type(zero).__name__}")
    stage = zero.get("stage", 0)
    if type(stage) is int and stage == 0:
        raise UserError(
            f"{path}: zero_optimization.stage: found 0 or none, which spreads nothing; "
            "choose 1, 2 or 3, or start with torchrun and without --deepspeed"
        )
    if type(stage) is not int or stage not in (1, 2, 3):
        raise UserError(f"{path}: zero_optimization.stage: found {stage!r}, expected 1, 2 or 3")
    if found := sorted(_NOT_SUPPORTED & (values.keys() | zero.keys())):
        raise UserError(f"{path}: {found[0]}: not supported here; leave it out")


def _check_values(path: Path, values: dict[str, Any], device: torch.device) -> None:
    """UserError for what DeepSpeed would refuse when training begins, after the run's first files are written."""
    _import_deepspeed(device)
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
    from pydantic import ValidationError

    try:
        DeepSpeedConfig({**values, "train_micro_batch_size_per_gpu": 1})  # it wants a number of rows, any number
    except ValidationError as error:
        first = error.errors()[0]
        section = ["zero_optimization"] if error.title == "DeepSpeedZeroConfig" else []
        key = ".".join(map(str, [*section, *first["loc"]]))
        # What contradicts another value has no place of its own, and no value.
        found = f"found {first['input']!r}; " if first["loc"] else ""
        advice = _ADVICE.get(first["type"], f"DeepSpeed says: {first['msg']}")
        raise UserError(f"{path}: {key}: {found}{advice}") from error
    except (AssertionError, AttributeError, DeepSpeedConfigError, KeyError, TypeError, ValueError) as error:
        # Many sections are read as they come: a string in an object's place ends in an AttributeError.
        raise UserError(f"{path}: DeepSpeed says: {error}") from error


def check_precision(precision: Precision) -> None:
    """UserError for what DeepSpeed does not compute in as we mean it."""
    if precision.compute == torch.float64:
        raise UserError("--dtype float64: DeepSpeed keeps weights in float32; choose another dtype or use torchrun")
    if precision.compute == torch.float16:
        # Its ZeRO optimizers measure and clip fp16 gradients under autocast while they are still scaled up, and each
        # rank adapts the scale by what its own part of the gradients shows.
        raise UserError(
            "--dtype float16: DeepSpeed clips such gradients before it scales them back; "
            "use --dtype bfloat16, or start with torchrun"
        )


def _whole_configuration(zero: dict[str, Any], training: TrainSettings, precision: Precision) -> dict[str, Any]:
    """The user's configuration with what our flags decide."""
    configuration = {
        **zero,
        # Rows and micro-batches are the loop's business. DeepSpeed would divide the loss by the number of steps.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": training.grad_clip,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # its own AdamW for the CPU wants a compiler
    }
    if precision.compute != torch.float32:
        configuration["torch_autocast"] = {
            "enabled": True,
            "dtype": str(precision.compute).removeprefix("torch."),
            # The gradients of modules named here would travel in 16 bits.
            "lower_precision_safe_modules": [],
        }
    return configuration


def _import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, without what it compiles at its start and what it says that is of no use to a user."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # or it would take a GPU that --device cpu left alone
    import deepspeed
    import deepspeed.ops

    if device.type == "cpu":
        # It would compile collectives in shared memory at the first start (a compiler, ninja, half a minute). They wait
        # for ever for a process that died, too; gloo notices. Of an empty list of what compiles here it takes none.
        deepspeed.ops.__compatible_ops__ = {}
    deepspeed.utils.logger.addFilter(_is_news)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    return deepspeed


def _is_news(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in _KNOWN_WARNINGS)


# ---- the engine -----------------------------------------------------------------------------------------------


class _PausableAdamW(torch.optim.AdamW):
    """AdamW that can sit a step out: DeepSpeed then clears its gradients, and nothing else happens."""

    is_paused = False

    def step(self, closure: Any = None) -> Any:
        """One update, or none."""
        if not self.is_paused:
            return super().step(closure)
        self.begin()
        return None

    def begin(self) -> None:
        """Make the state that torch would make at the first update."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if not self.state[parameter]:
                    self.state[parameter] = {
                        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                        **{key: torch.zeros_like(parameter, requires_grad=False) for key in _MOMENTS},
                    }


class ZeroEngine(Engine):
    """Trains `model` under ZeRO; the methods are those of `Engine`, and all ranks call them together.

    Gradients of a global batch are the *sum* over micro-batches and ranks here too. Stage 1 keeps whole gradients, so
    ranks exchange them in an update's last micro-batch only; stages 2 and 3 keep a part each and have to exchange them
    in every one. They travel in float32 in any `--dtype`.
    """

    def __init__(self, model: CausalLM, training: TrainSettings, precision: Precision, parallel: "Parallel") -> None:
        assert parallel.zero is not None, "the configuration of DeepSpeed is missing"
        check_precision(precision)
        self.model, self.parallel = model, parallel
        [plain] = build_optimizers(model, replace(training, optimizer="adamw"))
        self._optimizer = _PausableAdamW(plain.param_groups)
        self._deepspeed = _import_deepspeed(precision.device)
        self._zero, *_ = self._deepspeed.initialize(
            model=model,
            optimizer=self._optimizer,
            config=_whole_configuration(parallel.zero, training, precision),
            dist_init_required=False,
        )
        self.forward = self._zero
        self._num_micro_batches = 0  # backward passes since the last update
        self._is_complete = False  # whether the update's last micro-batch has been seen
        # The optimizer's state is there from the start, so that it can be saved and loaded at any time. In stages 1 and
        # 2 DeepSpeed looks for it after the first group's first update, when torch has not made the second group's yet.
        self._optimizer.begin()
        self._step_without_update()

    def autocast(self) -> AbstractContextManager:
        """Nothing: DeepSpeed enters and leaves autocast in `forward`."""
        return nullcontext()

    @contextmanager
    def micro_batch(self, is_last: bool) -> Iterator[None]:
        """Forward and backward of one micro-batch."""
        self._zero.set_gradient_accumulation_boundary(is_last)
        self._is_complete = is_last
        yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's part of the loss."""
        self._num_micro_batches += 1
        # DeepSpeed averages over ranks; parts of a global mean have to be summed.
        self._zero.backward(loss * self.parallel.world_size, scale_wrt_gas=False)

    def update(self, learning_rate: float) -> float:
        """Clip the gradients and change the weights.

        Returns:
            the gradients' norm before clipping, the same on every rank. When it is not finite, weights and optimizer
            are what they were.
        """
        assert self._is_complete, "the update's last micro-batch is missing"
        set_learning_rate([self._optimizer], learning_rate)
        self._step()
        grad_norm = float(self._zero.get_global_grad_norm())
        if self._zero.was_step_applied() != math.isfinite(grad_norm):
            raise RunFailed(f"DeepSpeed made an update from gradients of norm {grad_norm}; go back to a saved step")
        return grad_norm

    def drop_gradients(self) -> None:
        """Forget the gradients: the next micro-batch starts a new update."""
        if self._num_micro_batches:
            self._step_without_update()

    def _step(self) -> None:
        self._zero.step()
        self._num_micro_batches, self._is_complete = 0, False

    def _step_without_update(self) -> None:
        """A whole step of DeepSpeed, which clears all its buffers of gradients, but leaves the weights alone."""
        if not self._is_complete:
            # What there is of gradients, if any, goes where the step looks for them.
            self._zero.set_gradient_accumulation_boundary(True)
            if self._zero.zero_optimization_stage() < 3:
                self._zero.optimizer.setup_buckets()  # as the first gradient of a backward pass does
            self._zero.allreduce_gradients()
        self._optimizer.is_paused = True
        try:
            self._step()
        finally:
            self._optimizer.is_paused = False

    @property
    def loss_scale(self) -> float:
        """What the loss is multiplied with before the backward pass: 1, as there is no fp16 here."""
        return 1.0

    # ---- what a restart needs ---------------------------------------------------------------------------------

    def tensors(self) -> Tensors | None:
        """A copy in CPU memory of all that a restart needs, on the main process; None on the others."""
        weights = self.whole_weights(only_trained=True)
        optimizer = {name: self._whole_state(parameter) for name, parameter in self._trained()}
        if weights is None:
            return None
        return {"weights": weights, "optimizer": optimizer, "scaler": {}}

    def whole_weights(self, only_trained: bool = False) -> dict[str, Tensor] | None:
        """The weights alone, in CPU memory, on the main process; None on the others."""
        weights = {}
        for name, tensor in stored_parameters(self.model, only_trained).items():
            # One at a time: no rank holds all of them, except in the main process's CPU memory. In stages 1 and 2,
            # where every rank has the weights, this does nothing.
            with self._deepspeed.zero.GatheredParameters([tensor]):
                if self.parallel.is_main:
                    weights[name] = tensor.detach().to("cpu", copy=True).contiguous()
        return weights if self.parallel.is_main else None

    @contextmanager
    def speaking_model(self) -> Iterator[CausalLM | None]:
        """A model to generate with on the main process. In stage 3 none is whole, so one is put together for it."""
        if self._zero.zero_optimization_stage() < 3:
            with super().speaking_model() as model:
                yield model
            return
        weights = self.whole_weights()
        if weights is None:
            yield None
            return
        model = CausalLM(self.model.config)
        if self.model.adapter is not None:
            attach_lora(model, self.model.adapter)
        load_weights(model, weights)
        yield model.to(self._zero.device)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    def _whole_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What a plain AdamW keeps for this parameter; empty on all ranks but the main process."""
        from deepspeed.utils import safe_get_full_optimizer_state

        moments = {key: safe_get_full_optimizer_state(parameter, key) for key in _MOMENTS}
        if not self.parallel.is_main:
            return {}
        # DeepSpeed's parameters are stretches of many of ours; all of them have made the same updates.
        step = next(iter(self._optimizer.state.values()))["step"]
        return {key: tensor.detach().to("cpu", copy=True) for key, tensor in {"step": step, **moments}.items()}

    def load_tensors(self, tensors: Tensors | None) -> None:
        """The inverse: the main process has the tensors, the others get them from it.

        Raises:
            UserError: they belong to another architecture or optimizer.
        """
        self.drop_gradients()
        tensors = self.parallel.broadcast_tensors(tensors)
        _check_state(tensors["optimizer"], {name for name, _ in self._trained()})
        with self._deepspeed.zero.GatheredParameters([each for _, each in self._trained()], modifier_rank=0):
            load_weights(self.model, tensors["weights"], only_trained=True)
        for name, parameter in self._trained():
            weight = tensors["weights"][name]
            _put(parameter, weight, None)
            for key in _MOMENTS:
                # Saved before its first update, a plain AdamW has no state.
                _put(
                    parameter,
                    tensors["optimizer"][name][key] if tensors["optimizer"] else torch.zeros_like(weight),
                    key,
                )
        step = next((state["step"] for state in tensors["optimizer"].values()), torch.zeros(()))
        for state in self._optimizer.state.values():
            state["step"].copy_(step)


def _check_state(state: dict[str, dict[str, Tensor]], names: set[str]) -> None:
    if not state:
        return
    if any(values.keys() != {"step", *_MOMENTS} for values in state.values()):
        raise UserError(
            "the optimizer's state was saved with --optimizer muon, under DeepSpeed it is adamw; "
            "go on without DeepSpeed, or start anew from the weights"
        )
    if state.keys() != names:
        raise UserError("the optimizer's state belongs to another model: its parameters have other names")


def _put(parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
    """Set this rank's part of a master weight (no key) or of a moment from the whole tensor."""
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    if isinstance(part := getattr(parameter, "ds_tensor", None), Tensor):
        # Stage 3 cuts each parameter into equal parts, the last one filled up. Its "full" twins of these functions
        # read past the end of a tensor that does not divide evenly.
        start = part.numel() * torch.distributed.get_rank()
        value = value.flatten()[start : start + part.numel()]
        value = nn.functional.pad(value, (0, part.numel() - len(value)))
        if key is None:
            safe_set_local_fp32_param(parameter, value)
        else:
            safe_set_local_optimizer_state(parameter, value, key)
    elif key is None:
        safe_set_full_fp32_param(parameter, value)
    else:
        safe_set_full_optimizer_state(parameter, value, key)
