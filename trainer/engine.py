"""One model's forward, backward and update: in one process, or in several that add up their gradients (DDP).

The loop sees only these few methods. `trainer/zero.py` has the same ones for DeepSpeed, where weights and optimizer
state are spread over the processes.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from model.checkpoint import load_weights, weights_of
from model.decoder import CausalLM, LMOutput
from model.device import Precision
from model.errors import UserError
from trainer.optimizer import build_optimizers, restore_state, set_learning_rate, state_by_name
from trainer.settings import TrainSettings

if TYPE_CHECKING:
    from trainer.parallel import Parallel

# "weights" and "optimizer" (both by parameter name, whole tensors; frozen ones come again from their origin) and
# "scaler": what a restart needs.
Tensors = dict[str, Any]


class Engine:
    """Trains `model`, which is on its device in master precision already.

    Gradients of a global batch are the *sum* over micro-batches and ranks of the gradients of what `backward` got.
    """

    forward: Callable[..., LMOutput]  # what an objective calls as the model
    model: CausalLM  # the same weights, without what is wrapped around them

    def __init__(self, model: CausalLM, training: TrainSettings, precision: Precision, parallel: "Parallel") -> None:
        self.model, self.parallel = model, parallel
        self._precision, self._grad_clip = precision, training.grad_clip
        self._optimizers = build_optimizers(model, training)
        self._scaler = torch.amp.GradScaler(precision.device.type, enabled=precision.needs_scaler)
        self._wrapped = parallel.wrap(model, precision.device)
        self.forward = self._wrapped

    def autocast(self) -> AbstractContextManager:
        """The context in which an objective runs."""
        return self._precision.autocast()

    @contextmanager
    def micro_batch(self, is_last: bool) -> Iterator[None]:
        """Forward and backward of one micro-batch. Ranks exchange gradients in an update's last one only."""
        is_alone = self._wrapped is self.model
        with nullcontext() if is_last or is_alone else self._wrapped.no_sync():  # type: ignore[operator]
            yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's part of the loss."""
        # DDP averages over ranks; parts of a global mean have to be summed.
        self._scaler.scale(loss * self.parallel.world_size).backward()

    def update(self, learning_rate: float) -> float:
        """Clip the gradients and change the weights.

        Returns:
            the gradients' norm before clipping, the same on every rank. When it is not finite, weights and optimizer
            are what they were.
        """
        for optimizer in self._optimizers:
            self._scaler.unscale_(optimizer)
        longest = self._grad_clip or float("inf")
        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), longest).item()
        set_learning_rate(self._optimizers, learning_rate)
        for optimizer in self._optimizers:
            if grad_norm < float("inf"):  # false for NaN too
                self._scaler.step(optimizer)
        self._scaler.update()
        self.drop_gradients()
        return grad_norm

    def drop_gradients(self) -> None:
        """Forget the gradients: the next micro-batch starts a new update."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    @property
    def loss_scale(self) -> float:
        """What the loss is multiplied with before the backward pass (fp16), else 1."""
        return float(self._scaler.get_scale())

    # ---- what a restart needs: every rank calls these together ------------------------------------------------

    def tensors(self) -> Tensors | None:
        """A copy in CPU memory of all that a restart needs, on the main process; None on the others."""
        if not self.parallel.is_main:
            return None
        return {
            "weights": weights_of(self.model, copy=True, only_trained=True),
            "optimizer": state_by_name(self.model, self._optimizers),
            "scaler": self._scaler.state_dict(),
        }

    def load_tensors(self, tensors: Tensors | None) -> None:
        """The inverse: the main process has the tensors, the others get them from it.

        Raises:
            UserError: they belong to another architecture or optimizer.
        """
        tensors = self.parallel.broadcast_tensors(tensors)
        load_weights(self.model, tensors["weights"], only_trained=True)
        try:
            restore_state(self.model, self._optimizers, tensors["optimizer"])
        except KeyError as error:
            raise UserError(f"the optimizer's state lacks {error}: it was saved with another optimizer") from error
        if tensors["scaler"]:  # empty unless it was saved in fp16: the scale is found anew then
            self._scaler.load_state_dict(tensors["scaler"])

    @contextmanager
    def speaking_model(self) -> Iterator[CausalLM | None]:
        """A model to generate with on the main process, in plain steps even when training is compiled; else None."""
        with torch.compiler.set_stance("force_eager"):
            yield self.model if self.parallel.is_main else None
